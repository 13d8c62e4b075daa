"""Criteria, one loss per example, and `mean`, which makes a loss of a model and a criterion.

What targets mean is read in `labels`, by dtype and shape; a label that is no class raises where targets are concrete, and gives
NaN where they are traced.
"""

import math
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh
from jax.tree_util import Partial

from landscape_jax import devices, labels, parts, tree
from landscape_jax.arguments import count, described, kind, pair, require
from landscape_jax.types import Batch, BatchCoupled, Criterion, Key, Loss, Params, Weight


def square(outputs: Array, targets: Array) -> Array:
    """ℓᵢ = ½ Σ_c (f_ic − y_ic)²: half the *sum* over the c outputs, not their mean.

    The scale matters: sharpness is proportional to it, so 2/η means another learning rate under another convention.
    With `mean` this is ½ · sum / n, as in Cohen et al. 2021 (arXiv 2103.00065); papers that average over the outputs
    too have a loss 2/c times ours.

    Args:
      outputs: f, [n, c].
      targets: y, shaped like f; one-hot rows for classes.
    Returns: [n].

    >>> lj.losses.square(jnp.array([[1.0, 2.0]]), jnp.array([[0.0, 0.0]]))
    Array([2.5], dtype=float32)
    """
    chex.assert_equal_shape(
        [outputs, targets],
        exception_type=ValueError,
        custom_message=f"square: outputs {outputs.shape} and targets {targets.shape} differ in shape: "
        "a broadcast here would give a wrong loss; reshape or one-hot the targets",
    )
    targets = targets.astype(outputs.dtype) if labels.is_whole(targets.dtype) else targets
    return 0.5 * jnp.sum((outputs - targets) ** 2, axis=tuple(range(1, outputs.ndim)))


def cross_entropy(outputs: Array, targets: Array) -> Array:
    """ℓᵢ = −Σ_c y_ic log softmax(f_i)_c, in nats; averaged over positions where an example has several.

    Args:
      outputs: logits f, [n, c], or [n, ..., c] with positions between (the tokens of a text); c ≥ 2.
      targets: integer classes [n, ...], or probabilities [n, ..., c] (one-hot rows).
    Returns: [n]. A class outside of 0 … c − 1 raises where targets are concrete and gives NaN where they are traced; concrete
      rows that are no probabilities raise.

    >>> lj.losses.cross_entropy(jnp.zeros((2, 4)), jnp.array([0, 3])).round(3)  # log 4
    Array([1.386, 1.386], dtype=float32)
    """
    meaning = labels.kind("cross_entropy", outputs, targets)
    if meaning is labels.Kind.SIGNS:
        raise ValueError(f"cross_entropy: the softmax of one logit is always 1, outputs {outputs.shape}: use logistic")
    if meaning is labels.Kind.ROWS and labels.is_whole(targets.dtype):
        raise labels.misfit("cross_entropy", outputs, targets)
    logp = jax.nn.log_softmax(outputs, axis=-1)  # [n, ..., c]
    if meaning is labels.Kind.ROWS:
        labels.check_probabilities("cross_entropy", targets)
        each = -jnp.sum(targets * logp, axis=-1)
    else:
        right = labels.classes("cross_entropy", outputs, targets)
        each = -_at_class(logp, right)
    return jnp.mean(each, axis=tuple(range(1, each.ndim)))


@jax.custom_jvp  # its derivative by itself would leave out what is NaN
def _at_class(logp: Array, right: Array) -> Array:
    """Entry `right` [n, ...] of each row of [n, ..., c]; NaN where it is −1."""
    place = jnp.where(right < 0, logp.shape[-1], right)  # beyond the last: read as NaN
    return jnp.take_along_axis(logp, place[..., None], axis=-1)[..., 0]


@_at_class.defjvp
def _at_class_jvp(primals, tangents):
    logp, right = primals
    unit = labels.or_nan(jnp.ones(right.shape, logp.dtype), right)
    return _at_class(logp, right), unit * _at_class(tangents[0], jnp.maximum(right, 0))


def logistic(outputs: Array, targets: Array) -> Array:
    """ℓᵢ = log(1 + exp(−yᵢ fᵢ)), computed without overflow.

    Args:
      outputs: f, [n] or [n, 1].
      targets: y ∈ {−1, +1}, or labels 0 and 1 for these; [n] or [n, 1].
    Returns: [n]. Another value raises where targets are concrete and gives NaN where they are traced.

    >>> lj.losses.logistic(jnp.array([0.0, 2.0]), jnp.array([1, -1])).round(3)
    Array([0.693, 2.127], dtype=float32)
    """
    n = outputs.shape[0]
    if outputs.size != n or targets.size != n:
        raise ValueError(
            f"logistic: outputs {outputs.shape} and targets {targets.shape} must hold one number per example; "
            "for more than two classes use cross_entropy"
        )
    f = outputs.reshape(n)
    return jax.nn.softplus(-labels.signs("logistic", f, targets) * f)


