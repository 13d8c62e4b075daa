"""Extreme eigenpairs of a symmetric operator."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from landscape_jax import programs, tree
from landscape_jax.arguments import count, number, product, require
from landscape_jax.backend import layout
from landscape_jax.spectrum.lanczos import lanczos, packed
from landscape_jax.spectrum.rayleigh_ritz import ritz
from landscape_jax.spectrum.thick_restart import solve_to_tolerance
from landscape_jax.spectrum.tolerances import default_slack, default_tolerance, rounding_error
from landscape_jax.types import Eigs, Key, MatVec, Params


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

        A v_i = λ_i v_i ,   λ_1 ≥ … ≥ λ_k

    There are two ways to stop. With `num_steps`, after exactly that many products: for scans, and for warm starts, where
    `start` is the eigenvector found last time. Otherwise at a tolerance: the space is restarted from its best Ritz vectors
    (thick restart, bounded memory) until every residual ‖A v − λ v‖ ≤ tol · max|λ|. Then it is restarted from a fresh
    direction, until the same values meet the tolerance again and no other Ritz value is so uncertain that it could still
    overtake them. So a start vector orthogonal to an eigenvector, or a second copy of an eigenvalue, does not lead to a wrong
    result. With `confirm=0` the first set of values within the tolerance is returned, as ARPACK does, for half of the products
    or fewer.

    Args:
      matvec: v ↦ A v, A symmetric (`assert_symmetric` checks it).
      start: any vector shaped like θ; `tree.normal_like(key, params)`, or a guess. For a whole subspace of guesses see
        `block_eigsh`.
      k: how many of the largest eigenpairs.
      smallest: how many of the smallest; k + smallest ≤ p.
      num_steps: m, a fixed number of products, k + smallest ≤ m; more than p are not made.
      depth: the Krylov depth, in vectors, of a run to a tolerance; default 4 (k + smallest) + 16. In a shallow space the values
        next to those asked for may never converge, and then nothing is confirmed.
      tol: relative to the largest |λ| seen, at least 10 ε √depth, which is what rounding may leave. Default: ε^(2/3), 2e-5 in
        float32 and 4e-11 in float64, or twice that minimum if it is more. Leaves of 16 bits round each product: 4 ε of theirs
        is added to the minimum, and the default is 6e-2 for bfloat16, 1e-2 for float16. Vectors are kept in float32 meanwhile.
      confirm: how often the values must be found again, each time from a fresh direction.
      max_restarts: an upper bound; if it is reached, the residuals say how far the run got.
    Returns: `Eigs(values [k + smallest] descending, vectors, residuals, converged, products)`. Some true eigenvalue lies
      within each residual of its value, and the value's own error is about residual² / gap. `converged` says that the
      residuals are within the tolerance, whether A is symmetric or not, and that the vectors are orthonormal. With `confirm` at
      least 1, or a space as large as p, the values are then the k largest, copies counted, unless a fresh direction happens to
      be orthogonal to one that is missing. With `num_steps` < p or `confirm=0` each is an eigenvalue, but a further copy of
      one, or one that the start vector does not see, may be missing. NaN from the operator gives NaN values and `converged`
      False.

    Cost: m products; or about (depth + restarts · depth / 2), where `confirm=0` solves the projected problem after every
    (k + smallest)/2 products, and after each one when residuals are within 4 tol. Memory: m vectors; or about 3 · `depth`, for
    the compiler keeps the basis from before a restart, the one after it, and a copy.
    Works under jit and vmap; not differentiable in reverse mode (there is a while loop). Outside of jit it is compiled once for
    operators of one form, such as `hessian(loss)(params, batch)` at each θ of a Python loop; within jit as usual.
    Source: C. Lanczos 1950; K. Wu and H. Simon 2000, SIAM J. Matrix Anal. 22(2), 602–616, thick restart.

    >>> matvec = lj.curvature.hessian(loss)(params, batch)
    >>> eigs = lj.spectrum.eigsh(matvec, lj.tree.normal_like(key, params), k=2)
    >>> np.asarray(eigs.values).round(2)
    array([0.43, 0.27], dtype=float32)
    """
    tree.check(start, "start")
    block = jax.tree.map(lambda x: jnp.asarray(x)[None], start)
    return block_eigsh(
        matvec,
        block,
        k,
        smallest=smallest,
        num_steps=num_steps,
        depth=depth,
        tol=tol,
        confirm=confirm,
        max_restarts=max_restarts,
    )


