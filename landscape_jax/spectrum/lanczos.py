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
from landscape_jax.backend import layout, products
from landscape_jax.backend.eigh import eigh
from landscape_jax.types import Eigs, MatVec, Params

MOST_PASSES = 4  # of Gram–Schmidt
LEAST_LEFT = 1e-2  # of a direction, outside of the basis: less is not taken for a new one
ROOM = 8  # dimensions beside the basis: with more of them no scattered direction lies in it by chance
OTHERS = 2**20  # between the numbers of directions tried for one row

_full = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


class Krylov(NamedTuple):
    """A subspace and the operator on it. Rows of `basis` not reached yet are zero."""

    basis: Params  # leaves [m + b, ...]: orthonormal rows q_i, in float32 at least
    gram: Array  # [m + b, m]: A q_j = Σ_i gram[i, j] q_i, as measured: nothing is taken from symmetry
    overlap: Array  # [m + b, m + b]: estimate of ⟨q_i, q_j⟩
    eps: Array  # []: relative rounding of a product, that of θ's narrowest leaf
    slack: Array  # []: by how much the rows may differ from orthogonal ones


def lanczos(matvec: MatVec, start: Params, num_steps: int, *, slack: float = 0.0) -> Krylov:
    """The Krylov space of `num_steps` products from a block of start vectors.

    Args:
      matvec: v ↦ A v, A symmetric.
      start: a stack of b vectors, leaves [b, ...]; they need not be orthonormal. For one vector v, `jnp.expand_dims` it.
      num_steps: m, the number of products; at most p.
      slack: by how much |⟨q_i, q_j⟩| may differ from 0, with one start vector; 0 makes every vector orthogonal to all before
        it, and so do leaves of 16 bits. The projected matrix is exact to slack², so that √ε is enough for Ritz values and
        quadrature.
    Returns: `Krylov(basis, gram, overlap, eps, slack)`. Where the space breaks down (it is A-invariant: less than 10 ε ‖A‖ is
      left of a product; or a start vector is zero) a fixed, scattered direction takes the place of the missing one, with
      zero coupling: copies of degenerate eigenvalues are found this way.

    Cost: m products, 2 m² p multiply-adds or, with slack, a fraction of it; m + b vectors of memory.
    """
    matvec = product("lanczos", matvec)
    tree.check(start, "start")
    tree.num_examples(start)
    count("lanczos", num_steps=num_steps)
    p = tree.size(tree.row(start, 0))
    if not 1 <= num_steps <= p:
        raise ValueError(f"lanczos: num_steps={num_steps} must lie between 1 and p={p}, the size of a start vector")
    matvec = widening(matvec, start)
    return jax.lax.fori_loop(0, num_steps, lambda j, k: extend(matvec, k, j), begin(start, num_steps, slack))


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
    matvec, start = widening(matvec, start), tree.widen(start)
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


def widening(matvec: MatVec, like: Params) -> MatVec:
    """The operator on vectors in the widest dtype of `like`, float32 at least: they are rounded for each product alone."""
    if all(x.dtype == tree.dtype(like) for x in jax.tree.leaves(like)):
        return matvec
    return lambda v: tree.widen(matvec(tree.cast_like(v, like)))


def widthwise(matvec: MatVec) -> MatVec:
    """The operator on vectors as `layout.pack` gives them. A product that asks for such kernels and gives such ones
    (`models.dense`) then turns no vector; of a basis that lies as θ does it would turn each one twice."""
    return lambda v: layout.pack(matvec(v.unpack()))


