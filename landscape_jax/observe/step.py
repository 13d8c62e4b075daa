"""The step against the curvature: what happens to the loss along each of the sharpest directions."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array
from jax.tree_util import Partial

from landscape_jax import losses, tree
from landscape_jax.arguments import require
from landscape_jax.observe.alignment import Vectors, update_taken
from landscape_jax.observe.sharpness import Measure, eigenpairs
from landscape_jax.types import Batch, Curvature, Eigs, Key, Loss, Moment, Observable, Params

MULTIPLES = (0.25, 0.5, 1.0, 2.0, 4.0)
PLACES = (-16.0, -8.0, -4.0, -2.0, -1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)


def changes(
    loss: Loss, multiples: Sequence[float] = MULTIPLES, steps: Vectors = update_taken, batch: Batch | None = None
) -> Measure:
    """ΔL = L(θ + α Π u) − L(θ), the mean over m steps u, for the parts Π u of a step and its multiples α.

    The parts are those along each of the k sharpest directions, (u·e_i) e_i; in their span; along a random direction,
    drawn anew for each u; and the whole of u. To second order, along e_i,

        E ΔL = α (ḡ·e_i) E[c] + ½ α² λ_i E[c²],    c = u·e_i,  ḡ = ∇L(θ) on `batch`,

    whose terms are recorded too: `theory.noisy_step` tells from them where the loss turns up.

    Args, cost, source: as for `step_effect`.
    Returns: a measure for `eigenpairs`, with the values of `step_effect`.
    """
    require("step_effect", loss=loss, steps=steps)
    alphas = tuple(float(a) for a in multiples)
    if not alphas:
        raise ValueError("step_effect: multiples is empty: pass at least one multiple of the step, e.g. (1.0, 2.0)")

    def measure(batch: Batch, steps: Vectors, key: Key, eigs: Eigs, moment: Moment):
        theta, sample, k = moment.params, moment.batch if batch is None else batch, len(eigs.values)
        losses.check(loss, theta, sample)
        own, other = jax.random.split(key)
        drawn = steps(own, moment)  # leaves [m, ...]
        here, slope = jax.value_and_grad(loss)(theta, sample)

        def of_one(j: Array) -> Array:
            u = tree.row(drawn, j)
            along = tree.dots(eigs.vectors, u)  # [k]
            random = tree.normal_like(jax.random.fold_in(other, j), u)
            random = tree.scale(tree.vdot(random, u) / tree.vdot(random, random), random)
            single = jax.vmap(lambda c, e: tree.scale(c, e))(along, eigs.vectors)
            rest = [tree.combine(along, eigs.vectors), random, u]
            parts = jax.tree.map(lambda s, *r: jnp.concatenate([s, jnp.stack(r)]), single, *rest)  # leaves [k + 3, ...]

            def moved(part: Params) -> Array:
                return jax.lax.map(lambda a: loss(tree.axpy(a, part, theta), sample) - here, jnp.array(alphas, here.dtype))

            return jax.lax.map(moved, parts)  # [k + 3, A]

        delta = jnp.mean(jax.lax.map(of_one, jnp.arange(tree.num_examples(drawn))), axis=0)
        c = jax.vmap(lambda u: tree.dots(eigs.vectors, u))(drawn)  # [m, k]
        return {
            "loss": here,
            "eigenvalues": eigs.values,
            "converged": eigs.converged,
            "slope": tree.dots(eigs.vectors, slope),
            "first": jnp.mean(c, axis=0),
            "second": jnp.mean(c**2, axis=0),
            "sharpest": delta[:k],
            "subspace": delta[k],
            "random": delta[k + 1],
            "whole": delta[k + 2],
        }

    return Partial(measure, batch, steps)


def step_effect(
    loss: Loss,
    curvature: Curvature,
    k: int = 5,
    *,
    multiples: Sequence[float] = MULTIPLES,
    steps: Vectors = update_taken,
    batch: Batch | None = None,
    num_steps: int | None = None,
    tol: float | None = 2e-3,
    guards: int = 5,
) -> Observable:
    """The `changes` of the loss along the k sharpest directions of a curvature, as an observable.

    Args:
      loss: (θ, batch) ↦ L.
      curvature: what e_i and λ_i are those of, e.g. `curvature.hessian(loss)`.
      k: how many directions.
      multiples: α, A numbers.
      steps: the steps u: the one that is made (`update_taken`), or what SGD would do on other minibatches
        (`redrawn(loss, batches, num, rate)`, with the run's own rate).
      batch: where loss and curvature are measured; default: the batch of the step. Give a fixed sample: on its own batch a
        step always looks good.
      num_steps, tol, guards: of the tracker, see `eigenpairs`.
    Returns: an observable with values {"loss" [], "eigenvalues" [k], "converged" [] bool, "slope" ḡ·e_i [k], "first" E[c] [k],
      "second" E[c²] [k], and ΔL as "sharpest" [k, A], "subspace" [A], "random" [A], "whole" [A]}.

    Cost: m A (k + 3) losses and one gradient on `batch`, one at a time; the tracker's products and what `steps` takes.
    Source: S. Jastrzębski et al. 2019, arXiv 1807.05031, §4.
    """
    return eigenpairs(curvature, k, changes(loss, multiples, steps, batch), num_steps, batch, tol=tol, guards=guards)


def sections(
    loss: Loss, places: Sequence[float] = PLACES, steps: Vectors = update_taken, batch: Batch | None = None
) -> Measure:
    """L(θ + a s_i e_i) along each of the k sharpest directions, in units s_i = E|u·e_i| of the step: the bowl, and how wide
    it is for those who step.

    e_i points to where the steps go on average, E[u·e_i] ≥ 0.

    Args, cost, source: as for `cross_sections`.
    Returns: a measure for `eigenpairs`, with values {"unit" s_i [k], "loss" [k, len(places)]}.
    """
    require("cross_sections", loss=loss, steps=steps)
    grid = tuple(float(a) for a in places)
    if not grid:
        raise ValueError("cross_sections: places is empty: pass where to look, in steps, e.g. (-1.0, 0.0, 1.0)")

    def measure(batch: Batch, steps: Vectors, key: Key, eigs: Eigs, moment: Moment):
        theta, sample = moment.params, moment.batch if batch is None else batch
        losses.check(loss, theta, sample)
        c = jax.vmap(lambda u: tree.dots(eigs.vectors, u))(steps(key, moment))  # [m, k]
        unit = jnp.mean(jnp.abs(c), axis=0)
        reach = jnp.where(jnp.mean(c, axis=0) < 0, -unit, unit)  # [k], signed

        def along(i: Array) -> Array:
            e = tree.row(eigs.vectors, i)
            return jax.lax.map(lambda a: loss(tree.axpy(a * reach[i], e, theta), sample), jnp.array(grid, reach.dtype))

        return {"unit": unit, "loss": jax.lax.map(along, jnp.arange(len(unit)))}

    return Partial(measure, batch, steps)


def cross_sections(
    loss: Loss,
    curvature: Curvature,
    k: int = 5,
    *,
    places: Sequence[float] = PLACES,
    steps: Vectors = update_taken,
    batch: Batch | None = None,
    num_steps: int | None = None,
    tol: float | None = 2e-3,
    guards: int = 5,
) -> Observable:
    """The `sections` of the loss along the k sharpest directions of a curvature, as an observable.

    Args:
      places: a, in steps.
      others: as for `step_effect`.
    Returns: an observable with values {"unit" s_i [k], "loss" [k, len(places)]}.

    Cost: k · len(places) losses, one at a time; the tracker's products and what `steps` takes.
    Source: S. Jastrzębski et al. 2019, arXiv 1807.05031, §4.
    """
    return eigenpairs(curvature, k, sections(loss, places, steps, batch), num_steps, batch, tol=tol, guards=guards)
