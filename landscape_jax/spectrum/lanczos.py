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
from landscape_jax.arguments import count, product
from landscape_jax.types import Eigs, MatVec, Params

_full = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


class Krylov(NamedTuple):
    """A subspace and the operator on it. Rows of `basis` not reached yet are zero."""

    basis: Params  # leaves [m + b, ...]: orthonormal rows q_i
    gram: Array  # [m + b, m]: A q_j = Σ_i gram[i, j] q_i
    overlap: Array  # [m + b, m + b]: what ⟨q_i, q_j⟩ is reckoned to be


def lanczos(matvec: MatVec, start: Params, num_steps: int, *, slack: float = 0.0) -> Krylov:
    """The Krylov space of `num_steps` products from a block of start vectors.

    Args:
      matvec: v ↦ A v, A symmetric.
      start: a stack of b vectors, leaves [b, ...]; they need not be orthonormal. For one vector v, `jnp.expand_dims` it.
      num_steps: m, the number of products; at most p.
      slack: by how much |⟨q_i, q_j⟩| may differ from 0, with one start vector; 0 makes every vector orthogonal to all before
        it. The projected matrix is exact to slack², so that √ε is enough for Ritz values and quadrature.
    Returns: `Krylov(basis, gram, overlap)`. Where the space breaks down (A-invariant, or a zero start vector) a fixed,
      scattered direction takes the place of the missing one, with zero coupling: copies of degenerate eigenvalues are found
      this way.

    Cost: m products, 2 m² p multiply-adds or, with slack, a fraction of it; m + b vectors of memory.
    """
    matvec = product("lanczos", matvec)
    tree.check(start, "start")
    tree.num_examples(start)
    count("lanczos", num_steps=num_steps)
    p = tree.size(tree.row(start, 0))
    if not 1 <= num_steps <= p:
        raise ValueError(f"lanczos: num_steps={num_steps} must lie between 1 and p={p}, the size of a start vector")
    return jax.lax.fori_loop(0, num_steps, lambda j, k: extend(matvec, k, j, slack), begin(start, num_steps))


def recurrence(matvec: MatVec, start: Params, num_steps: int) -> tuple[Array, Array]:
    """The coefficients of Lanczos's three terms and nothing else: no basis is kept, and nothing is orthogonalised again.

        A q_j = β_{j−1} q_{j−1} + α_j q_j + β_j q_{j+1}

    The tridiagonal T of α and β has copies of whatever eigenvalue has converged, for rounding lets each come back. The copies
    share its weight: to rounding e₁ᵀ f(T) e₁ is zᵀ f(A) z / zᵀz for polynomials f up to degree 2m − 1 that stay within ±1 on
    the range of A, as it is with a basis. Finer than those, about 1/m of the range, it resolves less.

    Args:
      start: z, one vector.
      num_steps: m.
    Returns: α, β, each [m]. Once the Krylov space is exhausted β is 0, and α what it was first.

    Cost: m products, 3 vectors.
    Source: L. Knizhnerman 1996, Comput. Math. Math. Phys. 36(11), 1481–1492; T. Chen 2024, arXiv 2410.11090.
    """
    matvec = product("recurrence", matvec)
    count("recurrence", num_steps=num_steps)
    tree.check(start, "start")
    eps = jnp.finfo(tree.dtype(start)).eps
    length = tree.norm(start)
    first = tree.scale(jnp.where(length > 0, 1 / length, 0), start)

    def step(carry, _):
        before, q, beta = carry
        w = tree.axpy(-beta, before, matvec(q))
        alpha = tree.vdot(q, w)
        w = tree.axpy(-alpha, q, w)
        length = tree.norm(w)
        length = jnp.where(length > 10 * eps * tree.norm((beta, alpha, length)), length, 0)
        return (q, tree.scale(jnp.where(length > 0, 1 / length, 0), w), length), (alpha, length)

    _, (alpha, beta) = jax.lax.scan(step, (tree.zeros_like(first), first, jnp.zeros_like(length)), length=num_steps)
    reached = jnp.concatenate([jnp.ones(1, bool), beta[:-1] > 0])  # once 0, β stays so: q is
    return jnp.where(reached, alpha, alpha[0]), beta


