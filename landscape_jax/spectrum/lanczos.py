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

from typing import NamedTuple

import jax
import jax.numpy as jnp
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
    other = tree.scattered_like(direction, w)
    rest = jax.lax.cond(vanished, lambda: removed(basis, other)[0], lambda: rest)
    length = tree.norm(rest)
    exhausted = vanished & (length <= eps**0.5 * tree.norm(other))
    row = tree.scale(jnp.where(exhausted, 0, 1 / length), rest)
    column = jax.lax.dynamic_update_index_in_dim(column, jnp.where(vanished, 0, length), i, 0)
    return tree.with_row(basis, i, row), column


def removed(basis: Params, w: Params) -> tuple[Params, Array]:
    """w − Qᵀ Q w, and the coefficients Q w: classical Gram–Schmidt twice, which is enough (Giraud et al. 2005)."""
    first = tree.dots(basis, w)
    w = tree.sub(w, tree.combine(first, basis))
    second = tree.dots(basis, w)
    return tree.sub(w, tree.combine(second, basis)), first + second


def ritz(krylov: Krylov, k: int) -> Eigs:
    """The k largest Ritz pairs of a Krylov space: the best approximations to A's largest eigenpairs that it holds.

    Values lie inside A's range; each residual ‖A v − θ v‖ comes free from the rows of G below the projected matrix, plus
    an allowance for the rounding of m products (10 ε √m max|θ|).
    """
    m = krylov.gram.shape[1]
    if not 1 <= k <= m:
        raise ValueError(f"ritz: k={k} must lie between 1 and m={m}, the number of products in the Krylov space")
    values, rotation, residuals = projected(krylov, m)
    return Eigs(values[:k], rotated(krylov, rotation[:, :k]), residuals[:k])


def projected(krylov: Krylov, count) -> tuple[Array, Array, Array]:
    """The projected problem after `count` products, which may be traced.

    Returns: Ritz values [m] descending, their coefficients [m, m] in columns, residuals [m]; only the first `count` count.
    """
    rows, m = krylov.gram.shape
    reached = jnp.arange(m) < count  # [m]
    gram = jnp.where(reached, krylov.gram, 0)  # [m + b, m]
    matrix = jnp.where(reached[:, None], jnp.triu(gram[:m]), 0)  # above the diagonal everything is measured
    size = jnp.max(jnp.abs(matrix))
    far = jnp.where(reached, 0, -4 * m * size - 1)  # what is not reached sorts last
    values, rotation = jnp.linalg.eigh(matrix + jnp.diag(far), UPLO="U", symmetrize_input=False)
    values, rotation = values[::-1], jnp.where(reached[:, None], rotation[:, ::-1], 0)
    tail = jnp.where(jnp.arange(rows)[:, None] < count, 0, gram)
    coupling = jnp.matmul(tail, rotation, precision=jax.lax.Precision.HIGHEST)  # [m + b, m]
    rounding = 10 * jnp.finfo(values.dtype).eps * m**0.5 * size
    return values, rotation, jnp.linalg.norm(coupling, axis=0) + rounding


def rotated(krylov: Krylov, rotation: Array) -> Params:
    """Ritz vectors, leaves [k, ...], from their coefficients [m, k]."""
    m = krylov.gram.shape[1]
    return tree.combine(rotation.T, jax.tree.map(lambda q: q[:m], krylov.basis))


def eigsh(
    matvec: MatVec,
    start: Params,
    k: int = 1,
    *,
    num_steps: int | None = None,
    depth: int | None = None,
    tol: float | None = None,
    max_restarts: int = 100,
) -> Eigs:
    """The k largest (algebraic) eigenvalues of a symmetric operator, with eigenvectors and residuals.

    Two ways to stop. With `num_steps`, after exactly that many products: for scans, and for warm starts, where `start`
    is the eigenvector found last time. Otherwise at a tolerance: the space is restarted from its best Ritz vectors
    (thick restart, bounded memory) until every residual ‖A v − λ v‖ ≤ tol · max|λ|, and then once more from a fresh
    direction, until two such ends agree: so a start vector orthogonal to what was asked for, or a second copy of a
    degenerate eigenvalue, is not missed.

    Args:
      matvec: v ↦ A v, A symmetric.
      start: any vector shaped like θ; `tree.normal_like(key, params)`, or a guess.
      k: how many eigenpairs, at most p.
      num_steps: m, a fixed number of products, k ≤ m; more than p are not made.
      depth: the Krylov depth, in vectors, of the run to a tolerance; default 4k + 16.
      tol: relative to the largest |λ| seen; default ε^(2/3), 2e-5 in float32 and 4e-11 in float64.
      max_restarts: an upper bound; on reaching it, the residuals say how far the run got.
    Returns: `Eigs(values [k] descending, vectors leaves [k, ...], residuals [k])`. Some true eigenvalue lies within
      each residual of its value, and the value's own error is about residual² / gap.

    Cost: m products; or about (depth + restarts · depth / 2) products. Memory: m or `depth` vectors.
    Works under jit and vmap; not differentiable in reverse mode (there is a while loop).
    Source: C. Lanczos 1950; K. Wu and H. Simon 2000, SIAM J. Matrix Anal. 22(2), 602–616, thick restart.
    """
    tree.check(start, "start")
    p = tree.size(start)
    if not 1 <= k <= p:
        raise ValueError(f"eigsh: k={k} must lie between 1 and p={p}, the size of the start vector")
    if num_steps is not None:
        if k > num_steps:
            raise ValueError(f"eigsh: k={k} is more than num_steps={num_steps}: each eigenpair needs at least one product")
        if depth is not None or tol is not None:
            raise ValueError("eigsh: num_steps fixes the number of products; leave it out to run to tol within depth")
        return ritz(lanczos(matvec, _as_stack(start), min(num_steps, p)), k)
    if depth is not None and depth <= k:
        raise ValueError(f"eigsh: depth={depth} must be more than k={k}, or no restart can make progress")
    m = min(4 * k + 16 if depth is None else depth, p)
    return _restarted(matvec, _as_stack(start), k, m, tol, max_restarts)


