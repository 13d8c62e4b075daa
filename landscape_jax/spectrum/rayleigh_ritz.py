"""Rayleigh–Ritz: the eigenpairs of an operator within a Krylov space, with their residuals."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from landscape_jax import tree
from landscape_jax.backend import products
from landscape_jax.backend.eigh import eigh
from landscape_jax.spectrum.lanczos import Krylov
from landscape_jax.spectrum.tolerances import default_tolerance, rounding_error
from landscape_jax.types import Eigs, Params

_matmul = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


class RitzPairs(NamedTuple):
    """The eigenpairs of the projected matrix, largest first. Only the first `count` of them have a meaning."""

    values: Array  # [m], descending
    rotation: Array  # [m, m]: coefficients in the basis, in columns
    residuals: Array  # [m]
    floors: Array  # [m]: the part of these that no further product lowers
    excess: Array  # [m]: the part of the floors above what slack and rounding allow


def ritz(krylov: Krylov, k: int, smallest: int = 0, slack: float = 0.0) -> Eigs:
    """The k largest and the `smallest` smallest Ritz pairs of a Krylov space, largest first: the best approximations to
    A's extreme eigenpairs that it holds.

        T y = θ y ,   v = Qᵀ y ,   ‖A v − θ v‖ = ‖(G − T) y‖

    Args:
      krylov: what `lanczos` gave, of m products.
      k, smallest: 1 ≤ k + smallest ≤ m.
      slack: allowed for in the residuals if it is more than the space's own.
    Returns: `Eigs(values [k + smallest] descending, vectors, residuals, converged, products)`. `converged` says that residuals
      are below `tolerances.default_tolerance` and that the vectors, before a last correction, were orthonormal to √ε. Each
      value is then an eigenvalue, of a symmetric A or not. The space cannot tell whether it is the i-th largest: an eigenvalue
      that the start vectors do not see, such as a second copy, is missed.

    Values lie inside A's range. A residual is never given as less than the rounding error of its products.
    Cost: one symmetric eigenproblem of size m, (k + smallest) m p multiply-adds, no product.
    Source: B. Parlett 1998, The Symmetric Eigenvalue Problem, §11.4.

    >>> krylov = lj.spectrum.lanczos(lambda v: jnp.arange(5.0) * v, jnp.ones((1, 5)), num_steps=5)
    >>> np.asarray(lj.spectrum.ritz(krylov, k=2).values).round(3)
    array([4., 3.], dtype=float32)
    """
    m = krylov.gram.shape[1]
    if not 1 <= k + smallest <= m:
        raise ValueError(f"ritz: k={k} and smallest={smallest} must add up to between 1 and m={m}, the number of products")
    values, rotation, residuals, *_ = solve_projected(krylov, m, slack)
    wanted = np.r_[0:k, m - smallest : m]
    vectors, orthonormal = newton_orthonormalize(ritz_vectors(krylov, rotation[:, wanted]))
    allowed = default_tolerance(values.dtype, krylov.eps, m) * jnp.max(jnp.abs(values))
    converged = jnp.all(residuals[wanted] <= allowed) & orthonormal  # False for NaN
    return Eigs(values[wanted], vectors, residuals[wanted], converged, jnp.int32(m))


def solve_projected(krylov: Krylov, count, slack: float | Array = 0.0, borrowed: int | Array = 0) -> RitzPairs:
    """The Ritz pairs after `count` products, which may be traced.

    T is the symmetric matrix that is solved, T y = θ y. The residual follows from A q_j = Σ_i G_ij q_i as measured:

        ‖A v − θ v‖ = ‖(G − T) y‖,   v = Σ_j y_j q_j .

    G − T has two parts: the rows of G below T, which further products lower, and what of G is not symmetric, by slack, by
    rounding, or by A itself.

    Args:
      slack: bound on the inner products of rows, or of those from which rows were made at a restart.
      borrowed: the first so many columns come from before a restart. Of these, what lies below the first `borrowed` rows was
        not measured but is known by symmetry.
    """
    m = krylov.gram.shape[1]
    row, reached = jnp.arange(len(krylov.gram))[:, None], jnp.arange(m) < count  # [m + b, 1], [m]
    gram = jnp.where(reached[None], krylov.gram, 0)  # [m + b, m]
    upper = jnp.where(reached[:, None], jnp.triu(gram[:m]), 0)  # all of the upper triangle is measured
    far = jnp.triu(upper, 2)
    upper = upper - jnp.where(krylov.slack > 0, far / 2, 0)  # below stands 0 then, and A's projection is the mean of the two
    size = jnp.max(jnp.abs(upper))
    last = jnp.where(reached, 0, jnp.where(size == 0, -1, -4 * m * size))  # rows that are not reached sort last
    values, rotation = eigh(upper + jnp.diag(last))
    values, rotation = values[::-1], jnp.where(reached[:, None], rotation[:, ::-1], 0)
    defect = gram - jnp.pad(upper + jnp.triu(upper, 1).T, ((0, len(gram) - m), (0, 0)))  # G − T
    defect = jnp.where((row >= borrowed) & (jnp.arange(m)[None] < borrowed), 0, defect)
    below = row >= count
    coupling, asymmetry = (_matmul(jnp.where(part, defect, 0), rotation) for part in (below, ~below))
    allowed = (rounding_error(values.dtype, krylov.eps, m) + jnp.maximum(krylov.slack, slack)) * size
    excess = jnp.maximum(1.1 * tree.norms(asymmetry) - allowed, 0)  # a tenth more, for the rounding of the asymmetry itself
    return RitzPairs(values, rotation, tree.norms(coupling) + (allowed + excess), allowed + excess, excess)


def ritz_vectors(krylov: Krylov, rotation: Array) -> Params:
    """Ritz vectors, leaves [k, ...], from their coefficients [m, k]."""
    rows, m = krylov.gram.shape
    weights = jnp.pad(rotation.T, ((0, 0), (0, rows - m)))  # [k, m + b]: a slice of the basis would be a copy of it
    return tree.combine(weights, krylov.basis)


def newton_orthonormalize(stack: Params) -> tuple[Params, Array]:
    """One step of Newton's iteration for the polar factor, (3 − Q Qᵀ) Q / 2: rows orthonormal to √ε become so to rounding.
    And whether they were, [] bool."""
    overlap = products.overlaps(stack)
    identity = jnp.eye(len(overlap), dtype=overlap.dtype)
    return tree.combine(1.5 * identity - 0.5 * overlap, stack), is_orthonormal(overlap)


def is_orthonormal(overlap: Array) -> Array:
    """Whether rows with these inner products are orthonormal to √ε, [] bool; False for NaN."""
    defect = jnp.abs(overlap - jnp.eye(len(overlap), dtype=overlap.dtype))
    return jnp.all(defect <= jnp.finfo(overlap.dtype).eps ** 0.5)
