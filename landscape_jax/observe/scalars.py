"""One number a step."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jax.tree_util import Partial

from landscape_jax import tree
from landscape_jax.arguments import require
from landscape_jax.types import Batch, Moment, Observable, Params


def stateless(measure: Callable[[Moment], object]) -> Observable:
    """An observable that remembers nothing: `stateless(lambda m: ...)`; the value may be any pytree of arrays."""
    require("stateless", measure=measure)
    return Observable(Partial(_nothing), Partial(_measured, measure))


def _nothing(key, params):
    return ()


def _measured(measure, key, memory, moment):
    return memory, measure(moment)


loss = stateless(lambda m: m.loss)
"""L(θ_t, batch_t), the loss that step t descends."""

grad_norm = stateless(lambda m: tree.norm(m.grads))
"""‖∇L(θ_t, batch_t)‖₂."""

param_norm = stateless(lambda m: tree.norm(m.params))
"""‖θ_t‖₂."""

distance = Observable(
    Partial(lambda key, params: params),
    Partial(lambda key, start, m: (start, tree.norm(tree.sub(m.params, start)))),
)
"""‖θ_t − θ₀‖₂, the straight-line distance from where the run began."""


def accuracy(apply: Callable[[Params, Array], Array], data: Batch | None = None) -> Observable:
    """The fraction of examples whose largest output is the target's class.

    Args:
      apply: (θ, x [n, ...]) ↦ outputs [n, c].
      data: (x, y) with y one-hot [n, c] or classes [n]; default: the batch of the step.
    """

    require("accuracy", apply=apply)

    def fraction(data, moment: Moment) -> Array:
        inputs, targets = moment.batch if data is None else data
        classes = targets if targets.ndim == 1 else jnp.argmax(targets, axis=-1)  # [n]
        return jnp.mean(jnp.argmax(apply(moment.params, inputs), axis=-1) == classes)

    return stateless(Partial(fraction, jax.tree.map(jnp.asarray, data)))
