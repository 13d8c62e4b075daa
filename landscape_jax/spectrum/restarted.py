"""Extreme eigenpairs to a tolerance in bounded memory: Lanczos, restarted from its best Ritz vectors."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from landscape_jax import tree
from landscape_jax.spectrum.lanczos import Krylov, appended, begin, extend, lanczos, projected, ritz, tolerance
from landscape_jax.types import Eigs, Key, MatVec, Params


def eigsh(
    matvec: MatVec,
    start: Params,
    k: int = 1,
    *,
    smallest: int = 0,
    num_steps: int | None = None,
    depth: int | None = None,
    tol: float | None = None,
    max_restarts: int = 100,
) -> Eigs:
    """The k largest (algebraic) eigenvalues of a symmetric operator, with eigenvectors and residuals; or those at the
    other end (`k=0, smallest=3`), or at both.

    Two ways to stop. With `num_steps`, after exactly that many products: for scans, and for warm starts, where `start`
    is the eigenvector found last time. Otherwise at a tolerance: the space is restarted from its best Ritz vectors
    (thick restart, bounded memory) until every residual ‖A v − λ v‖ ≤ tol · max|λ|, and then once more from a fresh
    direction, until two such ends agree: so a start vector orthogonal to what was asked for, or a second copy of a
    degenerate eigenvalue, is not missed.

    Args:
      matvec: v ↦ A v, A symmetric (`assert_symmetric` tells).
      start: any vector shaped like θ; `tree.normal_like(key, params)`, or a guess. For a whole subspace of guesses see
        `block_eigsh`.
      k: how many of the largest eigenpairs.
      smallest: how many of the smallest; k + smallest ≤ p.
      num_steps: m, a fixed number of products, k + smallest ≤ m; more than p are not made.
      depth: the Krylov depth, in vectors, of the run to a tolerance; default 4 (k + smallest) + 16.
      tol: relative to the largest |λ| seen; default ε^(2/3), 2e-5 in float32 and 4e-11 in float64.
      max_restarts: an upper bound; on reaching it, the residuals say how far the run got.
    Returns: `Eigs(values [k + smallest] descending, vectors, residuals, converged, products)`. Some true eigenvalue lies
      within each residual of its value, and the value's own error is about residual² / gap. NaN from the operator gives NaN
      values and `converged` False.

    Cost: m products; or about (depth + restarts · depth / 2) products. Memory: m vectors; or about 3 · `depth`,
    for the compiler keeps the basis from before a restart, the one after it, and a copy.
    Works under jit and vmap; not differentiable in reverse mode (there is a while loop).
    Source: C. Lanczos 1950; K. Wu and H. Simon 2000, SIAM J. Matrix Anal. 22(2), 602–616, thick restart.
    """
    tree.check(start, "start")
    block = jax.tree.map(lambda x: jnp.asarray(x)[None], start)
    return block_eigsh(
        matvec, block, k, smallest=smallest, num_steps=num_steps, depth=depth, tol=tol, max_restarts=max_restarts
    )


def block_eigsh(
    matvec: MatVec,
    start: Params,
    k: int = 1,
    *,
    smallest: int = 0,
    num_steps: int | None = None,
    depth: int | None = None,
    tol: float | None = None,
    max_restarts: int = 100,
) -> Eigs:
    """`eigsh` from a block of start vectors, leaves [b, ...]: a whole subspace of guesses, or one that meets every copy
    of a b-fold eigenvalue at once.

    Args, returns, cost, source: as for `eigsh`; the b vectors need not be orthonormal, the depth must be more than b, and
      memory is b vectors more. The more exact the guesses, the fewer products beyond b + 1 it takes.
    """
    tree.check(start, "start")
    b = tree.num_examples(start)
    p = tree.size(start) // b
    start = jax.tree.map(lambda x: x[:p], start)  # more than p guesses are not independent
    b, wanted = min(b, p), k + smallest
    if k < 0 or smallest < 0 or not 1 <= wanted <= p:
        other = f" and smallest={smallest}" if smallest else ""
        raise ValueError(f"eigsh: k={k}{other} must lie between 1 and p={p}, the size of the start vector, in all")
    if num_steps is not None:
        if wanted > num_steps:
            raise ValueError(
                f"eigsh: k={k} is more than num_steps={num_steps}: each eigenpair needs at least one product"
                if smallest == 0
                else f"eigsh: k={k} and smallest={smallest} are more than num_steps={num_steps} products can give"
            )
        if depth is not None or tol is not None:
            raise ValueError("eigsh: num_steps fixes the number of products; leave it out to run to tol within depth")
        return ritz(lanczos(matvec, start, min(num_steps, p)), k, smallest)
    if depth is not None and depth <= max(wanted, b):
        raise ValueError(
            f"eigsh: depth={depth} must be more than k={wanted}, or no restart can make progress"
            if wanted >= b
            else f"eigsh: depth={depth} must be more than the {b} start vectors"
        )
    m = min(4 * wanted + 16 + b - 1 if depth is None else depth, p)
    return _restarted(matvec, start, k, smallest, m, tol, max_restarts)


def _wanted_first(m: int, k: int, smallest: int) -> np.ndarray:
    """The places of m descending Ritz values, those asked for first, then inwards from the ends asked for."""
    top, bottom = list(range(m)), list(range(m))[::-1]
    if not (k and smallest):
        return np.array(top if k else bottom)
    inwards = [i for pair in zip(top[k:], bottom[smallest:], strict=False) for i in pair]
    return np.array(list(dict.fromkeys(top[:k] + bottom[:smallest] + inwards + top)))


def _restarted(matvec: MatVec, start: Params, k: int, smallest: int, m: int, tol: float | None, max_restarts: int) -> Eigs:
    p = tree.size(tree.row(start, 0))
    wanted = k + smallest
    keep = min(wanted + (m - wanted) // 2, m - 1)
    order = _wanted_first(m, k, smallest)
    first = begin(start, m)
    real = first.gram.dtype
    tol = tolerance(real) if tol is None else tol

    def cycle(carry):
        krylov, begun, restarts, products, settled, dropped, *_ = carry
        krylov = jax.lax.fori_loop(begun, m, lambda j, kr: extend(matvec, kr, j), krylov)
        values, rotation, residuals = (x[..., order] for x in projected(krylov, m))
        margin = tol * jnp.max(jnp.abs(values))
        ended = jnp.all(residuals[:wanted] <= margin)
        agreed = ended & jnp.all(jnp.abs(values[:wanted] - settled) <= margin)
        broken = ~jnp.all(jnp.isfinite(values))
        converged = (agreed | (m == p)) & ~broken
        # a restart from a fresh direction forgets the residuals of what it keeps; they stay in the reported error
        error = residuals[:wanted] + dropped
        dropped = jnp.where(ended, jnp.max(error), dropped)
        count = jnp.where(ended, jnp.array(wanted), jnp.array(keep))
        krylov = _thick(krylov, values, rotation, keep, count, ended, restarts)
        settled = jnp.where(ended, values[:wanted], settled)
        return krylov, count, restarts + 1, products + m - begun, settled, dropped, error, converged, broken

    def going(carry):
        _, _, restarts, *_, converged, broken = carry
        return ~converged & ~broken & (restarts <= max_restarts)

    unknown = jnp.full(wanted, jnp.nan, real)
    none = jnp.array(0)
    begun = (first, none, none, none, unknown, jnp.zeros((), real), unknown, jnp.array(False), jnp.array(False))
    krylov, _, _, products, _, _, error, converged, broken = jax.lax.while_loop(going, cycle, begun)
    values = jnp.where(broken, jnp.nan, jnp.diagonal(krylov.gram)[:wanted])
    vectors = jax.vmap(lambda q: tree.scale(1 / tree.norm(q), q))(jax.tree.map(lambda q: q[:wanted], krylov.basis))
    if smallest > 1:  # they stand smallest first
        descending = np.r_[0:k, wanted - 1 : k - 1 : -1] if k else np.arange(wanted)[::-1]
        values, vectors, error = jax.tree.map(lambda x: x[descending], (values, vectors, error))
    return Eigs(values, vectors, error, converged, products.astype(jnp.int32))


def _thick(
    krylov: Krylov, values: Array, rotation: Array, keep: int, count: Array, random: Array, restarts: Array
) -> Krylov:
    """The first `count` ≤ `keep` Ritz vectors as a new, partly filled Krylov space. It goes on from the last vectors of
    the old one or, where `random` holds, from fresh directions; the coupling of the kept vectors to these is nil."""
    basis, gram = krylov
    rows, m = gram.shape
    b = rows - m
    values = jnp.where(jnp.arange(keep) < count, values[:keep], 0)
    rotation = jnp.where(jnp.arange(keep)[None] < count, rotation[:, :keep], 0)  # [m, keep]
    coupling = jnp.matmul(gram[m:], rotation, precision=jax.lax.Precision.HIGHEST)  # [b, keep]
    new = jnp.zeros_like(gram).at[:keep, :keep].set(jnp.diag(values))
    new = new.at[keep : keep + b, :keep].set(jnp.where(random, 0, coupling))
    # one product of the whole stack, [rows, rows] times [rows, ...], and no slice of it: slices of a basis are copies
    keeping = jnp.zeros((rows, rows), gram.dtype).at[:keep, :m].set(rotation.T)
    kept = tree.combine(keeping, basis)

    def go_on(i, kept):
        last = jax.tree.map(lambda x: jnp.where(random, 0, x), tree.row(basis, m + i))
        return appended(kept, count + i, last, (restarts + 1) * rows + i)[0]

    return Krylov(jax.lax.fori_loop(0, b, go_on, kept), new)


def assert_symmetric(matvec: MatVec, like: Params, *, key: Key | None = None, tol: float | None = None) -> None:
    """Raise `ValueError` on the host unless ⟨w, A v⟩ = ⟨v, A w⟩ for random v and w, to rounding.

    Lanczos takes symmetry on trust: an asymmetric operator (P⁻¹ H, a Jacobian of updates, dropout with a new mask at
    each product) gives plausible, wrong eigenvalues.

    Args:
      like: a vector the operator acts on, e.g. θ.
      tol: of |⟨w, A v⟩ − ⟨v, A w⟩| relative to ‖A v‖ ‖w‖ / √p, about ‖A‖_F; default √ε.
    Cost: two products.
    """
    tree.check(like, "like")
    one, two = jax.random.split(jax.random.key(0) if key is None else key)
    v, w = tree.normal_like(one, like), tree.normal_like(two, like)
    av, aw = matvec(v), matvec(w)
    left, right = float(tree.vdot(w, av)), float(tree.vdot(v, aw))
    size = float(tree.norm(av) * tree.norm(w) + tree.norm(aw) * tree.norm(v)) / (2 * tree.size(like) ** 0.5)
    tol = float(jnp.finfo(tree.dtype(like)).eps) ** 0.5 if tol is None else tol
    if not abs(left - right) <= tol * size:
        raise ValueError(
            f"the operator is not symmetric: ⟨w, A v⟩ = {left:.6g} but ⟨v, A w⟩ = {right:.6g}, {abs(left - right) / size:.1g} "
            "of its size apart. Precondition as P^-½ A P^-½ (curvature.preconditioned), and let nothing random change "
            "between products"
        )
