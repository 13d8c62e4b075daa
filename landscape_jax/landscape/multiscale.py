"""How the loss grows away from a minimum: ΔL ∝ r^p, with an exponent p(r) of its own at every distance r.

    at = line_minimum(loss, params, v, batch)               the lowest point on the line along v
    grown = profile(loss, at, v, radii, batch)              ΔL(r) and p(r), even part
    separate_scales(grown.exponent)                         how many knees and rises

A quadratic has p = 2, a loss that grows more slowly (subquadratic) p < 2; where p falls and rises again with r, separate
scales begin. The even part ½ (L(θ + rv) + L(θ − rv)) is taken, so that the slope that is left at θ does not give p = 1 at
small r, nor a cubic term; hence the minimum along the line.

Source: C. Ma, D. Kunin, L. Wu and L. Ying 2022, arXiv 2204.11326; these definitions are ours.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from landscape_jax import tree
from landscape_jax.curvature.forward import pushforward
from landscape_jax.types import Batch, Loss, Params

LOST = 1e4  # units in the last place of L that a difference must have


class Profile(NamedTuple):
    """Growth along one line."""

    radii: Array  # [n]
    rise: Array  # [n]: ΔL(r) = ½ (L(θ + rv) + L(θ − rv)) − L(θ)
    exponent: Array  # [n]: p(r) = d log ΔL / d log r; NaN where ΔL ≤ 0 or is lost in rounding, and beside


def line_minimum(
    loss: Loss, params: Params, direction: Params, batch: Batch, *, reach: float = 2.0, num: int = 401, num_bisections: int = 60
) -> Params:
    """θ + x v at the lowest x of a scan over [−reach, reach], then bisected to where the derivative along v is 0.

    Pure: jit it. An odd `num` has θ itself among the points.

    Args:
      direction: v; distances count in its length.
      num: points of the scan, at least 3; NaN among them is passed over.
    Cost: `num` losses and `num_bisections` directional derivatives.

    >>> parabola = lambda theta, batch: jnp.sum((theta - 1) ** 2)
    >>> lj.landscape.multiscale.line_minimum(parabola, jnp.zeros(1), jnp.ones(1), None).round(4)
    Array([1.], dtype=float32)
    """
    if num < 3 or not reach > 0:
        raise ValueError(f"line_minimum: num={num} must be at least 3 and reach={reach} positive")
    xs = jnp.linspace(-reach, reach, num, dtype=tree.dtype(params))
    scanned = jax.lax.map(lambda x: _along(loss, params, direction, batch, x)[0], xs)
    best = jnp.nanargmin(scanned)

    def halve(_, ends):
        middle = (ends[0] + ends[1]) / 2
        falls = _along(loss, params, direction, batch, middle)[1] < 0
        return jnp.where(falls, middle, ends[0]), jnp.where(falls, ends[1], middle)

    ends = xs[jnp.maximum(best - 1, 0)], xs[jnp.minimum(best + 1, num - 1)]
    low, high = jax.lax.fori_loop(0, num_bisections, halve, ends)
    return tree.axpy((low + high) / 2, direction, params)


def profile(loss: Loss, params: Params, direction: Params, radii: Array, batch: Batch) -> Profile:
    """ΔL(r) and p(r) around θ along v, even part. Pure: jit it, vmap it.

    p comes from differences of the logarithms between neighbouring radii: steps narrower than the grid, as of a saturated
    unit that flips, count as the rise that they make. Where ΔL is under 10⁴ units in the last place of L it is NaN, for
    rounding would decide it: at r ≪ 1 only float64 sees anything (θ, v and data in float64, within `jax.enable_x64`).

    Args:
      params: θ, a minimum along v: see `line_minimum`.
      direction: v, of any length; radii count in it.
      radii: r > 0, [n], increasing, n ≥ 2; logarithmically spaced for `separate_scales`.
    Cost: 2n losses.

    >>> quartic = lambda theta, batch: jnp.sum(theta**4)
    >>> lj.landscape.multiscale.profile(quartic, jnp.zeros(1), jnp.ones(1), jnp.array([1.0, 2.0, 4.0]), None).exponent.round(3)
    Array([4., 4., 4.], dtype=float32)
    """
    if radii.ndim != 1 or radii.size < 2:
        raise ValueError(f"profile: radii have shape {radii.shape}: give at least two, in a row, for an exponent between them")
    middle = loss(params, batch)

    def mean(r: Array) -> Array:
        return (loss(tree.axpy(r, direction, params), batch) + loss(tree.axpy(-r, direction, params), batch)) / 2

    rise = jax.lax.map(mean, radii) - middle
    seen = rise > LOST * jnp.finfo(rise.dtype).eps * jnp.abs(middle)
    return Profile(radii, rise, _exponent(radii, jnp.where(seen, rise, jnp.nan)))


def averaged(profiles: Profile) -> Profile:
    """The growth of the mean of several rises on the same radii, leaves [m, n].

    >>> radii, rises = jnp.array([[1.0, 2.0]] * 2), jnp.array([[1.0, 4.0], [3.0, 12.0]])
    >>> profiles = lj.landscape.multiscale.Profile(radii, rises, jnp.ones((2, 1)))
    >>> lj.landscape.multiscale.averaged(profiles).rise
    Array([2., 8.], dtype=float32)
    """
    radii, rise = profiles.radii[0], profiles.rise.mean(axis=0)
    seen = jnp.isfinite(profiles.exponent).all(axis=0)
    return Profile(radii, rise, jnp.where(seen, _exponent(radii, rise), jnp.nan))


def _exponent(radii: Array, rise: Array) -> Array:
    return jnp.asarray(jnp.gradient(jnp.log(rise), jnp.log(radii)))


def _along(loss: Loss, params: Params, direction: Params, batch: Batch, x: Array) -> tuple[Array, Array]:
    """L(θ + xv) and its derivative by x."""

    def on_line(x: Array) -> Array:
        return loss(tree.axpy(x, direction, params), batch)

    return on_line(x), pushforward(on_line, x, "line_minimum")(jnp.ones_like(x))


# ── what a profile says ───────────────────────────────────────────────────────────────────────────────────────────────


def smoothed(exponent, width: int = 5) -> np.ndarray:
    """The mean of `width` neighbours on the grid of radii, [n − width + 1]; NaN where one of them is.

    >>> lj.landscape.multiscale.smoothed([2.0, 2.0, 1.0, 1.0], width=2)
    array([2. , 1.5, 1. ])
    """
    if not 1 <= width <= len(exponent):
        raise ValueError(f"smoothed: width={width} must lie between 1 and the {len(exponent)} radii")
    return np.lib.stride_tricks.sliding_window_view(np.asarray(exponent, float), width).mean(axis=-1)


def separate_scales(exponent, width: int = 5, threshold: float = 1e-3) -> int:
    """How many scales begin beyond the first: interior local maxima of the smoothed p(r).

    Within one scale p falls, from 2 to where the loss saturates; a rise after a fall is another scale. 0 for a quadratic, and
    for one saturating scale.

    Args:
      exponent: p on logarithmically spaced radii, [n]; NaN is left out.
      threshold: steps between neighbours smaller than this count as neither rise nor fall.

    >>> lj.landscape.multiscale.separate_scales([2.0, 1.0, 0.5, 1.0, 1.5, 1.0, 0.5], width=1)
    1
    """
    steps = np.diff(smoothed(exponent, width))
    signs = np.sign(steps[np.abs(steps) > threshold])
    return int(np.sum((signs[:-1] > 0) & (signs[1:] < 0)))


def fitted_exponent(radii, rise, low: float, high: float) -> float:
    """The p of ΔL ∝ r^p that fits best, by least squares of the logarithms, over low < r < high.

    >>> r = np.geomspace(0.1, 1, 9)
    >>> round(lj.landscape.multiscale.fitted_exponent(r, 3 * r**1.5, 0.05, 2), 3)
    1.5
    """
    radii, rise = np.asarray(radii, float), np.asarray(rise, float)
    within = (radii > low) & (radii < high) & (rise > 0)
    if within.sum() < 2:
        raise ValueError(f"fitted_exponent: {within.sum()} radii with ΔL > 0 lie between {low:g} and {high:g}: two are needed")
    return float(np.polyfit(np.log(radii[within]), np.log(rise[within]), 1)[0])
