"""One look: products until the brackets are narrow."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from landscape_jax import tree
from landscape_jax.spectrum.lanczos import append_or_replace, gram_schmidt_pass
from landscape_jax.spectrum.tracking.brackets import (
    Brackets,
    Complement,
    PartialMatrix,
    add_product,
    bounding_matrices,
    complement_bounds,
    compress,
    eigenvalue_brackets,
    remove_multiplied,
)
from landscape_jax.spectrum.tracking.drift import update_trend
from landscape_jax.spectrum.tracking.memory import Side
from landscape_jax.spectrum.tracking.policy import Policy
from landscape_jax.types import MatVec, Params

_matmul = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


class Plan(NamedTuple):
    """What a tracker was asked for."""

    k: int
    b: int  # how many pairs it remembers
    rows: int  # of a look's space: the b remembered, and remainders of products
    tol: float
    policy: Policy


class FirstProduct(NamedTuple):
    """A look's first product."""

    vector: Params  # v₁
    image: Params  # A v₁
    column: Array  # [b]: V A v₁
    length: Array  # []: of the remainder, the part of A v₁ off V; 0 where that is rounding
    size: Array  # []: the largest |coefficient| of A v₁


class Look(NamedTuple):
    """How far a look has come."""

    basis: Params  # Q, leaves [rows, ...]; () until a second product is asked for
    g: PartialMatrix  # Q A Qᵀ
    brackets: Brackets
    complement: Complement
    size: Array  # []: the largest |coefficient| of this look's products, a lower bound of ‖A‖: what the tolerance refers to
    reach: Array  # []
    ceiling: Array  # []
    mean: Array  # []
    products: Array  # [] int32
    rounds: Array  # [] int32: how often the space was filled
    seed: Array  # [] int32: of the first fixed direction; another for each look
    cold: Array  # [] bool: Q is a Krylov space. All in it was multiplied, save for the last
    scout: Array  # [] int32: the row that a scout multiplies next; `rows` while it has none, −1 without a scout
    guard_due: Array  # [] bool: the guard with the widest bound is next


class Summary(NamedTuple):
    """What a look that ends here has found."""

    values: Array  # [k]
    low: Array  # [k]
    high: Array  # [k]
    size: Array  # []
    converged: Array  # [] bool
    products: Array  # [] int32
    finite: Array  # [] bool
    rival: Array  # [] bool: whether one of the b − 1 leading vectors is mostly new
    cold: Array  # [] bool: whether the look ended in a Krylov space
    change: Array  # []: the largest change of a value from look to look


def first_product(matvec: MatVec, stored: Params, coefficients: Array, start: Array) -> FirstProduct:
    """A v₁ = Σ cⱼ vⱼ + remainder, of the side `start`.

    v₁ is multiplied in every look: outside of the loop the compiler can share its gradient with the step's. `stored` holds Z of
    both sides, and is read where it lies, since one side taken out would be a copy. The part along v₁ is taken off before the
    products with the others: otherwise what v₁ has lost of its orthogonality would grow from look to look.
    """
    b = len(coefficients)
    vector = tree.row(stored, start * b)
    image = matvec(vector)
    rayleigh = tree.vdot(vector, image)
    across = tree.axpy(-rayleigh, vector, image)
    column = _matmul(coefficients, tree.row(tree.dots(stored, across).reshape(2, b), start))
    length = tree.norm(across)
    share = column / jnp.where(length > 0, length, 1)
    remainder = length * jnp.sqrt(jnp.maximum(1 - jnp.sum(share**2), 0))
    column = column.at[0].add(rayleigh)
    remainder = jnp.where(remainder <= 10 * jnp.finfo(column.dtype).eps * tree.norm(column), 0, remainder)
    return FirstProduct(vector, image, column, remainder, jnp.maximum(jnp.max(jnp.abs(column)), remainder))


