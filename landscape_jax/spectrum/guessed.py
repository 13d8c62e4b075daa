"""Rayleigh–Ritz in a small space, with a projected matrix that is guessed where nothing was multiplied (`spectrum.tracker`)."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from landscape_jax.spectrum.lanczos import eigh

FIRST_TOL = 1e-2  # of the first look's residuals, relative, at most: what is missed there stays missed
MAX_RISE = 0.1  # a look: more is no trend
SURE = 10  # times the doubt for the residual that is told: it should bound the error, where a doubt should tell its size

_full = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


class Problem(NamedTuple):
    """Rayleigh–Ritz with gaps in its knowledge, and its solution. Rows of the basis from `count` on are not reached yet."""

    gram: Array  # [rows, rows]: G
    known: Array  # [rows, rows]: P
    trust: Array  # [rows]: δ
    past: Array  # [4, rows]: θ as it was, r, a, and what share was not multiplied in rounds before; of a remainder 0, 0, 1, 1
    krylov: Array  # [] bool: a first look, Lanczos's. All in the basis was multiplied then, save for the last
    count: Array  # []
    products: Array  # []
    values: Array  # [rows], descending
    rotation: Array  # [rows, rows]: each row a Ritz vector y, in a first look in the space of what was multiplied
    errors: Array  # [rows]: e; in a first look residuals, relative to max|θ|
    amiss: Array  # [rows] bool: which of those asked for are in doubt, and which guards may have overtaken them
    needy: Array  # [rows] bool: which pairs need a product: those, and in a first look all that the next will start from


class Found(NamedTuple):
    """What a look ends with."""

    pairs: tuple  # θ, e, r and a, each [b]
    residuals: Array  # [k]
    converged: Array  # []
    products: Array  # []


def begun(
    values: Array, trust: Array, past: Array, rows: int, count: Array | int, products: Array | int = 0,
    krylov: Array | bool = False,
) -> Problem:  # fmt: skip
    """`values` on the diagonal, nothing known."""
    more = rows - len(values)
    values, trust = jnp.pad(values, (0, more)), jnp.pad(trust, (0, more), constant_values=1)
    past = jnp.concatenate([past, jnp.repeat(jnp.array([0, 0, 1, 1], past.dtype)[:, None], more, axis=1)], axis=1)
    unknown, each = jnp.zeros((rows, rows), values.dtype), jnp.eye(rows, dtype=values.dtype)
    count, products, krylov = jnp.asarray(count, jnp.int32), jnp.asarray(products, jnp.int32), jnp.asarray(krylov)
    return Problem(jnp.diag(values), unknown, trust, past, krylov, count, products, values, each, trust, trust > 0, trust > 0)


def solved(problem: Problem, k: int, b: int, tol: float | Array) -> Problem:
    """Its Ritz pairs, by how much each may be wrong, and which need a product: of the b best, k are asked for."""
    gram, known, trust, _, krylov, count, *_ = problem
    rows = len(gram)
    place = jnp.arange(rows)
    within = count - krylov.astype(jnp.int32)
    inside = _reached(gram, within)
    inner = jnp.where(inside[:, None] & inside[None], gram, 0)
    largest = jnp.max(jnp.abs(inner))
    far = jnp.where(largest == 0, -1, -2 * rows * largest)  # what is not reached sorts last
    values, rotation = eigh(inner + jnp.diag(jnp.where(inside, 0, far)))
    values, rotation = values[::-1], rotation[:, ::-1].T
    # orthonormal to the last digit (a step of Newton's): what is lost here, look after look, nothing would bring back
    rotation = 1.5 * rotation - 0.5 * _full(_full(rotation, rotation.T), rotation)
    size, tiny = _size(values, within), jnp.finfo(values.dtype).tiny
    hidden = jnp.abs(hidden_part(rotation, known))
    outside = jnp.where(trust[b - 1] < 1, jnp.maximum(values[b - 1], 0) / size, 1)
    doubts = jnp.where(place < b, trust, outside)
    gap = (values[:, None] - jnp.diagonal(inner)[None]) / size  # [rows, rows]: g
    nearer = 1 - doubts[None] / jnp.where(gap > 0, gap, jnp.inf)
    errors = jnp.sum(hidden**2 * doubts[None] / jnp.clip(nearer, jnp.maximum(hidden, tiny), 1), axis=1)
    errors = jnp.where(krylov, jnp.abs(_coupling(problem, rotation)) / size, errors)
    may_overtake = errors > (values[k - 1] - values) / size + tol
    amiss = jnp.where(place < k, errors > tol, may_overtake) & (place < b)
    needy = jnp.where(krylov, (errors > min(tol, FIRST_TOL)) & (place < b), amiss)
    return problem._replace(values=values, rotation=rotation, errors=errors, amiss=amiss, needy=needy)


def _coupling(problem: Problem, rotation: Array) -> Array:
    """⟨q, A y⟩ of the last in a Krylov space with each row y."""
    return _full(rotation, problem.gram[problem.count - 1])


def hidden_part(rotation: Array, known: Array) -> Array:
    """(1 − P) y for each row y."""
    return rotation - _full(rotation, known)


def _size(values: Array, count: Array) -> Array:
    largest = jnp.max(jnp.where(_reached(values, count), jnp.abs(values), 0))
    return jnp.maximum(largest, jnp.finfo(values.dtype).tiny)


def _reached(rows: Array, count: Array) -> Array:
    return jnp.arange(len(rows), dtype=jnp.int32) < count


def learned(problem: Problem, a: Array, column: Array) -> Problem:
    """G made to agree with G a = column, |a| = 1, and otherwise as near to what it was as a symmetric matrix can be."""
    missed = column - _full(problem.gram, a)
    cross = jnp.outer(missed, a)
    gram = problem.gram + cross + cross.T - _full(a, missed) * jnp.outer(a, a)
    return problem._replace(gram=gram, known=problem.known + jnp.outer(a, a), products=problem.products + 1)


def shrunk(problem: Problem, b: int) -> tuple[Array, Problem]:
    """The b best vectors alone, as coefficients [b + 1, rows] in the basis, and the problem on them. In a first look the last
    in the basis follows them, for how that comes of them is known (thick restart); else a row of zeros does."""
    rows, rotation, krylov, real = len(problem.gram), problem.rotation[:b], problem.krylov, problem.gram.dtype
    place, each = jnp.arange(rows), jnp.eye(rows, dtype=real)
    left = _full(hidden_part(rotation, problem.known) ** 2, problem.past[3])
    past = jnp.concatenate([_full(problem.past[:3], rotation.T**2), left[None]])
    doubts = jnp.minimum(problem.errors[:b], 1)
    new = begun(problem.values[:b], doubts, past, rows, b + krylov.astype(jnp.int32), problem.products, krylov)
    cross = jnp.outer(jnp.pad(_coupling(problem, rotation), (0, rows - b)), jnp.where(krylov, each[b], 0))
    known = jnp.diag(jnp.where(krylov & (place < b), jnp.ones(rows, real), 0))
    weights = jnp.concatenate([rotation, jnp.where(krylov, each[-1:], 0)])
    return weights, new._replace(gram=new.gram + cross + cross.T, known=known, needy=problem.needy)


def outcome(problem: Problem, k: int, b: int, tol: float | Array, rounding: float | Array) -> Found:
    """What a look that ends here has found; residuals are told with what products may round, relative to max|θ|."""
    rotation, values, size = problem.rotation[:b], problem.values[:b], _size(problem.values, problem.count)
    hidden = hidden_part(rotation, problem.known)
    was, rises, ages, _ = _full(problem.past, rotation.T**2)
    left = _full(hidden**2, problem.past[3])
    fresh = jnp.clip((values - was) / (size * jnp.maximum(ages, 1)), -MAX_RISE, MAX_RISE)
    rises = jnp.where(problem.krylov, 0, (1 - left) * fresh + left * rises)
    pairs = values, jnp.minimum(problem.errors[:b], 1), rises, _full(hidden**2, problem.past[2] * problem.past[3])
    unseen = jnp.linalg.norm(hidden[:k] * jnp.sqrt(jnp.minimum(SURE * problem.trust, 1))[None], axis=1)
    residuals = (jnp.where(problem.krylov, problem.errors[:k], unseen) + rounding) * size
    converged = ~jnp.any(problem.amiss) & jnp.all(problem.errors[:k] <= tol)  # no error is NaN
    return Found(pairs, residuals, converged, problem.products)