def _as_stack(vector: Params) -> Params:
    return jax.tree.map(lambda x: jnp.asarray(x)[None], vector)


def _restarted(matvec: MatVec, start: Params, k: int, m: int, tol: float | None, max_restarts: int) -> Eigs:
    p = tree.size(tree.row(start, 0))
    keep = min(k + (m - k) // 2, m - 1)
    first = begin(start, m)
    real = first.gram.dtype
    tol = float(jnp.finfo(real).eps) ** (2 / 3) if tol is None else tol

    def cycle(carry):
        krylov, begun, restarts, settled, dropped, _, _ = carry
        krylov = jax.lax.fori_loop(begun, m, lambda j, kr: extend(matvec, kr, j), krylov)
        values, rotation, residuals = projected(krylov, m)
        margin = tol * jnp.max(jnp.abs(values))
        ended = jnp.all(residuals[:k] <= margin)
        agreed = ended & jnp.all(jnp.abs(values[:k] - settled) <= margin)
        done = agreed | jnp.any(jnp.isnan(values)) | (m == p)
        # a restart from a fresh direction forgets the residuals of what it keeps; they stay in the reported error
        error = residuals[:k] + dropped
        dropped = jnp.where(ended, jnp.max(error), dropped)
        count = jnp.where(ended, k, keep)
        krylov = _thick(krylov, values, rotation, keep, count, ended, restarts)
        return krylov, count, restarts + 1, jnp.where(ended, values[:k], settled), dropped, error, done

    def going(carry):
        _, _, restarts, _, _, _, done = carry
        return ~done & (restarts <= max_restarts)

    unknown = jnp.full(k, jnp.nan, real)
    zero = jnp.zeros((), real)
    krylov, *_, error, _ = jax.lax.while_loop(
        going, cycle, (first, jnp.array(0), 0, unknown, zero, unknown, jnp.array(False))
    )
    values = jnp.diagonal(krylov.gram)[:k]
    return Eigs(values, jax.tree.map(lambda q: q[:k], krylov.basis), error)


def _thick(
    krylov: Krylov, values: Array, rotation: Array, keep: int, count: Array, random: Array, restarts: Array
) -> Krylov:
    """The first `count` ≤ `keep` Ritz vectors as a new, partly filled Krylov space. It goes on from the last vectors of
    the old one or, where `random` holds, from fresh directions; the coupling of the kept vectors to these is nil."""
    basis, gram = krylov
    m = gram.shape[1]
    b = gram.shape[0] - m
    values = jnp.where(jnp.arange(keep) < count, values[:keep], 0)
    rotation = jnp.where(jnp.arange(keep)[None] < count, rotation[:, :keep], 0)  # [m, keep]
    coupling = jnp.matmul(gram[m:], rotation, precision=jax.lax.Precision.HIGHEST)  # [b, keep]
    new = jnp.zeros_like(gram).at[:keep, :keep].set(jnp.diag(values))
    new = new.at[keep : keep + b, :keep].set(jnp.where(random, 0, coupling))
    out = jax.tree.map(lambda q, r: jnp.zeros_like(q).at[:keep].set(r), basis, rotated(krylov, rotation))


    def go_on(i, out):
        last = tree.where(random, tree.zeros_like(tree.row(basis, 0)), tree.row(basis, m + i))
        return appended(out, count + i, last, (restarts + 1) * (m + b) + i)[0]

    return Krylov(jax.lax.fori_loop(0, b, go_on, out), new)