@programs.compiled_once
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

    Args, returns, cost, source: as for `eigsh`. The b vectors need not be orthonormal, the depth must be more than b, and
      memory is b vectors more. The more exact the guesses, the fewer products beyond b + 1 are needed.

    >>> matvec = lj.curvature.hessian(loss)(params, batch)
    >>> guesses = lj.spectrum.eigsh(matvec, lj.tree.normal_like(key, params), k=3).vectors
    >>> np.asarray(lj.spectrum.block_eigsh(matvec, guesses, k=2).values).round(2)
    array([0.43, 0.27], dtype=float32)
    """
    count("eigsh", **{name: n for name, n in (("num_steps", num_steps), ("depth", depth)) if n is not None})
    count("eigsh", 0, max_restarts=max_restarts)
    count("eigsh", None, k=k, smallest=smallest)  # their range is checked below
    if tol is not None:
        number("eigsh", tol=tol, more_than=0)
    tree.check(start, "start")
    b = tree.num_examples(start)
    p = tree.size(start) // b
    start = jax.tree.map(lambda x: x[:p], start)  # more than p guesses are not independent
    b, wanted = min(b, p), k + smallest
    _check_request(k, smallest, num_steps, depth, tol, b, p)
    matvec, start = packed(matvec), layout.pack(start, axes=1)
    dtype, eps = tree.dtype(start), tree.eps(start)
    if num_steps is not None:
        eigs = ritz(lanczos(matvec, start, min(num_steps, p), slack=default_slack(dtype)), k, smallest)
        return eigs._replace(vectors=eigs.vectors.unpack())
    count("eigsh", 0, confirm=confirm)
    m = min(4 * wanted + 16 + b - 1 if depth is None else depth, p)
    minimum = rounding_error(dtype, eps, m)
    if m < p and isinstance(tol, float | int | np.number) and tol < minimum:
        raise ValueError(
            f"eigsh: tol={tol:g} is less than what rounding leaves in a residual after m={m} products of vectors with "
            f"ε = {eps:.1g}, {minimum:.1g}: ask for no less, or cast θ to a wider dtype (float64: jax_enable_x64)"
        )
    tol = default_tolerance(dtype, eps, m) if tol is None else tol
    eigs = solve_to_tolerance(matvec, start, k, smallest, m, tol, confirm, max_restarts)
    return eigs._replace(vectors=eigs.vectors.unpack())


def _check_request(
    k: int, smallest: int, num_steps: int | None, depth: int | None, tol: float | Array | None, b: int, p: int
) -> None:
    """Raise `ValueError` unless so many pairs can be had from b start vectors of size p."""
    wanted = k + smallest
    if k < 0 or smallest < 0 or not 1 <= wanted <= p:
        other = f" and smallest={smallest}" if smallest else ""
        raise ValueError(f"eigsh: k={k}{other} must lie between 1 and p={p}, the size of the start vector, in all")
    if num_steps is not None and wanted > num_steps:
        raise ValueError(
            f"eigsh: k={k} is more than num_steps={num_steps}: each eigenpair needs at least one product"
            if smallest == 0
            else f"eigsh: k={k} and smallest={smallest} are more than num_steps={num_steps} products can give"
        )
    if num_steps is not None and (depth is not None or tol is not None):
        raise ValueError("eigsh: num_steps fixes the number of products; leave it out to run to tol within depth")
    if depth is not None and depth <= max(wanted, b):
        raise ValueError(
            f"eigsh: depth={depth} must be more than k={wanted}, or no restart can make progress"
            if wanted >= b
            else f"eigsh: depth={depth} must be more than the {b} start vectors"
        )


def assert_symmetric(matvec: MatVec, like: Params, *, key: Key | None = None, tol: float | None = None) -> None:
    """Raise `ValueError` on the host unless an operator is symmetric:

        ⟨w, A v⟩ = ⟨v, A w⟩   for random v and w, to rounding.

    Lanczos does not check symmetry. An asymmetric operator (P⁻¹ H, a Jacobian of updates, dropout with a new mask at each
    product) gives plausible, wrong eigenvalues.

    Args:
      matvec: v ↦ A v.
      like: a vector the operator acts on, e.g. θ.
      key: of v and w; default `jax.random.key(0)`.
      tol: of |⟨w, A v⟩ − ⟨v, A w⟩| relative to ‖A v‖ ‖w‖ / √p, about ‖A‖_F; default √ε.
    Cost: two products.

    >>> lj.spectrum.assert_symmetric(lj.curvature.hessian(loss)(params, batch), params)
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
