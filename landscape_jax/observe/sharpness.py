"""Sharpness and the sharpest directions, followed from step to step."""

from collections.abc import Callable
from typing import Any

import jax
from jax import Array
from jax.tree_util import Partial

from landscape_jax import spectrum
from landscape_jax.arguments import count, product_at, require
from landscape_jax.curvature import preconditioned
from landscape_jax.curvature.domain import domain, embed
from landscape_jax.spectrum import Tracked
from landscape_jax.types import Batch, Curvature, Key, Moment, Observable, Params

Measure = Callable[[Key, Tracked, Moment], Any]  # what to make of eigenpairs, and of the moment they are found at


def eigenpairs(
    curvature: Curvature,
    k: int,
    measure: Measure | Any,
    num_steps: int | None = None,
    batch: Batch | None = None,
    *,
    smallest: int = 0,
    tol: float | None = 2e-3,
    guards: int = 5,
    preconditioner: Callable[[Any], Params] | None = None,
) -> Observable:
    """What `measure` makes of the k leading eigenpairs of a curvature, tracked along a run (`spectrum.tracker`).

    Args:
      curvature: (θ, batch) ↦ (v ↦ A v), e.g. `curvature.hessian(loss)`. Of a `restricted` one the measures see eigenvectors
        shaped like θ, with 0 where it does not act.
      k: how many of the largest eigenpairs.
      measure: (key, eigs, moment) ↦ value, any pytree of arrays; or a tree of such functions, e.g. a dict, which share the
        eigenpairs. The key is the observable's own, and of several measures each has another.
      num_steps: products that a look has room for (`spectrum.tracker`); default 10, or k + 3, and 2 (k + smallest) + 10 where
        nothing is tracked.
      batch: where to measure the curvature; default: the batch of the step, as it comes.
      smallest: how many of the smallest eigenpairs; they follow the largest.
      tol: of the values, relative to the largest |eigenvalue| found; None: no tracking, `num_steps` products at each look.
      guards: eigenvectors remembered beyond those asked for; more where eigenvalues crowd (`spectrum.tracker`).
      preconditioner: optimizer state ↦ P, e.g. `functools.partial(curvature.preconditioner, optimizer=optimizer)`: with it, the
        eigenpairs are those of P^-½ A P^-½ for the P of each step, which decide the stability of an adaptive optimizer
        (`theory.stability`).
    Cost: a product a measurement at least, few more where the curvature changes slowly. Memory: 3 (k + guards) + num_steps
    vectors at each end.
    """
    require("eigenpairs", curvature=curvature, **({} if preconditioner is None else {"preconditioner": preconditioner}))
    measures = [measure] if isinstance(measure, Observable) else jax.tree.leaves(measure, is_leaf=callable)
    for each in measures or [measure]:
        require("eigenpairs", measures=each)
    track = spectrum.tracker(k, num_steps, tol=tol, guards=guards, smallest=smallest)

    def init(batch: Batch, measure, key: Key, params: Params):
        return track.init(domain(curvature, params))

    def look(batch: Batch, measure, key: Key, memory, moment: Moment):
        matrix = curvature if preconditioner is None else preconditioned(curvature, preconditioner(moment.state))
        matvec = product_at("eigenpairs", matrix, moment.params, moment.batch if batch is None else batch)
        memory, eigs = track.update(matvec, memory, moment.alive, moment.step)
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
    smallest: int = 0,
    tol: float | None = 2e-3,
    guards: int = 5,
    preconditioner: Callable[[Any], Params] | None = None,
    told: bool = False,
) -> Observable:
    """The k largest and the `smallest` smallest eigenvalues of a curvature along a run, each to a relative error of about
    `tol`, tracked.

    How they are tracked, and what is remembered for it, is told by `spectrum.tracker`; the arguments are those of
    `eigenpairs`.

    Args:
      told: what is recorded. False: the values alone. True: {"value", "low", "high", "converged", "products"}: the value,
        between which bounds it lies, whether these are as narrow as `tol` asks, and how many products the look took.
    Returns: an observable with values [] for one eigenvalue and [k + smallest] descending otherwise; `converged` and
      `products` are of the look, [].

    Cost: one product a measurement for each at least, 1.2 to 4 on average at the edge for k = 1. Memory: as `eigenpairs`.
    Under vmap the runs wait for the slowest of them at each step.
    """
    count("sharpness", k=k, smallest=smallest, at_least=0)
    squeezed = (lambda x: x[0]) if k + smallest == 1 else (lambda x: x)

    def values(key: Key, eigs: Tracked, moment: Moment) -> Array | dict[str, Array]:
        if not told:
            return squeezed(eigs.values)
        bracket = {"value": squeezed(eigs.values), "low": squeezed(eigs.low), "high": squeezed(eigs.high)}
        return bracket | {"converged": eigs.converged, "products": eigs.products}

    options = {"smallest": smallest, "tol": tol, "guards": guards, "preconditioner": preconditioner}
    return eigenpairs(curvature, k, values, num_steps, batch, **options)
