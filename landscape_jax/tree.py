"""Linear algebra on pytrees: θ is one vector of p numbers, however many leaves hold it.

A *stack* is a pytree whose leaves have one more, leading axis: m vectors shaped like θ. It is kept leaf by leaf, so that each
leaf keeps θ's sharding. Inner products run at full precision on every device (no TF32). Leaves of 16 bits are summed and
combined in float32, and the result is rounded to 16 bits once.
"""

import functools
import math
import operator
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from landscape_jax.types import Batch, Key, Params

_dot = functools.partial(jnp.tensordot, precision=jax.lax.Precision.HIGHEST)


def num_examples(batch: Batch, name: str = "batch") -> int:
    """n: the length of the leading axis that all leaves of a batch share. Error messages call the batch `name`."""
    leaves = [(jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(batch)]
    if not leaves:
        raise ValueError(f"{name} holds no array: pass at least one, with examples along its leading axis")
    for place, leaf in leaves:
        if not hasattr(leaf, "shape"):
            raise TypeError(f"{name}{place} is a {type(leaf).__name__}, not an array: make one by jnp.asarray, examples first")
    lengths = {place: leaf.shape[0] if leaf.ndim else None for place, leaf in leaves}
    if None in lengths.values() or len(set(lengths.values())) > 1:
        told = ", ".join(f"{place}: {'a scalar' if n is None else n}" for place, n in lengths.items())
        raise ValueError(f"{name}: all leaves must share their leading example axis, but have {told}")
    n = leaves[0][1].shape[0]
    if n == 0:
        raise ValueError(f"{name} holds no example: its leading axis has length 0; pass at least one")
    return n


def check(params: Params, name: str = "params") -> None:
    """Raise unless `params` is a vector: a non-empty pytree whose leaves are all real floating-point arrays, and weights."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    if not leaves:
        raise ValueError(f"{name} is an empty pytree: there is nothing to differentiate; pass at least one float array")
    for path, node in jax.tree_util.tree_leaves_with_path(params, is_leaf=_is_statistic):
        if _is_statistic(node) or any(getattr(key, "key", getattr(key, "name", "")) == "batch_stats" for key in path):
            raise ValueError(
                f"{name}{jax.tree_util.keystr(path)} is a running statistic of BatchNorm, which a gradient step would train as "
                'a weight: keep the weights alone, variables["params"] of Flax Linen or nnx.split(net, nnx.Param, ...) of NNX, '
                "and let the loss hold the rest"
            )
    for path, leaf in leaves:
        place = f"{name}{jax.tree_util.keystr(path)}"
        if not hasattr(leaf, "dtype"):
            raise TypeError(f"{place} is a {type(leaf).__name__}, not an array: make one with jnp.asarray, or keep it out")
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise TypeError(
                f"{place} has dtype {getattr(leaf.dtype, '__name__', leaf.dtype)}, not a real floating-point one: cast it with "
                "jnp.asarray(leaf, float), or keep it out of the parameters"
            )


def _is_statistic(node) -> bool:
    """Whether a node is an `nnx.BatchStat` or the `nnx.VariableState` of one. Flax is not imported here."""
    kind = getattr(node, "type", type(node))
    return isinstance(kind, type) and any(base.__name__ == "BatchStat" for base in kind.__mro__)


def size(tree: Params) -> int:
    """p: the number of entries of all leaves."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def dtype(tree: Params):
    """The dtype of a number computed from all leaves: the widest of theirs, and float32 at least."""
    dtypes = [leaf.dtype for leaf in jax.tree.leaves(tree)]  # not the leaves: a weakly typed one would not count
    with jax.numpy_dtype_promotion("standard"):
        return jnp.result_type(np.float32, *dtypes)


class Packed:
    """A vector stored in another layout, or in wider dtypes, than θ (`backend.layout`)."""

    dtypes: tuple  # of θ's leaves


def eps(tree: Params) -> float:
    """ε of the narrowest leaf: the relative rounding of a vector, and of a product, with the dtypes of the tree."""
    parts = jax.tree.leaves(tree, is_leaf=lambda x: isinstance(x, Packed))
    dtypes = [d for x in parts for d in (x.dtypes if isinstance(x, Packed) else (x.dtype,))]
    return max(float(jnp.finfo(d).eps) for d in dtypes)


def widen(tree: Params) -> Params:
    """The tree with all leaves in `dtype(tree)`."""
    real = dtype(tree)
    return jax.tree.map(lambda x: x.astype(real), tree)


def cast_like(x: Params, like: Params) -> Params:
    """x with each leaf in the dtype of the same leaf of `like`."""
    return jax.tree.map(lambda a, b: a.astype(b.dtype), x, like)


def _total(terms) -> Array:
    """The sum of the leaves, in the widest of their dtypes."""
    terms = jax.tree.leaves(terms)
    return functools.reduce(operator.add, (term.astype(dtype(terms)) for term in terms))


def _inner(a: Array, b: Array, axes) -> Array:
    """A sum of products of two arrays of one dtype, in float32 at least."""
    return _dot(a, b, axes=axes, preferred_element_type=dtype((a, b)))


def vdot(x: Params, y: Params) -> Array:
    """⟨x, y⟩ = Σ xᵢ yᵢ over the whole tree, shape []."""
    return _total(jax.tree.map(lambda a, b: _inner(a, b, a.ndim), x, y))


def norm(x: Params) -> Array:
    """‖x‖₂ over the whole tree, shape []. Squares of very small or large entries neither underflow nor overflow."""
    x = widen(x)
    largest = functools.reduce(jnp.maximum, (jnp.max(jnp.abs(leaf), initial=0) for leaf in jax.tree.leaves(x)))
    unit = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)
    scaled = scale(1 / unit, x)
    return jnp.sqrt(vdot(scaled, scaled)) * unit


