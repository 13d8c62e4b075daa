"""One look: products until the brackets are narrow."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from landscape_jax import tree
from landscape_jax.spectrum.lanczos import append_or_replace
from landscape_jax.spectrum.tracking.brackets import (
    Brackets,
    Outside,
    Small,
    bounds,
    compressed,
    ends,
    hidden,
    learned,
    outside,
)
from landscape_jax.spectrum.tracking.drift import trend
from landscape_jax.spectrum.tracking.memory import Side
from landscape_jax.spectrum.tracking.policy import Policy
from landscape_jax.types import MatVec, Params

_full = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


class Plan(NamedTuple):
    """What a tracker was asked for."""

    k: int
    b: int  # how many pairs it remembers
    rows: int  # of a look's space: the b remembered, and what products leave
    tol: float
    policy: Policy


class First(NamedTuple):
    """A look's first product."""

    vector: Params  # v₁
    image: Params  # A v₁
    column: Array  # [b]: V A v₁
    length: Array  # []: of what is left of A v₁ off V; 0 where that is rounding
    size: Array  # []


class Look(NamedTuple):
    """How far a look has come."""

    basis: Params  # Q, leaves [rows, ...]; () until a second product is asked for
    small: Small
    found: Brackets
    off: Outside
    size: Array  # []: the largest |coefficient| of this look's products, a lower bound of ‖A‖: what the tolerance refers to
    reach: Array  # []
    ceiling: Array  # []
    mean: Array  # []
    products: Array  # [] int32
    rounds: Array  # [] int32: how often the space was filled
    number: Array  # [] int32: of the first scattered direction; another for each look
    cold: Array  # [] bool: Q is a Krylov space. All in it was multiplied, save for the last
    scout: Array  # [] int32: the row that a scout multiplies next; `rows` while it has none, −1 without a scout
    guarding: Array  # [] bool: the guard in most doubt is next


class Told(NamedTuple):
    """What a look tells."""

    values: Array  # [k]
    low: Array  # [k]
    high: Array  # [k]
    size: Array  # []
    converged: Array  # [] bool
    products: Array  # [] int32
    finite: Array  # [] bool
    rival: Array  # [] bool: whether one of the b − 1 best is mostly new
    cold: Array  # [] bool: whether it ended in a Krylov space
    change: Array  # []: by how much the value of a vector changed from look to look, at most


def first_product(matvec: MatVec, stored: Params, unfolded: Array, start: Array) -> First:
    """v₁ is multiplied whatever happens: outside of the loop the compiler can share its gradient with the step's. Z is read
    where it lies, that of both sides: taken out it would be a copy. What is along v₁ is taken off before the others are asked,
    or what v₁ has lost of its orthogonality would grow from look to look."""
    b = len(unfolded)
    vector = tree.row(stored, start * b)
    image = matvec(vector)
    rayleigh = tree.vdot(vector, image)
    across = tree.axpy(-rayleigh, vector, image)
    column = _full(unfolded, tree.row(tree.dots(stored, across).reshape(2, b), start))
    length = tree.norm(across)
    part = column / jnp.where(length > 0, length, 1)
    rest = length * jnp.sqrt(jnp.maximum(1 - jnp.sum(part**2), 0))
    column = column.at[0].add(rayleigh)
    rest = jnp.where(rest <= 10 * jnp.finfo(column.dtype).eps * tree.norm(column), 0, rest)
    return First(vector, image, column, rest, jnp.maximum(jnp.max(jnp.abs(column)), rest))


