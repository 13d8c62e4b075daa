"""How Krylov spaces and trackers store vectors: `pack` and `unpack`.

Why: on a CPU the product Xᵀ Δ is fast only with the right one of its two sides on the right (`prefers_transposed`), and a
Hessian product gives its matrices in that orientation. A basis stored like θ would transpose each vector twice a product. A
GPU takes longer to launch one kernel a leaf than to compute it, so a small vector is one array there.
Found with: jaxlib 0.10. On a CPU packed vectors save about a fifth of what a Krylov step costs beyond its product; on a GPU
about a tenth of a tracked step.
No longer needed when: `python -m benchmarks.eigenpairs` and `python -m benchmarks.tracking` are no slower with
`prefers_transposed` returning False (CPU), or with `MAX_FLAT = 0` (GPU).
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from landscape_jax import tree
from landscape_jax.backend import policy
from landscape_jax.types import Params

MAX_FLAT = 2**20  # numbers: in larger vectors the work on a leaf outweighs the launch of its kernel


def prefers_transposed(fan_in: int, fan_out: int) -> bool:
    """Whether a CPU computes the gradient Xᵀ Δ [i, o] of a matrix faster as Δᵀ X, with X [n, i] and Δ [n, o].

    The right factor should have the longer rows. Of two factors of nearly one size it should be the one whose rows are whole
    pairs of cache lines (multiples of 32 numbers): the left factor is read by columns, and such rows are slow to read so.
    """
    even_in, even_out = fan_in % 32 == 0, fan_out % 32 == 0
    alike = max(fan_in, fan_out) < 3 * min(fan_in, fan_out)
    return even_in if even_in != even_out and alike else fan_in > fan_out


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Transposed(tree.Packed):
    """A vector, or a stack, with some matrices [..., i, o] stored as [..., o, i]. A pytree like any other."""

    tree: Params
    transposed: tuple[bool, ...] = dataclasses.field(metadata={"static": True})  # which leaves
    dtypes: tuple = dataclasses.field(metadata={"static": True})  # of θ's leaves: those here have the widest

    def unpack(self) -> Params:
        """The vector with the layout and the dtypes of θ."""
        return _cast(_transpose(self.tree, self.transposed), self.dtypes)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Flat(tree.Packed):
    """A vector, or a stack, as one array. A pytree like any other."""

    array: Array  # [..., p]
    shapes: tuple[tuple[int, ...], ...] = dataclasses.field(metadata={"static": True})
    # a class, which jaxlib has no stub for
    treedef: jax.tree_util.PyTreeDef = dataclasses.field(metadata={"static": True})  # pyright: ignore[reportInvalidTypeForm]
    dtypes: tuple = dataclasses.field(metadata={"static": True})

    def unpack(self) -> Params:
        """The vector with the layout and the dtypes of θ."""
        ends = np.cumsum([math.prod(shape) for shape in self.shapes])[:-1].tolist()
        parts = jnp.split(self.array, ends, axis=-1)
        lead = self.array.shape[:-1]
        leaves = [x.reshape(*lead, *shape) for x, shape in zip(parts, self.shapes, strict=True)]
        return _cast(self.treedef.unflatten(leaves), self.dtypes)


def pack(x: Params, axes: int = 0) -> Transposed | Flat:
    """A vector, or a stack with so many leading axes, in the layout that suits the backend.

    On a GPU a vector of at most `MAX_FLAT` numbers of one dtype is one array. Otherwise matrices are transposed where
    `prefers_transposed` says so. All leaves get the widest dtype, float32 at least: coefficients and directions are then
    equally exact, whatever the dtypes of θ.
    """
    dtypes = tuple(leaf.dtype for leaf in jax.tree.leaves(x))
    x = tree.widen(x)
    leaves, treedef = jax.tree.flatten(x)
    shapes = tuple(leaf.shape[axes:] for leaf in leaves)
    if policy.on_gpu() and len(set(dtypes)) == 1 and sum(map(math.prod, shapes)) <= MAX_FLAT:
        array = jnp.concatenate([leaf.reshape(*leaf.shape[:axes], -1) for leaf in leaves], axis=-1)
        return Flat(array, shapes, treedef, dtypes)
    transposed = tuple(len(shape) == 2 and prefers_transposed(*shape) for shape in shapes)
    return Transposed(_transpose(x, transposed), transposed, dtypes)


def _transpose(x: Params, which: tuple[bool, ...]) -> Params:
    leaves, treedef = jax.tree.flatten(x)
    return treedef.unflatten([jnp.swapaxes(x, -1, -2) if yes else x for x, yes in zip(leaves, which, strict=True)])


def _cast(x: Params, dtypes: tuple) -> Params:
    leaves, treedef = jax.tree.flatten(x)
    return treedef.unflatten([leaf.astype(d) for leaf, d in zip(leaves, dtypes, strict=True)])
