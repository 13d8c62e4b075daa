"""Lanczos: the one place where a Krylov space is built.

A block of b start vectors grows by one orthonormal vector a product (the banded form of block Lanczos; b = 1 is Lanczos
as everyone knows it). Every new vector is orthogonalised against all before it, so the coefficients

    A q_j = Σ_i G_ij q_i ,    G [m + b, m]

hold to rounding whatever the basis is made of: start vectors, Krylov vectors, Ritz vectors kept at a restart, or scattered
directions put in where the space broke down. The upper m rows of G are the projected matrix, the last b rows give each
Ritz pair its residual, and nothing else has to be remembered.

Source: A. Ruhe 1979, Math. Comp. 33(146), 680–687 (banded block Lanczos); K. Wu and H. Simon 2000, SIAM J. Matrix Anal.
22(2), 602–616 (thick restart).
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from landscape_jax import tree
from landscape_jax.types import Eigs, MatVec, Params


class Krylov(NamedTuple):
    """A subspace and the operator on it. Rows of `basis` not reached yet are zero."""

    basis: Params  # leaves [m + b, ...]: orthonormal rows q_i
    gram: Array  # [m + b, m]: A q_j = Σ_i gram[i, j] q_i


def lanczos(matvec: MatVec, start: Params, num_steps: int) -> Krylov:
    """The Krylov space of `num_steps` products from a block of start vectors, fully reorthogonalised.

    Args:
      matvec: v ↦ A v, A symmetric.
      start: a stack of b vectors, leaves [b, ...]; they need not be orthonormal. For one vector v, `jnp.expand_dims` it.
      num_steps: m, the number of products; at most p.
    Returns: `Krylov(basis, gram)`. Where the space breaks down (A-invariant, or a zero start vector) a fixed, scattered
      direction takes the place of the missing one, with zero coupling: copies of degenerate eigenvalues are found this way.

    Cost: m products, 4 m² p multiply-adds, m + b vectors of memory.
    """
    p = tree.size(tree.row(start, 0))
    if not 1 <= num_steps <= p:
        raise ValueError(f"lanczos: num_steps={num_steps} must lie between 1 and p={p}, the size of a start vector")
    return jax.lax.fori_loop(0, num_steps, lambda j, k: extend(matvec, k, j), begin(start, num_steps))


def begin(start: Params, num_steps: int) -> Krylov:
    """A Krylov space before its first product: the start block, leaves [b, ...], made orthonormal."""
    b = jax.tree.leaves(start)[0].shape[0]
    basis = tree.stacked(tree.row(start, 0), num_steps + b)
    basis = jax.lax.fori_loop(0, b, lambda i, q: appended(q, i, tree.row(start, i), i)[0], basis)
    return Krylov(basis, jnp.zeros((num_steps + b, num_steps), tree.dtype(start)))


def extend(matvec: MatVec, krylov: Krylov, j) -> Krylov:
    """One product: A q_j is resolved in the basis, and what is left of it becomes q_{j+b}. `j` may be traced."""
    basis, gram = krylov
    b = gram.shape[0] - gram.shape[1]
    basis, column = appended(basis, j + b, matvec(tree.row(basis, j)), j + b)
    return Krylov(basis, jax.lax.dynamic_update_index_in_dim(gram, column, j, 1))


def appended(basis: Params, i, w: Params, direction) -> tuple[Params, Array]:
    """The basis with the part of w that is new to it, normalised, as row i; and w's coefficients in that basis, [rows].

    If nothing but rounding is left of w, a fixed direction numbered by `direction` takes its place, with coefficient 0; if
    nothing is left of that one either, the basis fills the space and the row is zero.
    """
    eps = jnp.finfo(tree.dtype(w)).eps
    rest, column = removed(basis, w)
    vanished = tree.norm(rest) <= 10 * eps * tree.norm(w)

    def replaced(carry):
        return removed(basis, tree.scattered_like(direction, w))[0], jnp.array(False)

    # an `if` in the form of a loop: vmapped, it is entered only where some lane needs it, where a cond would run for all
    rest, _ = jax.lax.while_loop(lambda carry: carry[1], replaced, (rest, vanished))
    length = tree.norm(rest)
    exhausted = vanished & (length <= (eps * tree.size(w)) ** 0.5)
    row = tree.scale(jnp.where(exhausted, 0, 1 / length), rest)
    column = jax.lax.dynamic_update_index_in_dim(column, jnp.where(vanished, 0, length), i, 0)
    return tree.with_row(basis, i, row), column


def removed(basis: Params, w: Params) -> tuple[Params, Array]:
    """w − Qᵀ Q w, and the coefficients Q w: classical Gram–Schmidt twice, which is enough (Giraud et al. 2005)."""
    first = tree.dots(basis, w)
    w = tree.sub(w, tree.combine(first, basis))
    second = tree.dots(basis, w)
    return tree.sub(w, tree.combine(second, basis)), first + second


def ritz(krylov: Krylov, k: int, smallest: int = 0) -> Eigs:
    """The k largest and the `smallest` smallest Ritz pairs of a Krylov space, largest first: the best approximations to
    A's extreme eigenpairs that it holds.

    Values lie inside A's range; each residual ‖A v − θ v‖ comes free from the rows of G below the projected matrix, plus
    an allowance for the rounding of m products (10 ε √m max|θ|). `converged` where residuals are below `tolerance`.
    """
    m = krylov.gram.shape[1]
    if not 1 <= k + smallest <= m:
        raise ValueError(f"ritz: k={k} and smallest={smallest} must add up to between 1 and m={m}, the number of products")
    values, rotation, residuals = projected(krylov, m)
    ends = np.r_[0:k, m - smallest : m]
    converged = jnp.all(residuals[ends] <= tolerance(values.dtype) * jnp.max(jnp.abs(values)))  # False for NaN
    return Eigs(values[ends], rotated(krylov, rotation[:, ends]), residuals[ends], converged, jnp.int32(m))


def tolerance(dtype) -> float:
    """ε^(2/3), 2e-5 in float32 and 4e-11 in float64: what a residual relative to max|λ| should reach, unless told otherwise."""
    return float(jnp.finfo(dtype).eps) ** (2 / 3)


def projected(krylov: Krylov, count) -> tuple[Array, Array, Array]:
    """The projected problem after `count` products, which may be traced.

    Returns: Ritz values [m] descending, their coefficients [m, m] in columns, residuals [m]; only the first `count` count.
    """
    rows, m = krylov.gram.shape
    reached = jnp.arange(m) < count  # [m]
    gram = jnp.where(reached, krylov.gram, 0)  # [m + b, m]
    matrix = jnp.where(reached[:, None], jnp.triu(gram[:m]), 0)  # above the diagonal everything is measured
    size = jnp.max(jnp.abs(matrix))
    far = jnp.where(reached, 0, jnp.where(size == 0, -1, -4 * m * size))  # what is not reached sorts last
    values, rotation = eigh(matrix + jnp.diag(far))
    values, rotation = values[::-1], jnp.where(reached[:, None], rotation[:, ::-1], 0)
    tail = jnp.where(jnp.arange(rows)[:, None] < count, 0, gram)
    coupling = jnp.matmul(tail, rotation, precision=jax.lax.Precision.HIGHEST)  # [m + b, m]
    rounding = 10 * jnp.finfo(values.dtype).eps * m**0.5 * size
    return values, rotation, jnp.linalg.norm(coupling, axis=0) + rounding


@jax.custom_batching.custom_vmap
def eigh(matrix: Array) -> tuple[Array, Array]:
    """Ascending eigenvalues and eigenvectors of a symmetric matrix given by its upper triangle.

    Under vmap on a CPU, one matrix after the other: jaxlib's batched kernel waits inside XLA's thread pool for other
    threads of the pool, and two devices that run it at once can wait for each other forever.
    """
    values, vectors = jnp.linalg.eigh(matrix, UPLO="U", symmetrize_input=False)
    return values, vectors


@eigh.def_vmap
def _eigh_batched(size: int, batched, matrices: Array):
    together = jax.vmap(lambda m: tuple(jnp.linalg.eigh(m, UPLO="U", symmetrize_input=False)))
    one_by_one = functools.partial(jax.lax.map, eigh)
    return jax.lax.platform_dependent(matrices, cpu=one_by_one, default=together), (True, True)


def rotated(krylov: Krylov, rotation: Array) -> Params:
    """Ritz vectors, leaves [k, ...], from their coefficients [m, k]."""
    rows, m = krylov.gram.shape
    weights = jnp.pad(rotation.T, ((0, 0), (0, rows - m)))  # [k, m + b]: a slice of the basis would be a copy of it
    return tree.combine(weights, krylov.basis)
