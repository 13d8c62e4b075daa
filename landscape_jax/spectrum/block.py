"""A warm subspace, refined until its values are good enough: what it takes to follow eigenvalues in time."""

import jax
import jax.numpy as jnp
from jax import Array

from landscape_jax import tree
from landscape_jax.arguments import count, number, product
from landscape_jax.backend import layout
from landscape_jax.spectrum.lanczos import (
    Projected,
    attainable,
    begin,
    extend,
    larger,
    projected,
    rectified,
    rotated,
    rounding,
    widthwise,
)
from landscape_jax.types import Eigs, MatVec, Params


def refine(
    matvec: MatVec,
    start: Params,
    k: int = 1,
    *,
    tol: float | Array = 3e-3,
    num_steps: int = 12,
    at_least: int | Array = 0,
    max_rounds: int = 10,
) -> Eigs:
    """The k largest eigenvalues to a relative error of about `tol`, from b > k good guesses, in as few products as it takes.

    Block Lanczos that stops as soon as the error of θ₁ … θ_k is estimated below tol · max|θ|, by the least of

        max_{i ≤ k} r_i   and   Σ_{i ≤ c} r_i² / (θ_k − θ_{c+1}),  c = k … b,

    the first c values taken as one cluster and its gap that to the next: two values about to cross need not be told apart.
    A guess that is an eigenvector already leaves no residual, and then nothing would betray a rival that has grown beside
    it. Hence the guards: b − k guesses more than asked for, to which the products go first, and at least b + 1 products,
    so that the last guard always learns a new direction.

    Args:
      matvec: v ↦ A v, A symmetric.
      start: b guesses, leaves [b, ...], best first, b > k; those beyond p are left out.
      k: how many values.
      tol: relative to the largest value; not less than twice the rounding of leaves of 16 bits (6 % for bfloat16).
      num_steps: the Krylov depth, more than b + 1 (or p).
      at_least: a number of products to make whether or not they seem needed.
      max_rounds: how many rounds of `num_steps` products at most; a cold start may need several.
    Returns: `Eigs` of b pairs, all of them guesses for next time; `converged` says whether the k values asked for are, by
      the estimate above, and the vectors orthonormal. A rival that none of the guesses sees is missed.

    Cost: b + 1 products at least; memory: num_steps + b vectors.
    Source: the estimates are B. Parlett 1998, The Symmetric Eigenvalue Problem, §11.5 and §11.7.
    """
    matvec = product("refine", matvec)
    tree.check(start, "start")
    tree.num_examples(start)
    count("refine", k=k, num_steps=num_steps, max_rounds=max_rounds)
    number("refine", tol=tol, more_than=0)
    p = tree.size(tree.row(start, 0))
    start = jax.tree.map(lambda x: x[:p], start)
    b = jax.tree.leaves(start)[0].shape[0]
    if k < 1 or (b <= k and b < p):
        raise ValueError(f"refine: k={k} values need more than k guesses, but start holds {b}: add a guard")
    depth = min(num_steps, p)
    if depth <= min(b, p - 1):
        raise ValueError(f"refine: num_steps={num_steps} must be more than the {b} guesses in start")
    matvec, start = widthwise(matvec), layout.pack(start, axes=1)
    real, tol = tree.dtype(start), attainable(tol, start, depth)
    if depth == p:
        tol = larger(tol, 2 * rounding(real, tree.eps(start), p))  # all there is is found then, to rounding
    least = jnp.clip(at_least, min(b + 1, depth), depth)

    def error(solved: Projected, count: Array) -> Array:
        values, residuals = solved.values, solved.residuals
        worst = jnp.max(residuals[:k])
        for c in range(k, min(b, depth - 1) + 1):  # the first c taken as one cluster, its gap that to the next
            gap = jnp.maximum(values[k - 1] - values[c], jnp.finfo(values.dtype).tiny)
            worst = jnp.minimum(worst, jnp.sum(residuals[:c] * (residuals[:c] / gap)))
        size = jnp.max(jnp.where(jnp.arange(depth) < count, jnp.abs(values), 0))
        return worst / jnp.maximum(size, jnp.finfo(real).tiny)

    def cycle(carry):
        eigs, rounds, *_ = carry

        def more(inner):
            _, count, worst = inner
            return (count < depth) & ((count < least) | (worst > tol))

        def once(inner):
            krylov, count, _ = inner
            krylov, count = extend(matvec, krylov, count), count + 1
            return krylov, count, jax.lax.cond(count < least, lambda: unknown, lambda: error(projected(krylov, count), count))

        fresh = begin(jax.tree.map(lambda x: x[::-1], eigs.vectors), depth)
        krylov, count, worst = jax.lax.while_loop(more, once, (fresh, jnp.array(0), unknown))
        values, rotation, residuals, *_ = projected(krylov, count)
        vectors, sound = rectified(rotated(krylov, rotation[:, :b]))
        products = eigs.products + count.astype(jnp.int32)
        return Eigs(values[:b], vectors, residuals[:b], (worst <= tol) & sound, products), rounds + 1, worst, count == p

    def going(carry):
        _, rounds, worst, exhausted = carry
        return (worst > tol) & (rounds < max_rounds) & ~exhausted

    unknown = jnp.full((), jnp.inf, real)
    none = Eigs(jnp.zeros(b, real), start, jnp.zeros(b, real), jnp.array(False), jnp.int32(0))
    eigs = jax.lax.while_loop(going, cycle, (none, 0, unknown, jnp.array(False)))[0]
    return eigs._replace(vectors=eigs.vectors.unpack())
