"""Leading eigenpairs of an operator that changes a little from one look to the next."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from landscape_jax import tree
from landscape_jax.spectrum.lanczos import rounding, settled, widthwise
from landscape_jax.spectrum.restarted import eigsh
from landscape_jax.spectrum.tracking.brackets import Brackets, Outside, Small, bounds, compressed, ends, hidden, learned
from landscape_jax.spectrum.tracking.drift import drifted, trend
from landscape_jax.spectrum.tracking.memory import Memory, chosen, empty, refolded, unfolded
from landscape_jax.spectrum.tracking.policy import Policy
from landscape_jax.types import Eigs, MatVec, Params

_full = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


class Tracker(NamedTuple):
    """Eigenpairs that are followed."""

    init: Callable  # θ ↦ m₀
    update: Callable  # (matvec, m, alive=True, step=None) ↦ (m', Tracked); where not alive nothing is looked for


class Tracked(NamedTuple):
    """What a look tells: `Eigs`, and between which bounds each value lies."""

    values: Array  # [k], descending
    vectors: Params  # leaves [k, ...], orthonormal over the whole tree
    residuals: Array  # [k]: how far a value may be wrong, max(high − value, value − low)
    converged: Array  # [] bool: whether all brackets are within the tolerance
    products: Array  # [] int32
    low: Array  # [k]
    high: Array  # [k]


class Plan(NamedTuple):
    """What a tracker was asked for."""

    k: int
    b: int  # how many pairs it remembers
    rows: int  # of a look's space: b, and what its products leave
    tol: float
    policy: Policy


class First(NamedTuple):
    """A look's first product."""

    vector: Params  # v₁
    image: Params  # A v₁
    column: Array  # [b]: V A v₁
    length: Array  # []: of the remainder
    size: Array  # []


class Look(NamedTuple):
    """How far a look has come."""

    basis: Params  # Q, leaves [rows, ...]
    small: Small
    found: Brackets
    outside: Outside
    size: Array  # []: the largest that was measured at this look; what the tolerance refers to
    ceiling: Array  # []: how large an eigenvalue off the remembered vectors may be, at least
    mean: Array  # []
    products: Array  # [] int32
    rounds: Array  # [] int32
    first: Array  # [] bool: a first look. All in the basis was multiplied then, save for the last
    scouting: Array  # [] bool
    guarding: Array  # [] bool


def tracker(
    k: int = 1, num_steps: int | None = None, *, tol: float | None = 2e-3, guards: int = 5, policy: Policy = Policy()
) -> Tracker:
    if tol is None:
        return _afresh(k, 2 * k + 10 if num_steps is None else num_steps)
    b = k + guards
    plan = Plan(k, b, b + (max(10, k + 3) if num_steps is None else num_steps), tol, policy)

    def init(params: Params) -> Memory | Params:
        if _fits(k, params) <= 2 * plan.rows:
            return tree.scattered_like(0, params)  # so few that Lanczos finds all there is
        return empty(params, b, policy)

    def update(
        matvec: MatVec, memory: Memory | Params, alive: Array | bool = True, step: Array | None = None
    ) -> tuple[Memory | Params, Tracked]:
        if not isinstance(memory, Memory):
            return memory, _bracketed(eigsh(matvec, memory, k, num_steps=tree.size(memory)))
        step = memory.made if step is None else jnp.asarray(step, jnp.int32)
        memory, told = _followed(widthwise(matvec), memory, step, jnp.asarray(alive), plan)
        return memory, told._replace(vectors=told.vectors.plain())

    return Tracker(init, update)


def _bracketed(eigs: Eigs) -> Tracked:
    return Tracked(*eigs, eigs.values - eigs.residuals, eigs.values + eigs.residuals)


def _fits(k: int, params: Params) -> int:
    p = tree.size(params)
    if k > p:
        raise ValueError(f"k={k} eigenpairs are more than the p={p} parameters have")
    return p


def _afresh(k: int, num_steps: int) -> Tracker:
    def init(params: Params) -> Params:
        _fits(k, params)
        return tree.scattered_like(0, params)

    return Tracker(
        init, lambda matvec, start, alive=True, step=None: (start, _bracketed(eigsh(matvec, start, k, num_steps=num_steps)))
    )


