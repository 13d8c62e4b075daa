"""The whole spectrum at once, by stochastic Lanczos quadrature."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from landscape_jax import tree
from landscape_jax.arguments import count, product, require
from landscape_jax.backend import layout
from landscape_jax.backend.eigh import eigh
from landscape_jax.spectrum.lanczos import lanczos, packed, recurrence
from landscape_jax.spectrum.rayleigh_ritz import solve_projected
from landscape_jax.types import Estimate, Key, MatVec, Params


class Density(NamedTuple):
    """A Gauss quadrature of the spectral density for each random probe: Σ_i w_si f(θ_si) ≈ tr f(A) / p for every s."""

    nodes: Array  # [s, m], descending
    weights: Array  # [s, m], not negative; each row sums to 1


def density(
    matvec: MatVec,
    key: Key,
    like: Params,
    *,
    num_probes: int = 10,
    num_steps: int = 64,
    batch_size: int | None = None,
    reorthogonalise: bool = True,
) -> Density:
    """φ(t) = (1/p) Σ_j δ(t − λ_j) by Lanczos from random probes z on the unit sphere:

        tr f(A) / p = E zᵀ f(A) z,   zᵀ f(A) z ≈ Σ_i w_i f(θ_i)

    with θ the Ritz values and w the squared first row of their coefficients; exact, for each probe, for polynomials f up to
    degree 2m − 1.

    Args:
      matvec: v ↦ A v, A symmetric.
      like: a vector A acts on, e.g. θ.
      num_probes: s; the standard error falls as 1/√(s p).
      num_steps: m, the resolution is about (λ_max − λ_min)/m, finer near the ends; more than p are not made.
      batch_size: probes at once, each with its vectors of memory: one by default, more to fill an accelerator.
      reorthogonalise: False keeps three vectors for each probe in place of m + 1, and costs no more than the products. Moments
        and curves no finer than a hundredth of the range (the default of `smoothed`) are the same to rounding. But eigenvalues
        that have converged appear as several nodes, and the rest is resolved less: the trace of a function with detail near 0,
        such as log(1 + 100 λ²), can be wrong by half.
    Returns: `Density(nodes [s, m], weights [s, m])`. See `smoothed` for a curve with its error.

    Cost: s·m products; memory: m + 1 vectors for each probe at once, or 3.
    Source: S. Ubaru, J. Chen, Y. Saad 2017, SIAM J. Matrix Anal. 38(4), 1075–1099; B. Ghorbani et al. 2019, arXiv 1901.10159.

    >>> matvec = lj.curvature.hessian(loss)(params, batch)
    >>> found = lj.spectrum.density(matvec, key, params, num_probes=4, num_steps=6)
    >>> found.nodes.shape, found.weights.shape
    ((4, 6), (4, 6))
    """
    matvec = product("density", matvec)
    require("density", key=key)
    tree.check(like, "like")
    count("density", num_probes=num_probes, num_steps=num_steps)
    m, slack = min(num_steps, tree.size(like)), float(jnp.finfo(tree.dtype(like)).eps) ** 0.5

    def probe(key: Key) -> Density:
        start = layout.pack(tree.normal_like(key, like))
        if reorthogonalise:
            block = jax.tree.map(lambda x: x[None], start)
            nodes, rotation, *_ = solve_projected(lanczos(packed(matvec), block, m, slack=slack), m)
        else:
            alpha, beta = recurrence(packed(matvec), start, m)
            nodes, rotation = (x[..., ::-1] for x in eigh(jnp.diag(alpha) + jnp.diag(beta[:-1], 1)))
        weights = rotation[0] ** 2  # [m], the first row: the start vector in the eigenbasis
        return Density(nodes, weights / jnp.sum(weights))

    return map_probes(probe, key, num_probes, batch_size)


def smoothed(density: Density, grid: Array, width: float | Array | None = None) -> Estimate:
    """The density on a grid, its lines drawn as Gaussians of a given width σ, with the standard error over probes.

        φ_σ(t) = E Σ_i w_i exp(−(t − θ_i)² / 2σ²) / (σ √2π)

    Args:
      density: what `density` gave.
      grid: t, [g].
      width: the Gaussians' standard deviation, positive; default: a hundredth of the range of the nodes. Where these are one
        number to rounding, as for A = c I, the density is a single line without a width of its own, and a hundredth of the
        range of the grid is the default.
    Returns: `Estimate(value [g], error [g])`, per unit of t; value ± 2 error is a 95 % band, NaN for a single probe.

    >>> matvec = lj.curvature.hessian(loss)(params, batch)
    >>> found = lj.spectrum.density(matvec, key, params, num_probes=4, num_steps=6)
    >>> lj.spectrum.smoothed(found, jnp.linspace(-1, 2, 50), width=0.1).value.shape
    (50,)
    """
    nodes, weights = density
    if isinstance(width, float | int) and not width > 0:
        raise ValueError(f"smoothed: width={width} must be positive: the lines have no height otherwise")
    width = _default_width(nodes, grid) if width is None else jnp.asarray(width, nodes.dtype)

    def curve(probe: Density) -> Array:  # [g]
        lines = jnp.exp(-0.5 * ((grid[:, None] - probe.nodes[None]) / width) ** 2)  # [g, m]
        return lines @ probe.weights / (width * jnp.sqrt(2 * jnp.pi).astype(width.dtype))

    return mean_with_error(jax.lax.map(curve, density))


def _default_width(nodes: Array, grid: Array) -> Array:
    """A hundredth of a range: of the nodes' if there is one beyond rounding, else of the grid's, else of 100."""
    nodes_range, grid_range = jnp.ptp(nodes), jnp.ptp(grid).astype(nodes.dtype)
    is_line = nodes_range <= 100 * jnp.finfo(nodes.dtype).eps * jnp.max(jnp.abs(nodes))
    return jnp.where(is_line, jnp.where(grid_range > 0, grid_range, 100), nodes_range) / 100


def function_trace(f: Callable[[Array], Array], matvec: MatVec, key: Key, like: Params, **options) -> Estimate:
    """tr f(A) = p E[Σ_i w_i f(θ_i)], with its standard error over probes: log-determinants, effective dimensions, powers.

    Args:
      f: a real function of an array of eigenvalues, elementwise.
      options: as for `density`; `reorthogonalise=False` is for f as smooth as a polynomial of low degree on the range of A.
    Returns: `Estimate(value [], error [])`. Cost, source: as for `density`.

    >>> square = lj.spectrum.function_trace(jnp.square, lambda v: 2 * v, key, jnp.ones(5), num_probes=3)
    >>> square.value.round(3)
    Array(20., dtype=float32)
    """
    require("function_trace", f=f, matvec=matvec, key=key)
    nodes, weights = density(matvec, key, like, **options)
    return mean_with_error(tree.size(like) * jnp.sum(weights * f(nodes), axis=1))


def map_probes(fn: Callable[[Key], object], key: Key, count: int, batch_size: int | None = None):
    """`fn` of `count` keys, one after another or `batch_size` at once; leaves [count, ...]. Keys are folded in within the loop:
    JAX's checks take a scan over split keys, vmapped, for a reuse of keys."""
    return jax.lax.map(lambda i: fn(jax.random.fold_in(key, i)), jnp.arange(count), batch_size=batch_size)


def mean_with_error(samples: Array) -> Estimate:
    """Mean and standard error of independent samples along the leading axis; the error of a single one is NaN."""
    s, unit = samples.shape[0], tree.unit(samples, axis=0)
    samples = samples / unit  # their squares neither vanish nor overflow
    value, error = jnp.mean(samples, axis=0), jnp.std(samples, axis=0, ddof=1) / s**0.5
    return Estimate(value * unit[0], error * unit[0])