def begin(start: Params, num_steps: int, slack: float | Array = 0.0) -> Krylov:
    """A Krylov space before its first product: the start block, leaves [b, ...], made orthonormal."""
    b = jax.tree.leaves(start)[0].shape[0]
    rows, real, eps = num_steps + b, tree.dtype(start), tree.eps(start)
    if b > 1 or eps > jnp.finfo(real).eps:
        slack = 0.0  # for the estimate of what rounding leaves takes one vector, and products as exact as the rest
    start = tree.widen(start)

    def replaced(carry):
        return tree.scattered_like(0, carry[0]), jnp.array(False)

    # the first vector meets an empty basis: set apart, that is written once and not read
    first = tree.row(start, 0)
    first, _ = jax.lax.while_loop(lambda carry: carry[1], replaced, (first, tree.norm(first) == 0))
    basis = tree.with_row(tree.zero_stack(first, rows), 0, tree.scale(1 / tree.norm(first), first))
    basis = jax.lax.fori_loop(1, b, lambda i, q: appended(q, i, tree.row(start, i), i)[0], basis)
    gram, overlap = jnp.zeros((rows, num_steps), real), jnp.eye(rows, dtype=real)
    return Krylov(basis, gram, overlap, jnp.asarray(eps, real), jnp.asarray(slack, real))


def extend(matvec: MatVec, krylov: Krylov, j) -> Krylov:
    """One product: A q_j is resolved in the basis, and what is left of it becomes q_{j+b}. `j` may be traced."""
    basis, gram, *_ = krylov
    b = gram.shape[0] - gram.shape[1]
    q = tree.row(basis, j)
    w = matvec(q)
    if b > 1:
        basis, column = appended(basis, j + b, w, j + b, jnp.max(jnp.abs(gram)))
        return krylov._replace(basis=basis, gram=jax.lax.dynamic_update_index_in_dim(gram, column, j, 1))
    return _three_terms(w, q, krylov, j)


def _three_terms(w: Params, q: Params, krylov: Krylov, j) -> Krylov:
    """β' q_{j+1} = A q_j − α q_j − β q_{j−1}, orthogonalised against all before only where rounding has grown past `slack`.

    The growth is reckoned without a product: with W = QᵀQ and A Q = Q G, symmetry of A gives

        β' W_{i,j+1} = (Gᵀ W)_{ij} − (W G)_{ij} ± ε (G_{i+1,i} + β') ,  i < j ,

    and where that is too much this vector and the next are orthogonalised (one alone would soon be lost again).

    Source: H. Simon 1984, Math. Comp. 42(165), 115–142.
    """
    basis, gram, overlap, _, slack = krylov
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
        left = tree.norm(w)
        short = ~(left > length / 4)  # then the rounding of this pass is too much of it
        return w, column + more, left, passes + 1, short & (passes < MOST_PASSES - 1)

    dirty = lost | once_more
    carry = jax.lax.while_loop(lambda carry: carry[4], cleaned, (w, column, length, 0, dirty))
    w, column, length, *_ = carry
    basis, column = settled(basis, j + 1, w, column, length, length <= 10 * eps * size, j + 1)
    grown = jnp.where(dirty, jnp.where(place <= j, eps, 0), grown).at[j + 1].set(1)
    overlap = overlap.at[:, j + 1].set(grown).at[j + 1].set(grown)
    return krylov._replace(basis=basis, gram=jax.lax.dynamic_update_index_in_dim(gram, column, j, 1), overlap=overlap)


def appended(basis: Params, i, w: Params, direction, size: Array | float = 0.0) -> tuple[Params, Array]:
    """The basis with the part of w that is new to it, normalised, as row i; and w's coefficients in that basis, [rows].

    If nothing but rounding is left of w, or of numbers of that size, a fixed direction numbered by `direction` takes its
    place, with coefficient 0. If the basis fills the space the row is zero.
    """
    rest, column, length = removed(basis, w)
    vanished = length <= 10 * jnp.finfo(column.dtype).eps * jnp.maximum(tree.norm(w), size)
    return settled(basis, i, rest, column, length, vanished, direction)


def settled(
    basis: Params, i, rest: Params, column: Array, length: Array, vanished: Array, direction
) -> tuple[Params, Array]:
    """What `appended` gives, from what is left of w, its coefficients, and whether that is nothing but rounding."""
    p = tree.size(rest)
    crowded = tree.num_examples(basis) > p - ROOM
    full = jnp.asarray(i >= p) & crowded

    def replaced(carry):
        like, _, tries, _ = carry
        fresh = tree.scattered_like(direction + tries * OTHERS, like)
        rest, _, length = removed(basis, fresh)
        inside = length <= LEAST_LEFT * tree.norm(fresh)  # but for this it lies in the basis
        return rest, length, tries + 1, inside & (tries < 3) & crowded

    # an if in the form of a loop: vmapped, it is entered only where some lane needs it, where a cond would run for all
    rest, length, *_ = jax.lax.while_loop(lambda carry: carry[3], replaced, (rest, length, 0, vanished & ~full))
    row = tree.scale(jnp.where(full, 0, 1 / length), rest)
    column = jax.lax.dynamic_update_index_in_dim(column, jnp.where(vanished, 0, length), i, 0)
    return tree.with_row(basis, i, row), column


