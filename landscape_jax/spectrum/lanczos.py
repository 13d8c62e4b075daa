"""Lanczos: the one place where a Krylov space is built.

A block of b start vectors grows by one orthonormal vector a product (the banded form of block Lanczos; b = 1 is the classical
algorithm). Every new vector is orthogonalised against all before it, so the coefficients

    A q_j = Σ_i G_ij q_i ,    G [m + b, m]

hold to rounding for any basis: start vectors, Krylov vectors, Ritz vectors kept at a restart, or fixed directions put in where
the space broke down. The upper m rows of G are the projected matrix. The last b rows give the residual of each Ritz pair.

Source: A. Ruhe 1979, Math. Comp. 33(146), 680–687 (banded block Lanczos); K. Wu and H. Simon 2000, SIAM J. Matrix Anal.
22(2), 602–616 (thick restart).
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from landscape_jax import tree
from landscape_jax.arguments import count, product
from landscape_jax.backend import layout
from landscape_jax.backend.control import run_if
from landscape_jax.types import MatVec, Params

_MAX_PASSES = 4  # of Gram–Schmidt
_MIN_NEW_PART = 1e-2  # share of a fixed direction that must lie outside of the basis
_SPARE_DIMENSIONS = 8  # with as many dimensions beside the basis, a fixed direction never lies in it by chance
_MAX_REDRAWS = 3  # of a fixed direction for one row
_SEED_STRIDE = 2**20  # between the seeds of these

_matmul = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


class Krylov(NamedTuple):
    """A subspace and the operator on it. Rows of `basis` that are not reached yet are zero."""

    basis: Params  # leaves [m + b, ...]: orthonormal rows q_i, in float32 at least
    gram: Array  # [m + b, m]: A q_j = Σ_i gram[i, j] q_i, as measured: nothing is taken from symmetry
    overlap: Array  # [m + b, m + b]: estimate of ⟨q_i, q_j⟩ by Simon's recurrence
    eps: Array  # []: relative rounding of a product, that of θ's narrowest leaf
    slack: Array  # []: bound on |⟨q_i, q_j⟩|, i ≠ j, above which rows are orthogonalised again


def lanczos(matvec: MatVec, start: Params, num_steps: int, *, slack: float = 0.0) -> Krylov:
    """The Krylov space of `num_steps` products from a block of start vectors.

        A Q = Q G ,   G [m + b, m]

    Args:
      matvec: v ↦ A v, A symmetric.
      start: a stack of b vectors, leaves [b, ...]; they need not be orthonormal. For one vector v, `jnp.expand_dims` it.
      num_steps: m, the number of products; at most p.
      slack: with one start vector, how large |⟨q_i, q_j⟩| may become before rows are orthogonalised again. 0 makes every vector
        orthogonal to all before it, and so do leaves of 16 bits. The projected matrix is exact to slack², so √ε is enough for
        Ritz values and quadrature.
    Returns: `Krylov(basis, gram, overlap, eps, slack)`. The space breaks down where it is A-invariant (less than 10 ε ‖A‖ is
      left of a product) or where a start vector is zero. Then a fixed direction takes the place of the missing vector, with
      zero coupling. Copies of degenerate eigenvalues are found this way.

    Cost: m products, 2 m² p multiply-adds or, with slack, a fraction of it; m + b vectors of memory.

    >>> matvec = lj.curvature.hessian(loss)(params, batch)
    >>> start = jax.tree.map(lambda x: x[None], params)  # a block of one vector
    >>> lj.spectrum.lanczos(matvec, start, num_steps=4).gram.shape
    (5, 4)
    """
    matvec = product("lanczos", matvec)
    tree.check(start, "start")
    tree.num_examples(start)
    count("lanczos", num_steps=num_steps)
    p = tree.size(tree.row(start, 0))
    if not 1 <= num_steps <= p:
        raise ValueError(f"lanczos: num_steps={num_steps} must lie between 1 and p={p}, the size of a start vector")
    matvec = widened(matvec, start)
    return jax.lax.fori_loop(0, num_steps, lambda j, k: extend(matvec, k, j), begin(start, num_steps, slack))


def recurrence(matvec: MatVec, start: Params, num_steps: int) -> tuple[Array, Array]:
    """The coefficients of the three-term recurrence, without a basis and without orthogonalising again.

        A q_j = β_{j−1} q_{j−1} + α_j q_j + β_j q_{j+1}

    Rounding lets each converged eigenvalue come back, so the tridiagonal T of α and β has copies of it. The copies share its
    weight: e₁ᵀ f(T) e₁ equals zᵀ f(A) z / zᵀz to rounding for polynomials f of degree up to 2m − 1 that stay within ±1 on the
    range of A, as with a basis. Details finer than about 1/m of the range are resolved less well.

    Args:
      matvec: v ↦ A v, A symmetric.
      start: z, one vector.
      num_steps: m.
    Returns: α, β, each [m]. Once the Krylov space is exhausted, β is 0 and α repeats its first value.

    Cost: m products, 3 vectors.
    Source: L. Knizhnerman 1996, Comput. Math. Math. Phys. 36(11), 1481–1492; T. Chen 2024, arXiv 2410.11090.

    >>> alpha, beta = lj.spectrum.recurrence(lambda v: jnp.arange(5.0) * v, jnp.ones(5), num_steps=3)
    >>> np.asarray(alpha).round(3)
    array([2., 2., 2.], dtype=float32)
    """
    matvec = product("recurrence", matvec)
    count("recurrence", num_steps=num_steps)
    tree.check(start, "start")
    matvec, start = widened(matvec, start), tree.widen(start)
    eps = jnp.finfo(tree.dtype(start)).eps
    length = tree.norm(start)
    first = tree.scale(jnp.where(length > 0, 1 / length, 0), start)

    def step(carry, _):
        previous, q, beta = carry
        w = tree.axpy(-beta, previous, matvec(q))
        alpha = tree.vdot(q, w)
        w = tree.axpy(-alpha, q, w)
        length = tree.norm(w)
        length = jnp.where(length > 10 * eps * tree.norm((beta, alpha, length)), length, 0)
        return (q, tree.scale(jnp.where(length > 0, 1 / length, 0), w), length), (alpha, length)

    _, (alpha, beta) = jax.lax.scan(step, (tree.zeros_like(first), first, jnp.zeros_like(length)), length=num_steps)
    reached = jnp.concatenate([jnp.ones(1, bool), beta[:-1] > 0])  # q is 0 from the first zero of β on, so β stays 0
    return jnp.where(reached, alpha, alpha[0]), beta


def widened(matvec: MatVec, like: Params) -> MatVec:
    """The operator on vectors in the widest dtype of `like`, float32 at least. Only its argument is rounded to θ's dtypes."""
    if all(x.dtype == tree.dtype(like) for x in jax.tree.leaves(like)):
        return matvec
    return lambda v: tree.widen(matvec(tree.cast_like(v, like)))


