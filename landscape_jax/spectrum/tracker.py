"""Leading eigenpairs of an operator that changes a little from one look to the next."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from landscape_jax import tree
from landscape_jax.spectrum.block import refine
from landscape_jax.spectrum.restarted import eigsh
from landscape_jax.types import Eigs, MatVec, Params

GUARDS = 2  # eigenvectors remembered beyond those asked for
PERIOD = 8  # updates from one full round to the next
Memory = Any  # (stack of the last update, stack of the one before, how many were made); without a tolerance where to start


class Tracker(NamedTuple):
    """Eigenpairs that are followed."""

    init: Callable  # θ ↦ m₀
    update: Callable  # (matvec, m) ↦ (m', Eigs of k pairs)


def tracker(k: int = 1, num_steps: int = 12, *, tol: float | None = 2e-3, period: int = PERIOD) -> Tracker:
    """The k largest eigenvalues with their vectors, each value to a relative error of about `tol`, from look to look.

    The memory holds the leading k + 2 eigenvectors of the last two looks, and each look refines (`refine`) those of the one
    *before* last: at the edge of stability θ hops between two sides of a valley, and the Hessian hops with it, so that the
    eigenvectors of two steps ago are the better guess there, and elsewhere no worse one. The two beyond k, and the k best
    of the last look, are guards: rivals that may overtake, and eigenvalues gather at 2/η, so that rivals do. One that no
    guard knows leaves no trace in the residuals; hence every look of number `period` · i is a full round of products.

    Args:
      k: how many eigenpairs.
      num_steps: the Krylov depth, at least k; it bounds the memory, not the products (a cold start may take
        several rounds); for k > 1 at least 4k + 8.
      tol: relative to the largest |eigenvalue| found. A vector's angle to the true one is about √(tol · λ₁ / its gap).
        None: each look is Lanczos by itself, exactly `num_steps` products from a fixed direction, and nothing is remembered.
        That is the way where looks are so far apart that old vectors are no guesses: along SGD, at every 60th step of an MLP
        on digits, 22 products found five values to 4e-4, where following them took 50.
      period: 1 makes every look a full round: for looks so far apart that little is left of the last.
    Cost: 2k + 3 products a look at least, and num_steps + 6k + 8 vectors of memory; without a tolerance num_steps of each.
    """
    if k < 1 or k > num_steps:
        raise ValueError(f"k={k} eigenpairs must be at least 1 and at most num_steps={num_steps}")
    if period < 1:
        raise ValueError(f"tracker: period={period} must be at least 1: the looks from one full round to the next")
    depth = max(num_steps, 2 * (2 * k + GUARDS) + 4)

    def fits(params: Params) -> int:
        p = tree.size(params)
        if k > p:
            raise ValueError(f"k={k} eigenpairs are more than the p={p} parameters have")
        return p

    def begin_afresh(params: Params) -> Memory:
        fits(params)
        return tree.scattered_like(0, params)

    def afresh(matvec: MatVec, start: Memory) -> tuple[Memory, Eigs]:
        return start, eigsh(matvec, start, k, num_steps=num_steps)

    if tol is None:
        return Tracker(begin_afresh, afresh)

    def init(params: Params) -> Memory:
        p = fits(params)
        start = jax.vmap(lambda i: tree.scattered_like(i, params))(jnp.arange(min(k + GUARDS, p)))
        return start, start, jnp.int32(0)

    def update(matvec: MatVec, memory: Memory) -> tuple[Memory, Eigs]:
        last, before, made = memory
        rivals = jax.tree.map(lambda x: x[:k], last)
        start = jax.tree.map(lambda x, y: jnp.concatenate([x, y]), before, rivals)
        at_least = jnp.where(made % period == 0, depth, 0)
        eigs = refine(matvec, start, k, tol=tol, num_steps=depth, at_least=at_least)
        found = jax.tree.map(lambda x: x[: k + GUARDS], eigs.vectors)
        best = eigs._replace(values=eigs.values[:k], vectors=jax.tree.map(lambda x: x[:k], found), residuals=eigs.residuals[:k])
        return (found, last, made + 1), best

    return Tracker(init, update)
