"""The whole spectrum of a curvature, and how far it leans to the positive side, in time."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.tree_util import Partial

from landscape_jax import spectrum, tree
from landscape_jax.arguments import count, product_at, require
from landscape_jax.curvature.domain import domain
from landscape_jax.types import Batch, Curvature, Estimate, Key, MatVec, Moment, Observable, Params


def spectral_density(
    curvature: Curvature,
    *,
    batch: Batch | None = None,
    num_probes: int = 2,
    num_steps: int = 48,
    reorthogonalise: bool = True,
) -> Observable:
    """The spectral density at each look, by stochastic Lanczos quadrature.

    Args:
      curvature: (θ, batch) ↦ (v ↦ A v), symmetric.
      batch: where to measure it; default: the batch of the step.
      num_probes, num_steps, reorthogonalise: as for `spectrum.density`.
    Returns: an observable with values {"nodes" [s, m], "weights" [s, m]}; for a curve,
      `spectrum.smoothed(spectrum.Density(**record[name][t]), grid)`.

    Cost: s · m products a look.
    """

    require("spectral_density", curvature=curvature)
    count("spectral_density", num_probes=num_probes, num_steps=num_steps)

    def density(matvec: MatVec, key: Key, params: Params) -> dict[str, Array]:
        return spectrum.density(
            matvec, key, params, num_probes=num_probes, num_steps=num_steps, reorthogonalise=reorthogonalise
        )._asdict()

    return _of_matvec(curvature, density, batch)


def trace_ratio(curvature: Curvature, *, batch: Batch | None = None, num_probes: int = 30) -> Observable:
    """R = tr A/‖A‖_F at each look: √p for a multiple of the identity, −√p for its negative, 0 where both signs balance.

    Args:
      curvature, batch: as for `spectral_density`.
      num_probes: s; the error of R is about √(2/s).
    Returns: an observable with values `Estimate(value, error)` as {"value" [], "error" []}; 0 where A = 0.

    Cost: s products a look.
    Source: the quantity is that of S. Fort and A. Scherlis 2018, arXiv 1807.02581; the estimate M. Hutchinson's (1989).
    """
    require("trace_ratio", curvature=curvature)
    count("trace_ratio", 2, num_probes=num_probes)  # a standard error needs as many

    def ratio(matvec: MatVec, key: Key, params: Params) -> dict[str, Array]:
        return hutchinson_ratio(matvec, key, params, num_probes)._asdict()

    return _of_matvec(curvature, ratio, batch)


def hutchinson_ratio(matvec: MatVec, key: Key, like: Params, num_probes: int) -> Estimate:
    """tr A/‖A‖_F from s products with one and the same random signs: zᵀAz for the trace, ‖A z‖² for the norm.

    The standard error is the delta method's, with their covariance.
    """

    def probe(i: Array) -> tuple[Array, Array]:
        z = tree.rademacher_like(jax.random.fold_in(key, i), like)
        image = matvec(z)
        return tree.vdot(z, image), tree.norm(image)

    trace, length = jax.lax.map(probe, jnp.arange(num_probes))  # [s]
    unit = tree.unit(length)  # R is the same for any multiple of A
    trace, square = trace / unit, (length / unit) ** 2
    t, f = jnp.mean(trace), jnp.mean(square) ** 0.5
    value = t / jnp.where(f > 0, f, 1)
    slope = (trace - t - value / 2 * (square - f**2) / jnp.where(f > 0, f, 1)) / jnp.where(f > 0, f, 1)  # of R, probe by probe
    return Estimate(value, jnp.std(slope, ddof=1) / num_probes**0.5)


def _of_matvec(curvature: Curvature, measure: Any, batch: Batch | None) -> Observable:
    def init(batch: Batch, key: Key, params: Params):
        return ()

    def look(batch: Batch, key: Key, memory, moment: Moment):
        matvec = product_at("observe", curvature, moment.params, moment.batch if batch is None else batch)
        return memory, measure(matvec, key, domain(curvature, moment.params))

    return Observable(Partial(init, batch), Partial(look, batch))
