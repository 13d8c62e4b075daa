"""A small symmetric matrix that is known in part, and brackets of its eigenvalues."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from landscape_jax import tree
from landscape_jax.backend.eigh import eigh

_matmul = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


class Complement(NamedTuple):
    """Bounds and an estimate of ⟨x, A x⟩ for unit vectors x orthogonal to the remembered ones."""

    low: Array  # []
    mid: Array  # []  the estimate
    high: Array  # []


class PartialMatrix(NamedTuple):
    """What is known of G = Q A Qᵀ, the rows of Q orthonormal: the b remembered vectors, then remainders of products.

        mid − below + low · remainders  ⪯  G  ⪯  mid + above + high · remainders

    with `Complement(low, mid, high)`. Rows from `count` on are not reached yet.
    """

    mid: Array  # [r, r]
    below: Array  # [r, r] ⪰ 0
    above: Array  # [r, r] ⪰ 0
    remainders: Array  # [r, r] ⪰ 0: the projection on remainders, less what was multiplied of them
    projection: Array  # [r, r]: P, the projection on all that was multiplied
    count: Array  # [] int32


class Brackets(NamedTuple):
    """Eigenpairs of the middle matrix, and bounds on the eigenvalues of G."""

    values: Array  # [r], descending
    rotation: Array  # [r, r]: rows y, in the order of the values
    low: Array  # [k]
    high: Array  # [k]
    least_known: Array  # [r]: z, that of the k leading eigenvectors of G₊ with the largest zᵀ (G₊ − G₋) z


def powell_update(matrix: Array, a: Array, column: Array) -> Array:
    """The symmetric X nearest to a symmetric M with X a = c, |a| = 1:

        X = M + r aᵀ + a rᵀ − ⟨a, r⟩ a aᵀ ,   r = c − M a .

    On what is orthogonal to a it is M. With c = 0 it is (1 − a aᵀ) M (1 − a aᵀ).

    Source: M. Powell 1970, A new algorithm for unconstrained optimization (the symmetric Broyden update).
    """
    residual = column - _matmul(matrix, a)  # [r]
    cross = jnp.outer(residual, a)
    return matrix + cross + cross.T - _matmul(a, residual) * jnp.outer(a, a)


def add_product(g: PartialMatrix, a: Array, column: Array) -> PartialMatrix:
    """After the product G a = c, |a| = 1, all bounds agree with it. On what is orthogonal to a they stay as they were."""
    zero = jnp.zeros_like(column)
    mid, below, above, remainders = jax.vmap(powell_update, in_axes=(0, None, 0))(
        jnp.stack(g[:4]), a, jnp.stack([column, zero, zero, zero])
    )
    return g._replace(mid=mid, below=below, above=above, remainders=remainders, projection=g.projection + jnp.outer(a, a))


def remove_multiplied(g: PartialMatrix, y: Array) -> Array:
    """(1 − P) y: the part of y that was not multiplied. The projection is applied twice, for the part may be small."""
    y = y - _matmul(g.projection, y)
    return y - _matmul(g.projection, y)


def bounding_matrices(g: PartialMatrix, complement: Complement) -> tuple[Array, Array, Array]:
    """G₋, the middle matrix, and G₊, each [r, r]."""
    low = g.mid - g.below + complement.low * g.remainders
    high = g.mid + g.above + complement.high * g.remainders
    return low, g.mid + complement.mid * g.remainders, high


def eigenvalue_brackets(g: PartialMatrix, complement: Complement, count: Array, k: int) -> Brackets:
    """Brackets of the k largest eigenvalues of G's first `count` rows. With G₋ ⪯ G ⪯ G₊, and rows Y the k leading eigenvectors
    of the middle matrix,

        λᵢ(Y G₋ Yᵀ) ≤ λᵢ(G₋) ≤ λᵢ(G) ≤ λᵢ(G₊)   (Cauchy; Weyl).
    """
    rows = len(g.mid)
    reached = jnp.arange(rows, dtype=jnp.int32) < count
    matrices = jnp.where((reached[:, None] & reached[None])[None], jnp.stack(bounding_matrices(g, complement)), 0)
    largest = jnp.max(jnp.abs(matrices))
    last = jnp.where(largest == 0, -1, -2 * rows * largest)  # rows that are not reached sort last
    matrices = matrices + jnp.diag(jnp.where(reached, 0, last))[None]
    values, vectors = jax.vmap(eigh)(matrices[1:])
    values, vectors = values[:, ::-1], jnp.swapaxes(vectors, 1, 2)[:, ::-1]  # [2, r], [2, r, r] in rows
    # one Newton step restores orthonormality: rounding would accumulate from look to look
    rotation = 1.5 * vectors[0] - 0.5 * _matmul(_matmul(vectors[0], vectors[0].T), vectors[0])
    lower, _, upper = matrices
    lower_on_leading = _matmul(_matmul(rotation[:k], lower), rotation[:k].T)  # [k, k]  Y G₋ Yᵀ
    low, high = lower_on_leading[0] if k == 1 else eigh(lower_on_leading)[0][::-1], values[1, :k]
    widths = jnp.sum(_matmul(vectors[1, :k], upper - lower) * vectors[1, :k], axis=1)  # [k]  zᵀ (G₊ − G₋) z
    return Brackets(values[0], rotation, low, high, vectors[1, jnp.argmax(widths)])


def complement_bounds(g: PartialMatrix, b: int, ceiling: Array, reach: Array, mean: Array) -> Complement:
    """Off V no eigenvalue exceeds max(smallest upper bound in V, `ceiling`, `mean`), nor is any outside of ± `reach`. The mean
    matters where A has a rank below b: then V holds vectors that are not leading. It is also the estimate of what is off V."""
    smallest = jnp.min(jnp.diagonal(g.mid + g.above)[:b])
    high = jnp.clip(jnp.maximum(jnp.maximum(smallest, ceiling), mean), -reach, reach)
    return Complement(-reach, jnp.clip(mean, -reach, reach), high)


def compress(g: PartialMatrix, complement: Complement, weights: Array) -> PartialMatrix:
    """The same knowledge in a smaller space, whose vectors are rows of `weights` S [r, r] in Q; rows of 0 are not reached.
    `projection` is reset to 0: what was multiplied has bounds of width 0.

    With C the part of the upper bound between S and the space that is dropped, on which it is at most `complement.high`,

        [S G₊ Sᵀ, C; Cᵀ, high]  ⪯  [S G₊ Sᵀ + C Cᵀ / τ, 0; 0, high + τ]   for any τ > 0 .

    τ = (S G₊ Sᵀ)₁₁ − high makes the largest eigenvalue of the first block a bound. For a smaller eigenvalue, and where ‖C‖ is
    larger and taken for τ, it is an estimate: the dropped space is remembered as at most `high`, not high + τ.
    """
    products = _matmul(weights, jnp.stack(bounding_matrices(g, complement)))  # [3, r, r]  S G
    low, mid, upper = _matmul(products, weights.T)
    dropped = products[2] - _matmul(upper, weights)  # C
    tau = jnp.maximum(jnp.maximum(upper[0, 0] - complement.high, tree.norm(dropped)), jnp.finfo(mid.dtype).tiny)
    scaled = dropped / tau  # at most 1, for squares of large or small numbers would overflow or vanish
    upper = upper + tau * _matmul(scaled, scaled.T)
    zero = jnp.zeros_like(mid)
    return PartialMatrix(mid, mid - low, upper - mid, zero, zero, g.count)