def widthwise(matvec: MatVec) -> MatVec:
    """The operator on vectors as `tree.wide` gives them. A product that asks for such kernels and gives such ones
    (`models.dense`) then turns no vector; of a basis that lies as θ does it would turn each one twice."""
    return lambda v: tree.wide(matvec(v.plain()))


def begin(start: Params, num_steps: int) -> Krylov:
    """A Krylov space before its first product: the start block, leaves [b, ...], made orthonormal."""
    b = jax.tree.leaves(start)[0].shape[0]
    rows, real = num_steps + b, tree.dtype(start)

    def replaced(carry):
        return tree.scattered_like(0, carry[0]), jnp.array(False)

    # the first vector meets an empty basis: set apart, that is written once and not read
    first = tree.row(start, 0)
    first, _ = jax.lax.while_loop(lambda carry: carry[1], replaced, (first, tree.norm(first) == 0))
    basis = tree.with_row(tree.stacked(first, rows), 0, tree.scale(1 / tree.norm(first), first))
    basis = jax.lax.fori_loop(1, b, lambda i, q: appended(q, i, tree.row(start, i), i)[0], basis)
    return Krylov(basis, jnp.zeros((rows, num_steps), real), jnp.eye(rows, dtype=real))


def extend(matvec: MatVec, krylov: Krylov, j, slack: float | Array = 0.0) -> Krylov:
    """One product: A q_j is resolved in the basis, and what is left of it becomes q_{j+b}. `j` and `slack` may be traced."""
    basis, gram, overlap = krylov
    b = gram.shape[0] - gram.shape[1]
    q = jax.lax.optimization_barrier(tree.row(basis, j))  # one copy of it, where a reader of another shape would make its own
    w = matvec(q)
    if b > 1:
        basis, column = appended(basis, j + b, w, j + b)
        return Krylov(basis, jax.lax.dynamic_update_index_in_dim(gram, column, j, 1), overlap)
    return _three_terms(w, q, krylov, j, slack)


def _three_terms(w: Params, q: Params, krylov: Krylov, j, slack: float | Array) -> Krylov:
    """β' q_{j+1} = A q_j − α q_j − β q_{j−1}, orthogonalised against all before only where rounding has grown past `slack`.

    The growth is reckoned without a product: with W = QᵀQ and A Q = Q G, symmetry of A gives

        β' W_{i,j+1} = (Gᵀ W)_{ij} − (W G)_{ij} ± ε (G_{i+1,i} + β') ,  i < j ,

    and where that is too much this vector and the next are orthogonalised (one alone would soon be lost again). Of the
    corrections found then G gets half: its symmetric part is what they change A's projection by.

    Source: H. Simon 1984, Math. Comp. 42(165), 115–142.
    """
    basis, gram, overlap = krylov
    eps, place = jnp.finfo(gram.dtype).eps, jnp.arange(len(gram))
    before = jnp.maximum(j - 1, 0)
    beta = jnp.where(j > 0, gram[j, before], 0)
    alpha = tree.vdot(q, w)
    w = jax.tree.map(lambda x, y, z: x - alpha.astype(x.dtype) * y - beta.astype(x.dtype) * z, w, q, tree.row(basis, before))
    off = tree.vdot(q, w)  # what rounding left along q_j
    w = tree.axpy(-off, q, w)
    column = jnp.zeros(len(gram), gram.dtype).at[before].set(beta).at[j].set(alpha + off)
    length = tree.norm(w)
    whole = tree.norm((column, length))

    left = jnp.pad(_full(gram.T, overlap[:, j]), (0, 1)) - _full(overlap, column)
    left = left + jnp.copysign(eps * (jnp.pad(jnp.diagonal(gram, -1), (0, 1)) + length), left)
    grown = jnp.where(place < j, left, jnp.where(place == j, eps * whole, 0)) / jnp.maximum(length, eps * whole)
    size = jnp.maximum(jnp.max(jnp.abs(gram)), whole)
    lost = jnp.any(~(jnp.abs(grown) <= slack)) | ~(eps * size <= slack * length)  # the second: A q_j was little but rounding
    once_more = (overlap[0, j] == eps) & (overlap[0, before] != eps)  # only what was cleaned stands at ε to all before

    def cleaned(carry):
        w, column, length, passes, _ = carry
        more = tree.dots(basis, w)
        w = tree.sub(w, tree.combine(more, basis))
        half = (place < before) & (slack > 0)
        left = tree.norm(w)
        short = ~(left > length / 4)  # then the rounding of this pass is too much of it; twice is enough
        return w, column + jnp.where(half, more / 2, more), left, passes + 1, short & (passes < 1)

    dirty = lost | once_more
    carry = jax.lax.while_loop(lambda carry: carry[4], cleaned, (w, column, length, 0, dirty))
    w, column, length, *_ = carry
    basis, column = settled(basis, j + 1, w, column, length, length <= 10 * eps * whole, j + 1)
    grown = jnp.where(dirty, jnp.where(place <= j, eps, 0), grown).at[j + 1].set(1)
    overlap = overlap.at[:, j + 1].set(grown).at[j + 1].set(grown)
    return Krylov(basis, jax.lax.dynamic_update_index_in_dim(gram, column, j, 1), overlap)