def packed(matvec: MatVec) -> MatVec:
    """The operator on vectors in the layout of `layout.pack`, in which `models.dense` takes and gives its kernels. A basis kept
    in θ's own layout would be transposed twice in each product."""
    return lambda v: layout.pack(matvec(v.unpack()))


def begin(start: Params, num_steps: int, slack: float | Array = 0.0) -> Krylov:
    """A Krylov space before its first product: the start block, leaves [b, ...], made orthonormal."""
    b = jax.tree.leaves(start)[0].shape[0]
    rows, dtype, eps = num_steps + b, tree.dtype(start), tree.eps(start)
    if b > 1 or eps > jnp.finfo(dtype).eps:
        slack = 0.0  # Simon's recurrence holds for one start vector, and for products as exact as the rest
    start = tree.widen(start)
    # the first vector meets an empty basis: handled apart, the basis is written once and not read
    first = tree.row(start, 0)
    first = run_if(tree.norm(first) == 0, lambda like: tree.scattered_like(0, like), first)
    basis = tree.with_row(tree.zero_stack(first, rows), 0, tree.scale(1 / tree.norm(first), first))
    basis = jax.lax.fori_loop(1, b, lambda i, q: append_row(q, i, tree.row(start, i), i)[0], basis)
    gram, overlap = jnp.zeros((rows, num_steps), dtype), jnp.eye(rows, dtype=dtype)
    return Krylov(basis, gram, overlap, jnp.asarray(eps, dtype), jnp.asarray(slack, dtype))