def removed(basis: Params, w: Params) -> tuple[Params, Array, Array]:
    """w − Qᵀ Q w, the coefficients Q w, and the length of the former, by classical Gram–Schmidt.

    Twice is enough (Giraud et al. 2005) unless the second pass still takes a good part: then w lay in the span to many
    digits, and a third, or a fourth, is made.
    """

    def passed(carry):
        w, column, length, passes, _ = carry
        more = tree.dots(basis, w)
        w = tree.sub(w, tree.combine(more, basis))
        left = tree.norm(w)
        short = (passes < 1) | (~(left > length / 4) & (passes < MOST_PASSES - 1))
        return w, column + more, left, passes + 1, short

    rows, real = tree.num_examples(basis), tree.dtype(basis)
    carry = w, jnp.zeros(rows, real), jnp.zeros((), real), 0, jnp.array(True)
    return jax.lax.while_loop(lambda carry: carry[4], passed, carry)[:3]


def rectified(stack: Params) -> tuple[Params, Array]:
    """Rows orthonormal to √ε made so to the last digit: one of Newton's steps, (3 − Q Qᵀ) Q / 2; and whether they were."""
    overlap = products.overlaps(stack)
    identity = jnp.eye(len(overlap), dtype=overlap.dtype)
    return tree.combine(1.5 * identity - 0.5 * overlap, stack), orthonormal(overlap)


def orthonormal(overlap: Array) -> Array:
    """Whether rows with these inner products are orthonormal to √ε, [] bool; False for NaN."""
    off = jnp.abs(overlap - jnp.eye(len(overlap), dtype=overlap.dtype))
    return jnp.all(off <= jnp.finfo(overlap.dtype).eps ** 0.5)


def ritz(krylov: Krylov, k: int, smallest: int = 0, slack: float = 0.0) -> Eigs:
    """The k largest and the `smallest` smallest Ritz pairs of a Krylov space, largest first: the best approximations to
    A's extreme eigenpairs that it holds.

    Args:
      slack: allowed for in the residuals where it is more than the space's own.

    Values lie inside A's range; each residual ‖A v − θ v‖ comes free from what G holds beside the projected matrix, and is
    not told as less than products may round (`rounding`). `converged` where residuals are below `tolerance` and the
    vectors, before a last correction, are orthonormal to √ε. Each value is then an eigenvalue, of a symmetric A or not.
    That it is the i-th largest the space cannot tell: one that the start vectors do not see, a second copy above all, is
    missed.
    """
    m = krylov.gram.shape[1]
    if not 1 <= k + smallest <= m:
        raise ValueError(f"ritz: k={k} and smallest={smallest} must add up to between 1 and m={m}, the number of products")
    values, rotation, residuals, *_ = projected(krylov, m, slack)
    ends = np.r_[0:k, m - smallest : m]
    vectors, are_orthonormal = rectified(rotated(krylov, rotation[:, ends]))
    allowed = tolerance(values.dtype, krylov.eps, m) * jnp.max(jnp.abs(values))
    converged = jnp.all(residuals[ends] <= allowed) & are_orthonormal  # False for NaN
    return Eigs(values[ends], vectors, residuals[ends], converged, jnp.int32(m))


def slack(dtype) -> float:
    """ε^¾, 6e-6 in float32 and 2e-12 in float64: how far from orthogonal a Krylov basis for Ritz vectors may be."""
    return float(jnp.finfo(dtype).eps) ** 0.75


def tolerance(dtype, eps: float | Array, m: int) -> float | Array:
    """ε^(2/3), 2e-5 in float32 and 4e-11 in float64, or twice the rounding of m products where that is more: what a residual
    relative to max|λ| should reach, unless told otherwise."""
    return larger(eps ** (2 / 3), 2 * rounding(dtype, eps, m))


