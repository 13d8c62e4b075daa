"""Extreme eigenpairs to a tolerance in bounded memory: Lanczos, restarted from its best Ritz vectors."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from landscape_jax import programs, tree
from landscape_jax.arguments import count, number, product, require
from landscape_jax.backend import layout, products
from landscape_jax.spectrum.lanczos import (
    Krylov,
    appended,
    begin,
    extend,
    lanczos,
    larger,
    orthonormal,
    projected,
    rectified,
    ritz,
    rotated,
    rounding,
    slack,
    tolerance,
    widthwise,
)
from landscape_jax.types import Eigs, Key, MatVec, Params

PATIENCE = 8  # restarts, with leaves of 16 bits

_full = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


def eigsh(
    matvec: MatVec,
    start: Params,
    k: int = 1,
    *,
    smallest: int = 0,
    num_steps: int | None = None,
    depth: int | None = None,
    tol: float | Array | None = None,
    confirm: int = 1,
    max_restarts: int = 100,
) -> Eigs:
    """The k largest (algebraic) eigenvalues of a symmetric operator, with eigenvectors and residuals; or those at the
    other end (`k=0, smallest=3`), or at both.

    Two ways to stop. With `num_steps`, after exactly that many products: for scans, and for warm starts, where `start`
    is the eigenvector found last time. Otherwise at a tolerance: the space is restarted from its best Ritz vectors
    (thick restart, bounded memory) until every residual ‖A v − λ v‖ ≤ tol · max|λ|, and then once more from a fresh
    direction, until two such ends agree and no other Ritz value is so unsettled that it could still overtake: so a start
    vector orthogonal to what was asked for, or a second copy of a degenerate eigenvalue, is not missed. With `confirm=0` the
    first end is trusted, as ARPACK does, and comes as soon as the tolerance is met: for half of the products or fewer.

    Args:
      matvec: v ↦ A v, A symmetric (`assert_symmetric` tells).
      start: any vector shaped like θ; `tree.normal_like(key, params)`, or a guess. For a whole subspace of guesses see
        `block_eigsh`.
      k: how many of the largest eigenpairs.
      smallest: how many of the smallest; k + smallest ≤ p.
      num_steps: m, a fixed number of products, k + smallest ≤ m; more than p are not made.
      depth: the Krylov depth, in vectors, of the run to a tolerance; default 4 (k + smallest) + 16. In a shallow space the
        values next to those asked for may never settle, and no end is confirmed: two values at the edge of stability took 40
        products at a depth of 12 or 16, but of 8 most often all that `max_restarts` allowed.
      tol: relative to the largest |λ| seen, at least 10 ε √depth, which is what rounding may leave; default ε^(2/3), 2e-5 in
        float32 and 4e-11 in float64, or twice that least where it is more. Where θ has leaves of 16 bits these round each
        product: 4 ε of theirs is added to that least, and the default is 6e-2 for bfloat16, 1e-2 for float16. Vectors are
        kept in float32 meanwhile.
      confirm: how many more ends, each from a fresh direction, must agree with the first.
      max_restarts: an upper bound; on reaching it, the residuals say how far the run got.
    Returns: `Eigs(values [k + smallest] descending, vectors, residuals, converged, products)`. Some true eigenvalue lies
      within each residual of its value, and the value's own error is about residual² / gap. `converged` says that the
      residuals are within the tolerance, whether A is symmetric or not, and that the vectors are orthonormal. Where ends are
      confirmed, or the space is as large as p, the values are then the k largest, copies counted, unless a fresh direction
      happens to be orthogonal to one that is missing. With `num_steps` < p or `confirm=0` each is an eigenvalue, but a
      further copy of one, or one that the start vector does not see, may be missing. NaN from the operator gives NaN values
      and `converged` False.

    Cost: m products; or about (depth + restarts · depth / 2), where `confirm=0` looks after every (k + smallest)/2, and after
    each one when residuals are within 4 tol. Memory: m vectors; or about 3 · `depth`, for the compiler keeps the basis from
    before a restart, the one after it, and a copy.
    Works under jit and vmap; not differentiable in reverse mode (there is a while loop). Outside of jit it is compiled once for
    operators of one form, such as `hessian(loss)(params, batch)` at each θ of a Python loop; within jit as usual.
    Source: C. Lanczos 1950; K. Wu and H. Simon 2000, SIAM J. Matrix Anal. 22(2), 602–616, thick restart.
    """
    tree.check(start, "start")
    block = jax.tree.map(lambda x: jnp.asarray(x)[None], start)
    return block_eigsh(
        matvec, block, k, smallest=smallest, num_steps=num_steps, depth=depth, tol=tol, confirm=confirm,
        max_restarts=max_restarts,
    )  # fmt: skip


@programs.of_operator
def block_eigsh(
    matvec: MatVec,
    start: Params,
    k: int = 1,
    *,
    smallest: int = 0,
    num_steps: int | None = None,
    depth: int | None = None,
    tol: float | Array | None = None,
    confirm: int = 1,
    max_restarts: int = 100,
) -> Eigs:
    """`eigsh` from a block of start vectors, leaves [b, ...]: a whole subspace of guesses, or one that meets every copy
    of a b-fold eigenvalue at once.

    Args, returns, cost, source: as for `eigsh`; the b vectors need not be orthonormal, the depth must be more than b, and
      memory is b vectors more. The more exact the guesses, the fewer products beyond b + 1 it takes.
    """
    count("eigsh", **{name: n for name, n in (("num_steps", num_steps), ("depth", depth)) if n is not None})
    count("eigsh", 0, max_restarts=max_restarts)
    count("eigsh", None, k=k, smallest=smallest)  # their range is told below
    if tol is not None:
        number("eigsh", tol=tol, more_than=0)
    tree.check(start, "start")
    b = tree.num_examples(start)
    p = tree.size(start) // b
    start = jax.tree.map(lambda x: x[:p], start)  # more than p guesses are not independent
    b, wanted = min(b, p), k + smallest
    if k < 0 or smallest < 0 or not 1 <= wanted <= p:
        other = f" and smallest={smallest}" if smallest else ""
        raise ValueError(f"eigsh: k={k}{other} must lie between 1 and p={p}, the size of the start vector, in all")
    matvec, start = widthwise(matvec), layout.pack(start, axes=1)
    if num_steps is not None:
        if wanted > num_steps:
            raise ValueError(
                f"eigsh: k={k} is more than num_steps={num_steps}: each eigenpair needs at least one product"
                if smallest == 0
                else f"eigsh: k={k} and smallest={smallest} are more than num_steps={num_steps} products can give"
            )
        if depth is not None or tol is not None:
            raise ValueError("eigsh: num_steps fixes the number of products; leave it out to run to tol within depth")
        eigs = ritz(lanczos(matvec, start, min(num_steps, p), slack=slack(tree.dtype(start))), k, smallest)
        return eigs._replace(vectors=eigs.vectors.unpack())
    if depth is not None and depth <= max(wanted, b):
        raise ValueError(
            f"eigsh: depth={depth} must be more than k={wanted}, or no restart can make progress"
            if wanted >= b
            else f"eigsh: depth={depth} must be more than the {b} start vectors"
        )
    count("eigsh", 0, confirm=confirm)
    m = min(4 * wanted + 16 + b - 1 if depth is None else depth, p)
    real = tree.dtype(start)
    least = rounding(real, tree.eps(start), m)
    if m < p and isinstance(tol, float | int | np.number) and tol < least:
        raise ValueError(
            f"eigsh: tol={tol:g} is less than what rounding leaves in a residual after m={m} products of vectors with "
            f"ε = {tree.eps(start):.1g}, {least:.1g}: ask for no less, or cast θ to a wider dtype (float64: jax_enable_x64)"
        )
    tol = tolerance(real, tree.eps(start), m) if tol is None else tol
    eigs = _restarted(matvec, start, k, smallest, m, tol, confirm, max_restarts)
    return eigs._replace(vectors=eigs.vectors.unpack())


def _wanted_first(m: int, k: int, smallest: int) -> np.ndarray:
    """The places of m descending Ritz values, those asked for first, then inwards from the ends asked for."""
    top, bottom = list(range(m)), list(range(m))[::-1]
    if not (k and smallest):
        return np.array(top if k else bottom)
    inwards = [i for pair in zip(top[k:], bottom[smallest:], strict=False) for i in pair]
    return np.array(list(dict.fromkeys(top[:k] + bottom[:smallest] + inwards + top)))


class _Solved(NamedTuple):
    """The projected problem after `count` products: its pairs, those asked for first, then inwards from the ends asked for."""

    count: Array  # []
    values: Array  # [m]
    rotation: Array  # [m, m], in columns
    error: Array  # [wanted]: residuals of those asked for
    margin: Array  # []: what these may be
    ended: Array  # [], bool: they all are
    stuck: Array  # [], bool: they would be, but for what no product more will lower
    excess: Array  # []: how far A is from symmetric on those asked for, beyond rounding


class _Ends(NamedTuple):
    """How far a run to a tolerance has come."""

    restarts: Array
    products: Array
    settled: Array  # [wanted]: the values at the last end
    dropped: Array  # []: and the largest residual there, forgotten by a restart from a fresh direction
    forgotten: Array  # []: what restarts forget of an operator that is not symmetric
    agreed: Array  # []: how many ends in a row agreed with the one before
    waited: Array  # []: restarts since all but the other Ritz values was settled
    converged: Array
    broken: Array  # []: NaN or infinite
    over: Array  # []: no restart would help


def _restarted(
    matvec: MatVec, start: Params, k: int, smallest: int, m: int, tol: float | Array, confirm: int, max_restarts: int
) -> Eigs:
    p, wanted = tree.size(tree.row(start, 0)), k + smallest
    keep = min(wanted + (m - wanted) // 2, m - 1)
    order = _wanted_first(m, k, smallest)
    real, eps = tree.dtype(start), tree.eps(start)
    if m == p:
        tol = larger(tol, 2 * rounding(real, eps, m))  # all there is to find is found then, to rounding

    # a coarse tolerance allows for a basis that is less orthogonal, down to √ε, which still keeps false copies away, and
    # one so fine that the slack would be much of it for none
    coarse = jnp.clip(tol / 30, slack(real), jnp.finfo(real).eps ** 0.5).astype(real)
    first = begin(start, m, jnp.where(tol < rounding(real, eps, m) + 2 * coarse, 0, coarse))

    none, no = jnp.array(0), jnp.array(False)

    def solved(krylov: Krylov, count: Array, borrowed: Array, forgotten: Array) -> _Solved:
        values, rotation, residuals, floors, excess = projected(krylov, count, first.slack, borrowed)
        residuals, floors = residuals + forgotten, floors + forgotten
        margin = tol * jnp.max(jnp.where(jnp.arange(m) < count, jnp.abs(values), 0))
        place = order - jnp.where(order >= m - smallest, m - count, 0)  # what is not reached stands below the smallest
        error = residuals[place[:wanted]]
        ended = jnp.all(error <= margin) & (count >= wanted)
        if confirm:  # nor may one of the others still become one of those asked for
            others = (jnp.arange(m) >= k) & (jnp.arange(m) < count - smallest)
            reach = 4 * jnp.maximum(residuals - margin, 0)  # of a residual: it says that an eigenvalue is near, not which
            above = (values + reach > values[max(k, 1) - 1] + margin) & (k > 0)
            below = (values - reach < values[count - max(smallest, 1)] - margin) & (smallest > 0)
            ended &= ~jnp.any(others & (above | below))
        floor, excess = floors[place[:wanted]], jnp.max(excess[place[:wanted]])
        stuck = jnp.all(error - floor <= margin) & jnp.any(floor > margin) & (count >= wanted)
        return _Solved(count, values[place], rotation[:, place], error, margin, ended, stuck, excess)

    def going_on(carry) -> Array:
        last = carry[1]
        return (last.count < m) & ~last.ended

    def multiplied(carry):
        krylov, last, *beside = carry
        krylov, count = extend(matvec, krylov, last.count), last.count + 1
        due = count == m
        if not confirm:
            near = jnp.all(last.error <= 4 * last.margin)  # a few products are left: then a look after each saves some
            due |= (count >= wanted) & (near | (count % ((wanted + 1) // 2) == 0))
        last = jax.lax.cond(due, lambda: solved(krylov, count, *beside), lambda: last._replace(count=count))
        return krylov, last, *beside

    def cycle(carry):
        krylov, last, ends = carry
        afresh = last.ended  # from a fresh direction

        def restarted(carry):
            krylov, last, _ = carry
            count = jnp.where(last.ended, wanted, keep)
            krylov = _thick(krylov, last.values, last.rotation, keep, count, last.ended, ends.restarts)
            return krylov, last._replace(count=count, ended=jnp.array(False)), jnp.array(False)

        # an if in the form of a loop: it leaves the basis where it is
        krylov, last, _ = jax.lax.while_loop(lambda c: c[2], restarted, (krylov, last, ends.restarts > 0))
        begun = last.count
        borrowed = jnp.where(afresh, begun, 0)
        krylov, last, *_ = jax.lax.while_loop(going_on, multiplied, (krylov, last, borrowed, ends.forgotten))
        near = jnp.all(jnp.abs(last.values[:wanted] - ends.settled) <= last.margin)
        agreed = jnp.where(last.ended, jnp.where(near, ends.agreed + 1, 0), ends.agreed)
        unsettled = jnp.all(last.error <= last.margin) & ~last.ended
        waited = jnp.where(last.ended, 0, jnp.where(unsettled, ends.waited + 1, ends.waited))
        in_vain = waited >= PATIENCE if eps > jnp.finfo(real).eps else no  # rounding unsettles them again
        broken = ~jnp.all(jnp.isfinite(last.error))
        whole = last.count == p  # then there is nothing more to find
        error = last.error + ends.dropped  # a restart from a fresh direction forgets the residuals of what it keeps
        ends = _Ends(
            ends.restarts + 1,
            ends.products + last.count - begun,
            jnp.where(last.ended, last.values[:wanted], ends.settled),
            jnp.where(last.ended, jnp.max(error), ends.dropped),
            ends.forgotten + jnp.where(krylov.slack > 0, 0, last.excess),
            agreed,
            waited,
            last.ended & (whole | (agreed >= confirm)) & ~broken,
            broken,
            whole | broken | in_vain | (last.stuck & (krylov.slack == 0)),
        )
        return krylov, last._replace(error=error), ends

    def going(carry):
        ends = carry[2]
        return ~ends.converged & ~ends.over & (ends.restarts <= max_restarts)

    unknown = jnp.zeros(m, real), jnp.zeros((m, m), real), jnp.full(wanted, jnp.inf, real), jnp.zeros((), real)
    zero = jnp.zeros((), real)
    ends = _Ends(none, none, jnp.full(wanted, jnp.nan, real), zero, zero, none, none, no, no, no)
    krylov, last, ends = jax.lax.while_loop(going, cycle, (first, _Solved(none, *unknown, no, no, zero), ends))
    values = jnp.where(ends.broken, jnp.nan, last.values[:wanted])
    (vectors, sound), error = rectified(rotated(krylov, last.rotation[:, :wanted])), last.error
    if m == p:  # all eigenvalues are there if the basis is whole
        sound &= (last.count < p) | orthonormal(products.overlaps(krylov.basis)[:p, :p])
    if smallest > 1:  # they stand smallest first
        descending = np.r_[0:k, wanted - 1 : k - 1 : -1] if k else np.arange(wanted)[::-1]
        values, vectors, error = jax.tree.map(lambda x: x[descending], (values, vectors, error))
    return Eigs(values, vectors, error, ends.converged & sound, ends.products.astype(jnp.int32))


def _thick(
    krylov: Krylov, values: Array, rotation: Array, keep: int, count: Array, random: Array, restarts: Array
) -> Krylov:
    """The first `count` ≤ `keep` Ritz vectors as a new, partly filled Krylov space. It goes on from the last vectors of
    the old one or, where `random` holds, from fresh directions; the coupling of the kept vectors to these is nil."""
    basis, gram, *_ = krylov
    rows, m = gram.shape
    b = rows - m
    values = jnp.where(jnp.arange(keep) < count, values[:keep], 0)
    rotation = jnp.where(jnp.arange(keep)[None] < count, rotation[:, :keep], 0)  # [m, keep]
    coupling = _full(gram[m:], rotation)  # [b, keep]
    new = jnp.zeros_like(gram).at[:keep, :keep].set(jnp.diag(values))
    new = new.at[keep : keep + b, :keep].set(jnp.where(random, 0, coupling))
    # one product of the whole stack, [rows, rows] times [rows, ...], and no slice of it: slices of a basis are copies
    keeping = jnp.zeros((rows, rows), gram.dtype).at[:keep, :m].set(rotation.T)
    # and the step of `rectified` before it, on the coefficients
    seen = _full(_full(keeping, products.overlaps(basis)), keeping.T)
    kept = tree.combine(1.5 * keeping - 0.5 * _full(seen, keeping), basis)

    def go_on(i, kept):
        last = jax.tree.map(lambda x: jnp.where(random, 0, x), tree.row(basis, m + i))
        return appended(kept, count + i, last, (restarts + 1) * rows + i)[0]

    none = jnp.zeros_like(krylov.slack)  # a restarted space does not follow three terms
    return krylov._replace(basis=jax.lax.fori_loop(0, b, go_on, kept), gram=new, slack=none)


def assert_symmetric(matvec: MatVec, like: Params, *, key: Key | None = None, tol: float | None = None) -> None:
    """Raise `ValueError` on the host unless ⟨w, A v⟩ = ⟨v, A w⟩ for random v and w, to rounding.

    Lanczos takes symmetry on trust: an asymmetric operator (P⁻¹ H, a Jacobian of updates, dropout with a new mask at
    each product) gives plausible, wrong eigenvalues.

    Args:
      like: a vector the operator acts on, e.g. θ.
      tol: of |⟨w, A v⟩ − ⟨v, A w⟩| relative to ‖A v‖ ‖w‖ / √p, about ‖A‖_F; default √ε.
    Cost: two products.
    """
    matvec = product("assert_symmetric", matvec)
    tree.check(like, "like")
    key = jax.random.key(0) if key is None else key
    require("assert_symmetric", key=key)
    one, two = jax.random.split(key)
    v, w = tree.normal_like(one, like), tree.normal_like(two, like)
    av, aw = matvec(v), matvec(w)
    left, right = float(tree.vdot(w, av)), float(tree.vdot(v, aw))
    if not (np.isfinite(left) and np.isfinite(right)):
        raise ValueError("the operator is not symmetric: A v is not finite for a random v; look at θ, the batch and the loss")
    size = float(tree.norm(av) * tree.norm(w) + tree.norm(aw) * tree.norm(v)) / (2 * tree.size(like) ** 0.5)
    tol = tree.eps(like) ** 0.5 if tol is None else tol
    if not abs(left - right) <= tol * size:
        raise ValueError(
            f"the operator is not symmetric: ⟨w, A v⟩ = {left:.6g} but ⟨v, A w⟩ = {right:.6g}, {abs(left - right) / size:.1g} "
            "of its size apart. Precondition as P^-½ A P^-½ (curvature.preconditioned), and let nothing random change "
            "between products"
        )