def new_look(prior: Side, first: FirstProduct, reach: Array, mean: Array, seed: Array, plan: Plan) -> Look:
    """A look after its first product, whose space is V and the remainder. `prior` is what is still known from the last look."""
    b, dtype = plan.b, prior.values.dtype
    identity, zero = jnp.eye(b + 1, dtype=dtype), jnp.zeros((), dtype)
    mid, below, above = (jnp.pad(x, (0, 1)) for x in (jnp.diag(prior.values), prior.below, prior.above))
    count = b + (first.length > 0).astype(jnp.int32)
    g = PartialMatrix(mid, below, above, jnp.diag(identity[b]), jnp.zeros_like(identity), count)
    g = add_product(g, identity[0], jnp.append(first.column, first.length))
    zeros = jnp.zeros(plan.k, dtype)
    brackets = Brackets(identity[0], identity, zeros, zeros, identity[0])
    complement, no, one = Complement(zero, zero, zero), jnp.array(False), jnp.int32(1)
    look = Look(
        (),
        g,
        brackets,
        complement,
        first.size,
        reach,
        prior.ceiling,
        mean,
        products=one,
        rounds=one - 1,
        seed=seed,
        cold=no,
        scout=-one,
        guard_due=no,
    )
    return solve(look, plan)


def solve(look: Look, plan: Plan) -> Look:
    """The brackets of what is known by now. In a Krylov space [value, value + residual]: Ritz values converge from below."""
    reach = jnp.maximum(look.size, look.reach)
    complement = complement_bounds(look.g, plan.b, look.ceiling, reach, look.mean)
    brackets = eigenvalue_brackets(look.g, complement, look.g.count - look.cold.astype(jnp.int32), plan.k)
    values, residuals = brackets.values[: plan.k], krylov_residuals(look.g, brackets)[: plan.k]
    low, high = jnp.where(look.cold, jnp.stack([values, values + residuals]), jnp.stack([brackets.low, brackets.high]))
    return look._replace(brackets=brackets._replace(low=low, high=high), complement=complement)


def krylov_residuals(g: PartialMatrix, brackets: Brackets) -> Array:
    """Residuals of Ritz vectors y in a Krylov space: |⟨q, A y⟩|, q its last vector, which is not yet multiplied. [rows]."""
    return jnp.abs(_matmul(brackets.rotation, g.mid[g.count - 1]))


def is_too_wide(look: Look, plan: Plan) -> Array:
    """Whether a bracket is wider than the tolerance allows."""
    return jnp.any(look.brackets.high - look.brackets.low > plan.tol * look.size)


def needs_products(look: Look, plan: Plan) -> Array:
    """Whether a look goes on: a bracket is too wide, a scout or a guard is due, or a Krylov space has not converged."""
    residuals = krylov_residuals(look.g, look.brackets)[: plan.b]
    unconverged = jnp.any(residuals > jnp.minimum(plan.tol, plan.policy.cold_tol) * look.size) | (look.g.count <= plan.b)
    return jnp.where(look.cold, unconverged, is_too_wide(look, plan) | (look.scout >= 0) | look.guard_due)


def next_direction(look: Look, plan: Plan) -> Array:
    """What is multiplied next, [rows], of length 1: in a Krylov space its last vector. Otherwise the part not yet multiplied of
    the Ritz vector that contributes most to the bracket's width: yᵢ with the largest ⟨yᵢ, z⟩² yᵢᵀ (G₊ − G₋) yᵢ, z the
    eigenvector of G₊ of which least is known. A whole Ritz vector: a mixture would leave each of its parts partly unknown."""
    identity, ritz = jnp.eye(plan.rows, dtype=look.g.mid.dtype), look.brackets.rotation[: plan.b]
    low, _, high = bounding_matrices(look.g, look.complement)
    widths = jnp.sum(_matmul(ritz, high - low) * ritz, axis=1)
    widest = jnp.argmax(_matmul(ritz, look.brackets.least_known) ** 2 * widths)
    guard = plan.k + jnp.argmax(jnp.diagonal(look.g.above)[plan.k : plan.b])
    unguarded = jnp.where(is_scouting(look, plan), identity[jnp.minimum(look.scout, plan.rows - 1)], ritz[widest])
    a = remove_multiplied(look.g, jnp.where(look.guard_due, identity[guard], unguarded))
    a = jnp.where(tree.norm(a) > 1e-3, a, remove_multiplied(look.g, look.brackets.least_known))
    return jnp.where(look.cold, identity[look.g.count - 1], a / jnp.maximum(tree.norm(a), jnp.finfo(a.dtype).eps))


def is_scouting(look: Look, plan: Plan) -> Array:
    """Whether the next product is a scout's: these come after all others."""
    return (look.scout >= 0) & ~look.guard_due & ~is_too_wide(look, plan)