def _first_product(matvec: MatVec, stored: Params, unfolded: Array, guess: Array) -> First:
    """v₁ is multiplied whatever happens: outside of the loop the compiler can share its gradient with the step's. Z is read
    where it lies, that of both looks: taken out it would be a copy."""
    b = len(unfolded)
    vector = tree.row(stored, guess * b)
    image = matvec(vector)
    rayleigh = tree.vdot(vector, image)
    off = tree.axpy(-rayleigh, vector, image)
    column = _full(unfolded, tree.row(tree.dots(stored, off).reshape(2, b), guess))
    length = tree.norm(off)
    unit = jnp.where(length > 0, length, 1)
    rest = length * jnp.sqrt(jnp.maximum(1 - jnp.sum((column / unit) ** 2), 0))
    column = column.at[0].add(rayleigh)
    is_new = ~(rest <= 10 * jnp.finfo(column.dtype).eps * jnp.linalg.norm(column))
    rest = jnp.where(is_new, rest, 0)
    return First(vector, image, column, rest, jnp.maximum(jnp.max(jnp.abs(column)), rest))


def _started(values: Array, below: Array, above: Array, first: First) -> Small:
    """What is known after a look's first product, of V and its remainder."""
    b = len(values)
    wide = lambda x: jnp.pad(x, (0, 1))  # noqa: E731
    each = jnp.eye(b + 1, dtype=values.dtype)
    small = Small(
        wide(jnp.diag(values)), wide(below), wide(above), jnp.diag(each[b]), jnp.zeros_like(each),
        b + (first.length > 0).astype(jnp.int32),
    )  # fmt: skip
    return learned(small, each[0], jnp.append(first.column, first.length))


def _outside(small: Small, b: int, ceiling: Array, reach: Array, mean: Array) -> Outside:
    """Off the b leading vectors no eigenvalue is above the smallest of theirs, nor below −reach."""
    smallest = jnp.min(jnp.diagonal(small.mid + small.above)[:b])
    high = jnp.clip(jnp.maximum(smallest, ceiling), -reach, reach)
    return Outside(-reach, jnp.clip(mean, -reach, high), high)


def _solved(look: Look, plan: Plan, reach: Array) -> Look:
    reach = jnp.maximum(look.size, reach)
    outside = _outside(look.small, plan.b, look.ceiling, reach, look.mean)
    found = ends(look.small, outside, look.small.count - look.first, plan.k)
    residuals = jnp.abs(_coupling(look.small, found))[: plan.k]
    low = jnp.where(look.first, found.values[: plan.k], found.low)
    high = jnp.where(look.first, found.values[: plan.k] + residuals, found.high)
    return look._replace(found=found._replace(low=low, high=high), outside=outside)


def _coupling(small: Small, found: Brackets) -> Array:
    """⟨q, A y⟩ of the last in a Krylov space with each row y."""
    return _full(found.rotation, small.mid[small.count - 1])


def _wide(look: Look, plan: Plan) -> Array:
    return jnp.any(look.found.high - look.found.low > plan.tol * look.size)


def _unfinished(look: Look, plan: Plan) -> Array:
    residuals = jnp.abs(_coupling(look.small, look.found))[: plan.b]
    unsettled = jnp.any(residuals > jnp.where(jnp.arange(plan.b) < plan.k, jnp.minimum(plan.tol, plan.policy.first_tol), plan.policy.first_tol) * look.size) | (look.small.count <= plan.b)
    return jnp.where(look.first, unsettled, _wide(look, plan) | look.scouting | look.guarding)


def _direction(look: Look, plan: Plan) -> Array:
    """What is multiplied next, in the basis: the last row where a Krylov space is built, what is hidden of the guard in most
    doubt, or else of the eigenvector of the upper bound whose bracket is the widest."""
    each = jnp.eye(plan.rows, dtype=look.small.mid.dtype)
    guard = 1 + jnp.argmax(jnp.diagonal(look.small.above)[1 : plan.b])
    low, _, high = bounds(look.small, look.outside)
    y = look.found.rotation[: plan.b]
    doubt = jnp.sum(_full(y, high - low) * y, axis=1)
    which = jnp.argmax(_full(y, look.found.rising) ** 2 * doubt)
    best = jnp.where(plan.policy.whole > 0, y[which], look.found.rising)
    a = hidden(look.small, jnp.where(look.guarding, each[guard], best))
    a = jnp.where(jnp.linalg.norm(a) > 1e-3, a, hidden(look.small, look.found.rising))
    a = a / jnp.linalg.norm(a)
    new = plan.b + 1
    last = jnp.where(look.first | (look.small.known[new, new] > 0.5), look.small.count - 1, new)
    return jnp.where(look.first | (look.scouting & ~_wide(look, plan)), each[last], a)