def extend(matvec: MatVec, krylov: Krylov, j) -> Krylov:
    """One product: A q_j is resolved in the basis, and its remainder becomes q_{j+b}. `j` may be traced."""
    basis, gram, *_ = krylov
    b = gram.shape[0] - gram.shape[1]
    q = tree.row(basis, j)
    w = matvec(q)
    if b > 1:
        basis, column = append_row(basis, j + b, w, j + b, jnp.max(jnp.abs(gram)))
        return krylov._replace(basis=basis, gram=jax.lax.dynamic_update_index_in_dim(gram, column, j, 1))
    return _extend_by_three_terms(w, q, krylov, j)


def _extend_by_three_terms(w: Params, q: Params, krylov: Krylov, j) -> Krylov:
    """β' q_{j+1} = A q_j − α q_j − β q_{j−1}, orthogonalised against all before only where rounding has grown past `slack`.

    Then the next vector is orthogonalised too: one alone would soon lose its orthogonality again.
    """
    basis, gram, overlap, _, slack = krylov
    eps, index = jnp.finfo(gram.dtype).eps, jnp.arange(len(gram))
    previous = jnp.maximum(j - 1, 0)
    beta = jnp.where(j > 0, gram[j, previous], 0)
    alpha = tree.vdot(q, w)
    w = jax.tree.map(lambda x, y, z: x - alpha.astype(x.dtype) * y - beta.astype(x.dtype) * z, w, q, tree.row(basis, previous))
    correction = tree.vdot(q, w)  # what rounding left along q_j
    w = tree.axpy(-correction, q, w)
    column = jnp.zeros(len(gram), gram.dtype).at[previous].set(beta).at[j].set(alpha + correction)
    length = tree.norm(w)
    image_norm = tree.norm((column, length))  # ‖A q_j‖

    predicted = _next_overlaps(gram, overlap, column, length, image_norm, j, index)
    size = jnp.maximum(jnp.max(jnp.abs(gram)), image_norm)  # ‖A‖, as far as seen
    # the second condition: A q_j was little but rounding
    too_large = jnp.any(~(jnp.abs(predicted) <= slack)) | ~(eps * size <= slack * length)
    # an overlap of exactly ε marks a vector that was orthogonalised: q_j was, and q_{j−1} was not
    is_second = (overlap[0, j] == eps) & (overlap[0, previous] != eps)
    again = too_large | is_second
    w, column, length = _reorthogonalize(basis, w, column, length, again)
    basis, column = append_or_replace(basis, j + 1, w, column, length, length <= 10 * eps * size, j + 1)
    predicted = jnp.where(again, jnp.where(index <= j, eps, 0), predicted).at[j + 1].set(1)
    overlap = overlap.at[:, j + 1].set(predicted).at[j + 1].set(predicted)
    return krylov._replace(basis=basis, gram=jax.lax.dynamic_update_index_in_dim(gram, column, j, 1), overlap=overlap)


def _next_overlaps(gram: Array, overlap: Array, column: Array, length: Array, image_norm: Array, j, index: Array) -> Array:
    """Simon's recurrence: estimates of ⟨q_i, q_{j+1}⟩ before orthogonalising again, [m + 1], 0 for i > j.

    With W = Q Qᵀ and A Q = Q G, symmetry of A gives

        β' W_{i,j+1} = (Gᵀ W)_{ij} − (W G)_{ij} ± ε (G_{i+1,i} + β') ,  i < j .

    Source: H. Simon 1984, Math. Comp. 42(165), 115–142.
    """
    eps = jnp.finfo(gram.dtype).eps
    grown = jnp.pad(_matmul(gram.T, overlap[:, j]), (0, 1)) - _matmul(overlap, column)
    grown = grown + jnp.copysign(eps * (jnp.pad(jnp.diagonal(gram, -1), (0, 1)) + length), grown)
    grown = jnp.where(index < j, grown, jnp.where(index == j, eps * image_norm, 0))
    return grown / jnp.maximum(length, eps * image_norm)


