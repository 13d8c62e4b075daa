"""How the gradients of a network's logits cluster, and what its logits do."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree
from jax.tree_util import Partial

from landscape_jax import tree
from landscape_jax.arguments import require
from landscape_jax.observe.scalars import stateless
from landscape_jax.types import Batch, Moment, Observable, Params


def mean_cosines(gradients: Callable[[Any], Array], examples: Any, labels: Array) -> dict[str, Array]:
    """Mean cosines between logit gradients J_k of different examples μ ≠ ν, and the mean of ‖J_k‖²:

        same_class    cos(J_k^μ, J_k^ν), both of label k, averaged over the logits k       q_SLSC
        same_logit    cos(J_k^μ, J_k^ν) of any labels                                       q_SL
        other_logit   cos(J_k^μ, J_l^ν), k ≠ l                                              q_DL
        length        ‖J_k^μ‖²

    Each is a difference of squared lengths of sums of unit vectors, so that no pair is ever formed.

    Args:
      gradients: example ↦ J [C, p].
      examples: a pytree, leaves [n, ...]; they are taken one at a time.
      labels: [n] int.
    Cost: n calls, and some 4 C p numbers of memory. Classes with fewer than two examples don't count for the first; NaN where
      there is no other.
    Source: S. Fort and S. Ganguli 2019, arXiv 1910.05929.
    """
    n = len(labels)
    if n < 2:
        raise ValueError(f"mean_cosines: n={n} examples have no pairs: give two at least")
    shape = jax.eval_shape(gradients, jax.tree.map(lambda x: x[0], examples))
    classes, none, zero = shape.shape[0], jnp.zeros(shape.shape, shape.dtype), jnp.zeros((), shape.dtype)

    def add(sums, entry):
        whole, own, count, alone, total = sums
        example, label = entry
        found = gradients(example)  # [C, p]
        square = jnp.sum(found**2, axis=1)
        u = found * jnp.where(square > 0, jax.lax.rsqrt(square), 0)[:, None]
        mine = jax.nn.one_hot(label, classes, dtype=u.dtype)  # [C]
        alone += jnp.sum(u.sum(0) ** 2) - jnp.sum(u**2)  # Σ_{k≠l} of one example
        return (whole + u, own + mine[:, None] * u, count + mine, alone, total + jnp.mean(square)), None

    start = none, none, none[:, 0], zero, zero
    (whole, own, count, alone, total), _ = jax.lax.scan(add, start, (examples, labels))
    logit = jnp.sum(whole**2, axis=1)  # ‖Σ_μ u_k‖²  [C]
    other = jnp.sum(whole.sum(0) ** 2) - logit.sum() - alone
    each = (jnp.sum(own**2, axis=1) - count) / jnp.maximum(count * (count - 1), 1)  # [C]
    return {
        "same_class": jnp.sum(jnp.where(count > 1, each, 0)) / jnp.sum(count > 1).astype(zero.dtype),
        "same_logit": jnp.mean((logit - n) / (n * (n - 1))),
        "other_logit": other / (classes * (classes - 1) * n * (n - 1)),
        "length": total / n,
    }


def logit_gradients(apply: Callable[[Params, Array], Array], params: Params) -> Callable[[Array], Array]:
    """One input ↦ ∂z/∂θ [C, p], flat."""

    def of(x: Array) -> Array:
        found = jax.jacrev(lambda theta: apply(theta, x[None])[0])(params)
        return jax.vmap(lambda row: ravel_pytree(row)[0])(found)

    return of


def clustering(apply: Callable[[Params, Array], Array], batch: Batch) -> Observable:
    """How the gradients of the logits cluster: `mean_cosines` at each look.

    Args:
      apply: (θ, inputs [n, ...]) ↦ logits [n, C], example by example.
      batch: (inputs, targets), classes [n] or one-hot rows [n, C].
    Returns: an observable with values {"same_class", "same_logit", "other_logit", "length"}, each [].

    Cost: n gradients of C logits a look, one example at a time.
    """

    require("clustering", apply=apply)

    def measure(batch: Batch, moment: Moment) -> dict[str, Array]:
        inputs, targets = batch
        labels = targets if targets.ndim == 1 else jnp.argmax(targets, axis=1)
        return mean_cosines(logit_gradients(apply, moment.params), inputs, labels)

    return stateless(Partial(measure, batch))


def confidence(apply: Callable[[Params, Array], Array], batch: Batch) -> Observable:
    """What the softmax does on a batch.

    Returns: an observable with values "variance" [] of all logits, "freedom" [], the mean of 1 − Σ_k p_k² (0 when frozen),
      "margin" [] and "margin_spread" [], mean and standard deviation of the right logit less the largest of the others.
    """

    require("confidence", apply=apply)

    def measure(batch: Batch, moment: Moment) -> dict[str, Array]:
        inputs, targets = batch
        tree.num_examples(batch)
        z = apply(moment.params, inputs)  # [n, C]
        right = jax.nn.one_hot(targets, z.shape[1], dtype=z.dtype) if targets.ndim == 1 else targets
        margin = jnp.sum(right * z, axis=1) - jnp.max(jnp.where(right > 0, -jnp.inf, z), axis=1)
        return {
            "variance": jnp.var(z),
            "freedom": jnp.mean(1 - jnp.sum(jax.nn.softmax(z) ** 2, axis=1)),
            "margin": jnp.mean(margin),
            "margin_spread": jnp.std(margin),
        }

    return stateless(Partial(measure, batch))