def multiply(matvec: MatVec, plan: Plan, look: Look) -> Look:
    """One product more. While `scout` is `rows` (clipped to the last row, still empty) the vector is 0. That product only gives
    its row to a fixed direction, and no second program for such rows is needed."""
    g, i, scouting = look.g, look.g.count, is_scouting(look, plan)
    seeding = scouting & (look.scout == plan.rows)
    a = next_direction(look, plan)
    y = tree.combine(a, look.basis)
    rest, column, length = orthogonalize_image(look.basis, y, a, matvec(y))
    vanished = length <= 10 * jnp.finfo(column.dtype).eps * tree.norm(column)
    basis, column = append_or_replace(look.basis, i, rest, column, length, vanished | seeding, look.seed + i)
    g = tree.where(seeding, g, add_product(g, a, column))
    g = g._replace(remainders=g.remainders.at[i, i].set(1), count=i + 1)
    scout = jnp.where(i + 1 < plan.rows, jnp.where(scouting, i, look.scout), -1)
    look = look._replace(
        basis=basis,
        g=g,
        size=jnp.maximum(look.size, jnp.max(jnp.abs(column))),
        products=look.products + 1,
        scout=scout,
        guard_due=jnp.array(False),
    )
    return solve(look, plan)


def orthogonalize_image(basis: Params, y: Params, a: Array, w: Params) -> tuple[Params, Array, Array]:
    """The part of w = A y orthogonal to a basis, w's coefficients in it, [rows], and the length of the former; y = Σ aᵢ qᵢ.

    y is nearly an eigenvector, so little of w is not along y. With that part taken off, one pass over the basis is enough. A
    second is made only where the first took off so much, or so little is left, that rounding counts. The first is in the loop
    too: used within and without, a basis that is a part of an array would be copied out of it twice.
    """
    rayleigh = tree.vdot(y, w)
    rounded = jnp.finfo(a.dtype).eps ** (1 / 3) * jnp.abs(rayleigh)

    def take_pass(carry):
        w, column, _, passes, _ = carry
        w, coefficients, length = gram_schmidt_pass(basis, w)
        again = length < jnp.maximum(tree.norm(coefficients) / 4, rounded)
        return w, column + coefficients, length, passes + 1, again & (passes < 1)

    carry = tree.axpy(-rayleigh, y, w), rayleigh * a, jnp.zeros_like(rayleigh), 0, jnp.array(True)
    return jax.lax.while_loop(lambda c: c[4], take_pass, carry)[:3]


def add_basis(
    look: Look, first: FirstProduct, stored: Params, coefficients: Array, cold: Array, scout: Array, plan: Plan
) -> Look:
    """The look with a basis, V and the remainder, and room for more products. A cold look counts as full: a Krylov space takes
    its place.

    Args:
      stored: Z of the side that the look started from.
      coefficients: F with V = F Z.
    """
    b, rows = plan.b, plan.rows
    vectors = tree.combine(coefficients, stored)
    along = jnp.eye(1, b, dtype=coefficients.dtype)[0]
    rest, _, length = orthogonalize_image(vectors, first.vector, along, first.image)
    rest = tree.scale(jnp.where(first.length == 0, 0, 1 / length), rest)
    head = jax.tree.map(lambda x, y: jnp.concatenate([x, y[None]]), vectors, rest)
    basis = jax.tree.map(lambda x: jnp.pad(x, [(0, rows - b - 1)] + [(0, 0)] * (x.ndim - 1)), head)
    pad = lambda x: jnp.pad(x, [(0, rows - b - 1)] * x.ndim)  # noqa: E731
    g = PartialMatrix(*map(pad, look.g[:5]), count=jnp.where(cold, rows, look.g.count))
    brackets = look.brackets
    brackets = brackets._replace(
        values=pad(brackets.values), rotation=pad(brackets.rotation), least_known=pad(brackets.least_known)
    )
    return look._replace(basis=basis, g=g, brackets=brackets, scout=jnp.where(scout, rows, -1))


