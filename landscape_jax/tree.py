"""Linear algebra on pytrees: θ is one vector of p numbers, however it is stored.

A *stack* is a pytree whose leaves carry one more, leading axis: m vectors shaped like θ, kept leaf by leaf so that each
leaf keeps θ's own sharding. Inner products run at full precision on every device (no TF32).
"""

import dataclasses
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


def num_examples(batch: Batch) -> int:
    """n: the length of the leading axis that all leaves of a batch share."""
    leaves = jax.tree_util.tree_leaves_with_path(batch)
    if not leaves:
        raise ValueError("the batch holds no array: pass at least one, with examples along its leading axis")
    for path, leaf in leaves:
        if not hasattr(leaf, "shape"):
            name = f"batch{jax.tree_util.keystr(path)}"
            raise TypeError(f"{name} is a {type(leaf).__name__}, not an array: write jnp.asarray(...) for lists of numbers")
    lengths = {f"batch{jax.tree_util.keystr(path)}": leaf.shape[0] if leaf.ndim else None for path, leaf in leaves}
    if None in lengths.values() or len(set(lengths.values())) > 1:
        told = ", ".join(f"{name}: {'a scalar' if n is None else n}" for name, n in lengths.items())
        raise ValueError(f"the leaves of a batch must share their leading example axis, but have {told}")
    if leaves[0][1].shape[0] == 0:
        raise ValueError("the batch holds no example: its leaves have a leading axis of length 0")
    return leaves[0][1].shape[0]


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
        dtype = getattr(leaf, "dtype", type(leaf))
        if not (hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)):
            raise TypeError(
                f"{name}{jax.tree_util.keystr(path)} has dtype {getattr(dtype, '__name__', dtype)}, not a real "
                "floating-point one: cast it with jnp.asarray(leaf, float), or keep it out of the parameters"
            )


def _is_statistic(node) -> bool:
    """Whether a node is an `nnx.BatchStat`, or the `nnx.VariableState` of one; Flax is not imported here."""
    kind = getattr(node, "type", type(node))
    return isinstance(kind, type) and any(base.__name__ == "BatchStat" for base in kind.__mro__)


def size(tree: Params) -> int:
    """p: how many numbers the tree holds."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def dtype(tree: Params):
    """The dtype that holds a number computed from every leaf."""
    with jax.numpy_dtype_promotion("standard"):
        return jnp.result_type(*jax.tree.leaves(tree))


def _total(terms) -> Array:
    """Sum over the leaves, in the widest of their dtypes."""
    terms = jax.tree.leaves(terms)
    return functools.reduce(operator.add, (term.astype(dtype(terms)) for term in terms))


def vdot(x: Params, y: Params) -> Array:
    """⟨x, y⟩ = Σ xᵢ yᵢ over the whole tree, shape []."""
    return _total(jax.tree.map(lambda a, b: _dot(a, b, axes=a.ndim), x, y))


def norm(x: Params) -> Array:
    """‖x‖₂ over the whole tree, shape []; squares of very small or large numbers neither vanish nor overflow."""
    largest = functools.reduce(jnp.maximum, (jnp.max(jnp.abs(leaf), initial=0).astype(dtype(x)) for leaf in jax.tree.leaves(x)))
    unit = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)
    shrunk = scale(1 / unit, x)
    return jnp.sqrt(vdot(shrunk, shrunk)) * unit


def scale(a, x: Params) -> Params:
    """a x."""
    return jax.tree.map(lambda leaf: jnp.asarray(a).astype(leaf.dtype) * leaf, x)


@functools.partial(jax.jit, static_argnames=("axes", "shape"))
def regrouped(x: Params, axes: int, shape: tuple[int, ...]) -> Params:
    """A copy with other leading axes, leaves [*axes, ...] ↦ [*shape, ...]; one program for all leaves, not one for each."""
    return jax.tree.map(lambda xi: jnp.copy(xi).reshape(*shape, *xi.shape[axes:]), x)


def axpy(a, x: Params, y: Params) -> Params:
    """a x + y."""
    return jax.tree.map(lambda xi, yi: jnp.asarray(a).astype(xi.dtype) * xi + yi, x, y)


def add(x: Params, y: Params) -> Params:
    """x + y."""
    return jax.tree.map(operator.add, x, y)


def sub(x: Params, y: Params) -> Params:
    """x − y."""
    return jax.tree.map(operator.sub, x, y)


def where(condition: Array, x, y):
    """x if `condition` ([], bool) holds, else y; leaves may be anything `jnp.where` takes, typed keys too."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), x, y)


