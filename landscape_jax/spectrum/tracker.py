"""Leading eigenpairs of an operator that changes a little from one look to the next."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from landscape_jax import tree
from landscape_jax.arguments import count, number, product
from landscape_jax.spectrum.guessed import Problem, begun, hidden_part, learned, outcome, shrunk, solved
from landscape_jax.spectrum.lanczos import appended, attainable, rounding, settled, widthwise
from landscape_jax.spectrum.restarted import eigsh
from landscape_jax.types import Eigs, MatVec, Params

ROOM = 3  # products of a round beyond the one for each of those asked for
MAX_ROUNDS = 12  # a look: an operator that still changes beyond all bounds is not followed
RECENT = 2  # looks: what is older is no guess
BETTER = 3  # times less doubt, and the other side is the guess
MAX_LOSS = 1e-4  # of the span of b vectors, squared: else all are written anew
LEAST_DRIFT, FIRST_DRIFT = 2e-3, 0.1  # the latter as long as no change has been measured
GAIN = 2.2  # times a change is the drift
DECAY, LEAST_DECAY = 0.93, 0.5  # of the drift: a step, and a look that is many steps after the last

_full = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


class Tracker(NamedTuple):
    """Eigenpairs that are followed."""

    init: Callable  # θ ↦ m₀
    update: Callable  # (matvec, m, alive=True, step=None) ↦ (m', Eigs of k pairs); where not alive nothing is looked for


class Memory(NamedTuple):
    """What is known from the last looks at even and at odd steps, [2, ...]. That on the same side is the guess.

    A look that ends with its first product moves b vectors little, and all but v₁ nearly within their own span. So v₁ alone is
    written, and the others are told by their coefficients.
    """

    vectors: Params  # Z, leaves [2 b, ...]: v₁, and as they were when all were last written, q₂ … q_b, orthonormal
    frame: Array  # [2, b, b]: Ritz vectors in the orthonormal frame of (v₁ − Σ ⟨v₁, qⱼ⟩ qⱼ) / ‖·‖ and q₂ … q_b
    values: Array  # [2, b]
    doubts: Array  # [2, b], how far from the truth each may have been, relative to the largest
    rises: Array  # [2, b], by how much each rose from look to look before it was last multiplied, relative likewise
    ages: Array  # [2, b], how many looks ago that was
    drift: Array  # [], how far a value may move from look to look, relative likewise
    made: Array  # [] int32, how many looks
    last: Array  # [2] int32, which of them was the last on each side
    step: Array  # [] int32, of the last look

    stays = True  # of a run that has diverged nothing is forgotten


def tracker(k: int = 1, num_steps: int | None = None, *, tol: float | None = 2e-3, guards: int = 5) -> Tracker:
    """The k largest eigenvalues with their vectors, each value to a relative error of about `tol`, from look to look, in
    little more than k products a look.

    The b = k + `guards` leading Ritz pairs (θᵢ, vᵢ) of a look are the guess for the next an even number of steps later: at the
    edge of stability the parameters hop between two sides of a valley, and the Hessian hops with them. So looks at each step
    take turns, and looks ten steps apart, which are all on one side, each start from the last (a tenth fewer products). Where
    a side has not been seen for more than two looks, or the last look, on the other, left less than a third of the doubt, that
    one is the guess. The first look is Lanczos, restarted from the b best vectors until the residuals of all b are within
    tol and 1e-2, or twelve times. Later the Rayleigh–Ritz problem on span{v₁ … v_b} and on the remainders of whatever was
    multiplied is filled with what is known,

        G a = Qᵀ A Q a  for each a multiplied by now,   G = diag(θ) from last time elsewhere, 0 on remainders,

    (the symmetric G nearest to the last one, M. Powell 1970), and what is not known is doubted: with P the projection on all
    a, a Ritz vector y of G is wrong in its value by about

        eᵢ = Σ_j h_ij² δ_j / max(1 − δ_j / g_ij, |h_ij|) ,   h_i = (1 − P) yᵢ ,   g_ij = θᵢ − G_jj  (∞ if not positive)

    in units of max|θ|: what it gains where A_jj is not G_jj but more by δ_j, and so nearer. For v_j δ_j is its e of last
    time, the drift since, and its own rise, if it rose; for a remainder what the last guard is, θ_b, or 1 as long as that is
    unknown. The drift is measured: 2.2 times the change of the first Rayleigh quotient since the guess, forgotten by seven
    hundredths each step, but by no more than half from look to look, for one change alone says little. The first eigenvalue
    may rest while the second comes up to it; so what a pair rose by, a look, when it was last multiplied is measured too,

        rᵢ = (1 − |h_i|²) (θᵢ − Σ_j y_ij² θ_j) / (max|θ| Σ_j y_ij² a_j) + |h_i|² Σ_j y_ij² r_j

    with the θ_j of before and a_j the looks since v_j was multiplied, of which Σ_j h_ij² a_j is left. The next product goes to
    (1 − P) yᵢ of the first pair that needs it: of those asked for if eᵢ > tol, and of the b − k guards if one could have
    overtaken, θᵢ + eᵢ > θ_k + tol. Of the other side's pairs 2.2 times what its θ₁ differs by is doubted too.

    Args:
      k: how many eigenpairs.
      num_steps: products of a round, after which the space shrinks to its b best vectors again; default k + 3. It
        bounds the memory, not the products: a cold start takes several rounds.
      tol: relative to the largest |eigenvalue| found. A vector's angle to the true one is about √(tol · λ₁ / its gap). With
        leaves of 16 bits not less than twice their rounding.
        None: each look is Lanczos by itself, exactly `num_steps` products (default 2k + 10) from a fixed direction, and nothing
        is remembered: for looks so far apart that old vectors are no guesses.
      guards: eigenvectors remembered beyond those asked for. What rises from below them into their midst may be missed: where
        eigenvalues crowd, as those of a square loss of ten classes at the edge do, one less is more often wrong (below).
    Returns: a `Tracker`. Its `update` takes the number of the step, [] int, whose parity tells the side; without, looks take
      turns, a step apart. The residuals it reports are what A may do to what was not multiplied,
      max|θ| √Σ_j h_ij² min(10 δ_j, 1), with δ_j = 1 for a remainder, those of a first look ‖A v − θ v‖, each with what products
      may round; `converged` where no pair is in doubt and no guard could have overtaken.

    Cost: k products a look at least, 26 to 43 in a first one for k = 1; then, over a thousand steps of gradient descent at the
    edge of stability, 1.3 to 2.0 on average, and 1.3 to 4.3 where eigenvalues crowd: in 41 such trainings at most 0.9 % wrong
    at any step, in 38 of them 0.11 %, and no value beyond the residual told with it. With four guards, in as many products, two
    of the 41 were more than 1 % wrong, 2.6 and 1.04 %; with five, a look of 650,000 parameters takes 1 to 4 % longer.
    Memory: 3k + 3 guards vectors and num_steps more. Vmapped, all that are alive wait for the slowest.
    """
    count("tracker", k=k, guards=guards)
    if num_steps is not None:
        count("tracker", num_steps=num_steps)
        if k > num_steps:
            raise ValueError(f"tracker: k={k} eigenpairs need at least as many products: num_steps={num_steps} is less")
    if tol is not None:
        number("tracker", tol=tol, more_than=0)
    if tol is None:
        return _afresh(k, 2 * k + 10 if num_steps is None else num_steps)
    b = k + guards
    rows = b + (k + ROOM if num_steps is None else num_steps)

    def init(params: Params) -> Memory | Params:
        tree.check(params)
        if _fits(k, params) <= 2 * rows:
            return tree.scattered_like(0, params)  # so few that Lanczos finds all there is
        start = tree.stacked(tree.wide(params), b)
        scattered = lambda i: tree.wide(tree.scattered_like(i, params))  # noqa: E731
        start = jax.lax.fori_loop(0, b, lambda i, q: appended(q, i, scattered(i), i)[0], start)
        real = tree.dtype(params)
        vectors, frame = jax.tree.map(lambda x: jnp.concatenate([x, x]), start), jnp.eye(b, dtype=real)
        zeros, ones, none = jnp.zeros((2, b), real), jnp.ones((2, b), real), jnp.int32(0)
        drift, last = jnp.full((), FIRST_DRIFT, real), jnp.full(2, -RECENT - 1, jnp.int32)
        return Memory(vectors, jnp.stack([frame, frame]), zeros, ones, zeros, zeros, drift, none, last, none)

    def update(
        matvec: MatVec, memory: Memory | Params, alive: Array | bool = True, step: Array | None = None
    ) -> tuple[Memory | Params, Eigs]:
        matvec = product("tracker", matvec)
        if not isinstance(memory, Memory):
            return memory, eigsh(matvec, memory, k, num_steps=tree.size(memory))
        step = memory.made if step is None else jnp.asarray(step, jnp.int32)
        memory, eigs = _followed(widthwise(matvec), memory, step, k, b, rows, tol, alive)
        return memory, eigs._replace(vectors=eigs.vectors.plain())

    return Tracker(init, update)


def _fits(k: int, params: Params) -> int:
    p = tree.size(params)
    if k > p:
        raise ValueError(f"k={k} eigenpairs are more than the p={p} parameters have")
    return p


def _afresh(k: int, num_steps: int) -> Tracker:
    def init(params: Params) -> Params:
        _fits(k, params)
        return tree.scattered_like(0, params)

    return Tracker(init, lambda matvec, start, alive=True, step=None: (start, eigsh(matvec, start, k, num_steps=num_steps)))


def _other_is_better(memory: Memory, side: Array) -> Array:
    """Whether the last look was on the other side and is the better guess by far, what lies between the sides doubted too."""
    values, drift = memory.values, memory.drift
    apart = GAIN * jnp.abs(values[0, 0] - values[1, 0]) / jnp.maximum(jnp.max(jnp.abs(values)), jnp.finfo(values.dtype).tiny)
    doubts = memory.doubts + jnp.maximum(memory.rises, 0)
    own, other = (jnp.sum(jnp.minimum(doubts + since, 1), axis=1) for since in (drift, jnp.maximum(drift, apart)))
    return (BETTER * other[1 - side] < own[side]) & (memory.made - memory.last[1 - side] <= RECENT)


def _beyond(basis: Params, along: Params, a: Array, w: Params) -> tuple[Params, Array, Array]:
    """What of w is orthogonal to a basis, w's coefficients in it, [rows], and the length of the former.

    Of w = A y little is not along y = Σ aᵢ qᵢ, nearly an eigenvector: with that part taken off, one pass over the basis does,
    and a second is made only where the first took so much that its rounding counts. The first is in the loop too: used within
    and without, a basis that is a part of an array would be copied out of it twice.
    """
    rayleigh = tree.vdot(along, w)

    def passed(carry):
        w, column, _, passes, _ = carry
        more = tree.dots(basis, w)
        w = tree.sub(w, tree.combine(more, basis))
        length = tree.norm(w)
        return w, column + more, length, passes + 1, (length < tree.norm(more) / 4) & (passes < 1)

    carry = tree.axpy(-rayleigh, along, w), rayleigh * a, jnp.zeros_like(rayleigh), 0, jnp.array(True)
    return jax.lax.while_loop(lambda c: c[4], passed, carry)[:3]


def _unfolded(frame: Array) -> Array:
    """F with V = F Z: Ritz vectors from what is stored of them."""
    x, along = frame[:, :1] / frame[0, 0], frame[0, 1:]
    return jnp.concatenate([x, frame[:, 1:] - x * along[None]], axis=1)


def _refolded(frame: Array, rotation: Array) -> tuple[Array, Array]:
    """The frame once y₁ has taken v₁'s place in Z and all else has stayed, from the Ritz vectors y, [b, b + 1], in V and one
    remainder; and how much of a y, squared, is not in the span of the new Z (1e-6 at most where one product was enough, on
    digits and CIFAR-10; NaN where y₁ is among q₂ … q_b)."""
    along = _full(rotation[:, : len(frame)], frame[:, 1:])  # [b, b − 1]: ⟨yᵢ, qⱼ⟩
    y1 = along[0]
    beyond = (jnp.eye(1, len(frame), dtype=frame.dtype)[0] - _full(along, y1)) / jnp.sqrt(1 - jnp.sum(y1**2))
    frame = jnp.concatenate([beyond[:, None], along], axis=1)
    gram = _full(frame, frame.T)
    return 1.5 * frame - 0.5 * _full(gram, frame), jnp.max(jnp.abs(1 - jnp.diagonal(gram)))


def _followed(
    matvec: MatVec, memory: Memory, step: Array, k: int, b: int, rows: int, tol: float | Array, alive: Array | bool
) -> tuple[Memory, Eigs]:
    made, real = memory.made, memory.values.dtype
    eps, tiny = jnp.finfo(real).eps, jnp.finfo(real).tiny
    tol, noise = attainable(tol, memory.vectors, rows), rounding(real, tree.eps(memory.vectors), rows)
    side = step % 2
    first_look = made == 0
    guess = jnp.where((made - memory.last[side] <= RECENT) & ~_other_is_better(memory, side), side, 1 - side)

    stored, small = memory.vectors, (memory.frame, memory.values, memory.doubts, memory.rises, memory.ages)
    frame, values, doubts, rises, ages = tree.row(small, guess)
    unfolded = _unfolded(frame)

    # the first product goes to v₁, whatever happens: outside of the loop the compiler can share its gradient with the step's.
    # Z is read where it lies, that of both looks: taken out it would be a copy
    first = tree.row(stored, guess * b)
    w = matvec(first)
    column = _full(unfolded, tree.row(tree.dots(stored, w).reshape(2, b), guess))  # V w  [b]
    size = jnp.maximum(jnp.max(jnp.abs(column)), tiny)
    off = tree.axpy(-column[0] / size, first, tree.scale(1 / size, w))
    length = size * jnp.sqrt(jnp.maximum(tree.vdot(off, off) - jnp.sum((column[1:] / size) ** 2), 0))
    is_new = (length > 10 * eps * tree.norm(column)) & (length < jnp.inf)
    length = jnp.where(is_new, length, 0)
    change = jnp.where(first_look, 0, jnp.abs(column[0] - values[0]) / jnp.maximum(jnp.abs(column[0]), tiny))
    decay = jnp.maximum(DECAY ** (step - memory.step).astype(real), LEAST_DECAY)
    drift = jnp.clip(jnp.maximum(GAIN * change, decay * memory.drift), LEAST_DRIFT, 1)
    doubts = jnp.minimum(doubts + drift + jnp.maximum(rises, 0), 1)
    doubts = jnp.where(alive, doubts, jnp.nan)  # no doubt is then more than the tolerance, and one product is all
    each = jnp.eye(rows, dtype=real)
    past = jnp.stack([values, rises, ages + 1, jnp.ones_like(ages)])
    problem = begun(values, doubts, past, rows, b + (length > 0).astype(jnp.int32))
    problem = solved(learned(problem, each[0], jnp.pad(column, (0, rows - b)).at[b].set(length)), k, b, tol)

    def unfinished(problem: Problem) -> Array:
        few = (problem.products < k) & (jnp.max(problem.errors[:b]) > eps)
        return alive & (jnp.any(problem.needy) | jnp.where(problem.krylov, problem.count <= b, few))

    def multiplied(carry):
        """One product more, of what is hidden of the first pair in need, or else of the one in most doubt; in a first look
        of the last in the basis."""
        basis, problem = carry
        errors = jnp.where(jnp.arange(rows) < b, problem.errors, -1)
        which = jnp.argmax(jnp.where(problem.needy, 2, errors))
        a = hidden_part(hidden_part(problem.rotation, problem.known)[which][None], problem.known)[0]
        a = a / jnp.linalg.norm(a)
        i = problem.count
        a = jnp.where(problem.krylov, each[i - 1], a)
        y = tree.combine(a, basis)
        rest, column, length = _beyond(basis, y, a, matvec(y))
        vanished = length <= 10 * eps * tree.norm(column)
        basis, column = settled(basis, i, rest, column, length, vanished, i)
        return basis, solved(learned(problem, a, column)._replace(count=i + 1), k, b, tol)

    def space(*parts: Params) -> Params:
        """A basis that begins with these rows."""
        head = jax.tree.map(lambda *xs: jnp.concatenate(xs), *parts)
        return jax.tree.map(lambda x: jnp.pad(x, [(0, rows - len(x))] + [(0, 0)] * (x.ndim - 1)), head)

    def with_room(carry):
        basis, problem = carry
        weights, problem = shrunk(problem, b)
        return space(tree.combine(weights, basis)), problem

    def round_(carry):
        basis, problem, rounds = carry
        carry = jax.lax.cond(problem.count >= rows, with_room, lambda c: c, (basis, problem))
        return *jax.lax.while_loop(lambda c: unfinished(c[1]) & (c[1].count < rows), multiplied, carry), rounds + 1

    def of(look, stored: Params) -> Params:
        """That look's Z, a copy."""
        return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, look * b, b), stored)

    def rewritten(carry):
        """All vectors anew, after as many products more as it takes."""
        stored = carry[0]
        kept = tree.combine(jnp.where(first_look, jnp.diag(each[0, :b]), unfolded), of(guess, stored))
        rest, _, length = _beyond(kept, first, each[0, :b], w)
        rest = tree.scale(jnp.where(first_look | (problem.count <= b), 0, 1 / length), rest)
        nothing = begun(jnp.zeros_like(values), doubts, past, rows, 1, 1, True)
        start = space(kept, jax.tree.map(lambda x: x[None], rest)), tree.where(first_look, nothing, problem), 0
        basis, last, _ = jax.lax.while_loop(lambda c: unfinished(c[1]) & (c[2] < MAX_ROUNDS), round_, start)
        new = tree.combine(last.rotation[:b], basis)
        stored = jax.tree.map(lambda x, y: jax.lax.dynamic_update_slice_in_dim(x, y, side * b, 0), stored, new)
        return stored, each[:b, :b], outcome(last, k, b, tol, noise), each[0, :b], jnp.zeros((), real), jnp.array(False)

    # an if in the form of a loop: most looks end without, and write one vector
    y1 = problem.rotation[0]
    share = y1[b] / jnp.maximum(length, tiny)  # of w in y₁
    frame, lost = _refolded(frame, problem.rotation[:b])
    due = unfinished(problem) | first_look | (guess != side) | ~(lost <= MAX_LOSS)
    carry = stored, frame, outcome(problem, k, b, tol, noise), _full(y1[:b] - share * column, unfolded), share, due & alive
    stored, frame, new, weights, share, _ = jax.lax.while_loop(lambda c: c[5], rewritten, carry)
    weights, share, w = tree.where(alive, (weights, share, w), (each[0, :b], jnp.zeros_like(share), tree.zeros_like(w)))
    weights = jax.lax.dynamic_update_slice_in_dim(jnp.zeros(2 * b, real), weights, side * b, 0)
    y1 = tree.axpy(share, w, tree.combine(weights, stored))  # what is stored already, where not alive
    stored = tree.with_row(stored, side * b, y1)
    vectors = jax.tree.map(lambda x: x[None], y1)
    if k > 1:
        vectors = tree.combine(_unfolded(frame)[:k], of(side, stored))
    small = tree.with_row(small, side, (frame, *new.pairs))
    remembered = *small, drift, made + 1, memory.last.at[side].set(made), step
    best = Eigs(new.pairs[0][:k], vectors, new.residuals, new.converged, new.products)
    return Memory(stored, *tree.where(alive, remembered, memory[1:])), best
