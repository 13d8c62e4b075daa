"""One look, from memory to memory. Numbers in comments are the items of `tracking.md`."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from landscape_jax import tree
from landscape_jax.backend.control import run_if
from landscape_jax.spectrum.lanczos import packed
from landscape_jax.spectrum.tolerances import attainable_tolerance, rounding_error
from landscape_jax.spectrum.tracking.drift import update_drift, widen
from landscape_jax.spectrum.tracking.memory import Memory, Side, ritz_coefficients, select_side, update_frame
from landscape_jax.spectrum.tracking.policy import Policy
from landscape_jax.spectrum.tracking.search import (
    FirstProduct,
    Look,
    Plan,
    Summary,
    add_basis,
    first_product,
    needs_products,
    new_look,
    search,
    summarize,
)
from landscape_jax.types import MatVec, Params

_matmul = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


class Tracked(NamedTuple):
    """What a look reports: `Eigs`, and the bracket of each value. Where products were not finite the values are NaN,
    `converged` is False, and the vectors are those remembered."""

    values: Array  # [k], descending
    vectors: Params  # leaves [k, ...], orthonormal over the whole tree
    residuals: Array  # [k]: how wrong a value may be, max(high − value, value − low)
    converged: Array  # [] bool: whether each bracket, before the margin, is at most tol · size wide
    products: Array  # [] int32
    low: Array  # [k]
    high: Array  # [k]


class _Ending(NamedTuple):
    """What a look leaves besides the stored vectors. y₁ is still to be written, weights Z + coefficient · A v₁."""

    frame: Array  # [b, b]
    side: Side
    summary: Summary
    weights: Array  # [b], in Z of the side that is written
    coefficient: Array  # []


def follow(
    matvec: MatVec, memory: Memory, step: Array | None, alive: Array, plan: Plan, least_size: Array | float = 0.0
) -> tuple[Memory, Tracked]:
    """One look, in which sizes are at least `least_size`.

    Two sides of the memory have a part in it. `start` is the side that is read: vectors, bounds and trends come from there.
    `side` is that of the step's parity, and the only one that is written. They differ where the other side's memory is better.
    """
    policy, looks = plan.policy, memory.looks
    plan = plan._replace(tol=attainable_tolerance(plan.tol, memory.vectors, plan.rows))
    step = looks if step is None else jnp.asarray(step, jnp.int32)
    side, matvec = step % 2, packed(matvec)
    start = select_side(memory, side, policy)  # 1
    frame, remembered = tree.row((memory.frame, memory.sides), start)

    first = first_product(matvec, memory.vectors, ritz_coefficients(frame), start)  # 2
    first = first._replace(size=jnp.maximum(first.size, least_size))
    change = jnp.abs(first.column[0] - remembered.values[0])
    drift = update_drift(change, memory.drift, step - memory.step, first.size, policy)  # 8
    prior = widen(remembered, drift, policy.equal * plan.tol * first.size)
    drift = jnp.where(looks == 1, policy.gain * change, drift)  # the first look's guess has served once a change is measured
    mean = jnp.where(looks == 0, first.column[0], memory.mean)  # v₁ is a fixed direction then
    look = new_look(prior, first, policy.forget * memory.reach, mean, looks * plan.rows, plan)  # 3

    rounding = rounding_error(first.column.dtype, tree.eps(memory.vectors), plan.rows)
    cold = _is_cold(memory, first, drift, rounding, policy)  # 6
    stored, ending = _finish_look(matvec, memory, plan, look, first, prior, alive, cold, start, side)  # 4, 5, 7
    summary, valid = ending.summary, alive & ending.summary.finite  # 9, 10
    isolated = summary.cold | summary.rival & _is_due(policy.scout_every, looks)  # 7: the other side is to start from here
    last = jnp.where(isolated, -policy.recent - 1, memory.last)
    stored, y1 = _write_first(stored, first, ending.weights, ending.coefficient, side, valid)
    drift = jnp.where(looks == 0, policy.first_drift * summary.size, jnp.maximum(drift, policy.gain * summary.change))  # 8
    drift = jnp.minimum(drift, summary.size)
    noise = rounding * jnp.where(summary.cold, summary.size, jnp.maximum(memory.reach, summary.size))  # also of memories
    reach = jnp.where(summary.cold, summary.size, jnp.maximum(policy.forget * memory.reach, summary.size))
    sides = tree.with_row((memory.frame, memory.sides), side, (ending.frame, ending.side))
    new = *sides, drift, reach, mean, looks + 1, last.at[side].set(looks), step
    memory = Memory(stored, *tree.where(valid, new, memory[1:]))
    vectors = jax.tree.map(lambda x: x[None], y1)
    if plan.k > 1:  # of the side just written, or as it was where the look is not valid
        vectors = tree.combine(ritz_coefficients(memory.frame[side])[: plan.k], _read_side(stored, side, plan.b))
    return memory, _report(summary, vectors.unpack(), plan, noise)


def _is_cold(memory: Memory, first: FirstProduct, drift: Array, rounding: float | Array, policy: Policy) -> Array:
    """Whether A is another operator than the one remembered: first look, large drift, growth beyond `reach`, or rounding."""
    growth = first.size - memory.reach
    jump = jnp.maximum(jnp.maximum(drift, growth), rounding * memory.reach) > policy.jump * first.size
    return (memory.looks == 0) | jump


def _is_due(every: int, looks: Array) -> Array:
    return looks % every == every - 1


def _read_side(stored: Params, side: Array, b: int) -> Params:
    """One side's Z, a copy."""
    return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, side * b, b), stored)