def _draw_square(key: Key, outputs: Array) -> Array:
    return outputs + jax.random.normal(key, outputs.shape, outputs.dtype)  # ½ (f − y)² is −log N(y; f, 1) + const


def _draw_cross_entropy(key: Key, outputs: Array) -> Array:
    return jax.random.categorical(key, outputs, axis=-1)


def _draw_logistic(key: Key, outputs: Array) -> Array:
    heads = jax.random.bernoulli(key, jax.nn.sigmoid(outputs))
    return 2 * heads.astype(outputs.dtype) - 1


SAMPLERS: dict[Criterion, Callable[[Key, Array], Array]] = {
    square: _draw_square,
    cross_entropy: _draw_cross_entropy,
    logistic: _draw_logistic,
}
"""criterion ↦ ((key, outputs) ↦ targets): draws from the model whose −log probability is s times the criterion, and a constant;
s is `log_likelihood_scale`."""


def log_likelihood_scale(criterion: Criterion, outputs: Array) -> int:
    """s with s ℓ(f, y) = −log p(y | f) + const: 1, but for `cross_entropy` the positions of an example: it averages over them.

    The Fisher matrix of p is then s² E[∇ℓ ∇ℓᵀ], which is s times the Gauss–Newton matrix of ℓ.

    >>> lj.losses.log_likelihood_scale(lj.losses.cross_entropy, jnp.zeros((8, 5, 10)))  # five positions
    5
    """
    return math.prod(outputs.shape[1:-1]) if criterion is cross_entropy else 1


def mean(apply: Callable[[Params, Array], Array], criterion: Criterion) -> Loss:
    """L(θ, (x, y)) = (1/n) Σᵢ ℓ(f(θ, xᵢ), yᵢ).

    Args:
      apply: (θ, x [n, ...]) ↦ outputs [n, c].
      criterion: (outputs, targets) ↦ [n].
    Returns: a loss whose batch is the pair (x [n, ...], y [n, ...]).

    >>> loss = lj.losses.mean(apply, lj.losses.square)
    >>> float(loss(params, batch)), jax.grad(loss)(params, batch)["b"].shape
    (1.6015625, (3,))
    """

    require("mean", apply=apply, criterion=criterion)

    def loss(params: Params, batch: Batch) -> Array:
        inputs, targets = pair("mean", batch)
        tree.num_examples(batch)
        return jnp.mean(of_examples(criterion, apply(params, inputs), targets))

    return BatchCoupled.like(apply, loss)


def of_examples(criterion: Criterion, outputs: Array, targets: Array) -> Array:
    """ℓ [n]. Raises `ValueError` for a criterion that gives anything but one number for each of the n examples.

    >>> lj.losses.of_examples(lj.losses.square, jnp.ones((3, 2)), jnp.zeros((3, 2)))
    Array([1., 1., 1.], dtype=float32)
    """
    found = criterion(outputs, targets)
    if jnp.shape(found) != outputs.shape[:1]:
        remedy = "lambda f, y: criterion(f, y).mean(-1)" if jnp.ndim(found) > 1 else "one that does not average over examples"
        raise ValueError(
            f"the criterion gives shape {jnp.shape(found)} for {outputs.shape[0]} examples, not one loss each, "
            f"[{outputs.shape[0]}]: write {remedy}"
        )
    return found


def sharded(loss: Loss, mesh: Mesh, axis: str | None = None, *, weight: Weight | None = None) -> Loss:
    """The same loss, each device of a mesh with its own examples: value and gradient together take one all-reduce.

    θ is replicated along `axis`. The loss must be a mean over examples, or a weighted one whose `weight` is given, as for
    `chunked`. Hessian products of it are right, but take several all-reduces: `curvature.sharded(hessian(loss), mesh)` takes
    one. So does a derivative by the data, for which the loss is differentiated anew.

    Args:
      axis: the mesh axis that examples are split over; default: its first. Examples beyond the largest multiple of its
        length are done by all.
      weight: as for `chunked`.

    >>> split = lj.losses.sharded(loss, lj.devices.mesh("examples"))
    >>> bool(jnp.allclose(split(params, batch), loss(params, batch)))
    True
    """
    require("sharded", loss=loss, mesh=mesh, **({} if weight is None else {"weight": weight}))
    BatchCoupled.refuse("sharded", loss)
    value = devices.mean_over(loss, mesh, axis, weight)
    value_and_grad = devices.mean_over(jax.value_and_grad(loss), mesh, axis, weight)

    @jax.custom_vjp
    def mean(params: Params, batch: Batch) -> Array:
        return value(params, batch)

    def forward(params, batch):
        by_data = any(x.perturbed for x in jax.tree.leaves(batch))
        params, batch = jax.tree.map(lambda x: x.value, (params, batch))
        if by_data:
            return jax.vjp(value, params, batch)
        average, grads = value_and_grad(params, batch)
        return average, Partial(pulled_back, grads)

    def pulled_back(grads, cotangent):
        return tree.scale(cotangent, grads), None

    mean.defvjp(forward, lambda pullback, cotangent: pullback(cotangent), symbolic_zeros=True)

    def split(params: Params, batch: Batch) -> Array:
        tree.num_examples(batch)
        check(loss, params, batch)
        if weight is None:
            parts.refuse_weighted("sharded", loss, params, batch)
        return mean(params, batch)

    return _weighted(split, weight)


