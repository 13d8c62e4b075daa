"""Sharpness, followed from step to step."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.tree_util import Partial

from landscape_jax import spectrum, tree
from landscape_jax.types import Batch, Curvature, Key, Moment, Observable, Params

GUARDS = 2
Memory = Any  # (stack of the last measurement, stack of the one before)


def sharpness(
    curvature: Curvature, k: int = 1, num_steps: int = 12, batch: Batch | None = None, *, tol: float = 3e-3
) -> Observable:
    """The k largest eigenvalues of a curvature along a run, each to a relative error of about `tol`, tracked.

    The memory holds the leading k + 2 eigenvectors of the last two measurements, and each measurement refines those of
    the one *before* last (`spectrum.refine`). At the edge of stability θ hops between two sides of a valley, and the
    Hessian hops with it: the eigenvectors of two steps ago are the better guess there, and elsewhere no worse one. The
    two vectors beyond k are guards, each a rival that may overtake; eigenvalues gather at 2/η, so rivals do.

    Args:
      curvature: (θ, batch) ↦ (v ↦ A v), e.g. `curvature.hessian(loss)`.
      k: how many eigenvalues.
      num_steps: the Krylov depth, at least k; it bounds the memory, not the products (up to four rounds at a cold start).
      batch: where to measure; default: the batch of the step, as it comes.
      tol: relative to the largest |eigenvalue| found.
    Returns: an observable with values [] for k = 1 and [k] descending otherwise.

    Cost: k + 3 products a measurement at least, 5 to 7 on average at the edge for k = 1; num_steps + 3 (k + 2) vectors.
    Under vmap the runs wait for the slowest of them at each step.
    """
    if k < 1 or k > num_steps:
        raise ValueError(f"sharpness: k={k} must be at least 1 and at most num_steps={num_steps}")

    def init(batch: Batch, key: Key, params: Params) -> Memory:
        p = tree.size(params)
        if k > p:
            raise ValueError(f"sharpness: k={k} eigenvalues are more than the p={p} parameters have")
        start = jax.vmap(lambda i: tree.scattered_like(i, params))(jnp.arange(min(k + GUARDS, p)))
        return start, start

    def measure(batch: Batch, key: Key, memory: Memory, moment: Moment) -> tuple[Memory, Array]:
        last, before = memory
        matvec = curvature(moment.params, moment.batch if batch is None else batch)
        eigs, _ = spectrum.refine(matvec, before, k, tol=tol, num_steps=max(num_steps, k + GUARDS + 1))
        return (eigs.vectors, last), eigs.values[0] if k == 1 else eigs.values[:k]

    return Observable(Partial(init, batch), Partial(measure, batch))