def all_finite(tree) -> Array:
    """True, shape [], when no float in the tree is NaN or infinite; other leaves do not count."""
    floats = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]
    return functools.reduce(jnp.logical_and, (jnp.all(jnp.isfinite(x)) for x in floats), jnp.array(True))


def any_of(flags) -> Array:
    """Whether any leaf, each [] bool, is True."""
    return functools.reduce(jnp.logical_or, jax.tree.leaves(flags))


def zeros_like(tree: Params) -> Params:
    """0, shaped like the tree."""
    return jax.tree.map(jnp.zeros_like, tree)


def normal_like(key: Key, tree: Params) -> Params:
    """A vector of independent N(0, 1) numbers shaped like the tree: E vvᵀ = I."""
    check(tree, "tree")
    leaves, treedef = jax.tree.flatten(tree)
    keys = jax.random.split(key, len(leaves))
    return treedef.unflatten([jax.random.normal(k, x.shape, x.dtype) for k, x in zip(keys, leaves, strict=True)])


def rademacher_like(key: Key, tree: Params) -> Params:
    """A vector of independent ±1 shaped like the tree: E vvᵀ = I, with the least variance of vᵀAv among such vectors."""
    check(tree, "tree")
    leaves, treedef = jax.tree.flatten(tree)
    keys = jax.random.split(key, len(leaves))
    return treedef.unflatten([jax.random.rademacher(k, x.shape, x.dtype) for k, x in zip(keys, leaves, strict=True)])


def scattered_like(i, tree: Params) -> Params:
    """A fixed direction with entries spread over [−1, 1) by an integer hash of their place and of `i`.

    Where any direction will do, so long as no structure is likely to be orthogonal to it. A tenth of `normal_like`'s
    compile time, elementwise on any sharding, and no key. Not for statistics.
    Source: the hash is C. Wellons' `lowbias32`.
    """
    leaves, treedef = jax.tree.flatten(tree)
    starts = np.cumsum([0] + [x.size for x in leaves])[:-1].astype(np.uint32)
    row = jnp.asarray(i).astype(jnp.uint32) * np.uint32(0x9E3779B9)

    def scattered(start: np.uint32, x: Array) -> Array:
        # the place of each entry, by one iota an axis: no device needs more of it than its own shard of the leaf
        strides = [math.prod(x.shape[d + 1 :]) % 2**32 for d in range(x.ndim)]
        place = sum((jax.lax.broadcasted_iota(jnp.uint32, x.shape, d) * np.uint32(s) for d, s in enumerate(strides)), start)
        h = place ^ row
        h = (h ^ (h >> 16)) * np.uint32(0x7FEB352D)
        h = (h ^ (h >> 15)) * np.uint32(0x846CA68B)
        h = (h ^ (h >> 16)) >> 8
        return h.astype(x.dtype) * 2.0**-23 - 1

    return treedef.unflatten([scattered(s, x) for s, x in zip(starts, leaves, strict=True)])


# ── how vectors lie ───────────────────────────────────────────────────────────────────────────────────────────────────


def turned(i: int, o: int) -> bool:
    """Whether a CPU has the gradient Xᵀ Δ [i, o] to a matrix sooner as Δᵀ X, with X [n, i] and Δ [n, o].

    The right one of the two should be the larger; but of two of nearly one size that whose rows are whole cache lines in pairs
    (multiples of 32), for such rows are slow to gather in columns, which is what the left one is in for.
    """
    i_even, o_even = i % 32 == 0, o % 32 == 0
    return i_even if i_even != o_even and max(i, o) < 3 * min(i, o) else i > o


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Wide:
    """A vector, or a stack, whose matrices lie as products ask for them; a pytree like any other."""

    tree: Params
    turned: tuple[bool, ...] = dataclasses.field(metadata={"static": True})  # which leaves lie otherwise in θ

    def plain(self) -> Params:
        """As it lies in θ."""
        return _swapped(self.tree, self.turned)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Joined:
    """A vector, or a stack, as one array; a pytree like any other."""

    row: Array  # [..., p]
    shapes: tuple[tuple[int, ...], ...] = dataclasses.field(metadata={"static": True})
    treedef: jax.tree_util.PyTreeDef = dataclasses.field(metadata={"static": True})

    def plain(self) -> Params:
        """As it lies in θ."""
        ends = np.cumsum([math.prod(shape) for shape in self.shapes])[:-1].tolist()
        parts = jnp.split(self.row, ends, axis=-1)
        lead = self.row.shape[:-1]
        return self.treedef.unflatten([x.reshape(*lead, *s) for x, s in zip(parts, self.shapes, strict=True)])


