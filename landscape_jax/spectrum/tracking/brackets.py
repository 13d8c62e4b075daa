"""A small symmetric matrix that is known in part, and brackets of its eigenvalues."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from landscape_jax import tree
from landscape_jax.backend.eigh import eigh

_full = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


class Outside(NamedTuple):
    """What ⟨x, A x⟩ may be for unit vectors x off the remembered ones."""

    low: Array  # []
    mid: Array  # [] what is reckoned with
    high: Array  # []


class Small(NamedTuple):
    """What is known of G = Q A Qᵀ, the rows of Q orthonormal: the b remembered vectors, then remainders of products.

        mid − below + low · open  ⪯  G  ⪯  mid + above + high · open

    with `Outside(low, mid, high)`. Rows from `count` on are not reached yet.
    """

    mid: Array  # [r, r]
    below: Array  # [r, r] ⪰ 0
    above: Array  # [r, r] ⪰ 0
    open: Array  # [r, r] ⪰ 0: the remainders, less what was multiplied of them
    known: Array  # [r, r]: P, the projection on all that was multiplied
    count: Array  # [] int32


class Brackets(NamedTuple):
    """The eigenpairs of the middle matrix, and between which bounds those of G lie."""

    values: Array  # [r], descending
    rotation: Array  # [r, r]: rows y, in the order of the values
    low: Array  # [k]
    high: Array  # [k]
    doubtful: Array  # [r]: of the upper bound's k leading eigenvectors the one of which least is known


def agreeing(matrix: Array, a: Array, column: Array) -> Array:
    """The symmetric X nearest to a symmetric M with X a = c, |a| = 1 (M. Powell 1970):

        X = M + r aᵀ + a rᵀ − ⟨a, r⟩ a aᵀ ,   r = c − M a .

    On what is orthogonal to a it is M. With c = 0 it is (1 − a aᵀ) M (1 − a aᵀ).
    """
    missed = column - _full(matrix, a)  # [r]
    cross = jnp.outer(missed, a)
    return matrix + cross + cross.T - _full(a, missed) * jnp.outer(a, a)


def learned(small: Small, a: Array, column: Array) -> Small:
    """After the product G a = c, |a| = 1: all bounds agree with it, and stay as they were on what is orthogonal to a."""
    nothing = jnp.zeros_like(column)
    mid, below, above, open_ = jax.vmap(agreeing, in_axes=(0, None, 0))(
        jnp.stack(small[:4]), a, jnp.stack([column, nothing, nothing, nothing])
    )
    return small._replace(mid=mid, below=below, above=above, open=open_, known=small.known + jnp.outer(a, a))


def hidden(small: Small, y: Array) -> Array:
    """(1 − P) y, what of y was not multiplied; twice, for what is left may be little."""
    y = y - _full(small.known, y)
    return y - _full(small.known, y)


def bounds(small: Small, off: Outside) -> tuple[Array, Array, Array]:
    """The lower bound of G, what is reckoned with, and the upper bound, each [r, r]."""
    low = small.mid - small.below + off.low * small.open
    high = small.mid + small.above + off.high * small.open
    return low, small.mid + off.mid * small.open, high


def ends(small: Small, off: Outside, count: Array, k: int) -> Brackets:
    """Brackets of the k largest eigenvalues of G's first `count` rows. With G₋ ⪯ G ⪯ G₊, and rows Y the k leading eigenvectors
    of what is reckoned with,

        λᵢ(Y G₋ Yᵀ) ≤ λᵢ(G₋) ≤ λᵢ(G) ≤ λᵢ(G₊)   (Cauchy; Weyl).
    """
    rows = len(small.mid)
    reached = jnp.arange(rows, dtype=jnp.int32) < count
    matrices = jnp.where((reached[:, None] & reached[None])[None], jnp.stack(bounds(small, off)), 0)
    largest = jnp.max(jnp.abs(matrices))
    far = jnp.where(largest == 0, -1, -2 * rows * largest)  # what is not reached sorts last
    matrices = matrices + jnp.diag(jnp.where(reached, 0, far))[None]
    values, vectors = jax.vmap(eigh)(matrices[1:])
    values, vectors = values[:, ::-1], jnp.swapaxes(vectors, 1, 2)[:, ::-1]  # [2, r], [2, r, r] in rows
    # one Newton step restores orthonormality: rounding would accumulate from look to look
    rotation = 1.5 * vectors[0] - 0.5 * _full(_full(vectors[0], vectors[0].T), vectors[0])
    lower, _, upper = matrices
    within = _full(_full(rotation[:k], lower), rotation[:k].T)  # [k, k]
    low, high = within[0] if k == 1 else eigh(within)[0][::-1], values[1, :k]
    doubts = jnp.sum(_full(vectors[1, :k], upper - lower) * vectors[1, :k], axis=1)  # [k]: zᵀ (G₊ − G₋) z
    return Brackets(values[0], rotation, low, high, vectors[1, jnp.argmax(doubts)])


def outside(small: Small, b: int, ceiling: Array, reach: Array, mean: Array) -> Outside:
    """Off V no eigenvalue exceeds max(smallest upper bound in V, `ceiling`, `mean`), nor is any outside of ± `reach`. The mean
    matters where A has a rank below b: then V holds vectors that are not leading. It is also the estimate of what is off V."""
    smallest = jnp.min(jnp.diagonal(small.mid + small.above)[:b])
    high = jnp.clip(jnp.maximum(jnp.maximum(smallest, ceiling), mean), -reach, reach)
    return Outside(-reach, jnp.clip(mean, -reach, reach), high)


def compressed(small: Small, off: Outside, weights: Array) -> Small:
    """The same knowledge in a smaller space, whose vectors are rows of `weights` S [r, r] in Q; rows of 0 are not reached.
    `known` is reset to 0: what was multiplied has no doubt left.

    With C the part of the upper bound between S and the space that is dropped, on which it is at most `off.high`,

        [S G₊ Sᵀ, C; Cᵀ, high]  ⪯  [S G₊ Sᵀ + C Cᵀ / τ, 0; 0, high + τ]   for any τ > 0 .

    τ = (S G₊ Sᵀ)₁₁ − high makes the largest eigenvalue of the first block a bound. For a smaller one, and where ‖C‖ is larger
    and taken for τ, it is an estimate, for the dropped space is remembered as at most `high`, not high + τ.
    """
    over = _full(weights, jnp.stack(bounds(small, off)))  # [3, r, r]
    low, mid, upper = _full(over, weights.T)
    dropped = over[2] - _full(upper, weights)  # C
    apart = jnp.maximum(jnp.maximum(upper[0, 0] - off.high, tree.norm(dropped)), jnp.finfo(mid.dtype).tiny)
    part = dropped / apart  # at most 1, for squares of large or small numbers would overflow or vanish
    upper = upper + apart * _full(part, part.T)
    nothing = jnp.zeros_like(mid)
    return Small(mid, mid - low, upper - mid, nothing, nothing, small.count)