def restart(look: Look, plan: Plan) -> Look:
    """A full space made small. Of a Krylov space the b leading Ritz vectors are kept, and its last vector, whose coupling to
    them is known (thick restart). Another space is replaced by a Krylov space that begins with the sum of its b leading Ritz
    vectors."""
    rows, b = plan.rows, plan.b
    identity, leading = jnp.eye(rows, dtype=look.g.mid.dtype), jnp.arange(rows) < b
    thick = jnp.where(leading[:, None], look.brackets.rotation, 0).at[b].set(identity[look.g.count - 1])
    single = jnp.outer(identity[0], jnp.sum(thick[:b], axis=0) / b**0.5)
    weights = jnp.where(look.cold, thick, single)
    kept = compress(look.g, look.complement, weights)._replace(count=jnp.int32(b + 1))
    zeros = jnp.zeros_like(identity)
    unknown = PartialMatrix(zeros, zeros, zeros, zeros.at[0, 0].set(1), zeros, jnp.int32(1))
    g = tree.where(look.cold, kept, unknown)
    brackets = look.brackets._replace(rotation=identity)
    basis = tree.combine(weights, look.basis)
    return look._replace(basis=basis, g=g, brackets=brackets, cold=jnp.array(True), guard_due=jnp.array(False))


def search(matvec: MatVec, plan: Plan, look: Look) -> Look:
    """Products until the brackets are narrow, or as many as a space has room for; then a Krylov space, until it converges."""

    def fill(look: Look) -> Look:
        full = look.g.count >= plan.rows
        look = jax.lax.cond(full, functools.partial(restart, plan=plan), lambda x: x, look)
        going = lambda x: needs_products(x, plan) & (x.g.count < plan.rows)  # noqa: E731
        look = jax.lax.while_loop(going, functools.partial(multiply, matvec, plan), look)
        return look._replace(rounds=look.rounds + 1)

    again = lambda x: needs_products(x, plan) & (x.rounds < plan.policy.rounds)  # noqa: E731
    return jax.lax.while_loop(lambda x: (x.rounds == 0) | again(x), fill, look)


def summarize(look: Look, prior: Side, plan: Plan) -> tuple[Side, Summary]:
    """What a look that ends here remembers of its side, and what it has found.

    Args:
      prior: what was known before the look of the side it started from; its vectors are the first b rows of Q.
    """
    k, b, cold, brackets = plan.k, plan.b, look.cold, look.brackets
    ritz = brackets.rotation[:b]
    leading = jnp.where(jnp.arange(len(brackets.values))[:, None] < b, brackets.rotation, 0)
    kept = compress(look.g, look.complement, leading)
    below = jnp.where(cold, 0, kept.below[:b, :b])
    above = jnp.where(cold, jnp.diag(krylov_residuals(look.g, brackets)[:b]), kept.above[:b, :b])
    squares = ritz[:, :b] ** 2  # [b, b]: shares of the old vectors in the new
    unmultiplied = jnp.sum((ritz - _matmul(ritz, look.g.projection)) ** 2, axis=1)  # [b]: share of each not multiplied
    old = jnp.sum(squares, axis=1)  # [b]: share of each in the old vectors
    mixed = _matmul(jnp.stack([prior.values, prior.rises, prior.ages]), squares.T) / jnp.maximum(old, 1e-6)[None]
    values, (old_values, old_rises, ages), share = brackets.values[:b], mixed, (1 - unmultiplied) * old
    rises = update_trend(share, values - old_values, ages, old_rises, look.size, plan.policy)
    rises = jnp.where(old < 0.5, plan.policy.most_rise * look.size, rises)  # a new one is to be multiplied again soon
    rises = jnp.where(cold, 0, rises)
    change = jnp.where(cold, 0, jnp.max(share * jnp.abs(values - old_values) / jnp.maximum(ages, 1)))
    ceiling = jnp.where(cold, values[b - 1], look.complement.high)
    width = brackets.high - brackets.low
    finite = jnp.all(jnp.isfinite(width)) & jnp.all(jnp.isfinite(values)) & jnp.isfinite(look.size)
    rival = jnp.any(old[: b - 1] < 0.5)
    converged = finite & ~is_too_wide(look, plan)
    largest = jnp.where(cold, jnp.max(jnp.abs(values)), 0)  # no coefficient of a Krylov space need be as large
    size = jnp.maximum(look.size, largest)
    summary = Summary(values[:k], brackets.low, brackets.high, size, converged, look.products, finite, rival, cold, change)
    return Side(values, below, above, rises, jnp.where(cold, 0, unmultiplied * ages), ceiling), summary