def _multiplied(matvec: MatVec, plan: Plan, reach: Array, look: Look) -> Look:
    """One product more."""
    small, i = look.small, look.small.count
    a = _direction(look, plan)
    y = tree.combine(a, look.basis)
    rest, column, length = _beyond(look.basis, y, a, matvec(y))
    vanished = length <= 10 * jnp.finfo(column.dtype).eps * jnp.linalg.norm(column)
    basis, column = settled(look.basis, i, rest, column, length, vanished, i)
    mean = jnp.where(look.first & (look.products == 1) & (reach == 0), column[0], look.mean)
    small = learned(small, a, column)
    small = small._replace(open=small.open.at[i, i].set(1), count=i + 1)
    look = look._replace(
        basis=basis, small=small, size=jnp.maximum(look.size, jnp.max(jnp.abs(column))), mean=mean, products=look.products + 1,
        scouting=look.scouting & (i + 1 < plan.rows), guarding=jnp.array(False),
    )  # fmt: skip
    return _solved(look, plan, reach)


def _beyond(basis: Params, along: Params, a: Array, w: Params) -> tuple[Params, Array, Array]:
    """What of w is orthogonal to a basis, w's coefficients in it, [rows], and the length of the former.

    Of w = A y little is not along y = Σ aᵢ qᵢ, nearly an eigenvector: with that part taken off, one pass over the basis does,
    and a second is made only where the first took so much that its rounding counts. The first is in the loop too: used within
    and without, a basis that is a part of an array would be copied out of it twice.
    """
    rayleigh = tree.vdot(along, w)
    rounded = jnp.finfo(a.dtype).eps ** (1 / 3) * jnp.abs(rayleigh)  # less than that, and the rounding of θ y counts too

    def passed(carry):
        w, column, _, passes, _ = carry
        more = tree.dots(basis, w)
        w = tree.sub(w, tree.combine(more, basis))
        length = tree.norm(w)
        return w, column + more, length, passes + 1, (length < jnp.maximum(jnp.linalg.norm(more) / 4, rounded)) & (passes < 1)

    carry = tree.axpy(-rayleigh, along, w), rayleigh * a, jnp.zeros_like(rayleigh), 0, jnp.array(True)
    return jax.lax.while_loop(lambda c: c[4], passed, carry)[:3]


def _restarted(look: Look, plan: Plan) -> Look:
    """A full space made small. In a Krylov space the b best vectors are kept, and the last of the basis, for how that comes of
    them is known (thick restart). Otherwise a Krylov space begins, with the sum of the b best vectors."""
    rows, b = plan.rows, plan.b
    each, best = jnp.eye(rows, dtype=look.small.mid.dtype), jnp.arange(rows) < b
    thick = jnp.where(best[:, None], look.found.rotation, 0).at[b].set(each[look.small.count - 1])
    single = jnp.outer(each[0], _full(best / b**0.5, look.found.rotation))
    weights = jnp.where(look.first, thick, single)
    kept = compressed(look.small, look.outside, weights)._replace(count=jnp.int32(b + 1))
    small = tree.where(look.first, kept, _krylov(rows, each.dtype))
    return look._replace(basis=tree.combine(weights, look.basis), small=small, first=jnp.array(True), scouting=jnp.array(False), guarding=jnp.array(False))


def _krylov(rows: int, real) -> Small:
    """Before the first product of a Krylov space."""
    nothing = jnp.zeros((rows, rows), real)
    return Small(nothing, nothing, nothing, nothing.at[0, 0].set(1), nothing, jnp.int32(1))