def begun(before: Side, first: First, reach: Array, mean: Array, number: Array, plan: Plan) -> Look:
    """A look after its first product, whose space is V and the remainder."""
    b, real = plan.b, before.values.dtype
    each, zero = jnp.eye(b + 1, dtype=real), jnp.zeros((), real)
    mid, below, above = (jnp.pad(x, (0, 1)) for x in (jnp.diag(before.values), before.below, before.above))
    small = Small(mid, below, above, jnp.diag(each[b]), jnp.zeros_like(each), b + (first.length > 0).astype(jnp.int32))
    small = learned(small, each[0], jnp.append(first.column, first.length))
    nothing = jnp.zeros(plan.k, real)
    found = Brackets(each[0], each, nothing, nothing, each[0])
    off, no, one = Outside(zero, zero, zero), jnp.array(False), jnp.int32(1)
    look = Look((), small, found, off, first.size, reach, before.ceiling, mean, one, one - 1, number, no, -one, no)
    return solved(look, plan)


def solved(look: Look, plan: Plan) -> Look:
    """The brackets of what is known by now. In a Krylov space [value, value + residual]: Ritz values converge from below."""
    reach = jnp.maximum(look.size, look.reach)
    off = outside(look.small, plan.b, look.ceiling, reach, look.mean)
    found = ends(look.small, off, look.small.count - look.cold.astype(jnp.int32), plan.k)
    values, residuals = found.values[: plan.k], coupling(look.small, found)[: plan.k]
    low, high = jnp.where(look.cold, jnp.stack([values, values + residuals]), jnp.stack([found.low, found.high]))
    return look._replace(found=found._replace(low=low, high=high), off=off)


def coupling(small: Small, found: Brackets) -> Array:
    """|⟨q, A y⟩| of the last vector q of a Krylov space with each Ritz vector y: their residuals, [rows]."""
    return jnp.abs(_full(found.rotation, small.mid[small.count - 1]))


def too_wide(look: Look, plan: Plan) -> Array:
    """Whether a bracket is wider than the tolerance allows."""
    return jnp.any(look.found.high - look.found.low > plan.tol * look.size)


def unfinished(look: Look, plan: Plan) -> Array:
    """Whether a look goes on: a bracket is wide, a scout or a guard is due, or a Krylov space has not settled."""
    residuals = coupling(look.small, look.found)[: plan.b]
    unsettled = jnp.any(residuals > jnp.minimum(plan.tol, plan.policy.cold_tol) * look.size) | (look.small.count <= plan.b)
    return jnp.where(look.cold, unsettled, too_wide(look, plan) | (look.scout >= 0) | look.guarding)


def direction(look: Look, plan: Plan) -> Array:
    """What is multiplied next, [rows], of length 1: in a Krylov space its last vector. Otherwise what was not yet multiplied of
    the Ritz vector that contributes most to the upper bound: yᵢ with the largest ⟨yᵢ, z⟩² yᵢᵀ (G₊ − G₋) yᵢ, z the eigenvector
    of G₊ of which least is known. A whole Ritz vector: a mixture would leave each of its parts partly unknown."""
    each, ritz = jnp.eye(plan.rows, dtype=look.small.mid.dtype), look.found.rotation[: plan.b]
    low, _, high = bounds(look.small, look.off)
    doubts = jnp.sum(_full(ritz, high - low) * ritz, axis=1)
    blamed = jnp.argmax(_full(ritz, look.found.doubtful) ** 2 * doubts)
    guard = plan.k + jnp.argmax(jnp.diagonal(look.small.above)[plan.k : plan.b])
    scouted = jnp.where(scouts(look, plan), each[look.scout], ritz[blamed])
    a = hidden(look.small, jnp.where(look.guarding, each[guard], scouted))
    a = jnp.where(tree.norm(a) > 1e-3, a, hidden(look.small, look.found.doubtful))
    return jnp.where(look.cold, each[look.small.count - 1], a / jnp.maximum(tree.norm(a), jnp.finfo(a.dtype).eps))


def scouts(look: Look, plan: Plan) -> Array:
    """Whether the next product is a scout's: these come when all else is done."""
    return (look.scout >= 0) & ~look.guarding & ~too_wide(look, plan)