def _reorthogonalize(basis: Params, w: Params, column: Array, length: Array, needed: Array) -> tuple[Params, Array, Array]:
    """Where `needed`, w orthogonal to the basis, its coefficients so far plus those taken off, and its length."""

    def take_pass(carry):
        w, column, length, passes, _ = carry
        w, coefficients, rest = gram_schmidt_pass(basis, w)
        again = ~(rest > length / 4)  # then rounding of this pass is too large a part of it
        return w, column + coefficients, rest, passes + 1, again & (passes < _MAX_PASSES - 1)

    return jax.lax.while_loop(lambda carry: carry[4], take_pass, (w, column, length, 0, needed))[:3]


def append_row(basis: Params, i, w: Params, seed, size: Array | float = 0.0) -> tuple[Params, Array]:
    """The basis with the part of w orthogonal to it, normalised, as row i; and w's coefficients in the new basis, [rows].

    Where only rounding is left of w, or of numbers as large as `size`, row i is a fixed direction, the one numbered `seed`,
    with coefficient 0. If the basis fills the space, the row is zero.
    """
    rest, column, length = orthogonalize(basis, w)
    vanished = length <= 10 * jnp.finfo(column.dtype).eps * jnp.maximum(tree.norm(w), size)
    return append_or_replace(basis, i, rest, column, length, vanished, seed)


def append_or_replace(
    basis: Params, i, rest: Params, column: Array, length: Array, vanished: Array, seed
) -> tuple[Params, Array]:
    """`append_row` after orthogonalising: from the rest of w, its coefficients, its length, and whether it is only rounding."""
    p = tree.size(rest)
    nearly_full = tree.num_examples(basis) > p - _SPARE_DIMENSIONS
    full = jnp.asarray(i >= p) & nearly_full

    def draw(carry):
        like, _, draws, _ = carry
        fixed = tree.scattered_like(seed + draws * _SEED_STRIDE, like)
        rest, _, length = orthogonalize(basis, fixed)
        inside = length <= _MIN_NEW_PART * tree.norm(fixed)  # it lies in the basis, but for this
        return rest, length, draws + 1, inside & (draws < _MAX_REDRAWS) & nearly_full

    # a loop in place of an if: under vmap it is entered only where some lane needs it
    rest, length, *_ = jax.lax.while_loop(lambda carry: carry[3], draw, (rest, length, 0, vanished & ~full))
    row = tree.scale(jnp.where(full, 0, 1 / length), rest)
    column = jax.lax.dynamic_update_index_in_dim(column, jnp.where(vanished, 0, length), i, 0)
    return tree.with_row(basis, i, row), column


def orthogonalize(basis: Params, w: Params) -> tuple[Params, Array, Array]:
    """w − Qᵀ Q w, the coefficients Q w, and the length of the former, by repeated classical Gram–Schmidt.

    Two passes are enough (Giraud et al. 2005) unless the second still takes a good part off: then w lay in the span to many
    digits, and a third, or a fourth, is made.
    """

    def take_pass(carry):
        w, column, length, passes, _ = carry
        w, coefficients, rest = gram_schmidt_pass(basis, w)
        again = (passes < 1) | (~(rest > length / 4) & (passes < _MAX_PASSES - 1))
        return w, column + coefficients, rest, passes + 1, again

    rows, dtype = tree.num_examples(basis), tree.dtype(basis)
    carry = w, jnp.zeros(rows, dtype), jnp.zeros((), dtype), 0, jnp.array(True)
    return jax.lax.while_loop(lambda carry: carry[4], take_pass, carry)[:3]


def gram_schmidt_pass(basis: Params, w: Params) -> tuple[Params, Array, Array]:
    """w − Qᵀ Q w, the coefficients Q w, [rows], and the length of the former."""
    coefficients = tree.dots(basis, w)
    w = tree.sub(w, tree.combine(coefficients, basis))
    return w, coefficients, tree.norm(w)