def appended(basis: Params, i, w: Params, direction) -> tuple[Params, Array]:
    """The basis with the part of w that is new to it, normalised, as row i; and w's coefficients in that basis, [rows].

    If nothing but rounding is left of w, a fixed direction numbered by `direction` takes its place, with coefficient 0; if
    nothing is left of that one either, the basis fills the space and the row is zero.
    """
    rest, column = removed(basis, w)
    length = tree.norm(rest)
    return settled(basis, i, rest, column, length, length <= 10 * jnp.finfo(column.dtype).eps * tree.norm(w), direction)


def settled(
    basis: Params, i, rest: Params, column: Array, length: Array, vanished: Array, direction
) -> tuple[Params, Array]:
    """What `appended` gives, from what is left of w, its coefficients, and whether that is nothing but rounding."""

    def replaced(carry):
        rest = removed(basis, tree.scattered_like(direction, carry[0]))[0]
        return rest, tree.norm(rest), jnp.array(False)

    # an if in the form of a loop: vmapped, it is entered only where some lane needs it, where a cond would run for all
    rest, length, _ = jax.lax.while_loop(lambda carry: carry[2], replaced, (rest, length, vanished))
    exhausted = vanished & (length <= (jnp.finfo(column.dtype).eps * tree.size(rest)) ** 0.5)
    row = tree.scale(jnp.where(exhausted, 0, 1 / length), rest)
    column = jax.lax.dynamic_update_index_in_dim(column, jnp.where(vanished, 0, length), i, 0)
    return tree.with_row(basis, i, row), column


def removed(basis: Params, w: Params) -> tuple[Params, Array]:
    """w − Qᵀ Q w, and the coefficients Q w: classical Gram–Schmidt twice, which is enough (Giraud et al. 2005)."""
    first = tree.dots(basis, w)
    w = tree.sub(w, tree.combine(first, basis))
    second = tree.dots(basis, w)
    return tree.sub(w, tree.combine(second, basis)), first + second


def rectified(stack: Params) -> Params:
    """Rows orthonormal to √ε made so to the last digit: one of Newton's steps, (3 − Q Qᵀ) Q / 2."""
    overlap = tree.overlaps(stack)
    return tree.combine(1.5 * jnp.eye(len(overlap), dtype=overlap.dtype) - 0.5 * overlap, stack)