def multiplied(matvec: MatVec, plan: Plan, look: Look) -> Look:
    """One product more. While `scout` is `rows` the vector is 0, the row that is still empty: its product
    makes room for a random row, with no second program for such rows."""
    small, i, scouting = look.small, look.small.count, scouts(look, plan)
    seeding = scouting & (look.scout == plan.rows)
    a = direction(look, plan)
    y = tree.combine(a, look.basis)
    rest, column, length = beyond(look.basis, y, a, matvec(y))
    vanished = length <= 10 * jnp.finfo(column.dtype).eps * tree.norm(column)
    basis, column = append_or_replace(look.basis, i, rest, column, length, vanished | seeding, look.number + i)
    small = tree.where(seeding, small, learned(small, a, column))
    small = small._replace(open=small.open.at[i, i].set(1), count=i + 1)
    scout = jnp.where(i + 1 < plan.rows, jnp.where(scouting, i, look.scout), -1)
    look = look._replace(
        basis=basis, small=small, size=jnp.maximum(look.size, jnp.max(jnp.abs(column))), products=look.products + 1,
        scout=scout, guarding=jnp.array(False),
    )  # fmt: skip
    return solved(look, plan)


def beyond(basis: Params, along: Params, a: Array, w: Params) -> tuple[Params, Array, Array]:
    """What of w is orthogonal to a basis, w's coefficients in it, [rows], and the length of the former.

    Of w = A y little is not along y = Σ aᵢ qᵢ, nearly an eigenvector: with that part taken off, one pass over the basis does,
    and a second is made only where the first took so much, or so little is left, that rounding counts. The first is in the loop
    too: used within and without, a basis that is a part of an array would be copied out of it twice.
    """
    rayleigh = tree.vdot(along, w)
    rounded = jnp.finfo(a.dtype).eps ** (1 / 3) * jnp.abs(rayleigh)

    def passed(carry):
        w, column, _, passes, _ = carry
        more = tree.dots(basis, w)
        w = tree.sub(w, tree.combine(more, basis))
        length = tree.norm(w)
        again = length < jnp.maximum(tree.norm(more) / 4, rounded)
        return w, column + more, length, passes + 1, again & (passes < 1)

    carry = tree.axpy(-rayleigh, along, w), rayleigh * a, jnp.zeros_like(rayleigh), 0, jnp.array(True)
    return jax.lax.while_loop(lambda c: c[4], passed, carry)[:3]


def opened(look: Look, first: First, old: Params, unfolded: Array, cold: Array, scout: Array, plan: Plan) -> Look:
    """The look with a basis, V and the remainder, and room for more products. A cold look counts as full: a Krylov space takes
    its place."""
    b, rows = plan.b, plan.rows
    kept = tree.combine(unfolded, old)
    along = jnp.eye(1, b, dtype=unfolded.dtype)[0]
    rest, _, length = beyond(kept, first.vector, along, first.image)
    rest = tree.scale(jnp.where(first.length == 0, 0, 1 / length), rest)
    head = jax.tree.map(lambda x, y: jnp.concatenate([x, y[None]]), kept, rest)
    basis = jax.tree.map(lambda x: jnp.pad(x, [(0, rows - b - 1)] + [(0, 0)] * (x.ndim - 1)), head)
    wide = lambda x: jnp.pad(x, [(0, rows - b - 1)] * x.ndim)  # noqa: E731
    mid, below, above, remainders, known = (wide(x) for x in look.small[:5])
    small = Small(mid, below, above, remainders, known, jnp.where(cold, rows, look.small.count))
    found = look.found
    found = found._replace(values=wide(found.values), rotation=wide(found.rotation), doubtful=wide(found.doubtful))
    return look._replace(basis=basis, small=small, found=found, scout=jnp.where(scout, rows, -1))


