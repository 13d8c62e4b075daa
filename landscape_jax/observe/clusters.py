"""How the gradients of a network's logits cluster, and what its logits do."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree

from landscape_jax import tree
from landscape_jax.arguments import pair, require
from landscape_jax.labels import Kind, check_range, kind, one_hot, or_nan
from landscape_jax.labels import classes as right_classes
from landscape_jax.observe.scalars import on_data
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
      labels: [n] int in 0 … C − 1; others raise where they are concrete, and where traced make "same_class" NaN.
    Cost: n calls, and some 4 C p numbers of memory. Classes with fewer than two examples don't count for the first; NaN where
      there is no other.
    Source: S. Fort and S. Ganguli 2019, arXiv 1910.05929.
    """
    n = len(labels)
    if n < 2:
        raise ValueError(f"mean_cosines: n={n} examples have no pairs: give two at least")
    shape = jax.eval_shape(gradients, jax.tree.map(lambda x: x[0], examples))
    check_range("mean_cosines", labels, shape.shape[0])
    classes, none, zero = shape.shape[0], jnp.zeros(shape.shape, shape.dtype), jnp.zeros((), shape.dtype)

    def add(sums, entry):
        whole, own, count, alone, total = sums
        example, label = entry
        found = gradients(example)  # [C, p]
        length = tree.norms(found, axis=1)  # [C]
        u = found / jnp.where(length > 0, length, 1)[:, None]
        mine = one_hot("mean_cosines", label, classes, u.dtype)  # [C]
        alone += jnp.sum(u.sum(0) ** 2) - jnp.sum(u**2)  # Σ_{k≠l} of one example
        return (whole + u, own + mine[:, None] * u, count + mine, alone, total + jnp.mean(length**2)), None

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
      apply: (θ, inputs [n, ...]) ↦ logits [n, C], example by example, C ≥ 2.
      batch: (inputs, targets), classes [n] or one-hot rows [n, C].
    Returns: an observable with values {"same_class", "same_logit", "other_logit", "length"}, each [].

    Cost: n gradients of C logits a look, one example at a time.
    """

    require("clustering", apply=apply)

    def right(batch: Batch, params: Params) -> Array:
        inputs, targets = pair("clustering", batch)
        logits = jax.eval_shape(apply, params, inputs)
        if kind("clustering", logits, targets) is Kind.SIGNS or logits.ndim != 2:
            raise ValueError(
                f"clustering: outputs {logits.shape} are not one row of at least two logits for each example: it compares the "
                "logits of an example; give an apply with outputs [n, C], C ≥ 2"
            )
        return right_classes("clustering", logits, targets)

    def measure(batch: Batch, moment: Moment) -> dict[str, Array]:
        return mean_cosines(logit_gradients(apply, moment.params), batch[0], right(batch, moment.params))

    return on_data(right, measure, batch)


def confidence(apply: Callable[[Params, Array], Array], batch: Batch) -> Observable:
    """What the softmax does on a batch.

    Args:
      apply: (θ, inputs [n, ...]) ↦ logits [n, ..., C], C ≥ 2.
      batch: (inputs, targets), classes [n, ...], or rows [n, ..., C], one-hot, smoothed or mixed: the right logit is that of
        the largest target.
    Returns: an observable with values "variance" [] of all logits, "freedom" [], the mean of 1 − Σ_k p_k² (0 when frozen),
      "margin" [] and "margin_spread" [], mean and standard deviation of the right logit less the largest of the others, over
      examples and positions.
    """

    require("confidence", apply=apply)

    def right(batch: Batch, params: Params) -> Array:
        inputs, targets = pair("confidence", batch)
        tree.num_examples(batch)
        logits = jax.eval_shape(apply, params, inputs)
        if kind("confidence", logits, targets) is Kind.SIGNS:
            raise ValueError(
                f"confidence: outputs {logits.shape} are one logit, which has no others to compare with: give an apply "
                "with two, e.g. jnp.stack([0 * f, f], axis=-1)"
            )
        return right_classes("confidence", logits, targets)

    def measure(batch: Batch, moment: Moment) -> dict[str, Array]:
        z, label = apply(moment.params, batch[0]), right(batch, moment.params)  # [n, ..., C], [n, ...]
        its = jax.nn.one_hot(label, z.shape[-1], dtype=bool)
        others = jnp.max(jnp.where(its, -jnp.inf, z), axis=-1)
        margin = or_nan(jnp.sum(jnp.where(its, z, 0), axis=-1) - others, label)
        return {
            "variance": jnp.var(z),
            "freedom": jnp.mean(1 - jnp.sum(jax.nn.softmax(z) ** 2, axis=-1)),
            "margin": jnp.mean(margin),
            "margin_spread": jnp.std(margin),
        }

    return on_data(right, measure, batch)