def ritz(krylov: Krylov, k: int, smallest: int = 0, slack: float = 0.0) -> Eigs:
    """The k largest and the `smallest` smallest Ritz pairs of a Krylov space, largest first: the best approximations to
    A's extreme eigenpairs that it holds.

    Values lie inside A's range; each residual ‖A v − θ v‖ comes free from the rows of G below the projected matrix, plus
    an allowance for the rounding of m products (10 ε √m max|θ|). `converged` where residuals are below `tolerance`.
    """
    m = krylov.gram.shape[1]
    if not 1 <= k + smallest <= m:
        raise ValueError(f"ritz: k={k} and smallest={smallest} must add up to between 1 and m={m}, the number of products")
    values, rotation, residuals = projected(krylov, m, slack)
    ends = np.r_[0:k, m - smallest : m]
    converged = jnp.all(residuals[ends] <= tolerance(values.dtype, m) * jnp.max(jnp.abs(values)))  # False for NaN
    return Eigs(values[ends], rotated(krylov, rotation[:, ends]), residuals[ends], converged, jnp.int32(m))


def slack(dtype) -> float:
    """ε^¾, 6e-6 in float32 and 2e-12 in float64: how far from orthogonal a Krylov basis for Ritz vectors may be."""
    return float(jnp.finfo(dtype).eps) ** 0.75


def tolerance(dtype, m: int) -> float:
    """ε^(2/3), 2e-5 in float32 and 4e-11 in float64, or twice the rounding of m products where that is more: what a residual
    relative to max|λ| should reach, unless told otherwise."""
    return max(float(jnp.finfo(dtype).eps) ** (2 / 3), 2 * rounding(dtype, m))


def rounding(dtype, m: int) -> float:
    """10 ε √m: what m products may leave in a residual, relative to max|λ|. No tolerance can be less."""
    return 10 * float(jnp.finfo(dtype).eps) * m**0.5


def projected(krylov: Krylov, count, slack: float | Array = 0.0) -> tuple[Array, Array, Array]:
    """The projected problem after `count` products, which may be traced; `slack` as it was for `extend`.

    Returns: Ritz values [m] descending, their coefficients [m, m] in columns, residuals [m]; only the first `count` count.
    """
    m = krylov.gram.shape[1]
    reached = jnp.arange(m) < count  # [m]
    gram = jnp.where(reached, krylov.gram, 0)  # [m + b, m]
    matrix = jnp.where(reached[:, None], jnp.triu(gram[:m]), 0)  # above the diagonal everything is measured
    size = jnp.max(jnp.abs(matrix))
    far = jnp.where(reached, 0, jnp.where(size == 0, -1, -4 * m * size))  # what is not reached sorts last
    values, rotation = eigh(matrix + jnp.diag(far))
    values, rotation = values[::-1], jnp.where(reached[:, None], rotation[:, ::-1], 0)
    tail = jnp.where(jnp.arange(len(gram))[:, None] < count, 0, gram)
    coupling = _full(tail, rotation)  # [m + b, m]
    return values, rotation, jnp.linalg.norm(coupling, axis=0) + (rounding(values.dtype, m) + slack) * size


@jax.custom_batching.custom_vmap
def eigh(matrix: Array) -> tuple[Array, Array]:
    """Ascending eigenvalues and eigenvectors of a symmetric matrix given by its upper triangle.

    Under vmap on a CPU, one matrix after the other: jaxlib's batched kernel waits inside XLA's thread pool for other
    threads of the pool, and two devices that run it at once can wait for each other forever. By JAX's default elsewhere,
    Jacobi's rotations on an NVIDIA GPU: by QR tracking is no faster there, and five eigenpairs take a fifth longer.
    """
    return _eigh(matrix)


def _eigh(matrix: Array) -> tuple[Array, Array]:
    vectors, values = jax.lax.linalg.eigh(matrix, lower=False, symmetrize_input=False)
    return values, vectors


@eigh.def_vmap
def _eigh_batched(size: int, batched, matrices: Array):
    one_by_one = functools.partial(jax.lax.map, eigh)  # mapped once more, it comes here again
    return jax.lax.platform_dependent(matrices, cpu=one_by_one, default=_eigh), (True, True)


def rotated(krylov: Krylov, rotation: Array) -> Params:
    """Ritz vectors, leaves [k, ...], from their coefficients [m, k]."""
    rows, m = krylov.gram.shape
    weights = jnp.pad(rotation.T, ((0, 0), (0, rows - m)))  # [k, m + b]: a slice of the basis would be a copy of it
    return tree.combine(weights, krylov.basis)