def unit(x: Array, axis: int | tuple[int, ...] | None = None) -> Array:
    """A power of two near max|x|, along an axis (kept, with length 1) or over all of x. Divide by it before squaring.

    1 where max|x| is 0, infinite or NaN. Division by a power of two is exact.
    """
    largest = jnp.max(jnp.abs(x), axis=axis, keepdims=axis is not None, initial=0)
    power = jax.lax.reduce_precision(largest / 2, jnp.finfo(x.dtype).nexp, 0)
    return jnp.where((power > 0) & (power < jnp.inf), power, 1)


def norms(x: Array, axis: int | tuple[int, ...] = 0) -> Array:
    """‖·‖₂ of an array along one axis or several, without underflow or overflow, like `norm`."""
    units = unit(x, axis)
    return jnp.sqrt(jnp.sum((x / units) ** 2, axis=axis)) * jnp.squeeze(units, axis)


def scale(a, x: Params) -> Params:
    """a x."""
    return jax.tree.map(lambda leaf: (_number(a, leaf) * widen(leaf)).astype(leaf.dtype), x)


def _number(a, leaf: Array) -> Array:
    """Coefficients of a leaf, in its dtype and in float32 at least."""
    return jnp.asarray(a).astype(dtype(leaf))


@functools.partial(jax.jit, static_argnames=("axes", "shape"))
def reshape_leading(x: Params, axes: int, shape: tuple[int, ...]) -> Params:
    """A copy with other leading axes: the first `axes` axes of each leaf become `shape`. One program for all leaves."""
    return jax.tree.map(lambda xi: jnp.copy(xi).reshape(*shape, *xi.shape[axes:]), x)


def axpy(a, x: Params, y: Params) -> Params:
    """a x + y."""
    return jax.tree.map(lambda xi, yi: (_number(a, xi) * widen(xi) + widen(yi)).astype(yi.dtype), x, y)


def add(x: Params, y: Params) -> Params:
    """x + y."""
    return jax.tree.map(operator.add, x, y)


def sub(x: Params, y: Params) -> Params:
    """x − y."""
    return jax.tree.map(operator.sub, x, y)


