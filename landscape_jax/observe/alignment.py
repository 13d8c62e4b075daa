"""How much of a gradient, or of a step, lies along the sharpest directions."""

from collections.abc import Callable
from math import pi
from typing import cast

import jax
import jax.numpy as jnp
from jax import Array
from jax.tree_util import Partial

from landscape_jax import losses, tree
from landscape_jax.arguments import count, require
from landscape_jax.data.batches import check_repeats
from landscape_jax.observe.sharpness import Measure, eigenpairs
from landscape_jax.types import Batch, Batches, Curvature, Eigs, Key, Loss, Moment, Observable, Params

Vectors = Callable[[Key, Moment], Params]  # (key, moment) ↦ a stack of m vectors shaped like θ, leaves [m, ...]


def gradient_taken(key: Key, moment: Moment) -> Params:
    """∇L(θ_t, batch_t) alone, as a stack of one."""
    return jax.tree.map(lambda g: g[None], moment.grads)


def update_taken(key: Key, moment: Moment) -> Params:
    """θ_{t+1} − θ_t alone, whatever made it, as a stack of one."""
    return jax.tree.map(lambda u: u[None], moment.updates)


def redrawn(loss: Loss, batches: Batches, num: int = 10, rate: float | Callable = 1.0) -> Vectors:
    """The steps that SGD would make at θ_t on other minibatches: −η ∇L(θ_t, b_j), j = 1 … num, leaves [num, ...].

    The minibatches are drawn with the observable's own key; those of the run stay what they are.

    Args:
      batches: (key, step) ↦ batch, as given to the dynamics.
      rate: η, a number or optimizer state ↦ number, e.g. `lambda s: s.hyperparams["learning_rate"]`; for directions alone,
        any will do.
    Cost: `num` gradients, one at a time, and as many vectors.
    """
    require("redrawn", loss=loss, batches=batches)
    count("redrawn", num=num)
    check_repeats(batches)

    def stack(batches: Batches, rate, key: Key, moment: Moment) -> Params:
        eta = cast(float, rate(moment.state) if callable(rate) else rate)

        def one(j: Array) -> Params:
            batch = batches(jax.random.fold_in(key, j), moment.step)
            losses.check(loss, moment.params, batch)
            return tree.scale(-eta, jax.grad(loss)(moment.params, batch))

        return jax.lax.map(one, jnp.arange(num))

    return Partial(stack, batches, rate)


def overlaps(vectors: Vectors = gradient_taken) -> Measure:
    """|cos(v, e_i)| for the k sharpest directions e_i, and the part of ‖v‖² in their span, each the mean over m vectors v.

    Hold them against `random_cosine(p)` and k/p, which is what a random v gives. A vector of length 0 counts as 0.

    Returns: a measure for `eigenpairs`, with values {"eigenvalues" [k], "converged" [] bool, "cosines" [k], "energy" []}.
    """

    require("overlaps", vectors=vectors)

    def measure(vectors: Vectors, key: Key, eigs: Eigs, moment: Moment):
        drawn = vectors(key, moment)
        overlap = jax.vmap(lambda v: tree.dots(eigs.vectors, v))(drawn)  # [m, k]
        length = jax.vmap(tree.norm)(drawn)[:, None]  # [m, 1]
        cosines = jnp.where(length > 0, overlap / jnp.where(length > 0, length, 1), 0)
        energy = jnp.sum(cosines**2, axis=1)  # [m]
        cosines = jnp.mean(jnp.abs(cosines), axis=0)  # [k]
        return {"eigenvalues": eigs.values, "converged": eigs.converged, "cosines": cosines, "energy": jnp.mean(energy)}

    return Partial(measure, vectors)


def alignment(
    curvature: Curvature,
    k: int = 5,
    *,
    vectors: Vectors = gradient_taken,
    batch: Batch | None = None,
    num_steps: int | None = None,
    tol: float | None = 2e-3,
    guards: int = 5,
) -> Observable:
    """The `overlaps` of gradients or steps with the k sharpest directions of a curvature, as an observable.

    Args:
      curvature: (θ, batch) ↦ (v ↦ A v), e.g. `curvature.hessian(loss)`.
      k: how many eigenvectors, of the largest eigenvalues.
      vectors: what to hold against them: the gradient of the step (`gradient_taken`), its update (`update_taken`), or what
        other minibatches would give (`redrawn`).
      batch: where to measure the curvature; default: the batch of the step. Give a fixed sample, or the gradient and its
        own batch's curvature are compared.
      num_steps, tol, guards: of the tracker, see `eigenpairs`.
    Returns: an observable with values {"eigenvalues" [k], "converged" [] bool, "cosines" [k], "energy" []}.

    Cost: the tracker's products, k at least, and what `vectors` takes.
    Source: S. Jastrzębski et al. 2019, arXiv 1807.05031, §3.
    """
    return eigenpairs(curvature, k, overlaps(vectors), num_steps, batch, tol=tol, guards=guards)


def random_cosine(p: int) -> float:
    """E|cos| of a random direction with a fixed one in p dimensions: √(2/(πp)), low by a part 1/(4p)."""
    if p < 1:
        raise ValueError(f"random_cosine: p={p} must be at least 1: the number of parameters")
    return (2 / (pi * p)) ** 0.5