JOINED = 2**20  # numbers: a GPU takes longer to start what is done to each leaf of a smaller vector than to do it


def wide(x: Params, axes: int = 0) -> Wide | Joined:
    """The vector, or the stack with so many leading axes, as Krylov spaces are kept: on a GPU as one array unless it is large,
    elsewhere with matrices [..., i, o] as [..., o, i] where they are `turned`."""
    leaves, treedef = jax.tree.flatten(x)
    shapes = tuple(leaf.shape[axes:] for leaf in leaves)
    alike = len({leaf.dtype for leaf in leaves}) == 1
    if jax.default_backend() == "gpu" and alike and sum(map(math.prod, shapes)) <= JOINED:
        return Joined(jnp.concatenate([leaf.reshape(*leaf.shape[:axes], -1) for leaf in leaves], axis=-1), shapes, treedef)
    which = tuple(len(shape) == 2 and turned(*shape) for shape in shapes)
    return Wide(_swapped(x, which), which)


def _swapped(x: Params, which: tuple[bool, ...]) -> Params:
    leaves, treedef = jax.tree.flatten(x)
    return treedef.unflatten([jnp.swapaxes(x, -1, -2) if yes else x for x, yes in zip(leaves, which, strict=True)])


# ── parts of a tree ───────────────────────────────────────────────────────────────────────────────────────────────────


def broadcast(prefix, tree: Params) -> Params:
    """Numbers for a whole vector from a prefix of its tree: each leaf of the prefix fills the subtree at its place."""

    def fill(value, subtree: Params) -> Params:
        return jax.tree.map(lambda x: jnp.broadcast_to(jnp.asarray(value).astype(x.dtype), x.shape), subtree)

    return jax.tree.map(fill, prefix, tree)


def select(tree: Params, keep: Callable[[str], bool]) -> Params:
    """The tree with None for every leaf whose path `keep` rejects: a smaller vector. Paths read "layer0/kernel"."""
    paths = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
    kept = [bool(keep(path)) for path in paths]
    if not any(kept):
        raise ValueError(f"no leaf is selected: the paths are {', '.join(paths)}")
    leaves, treedef = jax.tree.flatten(tree)
    return treedef.unflatten([x if yes else None for x, yes in zip(leaves, kept, strict=True)])


def filled(part: Params, tree: Params) -> Params:
    """What `select` left of a vector shaped like the tree, with 0 in all other places."""
    return jax.tree.map(lambda x, kept: jnp.zeros_like(x) if kept is None else kept, tree, part)


# ── stacks ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def stacked(tree: Params, m: int) -> Params:
    """The zero stack of m vectors shaped like the tree: leaves [m, ...]."""
    return jax.tree.map(lambda x: jnp.zeros((m, *x.shape), x.dtype), tree)


def row(stack: Params, i) -> Params:
    """Vector i of a stack; `i` may be traced."""
    return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, i, keepdims=False), stack)


def with_row(stack: Params, i, x: Params) -> Params:
    """The stack with vector i replaced by x; `i` may be traced."""
    return jax.tree.map(lambda s, xi: jax.lax.dynamic_update_index_in_dim(s, xi, i, 0), stack, x)


def dots(stack: Params, x: Params) -> Array:
    """Q x for a stack Q of m vectors: their inner products with x, shape [m]."""
    return _total(jax.tree.map(lambda q, xi: _dot(q, xi, axes=xi.ndim), stack, x))


def overlaps(stack: Params) -> Array:
    """Q Qᵀ for a stack Q of m vectors: their inner products with one another, shape [m, m]."""
    if num_examples(stack) <= 8:  # row by row: XLA's CPU back end takes three times as long for so flat a product
        return jax.lax.map(functools.partial(dots, stack), stack)
    return _total(jax.tree.map(lambda q: _dot(q, q, axes=(tuple(range(1, q.ndim)),) * 2), stack))


def combine(weights: Array, stack: Params) -> Params:
    """W Q for a stack Q of m vectors: linear combinations. `weights` [m] gives one vector, [k, m] a stack of k."""
    return jax.tree.map(lambda q: _dot(weights.astype(q.dtype), q, axes=1), stack)