def _searched(matvec: MatVec, plan: Plan, reach: Array, look: Look) -> Look:
    """Products until the brackets are narrow, or as many as a space has room for; then a Krylov space, until it has settled."""

    def round_(look: Look) -> Look:
        full = look.small.count >= plan.rows
        look = jax.lax.cond(full, lambda x: _solved(_restarted(x, plan), plan, reach), lambda x: x, look)
        going = lambda x: _unfinished(x, plan) & (x.small.count < plan.rows)  # noqa: E731
        look = jax.lax.while_loop(going, functools.partial(_multiplied, matvec, plan, reach), look)
        return look._replace(rounds=look.rounds + 1)

    return jax.lax.while_loop(lambda x: _unfinished(x, plan) & (x.rounds < plan.policy.first_rounds), round_, look)


class Prior(NamedTuple):
    values: Array
    below: Array
    above: Array
    rises: Array
    ages: Array
    ceiling: Array


class Told(NamedTuple):
    values: Array
    low: Array
    high: Array
    size: Array
    converged: Array
    products: Array
    fine: Array


def _outcome(look: Look, before: Prior, plan: Plan) -> tuple[Prior, Told]:
    """What a look that ends here remembers, and what it tells."""
    k, b = plan.k, plan.b
    weights = jnp.where(jnp.arange(len(look.small.mid))[:, None] < b, look.found.rotation, 0)
    small = compressed(look.small, look.outside, weights)
    residuals = jnp.abs(_coupling(look.small, look.found))[:b]
    below = jnp.where(look.first, 0, small.below[:b, :b])
    above = jnp.where(look.first, jnp.diag(residuals), small.above[:b, :b])
    width = jnp.max(look.found.high - look.found.low)
    converged = width <= plan.tol * look.size
    fine = jnp.isfinite(width) & jnp.isfinite(look.size) & jnp.all(jnp.isfinite(look.found.values[:b]))
    told = Told(look.found.values[:k], look.found.low, look.found.high, look.size, converged, look.products, fine)
    y = look.found.rotation[:b]
    squares = y[:, :b] ** 2  # [b, b]
    left = jnp.sum(_full(y, jnp.eye(len(look.small.mid)) - look.small.known) ** 2, axis=1)
    ages = _full(squares, before.ages)
    change = look.found.values[:b] - _full(squares, before.values)
    rises = jnp.where(look.first, 0, trend(1 - left, change, ages, _full(squares, before.rises), look.size, plan.policy))
    return Prior(look.found.values[:b], below, above, rises, jnp.where(look.first, 0, left * ages), jnp.where(look.first, look.found.values[b - 1], look.outside.high)), told


