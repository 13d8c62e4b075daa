"""Leading eigenpairs of an operator that changes a little from one look to the next."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from landscape_jax import tree
from landscape_jax.arguments import count, number, product
from landscape_jax.spectrum.lanczos import attainable, rounding, widthwise
from landscape_jax.spectrum.restarted import eigsh
from landscape_jax.spectrum.tracking.drift import aged, drifted
from landscape_jax.spectrum.tracking.memory import Memory, Side, chosen, empty, refolded, unfolded
from landscape_jax.spectrum.tracking.policy import POLICY, Policy
from landscape_jax.spectrum.tracking.search import (
    First,
    Look,
    Plan,
    Told,
    begun,
    first_product,
    opened,
    outcome,
    searched,
    unfinished,
)
from landscape_jax.types import Eigs, MatVec, Params

_full = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


class Tracker(NamedTuple):
    """Eigenpairs that are followed."""

    init: Callable  # θ ↦ m₀
    update: Callable  # (matvec, m, alive=True, step=None) ↦ (m', Tracked); not alive: one product an end, and m' = m


class Tracked(NamedTuple):
    """What a look tells: `Eigs`, and the bracket of each value. Where products were not finite the values are NaN, `converged`
    is False, and the vectors are those remembered."""

    values: Array  # [k], descending
    vectors: Params  # leaves [k, ...], orthonormal over the whole tree
    residuals: Array  # [k]: how wrong a value may be, max(high − value, value − low)
    converged: Array  # [] bool: whether each bracket, before the margin, is at most tol · size wide
    products: Array  # [] int32
    low: Array  # [k]
    high: Array  # [k]


class Ends(NamedTuple):
    """Memories of the two ends of a spectrum."""

    largest: Memory
    smallest: Memory


def tracker(
    k: int = 1, num_steps: int | None = None, *, tol: float | None = 2e-3, guards: int = 5, smallest: int = 0,
    policy: Policy = POLICY,
) -> Tracker:  # fmt: skip
    """The k largest eigenvalues and the `smallest` smallest with their vectors, from look to look, each with a bracket.

    A *look* is one call of `update`, often with one product. It remembers b = k + `guards` Ritz vectors V and how well each is
    known. The next one multiplies v₁, and has bounds of the small matrix G on V and on what products leave over,

        G₋ ⪯ G ⪯ G₊   and so   λᵢ(G₋) ≤ λᵢ(G) ≤ λᵢ(G₊) :

    exact on what this look has multiplied, as remembered on the rest, give or take how far the operator may have moved. While
    a bracket is too wide it multiplies the Ritz vector that contributes most to the upper one. `tracking.md`, beside the code,
    has the rest.

    Args:
      k: how many of the largest; 0 with `smallest`.
      num_steps: products that the space of a look has room for; default 10, or k + 3. It bounds the memory, not the products:
        a look that needs more continues as a cold one (Lanczos, restarted).
      tol: of a bracket's width, relative to the largest |coefficient| of the look's products, about ‖A‖. The bracket told has a
        margin besides, and may be 2.5 times as wide. A vector's angle to the true one is about
        √(tol · λ₁ / its gap). With leaves of 16 bits not less than twice their rounding.
        None: each look is Lanczos by itself, exactly `num_steps` products (default 2 (k + smallest) + 10) from a fixed
        direction, and nothing is remembered: for looks so far apart that old vectors are no guesses.
      guards: vectors remembered at an end beyond those asked for: rivals, that may overtake.
      smallest: how many of the smallest eigenvalues; they are followed as the largest of −A, with a memory of their own. With k
        their tolerance is relative to the largest eigenvalue too, if that is larger.
      policy: the other numbers.
    Returns: a `Tracker`. Its `update` takes the number of the step, [] int, whose parity tells the side of the valley; without,
      looks take turns, a step apart. It gives `Tracked`, [k + smallest] values in descending order.

    Cost: one product a look and end at least; 1.2 to 4 on average at the edge of stability, 3 to 21 in rougher trainings, 25 to
    45 in a first look or where the operator jumps. Memory, for each end: 3 b + `num_steps` vectors. Vmapped, all that are alive
    wait for the slowest.
    """
    _check_counts(k, smallest, num_steps, guards)
    if tol is None:
        return _afresh(k, smallest, 2 * (k + smallest) + 10 if num_steps is None else num_steps)
    number("tracker", tol=tol, more_than=0)

    def plan(wanted: int) -> Plan:
        room = max(10, wanted + 3) if num_steps is None else max(2, num_steps)
        return Plan(wanted, wanted + guards, wanted + guards + room, tol, policy)

    ends = [plan(wanted) for wanted in (k, smallest) if wanted]
    few = 2 * sum(end.rows for end in ends)

    def init(params: Params) -> Memory | Ends | Params:
        tree.check(params)
        if _fits(k, smallest, params) <= few:
            return tree.scattered_like(0, params)  # so few that Lanczos finds all there is
        memories = [empty(params, end.b, policy) for end in ends]
        return memories[0] if len(ends) == 1 else Ends(*memories)

    def update(
        matvec: MatVec, memory: Memory | Ends | Params, alive: Array | bool = True, step: Array | None = None
    ) -> tuple[Memory | Ends | Params, Tracked]:
        matvec, alive = product("tracker", matvec), jnp.asarray(alive)
        if not isinstance(memory, Memory | Ends):
            return memory, _bracketed(eigsh(matvec, memory, k, smallest=smallest, num_steps=tree.size(memory)))
        negated = lambda v: tree.scale(-1, matvec(v))  # noqa: E731
        if isinstance(memory, Memory):
            memory, told = _followed(matvec if k else negated, memory, step, alive, ends[0])
            return memory, told if k else _negated(told)
        top, told = _followed(matvec, memory.largest, step, alive, ends[0])
        least = jnp.where(told.converged, jnp.abs(told.values[0]), 0)
        bottom, other = _followed(negated, memory.smallest, step, alive, ends[1], least)
        return Ends(top, bottom), _joined(told, _negated(other))

    return Tracker(init, update)


def _check_counts(k: int, smallest: int, num_steps: int | None, guards: int) -> None:
    count("tracker", k=k, smallest=smallest, at_least=0)
    count("tracker", guards=guards)
    if k + smallest < 1:
        raise ValueError(f"tracker: k={k} and smallest={smallest} ask for no eigenvalue: one of them must be at least 1")
    if num_steps is not None:
        count("tracker", num_steps=num_steps)
        if k + smallest > num_steps:
            asked = _asked(k, smallest)
            raise ValueError(f"tracker: {asked} eigenpairs need at least as many products: num_steps={num_steps} is less")


def _bracketed(eigs: Eigs) -> Tracked:
    return Tracked(*eigs, eigs.values - eigs.residuals, eigs.values + eigs.residuals)


def _negated(told: Tracked) -> Tracked:
    """What was told of −A, told of A."""
    turn = lambda x: jax.tree.map(lambda leaf: leaf[::-1], x)  # noqa: E731
    return Tracked(
        -turn(told.values), turn(told.vectors), turn(told.residuals), told.converged, told.products, -turn(told.high),
        -turn(told.low),
    )  # fmt: skip


def _joined(top: Tracked, bottom: Tracked) -> Tracked:
    both = jax.tree.map(lambda x, y: jnp.concatenate([x, y]) if x.ndim else x, top, bottom)
    return both._replace(converged=top.converged & bottom.converged, products=top.products + bottom.products)


def _asked(k: int, smallest: int) -> str:
    return f"k={k} and smallest={smallest}" if smallest else f"k={k}"


def _fits(k: int, smallest: int, params: Params) -> int:
    p = tree.size(params)
    if k + smallest > p:
        raise ValueError(f"tracker: {_asked(k, smallest)} eigenpairs are more than the p={p} parameters have")
    return p


def _afresh(k: int, smallest: int, num_steps: int) -> Tracker:
    def init(params: Params) -> Params:
        _fits(k, smallest, params)
        return tree.scattered_like(0, params)

    def update(matvec: MatVec, start: Params, alive=True, step=None) -> tuple[Params, Tracked]:
        return start, _bracketed(eigsh(matvec, start, k, smallest=smallest, num_steps=num_steps))

    return Tracker(init, update)


def _followed(
    matvec: MatVec, memory: Memory, step: Array | None, alive: Array, plan: Plan, least: Array | float = 0.0
) -> tuple[Memory, Tracked]:
    """One look, in which sizes are at least `least`."""
    policy, made = plan.policy, memory.made
    plan = plan._replace(tol=attainable(plan.tol, memory.vectors, plan.rows))
    step = made if step is None else jnp.asarray(step, jnp.int32)
    side, matvec = step % 2, widthwise(matvec)
    start = chosen(memory, side, policy)
    frame, before = tree.row((memory.frame, memory.sides), start)

    first = first_product(matvec, memory.vectors, unfolded(frame), start)
    first = first._replace(size=jnp.maximum(first.size, least))
    change = jnp.abs(first.column[0] - before.values[0])
    drift = drifted(change, memory.drift, step - memory.step, first.size, policy)
    before = aged(before, drift, policy.equal * plan.tol * first.size)
    drift = jnp.where(made == 1, policy.gain * change, drift)  # the first guess has served once a change is measured
    mean = jnp.where(made == 0, first.column[0], memory.mean)  # of the first scattered direction
    look = begun(before, first, policy.forget * memory.reach, mean, made * plan.rows, plan)
    unit = rounding(first.column.dtype, tree.eps(memory.vectors), plan.rows)
    grown = first.size - memory.reach  # beyond all that was seen
    cold = (made == 0) | (jnp.maximum(jnp.maximum(drift, grown), unit * memory.reach) > policy.jump * first.size)
    stored, kept = _ended(matvec, memory, plan, look, first, before, alive, cold, start, side)
    frame, after, told, weights, coefficient = kept

    fine = alive & told.finite
    met = told.cold | told.rival & _every(policy.scout_every, made)  # then the other side is to start from here
    last = jnp.where(met, -policy.recent - 1, memory.last)
    stored, y1 = _first_written(stored, first, weights, coefficient, side, fine)
    drift = jnp.where(made == 0, policy.first_drift * told.size, jnp.maximum(drift, policy.gain * told.change))
    drift = jnp.minimum(drift, told.size)
    noise = unit * jnp.where(told.cold, told.size, jnp.maximum(memory.reach, told.size))  # also of what is remembered
    reach = jnp.where(told.cold, told.size, jnp.maximum(policy.forget * memory.reach, told.size))
    sides = tree.with_row((memory.frame, memory.sides), side, (frame, after))
    remembered = *sides, drift, reach, mean, made + 1, last.at[side].set(made), step
    memory = Memory(stored, *tree.where(fine, remembered, memory[1:]))
    vectors = jax.tree.map(lambda x: x[None], y1)
    if plan.k > 1:
        vectors = tree.combine(unfolded(memory.frame[side])[: plan.k], _half(stored, side, plan.b))
    return memory, _told(told, vectors.plain(), plan, noise)


def _every(n: int, made: Array) -> Array:
    return made % n == n - 1


def _half(stored: Params, side: Array, b: int) -> Params:
    """One side's Z, a copy."""
    return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, side * b, b), stored)


