"""Sharpness and the sharpest directions, followed from step to step."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.tree_util import Partial

from landscape_jax import spectrum
from landscape_jax.arguments import product_at, require
from landscape_jax.curvature import preconditioned
from landscape_jax.curvature.domain import domain, embed
from landscape_jax.types import Batch, Curvature, Eigs, Key, Moment, Observable, Params

Measure = Callable[[Key, Eigs, Moment], Any]  # what to make of eigenpairs, and of the moment they are found at


def eigenpairs(
    curvature: Curvature,
    k: int,
    measure: Measure | Any,
    num_steps: int | None = None,
    batch: Batch | None = None,
    *,
    tol: float | None = 2e-3,
    guards: int = 5,
    preconditioner: Callable[[Any], Params] | None = None,
) -> Observable:
    """What `measure` makes of the k leading eigenpairs of a curvature, tracked along a run (`spectrum.tracker`).

    Args:
      curvature: (θ, batch) ↦ (v ↦ A v), e.g. `curvature.hessian(loss)`. Of a `restricted` one the measures see eigenvectors
        shaped like θ, with 0 where it does not act.
      k: how many eigenpairs.
      measure: (key, eigs, moment) ↦ value, any pytree of arrays; or a tree of such functions, e.g. a dict, which share the
        eigenpairs. The key is the observable's own, and of several measures each has another.
      num_steps: products of a round, at least k; default k + 3, and 2k + 10 where nothing is tracked.
      batch: where to measure the curvature; default: the batch of the step, as it comes.
      tol: of the values, relative to the largest |eigenvalue| found; None: no tracking, `num_steps` products at each look.
      guards: eigenvectors remembered beyond those asked for; more where eigenvalues crowd (`spectrum.tracker`).
      preconditioner: optimizer state ↦ P, e.g. `functools.partial(curvature.preconditioner, optimizer=optimizer)`: with it, the
        eigenpairs are those of P^-½ A P^-½ for the P of each step, which decide the stability of an adaptive optimizer
        (`theory.stability`).
    Cost: k products a measurement at least, little more where the curvature changes slowly. Memory: 3k + 3 guards +
    num_steps vectors.
    """
    require("eigenpairs", curvature=curvature)
    measures = [measure] if isinstance(measure, Observable) else jax.tree.leaves(measure, is_leaf=callable)
    for each in measures or [measure]:
        require("eigenpairs", measures=each)
    track = spectrum.tracker(k, num_steps, tol=tol, guards=guards)

    def init(batch: Batch, measure, key: Key, params: Params):
        return track.init(domain(curvature, params))

    def look(batch: Batch, measure, key: Key, memory, moment: Moment):
        matrix = curvature if preconditioner is None else preconditioned(curvature, preconditioner(moment.state))
        matvec = product_at("eigenpairs", matrix, moment.params, moment.batch if batch is None else batch)
        memory, eigs = track.update(matvec, memory, jnp.isfinite(moment.loss), moment.step)
        eigs = eigs._replace(vectors=embed(curvature, eigs.vectors, moment.params))
        measures, structure = jax.tree.flatten(measure, is_leaf=callable)
        keys = jax.random.split(key, len(measures)) if len(measures) > 1 else [key]
        return memory, structure.unflatten([each(own, eigs, moment) for each, own in zip(measures, keys, strict=True)])

    return Observable(Partial(init, batch, measure), Partial(look, batch, measure))


def sharpness(
    curvature: Curvature,
    k: int = 1,
    num_steps: int | None = None,
    batch: Batch | None = None,
    *,
    tol: float | None = 2e-3,
    guards: int = 5,
    preconditioner: Callable[[Any], Params] | None = None,
) -> Observable:
    """The k largest eigenvalues of a curvature along a run, each to a relative error of about `tol`, tracked.

    How they are tracked, and what is remembered for it, is told by `spectrum.tracker`; the arguments are those of
    `eigenpairs`.

    Returns: an observable with values [] for k = 1 and [k] descending otherwise.

    Cost: k products a measurement at least, 1.3 to 4 on average at the edge for k = 1. Memory: 3k + 3 guards +
    num_steps vectors.
    Under vmap the runs wait for the slowest of them at each step.
    """

    def values(key: Key, eigs: Eigs, moment: Moment) -> Array:
        return eigs.values[0] if k == 1 else eigs.values

    return eigenpairs(curvature, k, values, num_steps, batch, tol=tol, guards=guards, preconditioner=preconditioner)
