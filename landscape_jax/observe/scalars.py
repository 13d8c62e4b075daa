"""One number a step."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jax.tree_util import Partial

from landscape_jax import labels, tree
from landscape_jax.arguments import pair, require
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


def on_data(check: Callable[[Batch, Params], object], measure: Callable[[Batch, Moment], object], data: Batch) -> Observable:
    """An observable of given data that remembers nothing; at the start, `check(data, θ₀)` raises for data that don't fit."""
    data = jax.tree.map(jnp.asarray, data)
    return Observable(Partial(_checked, check, data), Partial(_measured, Partial(measure, data)))


def _checked(check, data, key, params):
    check(data, params)
    return ()


def accuracy(apply: Callable[[Params, Array], Array], data: Batch | None = None) -> Observable:
    """The fraction of examples whose largest output is the target's class; of positions, where an example has several.

    Args:
      apply: (θ, x [n, ...]) ↦ outputs [n, ..., c], or one logit [n, 1] or [n], whose sign is the choice between two classes.
      data: (x, y) with y as `labels` reads it: classes [n, ...] or one-hot [n, ..., c]; for one logit signs ±1, or 0 and 1.
        Default: the batch of the step.
    Errors: `ValueError` for targets that don't fit the outputs, or that are no class; NaN where this shows under jit only.
    """

    require("accuracy", apply=apply)

    def check(data: Batch, params: Params) -> None:
        inputs, targets = pair("accuracy", data)
        labels.classes("accuracy", jax.eval_shape(apply, params, inputs), targets)

    def fraction(data: Batch | None, moment: Moment) -> Array:
        inputs, targets = pair("accuracy", moment.batch if data is None else data)
        return jnp.mean(labels.correct(apply(moment.params, inputs), targets, "accuracy"))

    return stateless(Partial(fraction, None)) if data is None else on_data(check, fraction, data)