def _ended(
    matvec: MatVec, memory: Memory, plan: Plan, look: Look, first: First, before: Side, alive: Array, cold: Array,
    start: Array, side: Array,
):  # fmt: skip
    """The stored vectors when the look ends, and the rest of what it leaves behind. After a single product the caller is to
    write y₁, weights Z + coefficient · A v₁."""
    policy, made, b, real = plan.policy, memory.made, plan.b, before.values.dtype
    unfold, y1 = unfolded(memory.frame[start]), look.found.rotation[0]
    coefficient = y1[b] / jnp.where(first.length > 0, first.length, 1)
    frame, lost = refolded(memory.frame[start], look.found.rotation[:b])
    scout, guard = (~cold & _every(n, made) for n in (policy.scout_every, policy.guard_every))
    scout &= plan.rows > b + 2  # or it would find the space full
    look = look._replace(guarding=guard)
    after, told = outcome(look, before, plan)
    due = unfinished(look, plan) | cold | scout | (start != side) | ~(lost <= policy.most_lost)

    def rewritten(carry):
        """All vectors, after as many products more as it takes; as they were, where these are not finite."""
        stored = carry[0]
        wider = opened(look, first, _half(stored, start, b), unfold, cold, scout, plan)
        found = searched(matvec, plan, wider)
        after, told = outcome(found, before, plan)
        new = tree.combine(found.found.rotation[:b], found.basis)
        new = tree.where(told.finite, new, _half(stored, side, b))
        stored = jax.tree.map(lambda x, y: jax.lax.dynamic_update_slice_in_dim(x, y, side * b, 0), stored, new)
        each = jnp.eye(b, dtype=real)
        return stored, (each, after, told, each[0], jnp.zeros((), real)), jnp.array(False)

    kept = frame, after, told, _full(y1[:b] - coefficient * first.column, unfold), coefficient
    # an if in the form of a loop: vmapped, it is entered only where some lane needs it, where a cond would run for all
    carry = memory.vectors, kept, alive & told.finite & due
    return jax.lax.while_loop(lambda c: c[2], rewritten, carry)[:2]


