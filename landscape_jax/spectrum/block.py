"""A warm subspace, refined until its values are good enough: what it takes to follow eigenvalues in time."""

import jax
import jax.numpy as jnp
from jax import Array

from landscape_jax import tree
from landscape_jax.spectrum.lanczos import begin, extend, projected, rotated
from landscape_jax.types import Eigs, MatVec, Params


def refine(
    matvec: MatVec, start: Params, k: int = 1, *, tol: float = 3e-3, num_steps: int = 16, max_rounds: int = 4
) -> tuple[Eigs, Array]:
    """The k largest eigenvalues to a relative error of about `tol`, from b > k good guesses, in as few products as it takes.

    Block Lanczos that stops as soon as, for each of the k values, min(r, r² / gap) ≤ tol · |θ₁|, where r is the residual
    and the gap that to the first value not asked for. A guess that is an eigenvector already leaves no residual, and
    then nothing would betray a rival that has grown beside it. Hence the guards: b − k guesses more than asked for, to
    which the products go first, and at least b + 1 products, so that the last guard always learns a new direction.

    Args:
      matvec: v ↦ A v, A symmetric.
      start: b guesses, leaves [b, ...], best first, b > k (or b = p).
      k: how many values.
      tol: relative to the largest value.
      num_steps: the Krylov depth, more than b + 1 (or p).
      max_rounds: how many rounds of `num_steps` products at most; a cold start may need several.
    Returns: `Eigs` of b pairs (all of them guesses for next time), and the number of products.

    Cost: b + 1 products at least; memory: num_steps + b vectors.
    Source: the estimate is B. Parlett 1998, The Symmetric Eigenvalue Problem, theorem 11.7.1.
    """
    b = jax.tree.leaves(start)[0].shape[0]
    p = tree.size(start) // b
    depth = min(num_steps, p)
    least = min(b + 1, depth)

    def error(values: Array, residuals: Array, count: Array) -> Array:
        gap = values[:k] - values[k] if depth > k else jnp.full(k, jnp.inf, values.dtype)  # [k]
        bound = residuals[:k] * jnp.minimum(1, residuals[:k] / jnp.maximum(gap, jnp.finfo(values.dtype).tiny))
        size = jnp.max(jnp.where(jnp.arange(depth) < count, jnp.abs(values), 0))
        # an exhausted space is exact, whatever its gaps
        return jnp.where(count < p, jnp.max(bound) / size, 0)

    def cycle(carry):
        vectors, _, made, rounds, _ = carry

        def more(inner):
            _, count, worst = inner
            return (count < depth) & ((count < least) | (worst > tol))

        def once(inner):
            krylov, count, _ = inner
            krylov = extend(matvec, krylov, count)
            values, _, residuals = projected(krylov, count + 1)
            return krylov, count + 1, error(values, residuals, count + 1)

        fresh = begin(jax.tree.map(lambda x: x[::-1], vectors), depth)
        unknown = jnp.full((), jnp.inf, fresh.gram.dtype)
        krylov, count, worst = jax.lax.while_loop(more, once, (fresh, 0, unknown))
        values, rotation, residuals = projected(krylov, count)
        eigs = Eigs(values[:b], rotated(krylov, rotation[:, :b]), residuals[:b])
        return eigs.vectors, eigs, made + count, rounds + 1, worst

    def going(carry):
        _, _, _, rounds, worst = carry
        return (worst > tol) & (rounds < max_rounds)

    real = tree.dtype(start)
    none = Eigs(jnp.zeros(b, real), start, jnp.zeros(b, real))
    _, eigs, made, _, _ = jax.lax.while_loop(going, cycle, (start, none, 0, 0, jnp.full((), jnp.inf, real)))
    return eigs, made