def where(condition: Array | bool, x, y):
    """x if `condition` ([], bool) holds, else y. Leaves may be anything that `jnp.where` takes, typed keys too."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), x, y)


def all_finite(tree) -> Array:
    """Whether no float in the tree is NaN or infinite, shape []. Leaves of other dtypes do not count."""
    floats = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]
    return functools.reduce(jnp.logical_and, (jnp.all(jnp.isfinite(x)) for x in floats), jnp.array(True))


def any_of(flags) -> Array:
    """Whether any leaf is True, shape []. Each leaf is a [] bool."""
    return functools.reduce(jnp.logical_or, jax.tree.leaves(flags))


def zeros_like(tree: Params) -> Params:
    """0, shaped like the tree."""
    return jax.tree.map(jnp.zeros_like, tree)


def normal_like(key: Key, tree: Params) -> Params:
    """A vector of independent N(0, 1) numbers shaped like the tree: E vvᵀ = I."""
    return _draw_like(jax.random.normal, key, tree)


def rademacher_like(key: Key, tree: Params) -> Params:
    """A vector of independent ±1 shaped like the tree: E vvᵀ = I, and vᵀAv has the least variance among such vectors."""
    return _draw_like(jax.random.rademacher, key, tree)


def _draw_like(draw: Callable, key: Key, tree: Params) -> Params:
    check(tree, "tree")
    leaves, treedef = jax.tree.flatten(tree)
    keys = jax.random.split(key, len(leaves))
    return treedef.unflatten([draw(k, x.shape, x.dtype) for k, x in zip(keys, leaves, strict=True)])


def scattered_like(i, tree: Params) -> Params:
    """A fixed direction: each entry in [−1, 1) is an integer hash of its place and of `i`.

    For uses where any direction will do that is unlikely to be orthogonal to a structure of the problem. It needs no key,
    compiles faster than `normal_like`, and is elementwise on any sharding. Not for statistics.
    Source: the hash is C. Wellons' `lowbias32`.
    """
    leaves, treedef = jax.tree.flatten(tree)
    starts = np.cumsum([0] + [x.size for x in leaves])[:-1].astype(np.uint32)
    row = jnp.asarray(i).astype(jnp.uint32) * np.uint32(0x9E3779B9)

    def leaf(start: np.uint32, x: Array) -> Array:
        # the place of each entry by one iota an axis: a device computes its own shard of the leaf alone
        strides = [math.prod(x.shape[d + 1 :]) % 2**32 for d in range(x.ndim)]
        place = sum((jax.lax.broadcasted_iota(jnp.uint32, x.shape, d) * np.uint32(s) for d, s in enumerate(strides)), start)
        h = place ^ row
        h = (h ^ (h >> 16)) * np.uint32(0x7FEB352D)
        h = (h ^ (h >> 15)) * np.uint32(0x846CA68B)
        h = (h ^ (h >> 16)) >> 8
        return (h.astype(dtype(x)) * 2.0**-23 - 1).astype(x.dtype)

    return treedef.unflatten([leaf(s, x) for s, x in zip(starts, leaves, strict=True)])


# ── parts of a tree ───────────────────────────────────────────────────────────────────────────────────────────────────


def broadcast(prefix, tree: Params) -> Params:
    """A vector shaped like the tree from a prefix of it: each leaf of the prefix fills the subtree at its place."""

    def fill(value, subtree: Params) -> Params:
        return jax.tree.map(lambda x: jnp.broadcast_to(jnp.asarray(value).astype(x.dtype), x.shape), subtree)

    return jax.tree.map(fill, prefix, tree)


def select(tree: Params, keep: Callable[[str], bool]) -> Params:
    """The tree with None for each leaf whose path `keep` rejects: a smaller vector. A path reads "layer0/kernel"."""
    paths = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
    kept = [bool(keep(path)) for path in paths]
    if not any(kept):
        raise ValueError(f"no leaf is selected: the paths are {', '.join(paths)}")
    leaves, treedef = jax.tree.flatten(tree)
    return treedef.unflatten([x if yes else None for x, yes in zip(leaves, kept, strict=True)])


def fill_zeros(part: Params, tree: Params) -> Params:
    """The inverse of `select`: a vector shaped like the tree, with 0 in all leaves that `part` lacks."""
    return jax.tree.map(lambda x, kept: jnp.zeros_like(x) if kept is None else kept, tree, part)


# ── stacks ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def zero_stack(tree: Params, m: int) -> Params:
    """A stack of m zero vectors shaped like the tree: leaves [m, ...]."""
    return jax.tree.map(lambda x: jnp.zeros((m, *x.shape), x.dtype), tree)


def row(stack: Params, i) -> Params:
    """Vector i of a stack. `i` may be traced."""
    return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, i, keepdims=False), stack)


def with_row(stack: Params, i, x: Params) -> Params:
    """The stack with x as its vector i. `i` may be traced."""
    return jax.tree.map(lambda s, xi: jax.lax.dynamic_update_index_in_dim(s, xi, i, 0), stack, x)


def dots(stack: Params, x: Params) -> Array:
    """Q x for a stack Q of m vectors: the inner product of each with x, shape [m]."""
    return _total(jax.tree.map(lambda q, xi: _inner(q, xi, xi.ndim), stack, x))


def overlaps(stack: Params) -> Array:
    """Q Qᵀ for a stack Q of m vectors: the inner products of all pairs, shape [m, m]."""
    return _total(jax.tree.map(lambda q: _inner(q, q, (tuple(range(1, q.ndim)),) * 2), stack))


def combine(weights: Array, stack: Params) -> Params:
    """W Q for a stack Q of m vectors: linear combinations. Weights [m] give one vector, [k, m] a stack of k."""
    return jax.tree.map(lambda q: _inner(_number(weights, q), widen(q), 1).astype(q.dtype), stack)