def _finish_look(
    matvec: MatVec,
    memory: Memory,
    plan: Plan,
    look: Look,
    first: FirstProduct,
    prior: Side,
    alive: Array,
    cold: Array,
    start: Array,
    side: Array,
) -> tuple[Params, _Ending]:
    """The stored vectors when the look ends, and what else it leaves.

    One product is enough if the look is not cold, the brackets are narrow and neither guard nor scout is due. Then y₁ alone is
    written, if the look started from the side that it writes and the other vectors lose little by it. Otherwise all b vectors
    are written, after as many products more as it takes, or none.
    """
    policy, looks, b, dtype = plan.policy, memory.looks, plan.b, prior.values.dtype
    coefficients, y1 = ritz_coefficients(memory.frame[start]), look.brackets.rotation[0]
    coefficient = y1[b] / jnp.where(first.length > 0, first.length, 1)
    frame, lost = update_frame(memory.frame[start], look.brackets.rotation[:b])
    scout, guard = (~cold & _is_due(every, looks) for every in (policy.scout_every, policy.guard_every))
    scout &= plan.rows > b + 3  # the remainder, a guard and the scout's first product come before its direction
    look = look._replace(guard_due=guard)
    after, summary = summarize(look, prior, plan)
    # where `start` is the other side, the vectors of `side` are no basis of y₁: all are written
    due = needs_products(look, plan) | cold | scout | (start != side) | ~(lost <= policy.most_lost)

    def write_all(state: tuple[Params, _Ending]) -> tuple[Params, _Ending]:
        stored = state[0]
        # the space is spanned by the vectors of `start`; the result replaces those of `side`
        wider = add_basis(look, first, _read_side(stored, start, b), coefficients, cold, scout, plan)
        found = search(matvec, plan, wider)
        after, summary = summarize(found, prior, plan)
        new = tree.combine(found.brackets.rotation[:b], found.basis)
        new = tree.where(summary.finite, new, _read_side(stored, side, b))  # as they were, where these are not finite
        stored = jax.tree.map(lambda x, y: jax.lax.dynamic_update_slice_in_dim(x, y, side * b, 0), stored, new)
        identity = jnp.eye(b, dtype=dtype)  # V is Z now, and y₁ its first row
        return stored, _Ending(identity, after, summary, identity[0], jnp.zeros((), dtype))

    weights = _matmul(y1[:b] - coefficient * first.column, coefficients)
    state = memory.vectors, _Ending(frame, after, summary, weights, coefficient)
    return run_if(alive & summary.finite & due, write_all, state)


def _write_first(
    stored: Params, first: FirstProduct, weights: Array, coefficient: Array, side: Array, valid: Array
) -> tuple[Params, Params]:
    """Z of `side` with y₁ in v₁'s place, and y₁. Where a look is not valid, v₁ stays as it was."""
    b = len(weights)
    unchanged = jnp.eye(b, dtype=weights.dtype)[0], jnp.zeros_like(coefficient), tree.zeros_like(first.image)
    weights, coefficient, image = tree.where(valid, (weights, coefficient, first.image), unchanged)
    weights = jax.lax.dynamic_update_slice_in_dim(jnp.zeros(2 * b, weights.dtype), weights, side * b, 0)
    y1 = tree.axpy(coefficient, image, tree.combine(weights, stored))
    return tree.with_row(stored, side * b, y1), y1


def _report(summary: Summary, vectors: Params, plan: Plan, noise: Array) -> Tracked:
    """The brackets with rounding and the margin added. The value is the middle matrix's, clipped to the bracket."""
    policy = plan.policy
    low, high = jnp.minimum(summary.low, summary.high), jnp.maximum(summary.low, summary.high)  # rounding may exchange them
    value = jnp.where(summary.finite, jnp.clip(summary.values, low, high), jnp.nan)
    margin = policy.margin * (high - low) + jnp.where(summary.cold, 0, policy.least_width * plan.tol * summary.size)
    low, high = low - noise, high + margin + noise
    return Tracked(value, vectors, jnp.maximum(high - value, value - low), summary.converged, summary.products, low, high)