def restarted(look: Look, plan: Plan) -> Look:
    """A full space made small. Of a Krylov space the b best vectors are kept, and the last of the basis, for how that comes of
    them is known (thick restart). Another is given up for a Krylov space that begins with the sum of its b best vectors."""
    rows, b = plan.rows, plan.b
    each, best = jnp.eye(rows, dtype=look.small.mid.dtype), jnp.arange(rows) < b
    thick = jnp.where(best[:, None], look.found.rotation, 0).at[b].set(each[look.small.count - 1])
    single = jnp.outer(each[0], jnp.sum(thick[:b], axis=0) / b**0.5)
    weights = jnp.where(look.cold, thick, single)
    kept = compressed(look.small, look.off, weights)._replace(count=jnp.int32(b + 1))
    nothing = jnp.zeros_like(each)
    empty = Small(nothing, nothing, nothing, nothing.at[0, 0].set(1), nothing, jnp.int32(1))
    small = tree.where(look.cold, kept, empty)
    found = look.found._replace(rotation=each)
    basis = tree.combine(weights, look.basis)
    return look._replace(basis=basis, small=small, found=found, cold=jnp.array(True), guarding=jnp.array(False))


def searched(matvec: MatVec, plan: Plan, look: Look) -> Look:
    """Products until the brackets are narrow, or as many as a space has room for; then a Krylov space, until it has settled."""

    def filled(look: Look) -> Look:
        full = look.small.count >= plan.rows
        look = jax.lax.cond(full, functools.partial(restarted, plan=plan), lambda x: x, look)
        going = lambda x: unfinished(x, plan) & (x.small.count < plan.rows)  # noqa: E731
        look = jax.lax.while_loop(going, functools.partial(multiplied, matvec, plan), look)
        return look._replace(rounds=look.rounds + 1)

    again = lambda x: unfinished(x, plan) & (x.rounds < plan.policy.rounds)  # noqa: E731
    return jax.lax.while_loop(lambda x: (x.rounds == 0) | again(x), filled, look)


def outcome(look: Look, before: Side, plan: Plan) -> tuple[Side, Told]:
    """What a look that ends here remembers of its side, and what it tells."""
    k, b, cold, found = plan.k, plan.b, look.cold, look.found
    best = found.rotation[:b]
    small = compressed(look.small, look.off, jnp.where(jnp.arange(len(found.values))[:, None] < b, found.rotation, 0))
    below = jnp.where(cold, 0, small.below[:b, :b])
    above = jnp.where(cold, jnp.diag(coupling(look.small, found)[:b]), small.above[:b, :b])
    squares = best[:, :b] ** 2  # [b, b]: of the old vectors in the new
    left = jnp.sum((best - _full(best, look.small.known)) ** 2, axis=1)  # what share of each was not multiplied
    old = jnp.sum(squares, axis=1)  # [b]: what share of each is in the old vectors
    mixed = _full(jnp.stack([before.values, before.rises, before.ages]), squares.T) / jnp.maximum(old, 1e-6)[None]
    values, (was, rose, ages), share = found.values[:b], mixed, (1 - left) * old
    rises = trend(share, values - was, ages, rose, look.size, plan.policy)
    rises = jnp.where(old < 0.5, plan.policy.most_rise * look.size, rises)  # a new one is to be measured again soon
    rises = jnp.where(cold, 0, rises)
    change = jnp.where(cold, 0, jnp.max(share * jnp.abs(values - was) / jnp.maximum(ages, 1)))
    ceiling = jnp.where(cold, values[b - 1], look.off.high)
    width = found.high - found.low
    finite = jnp.all(jnp.isfinite(width)) & jnp.all(jnp.isfinite(values)) & jnp.isfinite(look.size)
    rival = jnp.any(old[: b - 1] < 0.5)
    sure = finite & ~too_wide(look, plan)
    largest = jnp.where(cold, jnp.max(jnp.abs(values)), 0)  # no coefficient of a Krylov space need be as large
    size = jnp.maximum(look.size, largest)
    told = Told(values[:k], found.low, found.high, size, sure, look.products, finite, rival, cold, change)
    return Side(values, below, above, rises, jnp.where(cold, 0, left * ages), ceiling), told