def _first_written(
    stored: Params, first: First, weights: Array, coefficient: Array, side: Array, fine: Array
) -> tuple[Params, Params]:
    """Z with y₁ in v₁'s place, and y₁; v₁ as it was, where a look is not fine."""
    b = len(weights)
    nothing = jnp.eye(b, dtype=weights.dtype)[0], jnp.zeros_like(coefficient), tree.zeros_like(first.image)
    weights, coefficient, image = tree.where(fine, (weights, coefficient, first.image), nothing)
    weights = jax.lax.dynamic_update_slice_in_dim(jnp.zeros(2 * b, weights.dtype), weights, side * b, 0)
    y1 = tree.axpy(coefficient, image, tree.combine(weights, stored))
    return tree.with_row(stored, side * b, y1), y1


def _told(told: Told, vectors: Params, plan: Plan, noise: Array) -> Tracked:
    """Adds rounding and the margin. The value is the Ritz value of the estimate, clipped to the bracket."""
    policy = plan.policy
    low, high = jnp.minimum(told.low, told.high), jnp.maximum(told.low, told.high)  # rounding may exchange them
    value = jnp.where(told.finite, jnp.clip(told.values, low, high), jnp.nan)
    margin = policy.margin * (high - low) + jnp.where(told.cold, 0, policy.least_width * plan.tol * told.size)
    low, high = low - noise, high + margin + noise
    return Tracked(value, vectors, jnp.maximum(high - value, value - low), told.converged, told.products, low, high)