def rounding(dtype, eps: float | Array, m: int) -> float | Array:
    """10 ε √m for m products with vectors and coefficients in `dtype`, and 4 ε' where θ has narrower leaves: what rounding
    may leave in a residual, relative to max|λ|. No tolerance can be less."""
    own = float(jnp.finfo(dtype).eps)
    return 10 * own * m**0.5 + 4 * (eps - own)


def larger(x: float | Array, y: float | Array) -> float | Array:
    """The larger of two numbers, as a Python number where both are."""
    return jnp.maximum(x, y) if isinstance(x, Array) or isinstance(y, Array) else max(x, y)


def attainable(tol: float | Array, like: Params, m: int) -> float | Array:
    """`tol`, or where a leaf is narrower than the widest twice the rounding of m products, if that is more."""
    real, eps = tree.dtype(like), tree.eps(like)
    return larger(tol, 2 * rounding(real, eps, m)) if eps > jnp.finfo(real).eps else tol


class Projected(NamedTuple):
    """The projected problem, solved. Only the first `count` pairs count."""

    values: Array  # [m], descending
    rotation: Array  # [m, m]: coefficients in the basis, in columns
    residuals: Array  # [m]
    floors: Array  # [m]: what of these no further product will lower
    excess: Array  # [m]: and what of that is more than slack and rounding allow


def projected(krylov: Krylov, count, slack: float | Array = 0.0, borrowed: int | Array = 0) -> Projected:
    """The projected problem after `count` products, which may be traced.

    With T the symmetric matrix that is solved, T y = θ y, the residual is that of A q_j = Σ_i G_ij q_i as measured,

        ‖A v − θ v‖ = ‖(G − T) y‖,   v = Σ_j y_j q_j:

    rows of G below T, which further products lower, and what G has that is not symmetric: slack, rounding, or A itself.

    Args:
      slack: by how much the rows, or those they were made of at a restart, may differ from orthogonal ones.
      borrowed: of so many columns, the first, what lies below those rows is not known but by symmetry.
    """
    m = krylov.gram.shape[1]
    row, reached = jnp.arange(len(krylov.gram))[:, None], jnp.arange(m) < count  # [m + b, 1], [m]
    gram = jnp.where(reached[None], krylov.gram, 0)  # [m + b, m]
    upper = jnp.where(reached[:, None], jnp.triu(gram[:m]), 0)  # here everything is measured
    further = jnp.triu(upper, 2)
    upper = upper - jnp.where(krylov.slack > 0, further / 2, 0)  # 0 stands below then: their mean is what A's projection has
    size = jnp.max(jnp.abs(upper))
    far = jnp.where(reached, 0, jnp.where(size == 0, -1, -4 * m * size))  # what is not reached sorts last
    values, rotation = eigh(upper + jnp.diag(far))
    values, rotation = values[::-1], jnp.where(reached[:, None], rotation[:, ::-1], 0)
    beside = gram - jnp.pad(upper + jnp.triu(upper, 1).T, ((0, len(gram) - m), (0, 0)))
    beside = jnp.where((row >= borrowed) & (jnp.arange(m)[None] < borrowed), 0, beside)
    below = row >= count
    coupling, uneven = (_full(jnp.where(part, beside, 0), rotation) for part in (below, ~below))
    allowed = (rounding(values.dtype, krylov.eps, m) + jnp.maximum(krylov.slack, slack)) * size
    excess = jnp.maximum(1.1 * tree.norms(uneven) - allowed, 0)  # a tenth for the rounding of what is that uneven
    return Projected(values, rotation, tree.norms(coupling) + (allowed + excess), allowed + excess, excess)


def rotated(krylov: Krylov, rotation: Array) -> Params:
    """Ritz vectors, leaves [k, ...], from their coefficients [m, k]."""
    rows, m = krylov.gram.shape
    weights = jnp.pad(rotation.T, ((0, 0), (0, rows - m)))  # [k, m + b]: a slice of the basis would be a copy of it
    return tree.combine(weights, krylov.basis)
