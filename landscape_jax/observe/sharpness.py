"""Sharpness, followed from step to step."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.tree_util import Partial

from landscape_jax import spectrum, tree
from landscape_jax.curvature import preconditioned
from landscape_jax.types import Batch, Curvature, Key, Moment, Observable, Params

GUARDS = 2  # eigenvectors remembered beyond those recorded
PERIOD = 8  # measurements from one full round to the next
Memory = Any  # (stack of the last measurement, stack of the one before, how many were made)


def sharpness(
    curvature: Curvature,
    k: int = 1,
    num_steps: int = 12,
    batch: Batch | None = None,
    *,
    tol: float = 2e-3,
    preconditioner: Callable[[Any], Params] | None = None,
) -> Observable:
    """The k largest eigenvalues of a curvature along a run, each to a relative error of about `tol`, tracked.

    The memory holds the leading k + 2 eigenvectors of the last two measurements, and each measurement refines
    (`spectrum.refine`) those of the one *before* last: at the edge of stability θ hops between two sides of a valley, and
    the Hessian hops with it, so that the eigenvectors of two steps ago are the better guess there, and elsewhere no worse
    one. The two beyond k, and the k best of the last measurement, are guards: rivals that may overtake, and eigenvalues
    gather at 2/η, so that rivals do. One that no guard knows leaves no trace in the residuals; hence every eighth
    measurement is a full round of `num_steps` products.

    Args:
      curvature: (θ, batch) ↦ (v ↦ A v), e.g. `curvature.hessian(loss)`.
      k: how many eigenvalues.
      num_steps: the Krylov depth, at least k; it bounds the memory, not the products (a cold start may take
        several rounds); for k > 1 at least 4k + 8.
      batch: where to measure; default: the batch of the step, as it comes.
      tol: relative to the largest |eigenvalue| found.
      preconditioner: optimizer state ↦ P, e.g. `curvature.preconditioner`: with it, the eigenvalues are those of P^-½ A P^-½
        for the P of each step, which is what an adaptive optimizer's stability hangs on (`theory.stability`).
    Returns: an observable with values [] for k = 1 and [k] descending otherwise.

    Cost: 2k + 3 products a measurement at least, 6 to 7 on average at the edge for k = 1. Memory: num_steps + 6k + 8
    vectors.
    Under vmap the runs wait for the slowest of them at each step.
    """
    if k < 1 or k > num_steps:
        raise ValueError(f"sharpness: k={k} must be at least 1 and at most num_steps={num_steps}")

    def init(batch: Batch, key: Key, params: Params) -> Memory:
        p = tree.size(params)
        if k > p:
            raise ValueError(f"sharpness: k={k} eigenvalues are more than the p={p} parameters have")
        start = jax.vmap(lambda i: tree.scattered_like(i, params))(jnp.arange(min(k + GUARDS, p)))
        return start, start, jnp.int32(0)

    def measure(batch: Batch, key: Key, memory: Memory, moment: Moment) -> tuple[Memory, Array]:
        last, before, made = memory
        rivals = jax.tree.map(lambda x: x[:k], last)
        start = jax.tree.map(lambda x, y: jnp.concatenate([x, y]), before, rivals)
        depth = max(num_steps, 2 * (2 * k + GUARDS) + 4)
        matrix = curvature if preconditioner is None else preconditioned(curvature, preconditioner(moment.state))
        matvec = matrix(moment.params, moment.batch if batch is None else batch)
        at_least = jnp.where(made % PERIOD == 0, depth, 0)
        eigs = spectrum.refine(matvec, start, k, tol=tol, num_steps=depth, at_least=at_least)
        found = jax.tree.map(lambda x: x[: k + GUARDS], eigs.vectors)
        return (found, last, made + 1), eigs.values[0] if k == 1 else eigs.values[:k]

    return Observable(Partial(init, batch), Partial(measure, batch))
