"""Extreme eigenpairs to a tolerance in bounded memory: Lanczos, restarted from its best Ritz vectors.

A *round* fills a space of m vectors, some of them Ritz vectors of the round before, and solves the projected problem. When
all residuals are within the tolerance the *tolerance is met*, and the next round starts from a fresh direction, to confirm it.

Source: K. Wu and H. Simon 2000, SIAM J. Matrix Anal. 22(2), 602–616.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from landscape_jax import tree
from landscape_jax.backend import products
from landscape_jax.backend.control import run_if
from landscape_jax.spectrum.lanczos import Krylov, append_row, begin, extend
from landscape_jax.spectrum.rayleigh_ritz import is_orthonormal, newton_orthonormalize, ritz_vectors, solve_projected
from landscape_jax.spectrum.tolerances import default_slack, maximum, rounding_error
from landscape_jax.types import Eigs, MatVec, Params

_PATIENCE = 8  # rounds, with leaves of 16 bits

_matmul = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


class _Problem(NamedTuple):
    """What is asked for, and within which limits."""

    k: int
    smallest: int
    m: int  # vectors of the space
    p: int
    tol: float | Array
    slack: Array  # [], of the space before any restart
    confirm: int
    max_restarts: int
    gives_up: bool  # whether to stop after `_PATIENCE` rounds in which only rivals are in the way

    @property
    def wanted(self) -> int:
        return self.k + self.smallest

    @property
    def keep(self) -> int:
        """How many Ritz vectors a restart keeps."""
        return min(self.wanted + (self.m - self.wanted) // 2, self.m - 1)

    @property
    def order(self) -> np.ndarray:
        """The places of m descending Ritz values: those asked for first, then inwards from the ends asked for."""
        top, bottom = list(range(self.m)), list(range(self.m))[::-1]
        if not (self.k and self.smallest):
            return np.array(top if self.k else bottom)
        inwards = [i for pair in zip(top[self.k :], bottom[self.smallest :], strict=False) for i in pair]
        return np.array(list(dict.fromkeys(top[: self.k] + bottom[: self.smallest] + inwards + top)))


class _Solution(NamedTuple):
    """The Ritz pairs after `count` products, in the order of `_Problem.order`."""

    count: Array  # []
    values: Array  # [m]
    rotation: Array  # [m, m], in columns
    residuals: Array  # [wanted]: of the pairs asked for
    margin: Array  # []: what these may be, tol · max|θ|
    met: Array  # [] bool: whether all are within the tolerance, and no rival is near
    stuck: Array  # [] bool: whether they would be, but for what no further product lowers
    excess: Array  # []: how far A is from symmetric on the pairs asked for, beyond rounding


class _Space(NamedTuple):
    """A Krylov space that is being filled."""

    krylov: Krylov
    solution: _Solution
    borrowed: Array  # []: leading columns that stood before a restart from a fresh direction
    asymmetry: Array  # []: `_Progress.asymmetry`


class _Progress(NamedTuple):
    """How far a run to a tolerance has come."""

    rounds: Array  # []
    products: Array  # []
    confirmed: Array  # [wanted]: the values when the tolerance was last met
    dropped: Array  # []: and the largest residual then, which a restart from a fresh direction forgets
    asymmetry: Array  # []: sum of `excess`, which restarts forget: how far A is from symmetric
    agreements: Array  # []: how often in a row the tolerance was met with the values of the time before
    waited: Array  # []: rounds in a row after which the pairs asked for were within the tolerance, but rivals near
    converged: Array  # [] bool
    broken: Array  # [] bool: a residual is NaN or infinite
    final: Array  # [] bool: no restart would help


class _State(NamedTuple):
    """Of the loop over rounds."""

    krylov: Krylov
    solution: _Solution
    progress: _Progress


def solve_to_tolerance(
    matvec: MatVec, start: Params, k: int, smallest: int, m: int, tol: float | Array, confirm: int, max_restarts: int
) -> Eigs:
    """Fill a space, restart it, and so on, until the tolerance is met and confirmed."""
    p = tree.size(tree.row(start, 0))
    dtype, eps = tree.dtype(start), tree.eps(start)
    if m == p:
        tol = maximum(tol, 2 * rounding_error(dtype, eps, m))  # the space holds all eigenpairs, to rounding
    # a coarse tolerance permits a basis that is less orthogonal, down to √ε, which still keeps false copies away; one so fine
    # that the slack would be much of it permits none
    coarse = jnp.clip(tol / 30, default_slack(dtype), jnp.finfo(dtype).eps ** 0.5).astype(dtype)
    first = begin(start, m, jnp.where(tol < rounding_error(dtype, eps, m) + 2 * coarse, 0, coarse))
    narrow = bool(eps > jnp.finfo(dtype).eps)  # rounding of 16 bits can keep rivals near forever
    problem = _Problem(k, smallest, m, p, tol, first.slack, confirm, max_restarts, narrow)

    def going(state: _State) -> Array:
        progress = state.progress
        return ~progress.converged & ~progress.final & (progress.rounds <= max_restarts)

    cycle = functools.partial(_fill_and_test, matvec, problem)
    return _result(jax.lax.while_loop(going, cycle, _initial_state(first, problem)), problem)


def _initial_state(krylov: Krylov, problem: _Problem) -> _State:
    m, wanted, dtype = problem.m, problem.wanted, krylov.gram.dtype
    none, no = jnp.array(0), jnp.array(False)
    unknown = jnp.zeros(m, dtype), jnp.zeros((m, m), dtype), jnp.full(wanted, jnp.inf, dtype), jnp.zeros((), dtype)
    zero = jnp.zeros((), dtype)
    progress = _Progress(none, none, jnp.full(wanted, jnp.nan, dtype), zero, zero, none, none, no, no, no)
    return _State(krylov, _Solution(none, *unknown, no, no, zero), progress)


def _fill_and_test(matvec: MatVec, problem: _Problem, state: _State) -> _State:
    """One round: restart (but for the first time), products until the space is full or the tolerance is met, and the test
    whether that was the last round."""
    krylov, solution, progress = state
    is_fresh = solution.met  # then this round starts from a fresh direction
    restart = functools.partial(_restart, problem, progress.rounds)
    krylov, solution = run_if(progress.rounds > 0, restart, (krylov, solution))  # a cond would copy the basis
    count = solution.count
    borrowed = jnp.where(is_fresh, count, 0)
    krylov, solution, *_ = _expand(matvec, problem, _Space(krylov, solution, borrowed, progress.asymmetry))
    residuals, progress = _update_progress(problem, krylov, solution, progress, solution.count - count)
    return _State(krylov, solution._replace(residuals=residuals), progress)


def _restart(problem: _Problem, rounds: Array, state: tuple[Krylov, _Solution]) -> tuple[Krylov, _Solution]:
    """A full space made small: the best Ritz vectors, and the residual direction. Where the tolerance was met: only the vectors
    asked for, and a fresh direction."""
    krylov, solution = state
    count = jnp.where(solution.met, problem.wanted, problem.keep)
    krylov = _thick_restart(krylov, solution.values, solution.rotation, problem.keep, count, solution.met, rounds)
    return krylov, solution._replace(count=count, met=jnp.array(False))


def _expand(matvec: MatVec, problem: _Problem, space: _Space) -> _Space:
    """Products until the tolerance is met or the space is full. The projected problem is solved when it is full and, with
    `confirm=0`, often before."""

    def going(space: _Space) -> Array:
        return (space.solution.count < problem.m) & ~space.solution.met

    def take_product(space: _Space) -> _Space:
        krylov, solution, *rest = space
        krylov, count = extend(matvec, krylov, solution.count), solution.count + 1
        due = count == problem.m
        if not problem.confirm:
            near = jnp.all(solution.residuals <= 4 * solution.margin)  # a few products are left: solving after each saves some
            due |= (count >= problem.wanted) & (near | (count % ((problem.wanted + 1) // 2) == 0))
        solution = jax.lax.cond(due, lambda: _solve(problem, krylov, count, *rest), lambda: solution._replace(count=count))
        return _Space(krylov, solution, *rest)

    return jax.lax.while_loop(going, take_product, space)


def _solve(problem: _Problem, krylov: Krylov, count: Array, borrowed: Array, asymmetry: Array) -> _Solution:
    """The Ritz pairs, and whether those asked for are within the tolerance."""
    m, wanted, order = problem.m, problem.wanted, problem.order
    values, rotation, residuals, floors, excess = solve_projected(krylov, count, problem.slack, borrowed)
    residuals, floors = residuals + asymmetry, floors + asymmetry
    margin = problem.tol * jnp.max(jnp.where(jnp.arange(m) < count, jnp.abs(values), 0))
    order = order - jnp.where(order >= m - problem.smallest, m - count, 0)  # rows not reached sort below the smallest
    asked = residuals[order[:wanted]]
    met = jnp.all(asked <= margin) & (count >= wanted)
    if problem.confirm:
        met &= ~_rival_is_near(problem, values, residuals, margin, count)
    floor, excess = floors[order[:wanted]], jnp.max(excess[order[:wanted]])
    stuck = jnp.all(asked - floor <= margin) & jnp.any(floor > margin) & (count >= wanted)
    return _Solution(count, values[order], rotation[:, order], asked, margin, met, stuck, excess)


def _rival_is_near(problem: _Problem, values: Array, residuals: Array, margin: Array, count: Array) -> Array:
    """Whether another Ritz value may still become one of those asked for, [] bool: it is within four of its residuals of them.
    A residual says that an eigenvalue is near, but not which."""
    k, smallest, m = problem.k, problem.smallest, problem.m
    others = (jnp.arange(m) >= k) & (jnp.arange(m) < count - smallest)
    reach = 4 * jnp.maximum(residuals - margin, 0)
    above = (values + reach > values[max(k, 1) - 1] + margin) & (k > 0)
    below = (values - reach < values[count - max(smallest, 1)] - margin) & (smallest > 0)
    return jnp.any(others & (above | below))


def _update_progress(
    problem: _Problem, krylov: Krylov, solution: _Solution, progress: _Progress, products: Array
) -> tuple[Array, _Progress]:
    """Whether the run has converged, or no restart would help; and the residuals with what restarts have forgotten."""
    met, wanted = solution.met, problem.wanted
    agrees = jnp.all(jnp.abs(solution.values[:wanted] - progress.confirmed) <= solution.margin)
    agreements = jnp.where(met, jnp.where(agrees, progress.agreements + 1, 0), progress.agreements)
    only_rivals = jnp.all(solution.residuals <= solution.margin) & ~met
    waited = jnp.where(met, 0, jnp.where(only_rivals, progress.waited + 1, progress.waited))
    in_vain = waited >= _PATIENCE if problem.gives_up else jnp.array(False)
    broken = ~jnp.all(jnp.isfinite(solution.residuals))
    complete = solution.count == problem.p  # the space is all of ℝᵖ: nothing more can be found
    residuals = solution.residuals + progress.dropped
    progress = _Progress(
        rounds=progress.rounds + 1,
        products=progress.products + products,
        confirmed=jnp.where(met, solution.values[:wanted], progress.confirmed),
        dropped=jnp.where(met, jnp.max(residuals), progress.dropped),
        asymmetry=progress.asymmetry + jnp.where(krylov.slack > 0, 0, solution.excess),
        agreements=agreements,
        waited=waited,
        converged=met & (complete | (agreements >= problem.confirm)) & ~broken,
        broken=broken,
        final=complete | broken | in_vain | (solution.stuck & (krylov.slack == 0)),
    )
    return residuals, progress


def _result(state: _State, problem: _Problem) -> Eigs:
    """The pairs asked for, in descending order."""
    krylov, solution, progress = state
    k, p, wanted = problem.k, problem.p, problem.wanted
    values, residuals = jnp.where(progress.broken, jnp.nan, solution.values[:wanted]), solution.residuals
    vectors, orthonormal = newton_orthonormalize(ritz_vectors(krylov, solution.rotation[:, :wanted]))
    if problem.m == p:  # all eigenvalues are there if the basis is one of ℝᵖ
        orthonormal &= (solution.count < p) | is_orthonormal(products.overlaps(krylov.basis)[:p, :p])
    if problem.smallest > 1:  # the smallest stand in ascending order
        descending = np.r_[0:k, wanted - 1 : k - 1 : -1] if k else np.arange(wanted)[::-1]
        values, vectors, residuals = jax.tree.map(lambda x: x[descending], (values, vectors, residuals))
    return Eigs(values, vectors, residuals, progress.converged & orthonormal, progress.products.astype(jnp.int32))


def _thick_restart(
    krylov: Krylov, values: Array, rotation: Array, keep: int, count: Array, fresh: Array, rounds: Array
) -> Krylov:
    """The first `count` ≤ `keep` Ritz vectors as a new, partly filled Krylov space.

    It goes on from the last vectors of the old space, with the coupling to the kept ones as G has it,

        G' = [diag(θ), 0; G[m:] Y, 0] ,

    or, where `fresh` holds, from fixed directions, numbered by the restart, with zero coupling.
    """
    basis, gram, *_ = krylov
    rows, m = gram.shape
    b = rows - m
    values = jnp.where(jnp.arange(keep) < count, values[:keep], 0)
    rotation = jnp.where(jnp.arange(keep)[None] < count, rotation[:, :keep], 0)  # [m, keep]
    coupling = _matmul(gram[m:], rotation)  # [b, keep]
    new = jnp.zeros_like(gram).at[:keep, :keep].set(jnp.diag(values))
    new = new.at[keep : keep + b, :keep].set(jnp.where(fresh, 0, coupling))
    # one product of the whole stack, [rows, rows] times [rows, ...], and no slice of it: slices of a basis are copies
    weights = jnp.zeros((rows, rows), gram.dtype).at[:keep, :m].set(rotation.T)
    overlap = _matmul(_matmul(weights, products.overlaps(basis)), weights.T)
    # with the step of `newton_orthonormalize`, on the coefficients
    kept = tree.combine(1.5 * weights - 0.5 * _matmul(overlap, weights), basis)

    def append_last(i, kept):
        last = jax.tree.map(lambda x: jnp.where(fresh, 0, x), tree.row(basis, m + i))
        return append_row(kept, count + i, last, (rounds + 1) * rows + i)[0]

    no_slack = jnp.zeros_like(krylov.slack)  # a restarted space does not follow three terms
    return krylov._replace(basis=jax.lax.fori_loop(0, b, append_last, kept), gram=new, slack=no_slack)