def _followed(matvec: MatVec, memory: Memory, step: Array, alive: Array, plan: Plan) -> tuple[Memory, Tracked]:
    policy, b, k, made = plan.policy, plan.b, plan.k, memory.made
    real = memory.values.dtype
    side = step % 2
    is_first = made == 0
    guess = chosen(memory, side, policy)
    stored = memory.vectors
    frame, values, below, above, rises, ages, ceiling = tree.row(memory[1:8], guess)
    unfold = unfolded(frame)
    first = _first_product(matvec, stored, unfold, guess)

    change = jnp.abs(first.column[0] - values[0])
    drift = jnp.where(
        is_first, policy.first_drift * first.size, drifted(change, memory.drift, step - memory.step, first.size, policy)
    )
    moved = drift * jnp.eye(b, dtype=real)
    rising = policy.trending * jnp.diag(rises)
    before = Prior(values, below + moved + jnp.maximum(-rising, 0), above + moved + jnp.maximum(rising, 0), rises, ages + 1, ceiling - policy.outer * drift)
    small = _started(*before[:3], first)
    reach = policy.forget * memory.reach
    no, one = jnp.array(False), jnp.int32(1)
    none = Brackets(jnp.zeros(b + 1, real), jnp.eye(b + 1, dtype=real), *jnp.zeros((2, k), real), jnp.zeros(b + 1, real))
    zero = jnp.zeros((), real)
    look = Look(
        (), small, none, Outside(zero, zero, zero), first.size, before.ceiling, memory.mean, one, jnp.int32(0), no, no, no
    )
    look = _solved(look, plan, reach)
    frame, lost = refolded(frame, look.found.rotation[:b])
    cold = is_first | (change > policy.jump * first.size)
    scout, guard = (~is_first & (made % every == every - 1) for every in (policy.scout_every, policy.guard_every))
    prior, told = _outcome(look, before, plan)
    fine = alive & told.fine
    due = fine & (_unfinished(look, plan) | cold | scout | guard | (guess != side) | ~(lost <= policy.most_lost))

    y1 = look.found.rotation[0]
    share = y1[b] / jnp.maximum(first.length, jnp.finfo(real).tiny)  # of A v₁ in y₁
    weights = _full(y1[:b] - share * first.column, unfold)

    def of(which, stored):
        return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, which * b, b), stored)

    def rewritten(carry):
        stored = carry[0]
        wider = _widened(matvec, plan, look, first, of(guess, stored), unfold, is_first, cold, scout, guard, made)
        found = _searched(matvec, plan, reach, wider)
        prior, told = _outcome(found, before, plan)
        new = tree.combine(found.found.rotation[:b], found.basis)
        old = of(side, stored)
        new = tree.where(told.fine, new, old)
        stored = jax.tree.map(lambda x, y: jax.lax.dynamic_update_slice_in_dim(x, y, side * b, 0), stored, new)
        start = jnp.eye(b, dtype=real)
        return stored, start, prior, told, found.mean, start[0], zero, no

    carry = stored, frame, prior, told, memory.mean, weights, share, due
    stored, frame, prior, told, mean, weights, share, _ = jax.lax.while_loop(lambda c: c[-1], rewritten, carry)
    fine = alive & told.fine
    image = first.image
    weights, share, image = tree.where(fine, (weights, share, image), (jnp.eye(b, dtype=real)[0], zero, tree.zeros_like(image)))
    weights = jax.lax.dynamic_update_slice_in_dim(jnp.zeros(2 * b, real), weights, side * b, 0)
    y1 = tree.axpy(share, image, tree.combine(weights, stored))
    stored = tree.with_row(stored, side * b, y1)
    vectors = jax.tree.map(lambda x: x[None], y1)
    if k > 1:
        vectors = tree.combine(unfolded(frame)[:k], of(side, stored))
    new = tree.with_row(memory[1:8], side, (frame, *prior))
    remembered = *new, jnp.minimum(drift, told.size), jnp.maximum(reach, told.size), mean, made + 1, memory.last.at[side].set(made), step
    memory = Memory(stored, *tree.where(fine, remembered, memory[1:]))
    slack = rounding(real, plan.rows) * told.size
    value = jnp.where(told.fine, jnp.clip(told.values, told.low, told.high), jnp.nan)
    low, high = told.low - slack, told.high + slack
    return memory, Tracked(value, vectors, jnp.maximum(high - value, value - low), told.converged & told.fine, told.products, low, high)


def _widened(matvec, plan: Plan, look: Look, first: First, old: Params, unfold: Array, is_first, cold, scout, guard, made) -> Look:
    """A look's space with room for more products."""
    b, rows, real = plan.b, plan.rows, unfold.dtype
    each = jnp.eye(rows, dtype=real)
    kept = tree.combine(jnp.where(cold, jnp.outer(each[0, :b], jnp.where(is_first, each[0, :b], b**-0.5 * jnp.sum(unfold, axis=0))), unfold), old)
    rest, _, length = _beyond(kept, first.vector, each[0, :b], first.image)
    rest = tree.scale(jnp.where(cold | (look.small.count <= b), 0, 1 / length), rest)
    basis = jax.tree.map(
        lambda x, y: jnp.pad(jnp.concatenate([x, y[None]]), [(0, rows - b - 1)] + [(0, 0)] * (x.ndim - 1)), kept, rest
    )
    count = look.small.count
    basis, _ = settled(basis, count, tree.zeros_like(rest), jnp.zeros(rows, real), jnp.ones((), real), scout, made)
    wide = lambda x: jnp.pad(x, [(0, rows - b - 1)] * x.ndim)  # noqa: E731
    small = Small(*(wide(x) for x in look.small[:5]), count + scout)
    small = small._replace(open=jnp.where(scout, small.open.at[count, count].set(1), small.open))
    small = tree.where(cold, _krylov(rows, real), small)
    found = look.found._replace(
        values=wide(look.found.values), rotation=wide(look.found.rotation), rising=wide(look.found.rising)
    )
    return look._replace(basis=basis, small=small, found=found, first=cold, scouting=scout & ~cold, guarding=guard & ~cold)