def chunked(loss: Loss, num_chunks: int, *, weight: Weight | None = None) -> Loss:
    """L = Σ_j (w_j / Σ w) L_j over chunks of the batch: the same loss, and gradient, in the memory of one chunk.

    Chunks hold ⌈n / num_chunks⌉ examples, the last one what is left, and w_j is their number. So the loss must be a mean over
    examples. For a mean with weights or a mask of its own, say what it divides by:

        chunked(loss, 8, weight=lambda batch: batch["mask"].sum())

    Without, a loss that ends in a division by a number that depends on the batch is refused. Nothing can see one that divides
    earlier, nor examples that see each other (BatchNorm in train mode, contrastive losses), whose chunks are another function
    whatever their weights: what is marked `types.BatchCoupled` is refused; in a loss of your own hold the statistics
    (`models.frozen`), or use no chunks.

    Args:
      weight: batch ↦ w ≥ 0, shape [], such that the loss of a batch is the mean of those of its parts by their weights: the
        denominator of a weighted mean. A part of weight 0 is left out.
    Cost: that of the loss; of its gradient, one forward pass more (a chunk is gone through again on the way back).

    >>> bool(jnp.allclose(lj.losses.chunked(loss, 3)(params, batch), loss(params, batch)))
    True
    """
    require("chunked", loss=loss, **({} if weight is None else {"weight": weight}))
    count("chunked", num_chunks=num_chunks)
    BatchCoupled.refuse("chunked", loss)

    def whole(params: Params, batch: Batch) -> Array:
        n = tree.num_examples(batch)
        size = -(-n // num_chunks)
        even = n - n % size
        zero = jnp.zeros((), check(loss, params, jax.tree.map(lambda x: x[:size], batch)).dtype)
        if weight is None and num_chunks > 1:
            parts.refuse_weighted("chunked", loss, params, batch)
        each, last = parts.shares(batch, size, weight)

        @jax.checkpoint
        def add(total: Array, part: tuple) -> tuple[Array, None]:
            chunk, share = part
            return parts.plus(total, size / n if share is None else share, lambda: loss(params, chunk)), None

        chunks = jax.tree.map(lambda x: x[:even].reshape(even // size, size, *x.shape[1:]), batch)
        total, _ = jax.lax.scan(add, zero, (chunks, each))
        rest = jax.tree.map(lambda x: x[even:], batch)
        return parts.plus(total, last, lambda: loss(params, rest)) if even < n else total

    return _weighted(whole, weight)


def _weighted(loss: Any, weight: Weight | None) -> Loss:
    """The loss, which says that it is no plain mean where its parts have weights."""
    if weight is not None:
        loss.weight = weight
    return loss


def check(loss: Loss, params: Params, batch: Batch) -> jax.ShapeDtypeStruct:
    """Raise unless `loss` gives one real number here; its shape and dtype. Costs a trace, no arithmetic.

    >>> lj.losses.check(loss, params, batch)
    ShapeDtypeStruct(shape=(), dtype=float32)
    """
    require("check", loss=loss)
    tree.check(params)

    try:
        out = jax.eval_shape(loss, params, batch)  # the loss itself, so that JAX finds this trace again
    except TypeError:
        for path, leaf in jax.tree_util.tree_leaves_with_path(batch):
            if not hasattr(leaf, "dtype") and not isinstance(leaf, float | int):
                raise TypeError(f"batch{jax.tree_util.keystr(path)} is {described(leaf)}, not an array") from None
        jax.eval_shape(lambda *args: _real_number(loss(*args)), params, batch)  # where the output is what JAX can't take
        raise
    return _real_number(out)


def _real_number(out: Any) -> Any:
    """What a loss gave, if it is one."""
    if getattr(out, "shape", None) != () or not jnp.issubdtype(out.dtype, jnp.floating):
        raise ValueError(f"the loss gives {described(out)}, not one real number: {_remedy(out)}") from None
    return out


def _remedy(out: Any) -> str:
    match kind(out):
        case "sequence":
            return "auxiliary output has no place in it; write lambda params, batch: loss(params, batch)[0]"
        case "array":
            return "average over the examples, e.g. jnp.mean(...), in floats"
    return "a curvature is no loss" if callable(out) else "average over the examples, e.g. jnp.mean(...)"
