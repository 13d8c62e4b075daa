"""Losses of several scales in one dimension: the edge of stability by subquadratic growth, and why a decaying rate helps.

A toy is an even function f(x) with minimum 0 at 0. It is *subquadratic* where its secant curvature q(x) = f'(x)/x falls with
x > 0, that is where f'' < f'/x. Gradient descent x' = x − η f'(x) with η f''(0) > 2 then leaves 0, and since x → −x asks for
2x = η f'(x), there is exactly one symmetric two-cycle ±x*:

    f'(x*)/x* = 2/η          multiplier of one step 1 − η f''(x*), stable for 0 < η f''(x*) < 2

The upper bound holds of itself (f'' < f'/x); a superquadratic f has no such cycle beyond the edge and diverges. So at the
edge the *secant* curvature over the oscillation is 2/η, the curvature at the minimum above it, and the loss is stuck at
f(x*) until η falls: with several separate scales, at one plateau after the other.

All toys are elementwise `jax.numpy`; derivatives are those of autodiff.

Source: C. Ma, D. Kunin, L. Wu and L. Ying 2022, arXiv 2204.11326, for the ideas; toys and closed forms are derived here.
"""

import functools
import operator
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import Array

Toy = Callable[[Array], Array]  # x ↦ f(x), elementwise


def slope(toy: Toy) -> Toy:
    """f'(x), elementwise, for x of any shape.

    >>> float(lj.theory.multiscale.slope(lj.theory.multiscale.quartic)(2.0))  # x + x³
    10.0
    """
    return lambda x: jax.jvp(toy, (x,), (jnp.ones_like(x),))[1]


def curvature(toy: Toy) -> Toy:
    """f''(x).

    >>> float(lj.theory.multiscale.curvature(lj.theory.multiscale.quartic)(2.0))  # 1 + 3 x²
    13.0
    """
    return slope(slope(toy))


def secant(toy: Toy) -> Toy:
    """q(x) = f'(x)/x.

    >>> float(lj.theory.multiscale.secant(lj.theory.multiscale.quartic)(2.0))  # 1 + x²
    5.0
    """
    return lambda x: slope(toy)(x) / x


# ── one scale ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def log_cosh(x):
    """log cosh x: f' = tanh x.

    >>> round(float(lj.theory.multiscale.log_cosh(1.0)), 4)
    0.4338
    """
    return jnp.logaddexp(x, -x) - jnp.log(2.0).astype(jnp.result_type(x))


def pseudo_huber(x):
    """√(1 + x²) − 1, written without cancellation: x* = √(η²/4 − 1).

    >>> round(float(lj.theory.multiscale.pseudo_huber(1.0)), 4)
    0.4142
    """
    return x**2 / (1 + jnp.sqrt(1 + x**2))


def cauchy(x):
    """½ log(1 + x²): x* = √(η/2 − 1), stable only up to η = 4, for its slope falls beyond x = 1.

    >>> round(float(lj.theory.multiscale.cauchy(1.0)), 4)
    0.3466
    """
    return 0.5 * jnp.log1p(x**2)


def quartic(x):
    """½ x² + ¼ x⁴: superquadratic, diverges beyond the edge.

    >>> float(lj.theory.multiscale.quartic(2.0))
    6.0
    """
    return 0.5 * x**2 + 0.25 * x**4


def power(exponent: float | Array) -> Toy:
    """|x|^p, subquadratic for p < 2: x* = (η p/2)^{1/(2−p)}, multiplier 3 − 2p, plateau ∝ η^{p/(2−p)} at every η.

    >>> float(lj.theory.multiscale.power(1.5)(4.0))
    8.0
    """
    return lambda x: jnp.abs(x) ** exponent


def power_cycle(exponent, rate):
    """x* = (η p/2)^{1/(2−p)} of |x|^p.

    >>> float(lj.theory.multiscale.power_cycle(1.0, rate=0.5))  # of |x|
    0.25
    """
    return (rate * exponent / 2) ** (1 / (2 - exponent))


# ── several scales ────────────────────────────────────────────────────────────────────────────────────────────────────


def two_scale(sharp: float, flat: float, radius: float) -> Toy:
    """Curvature a for |x| < r and b < a beyond, with a continuous slope.

    >>> toy = lj.theory.multiscale.two_scale(sharp=4.0, flat=1.0, radius=1.0)
    >>> float(toy(0.5)), float(toy(2.0))
    (0.5, 6.5)
    """
    gap = sharp - flat

    def toy(x):
        beyond = 0.5 * flat * x**2 + gap * radius * jnp.abs(x) - 0.5 * gap * radius**2
        return jnp.where(jnp.abs(x) < radius, 0.5 * sharp * x**2, beyond)

    return toy


def two_scale_cycle(sharp, flat, radius, rate):
    """|x*| = (a − b) r/(2/η − b) for 2/a < η < 2/b.

    >>> lj.theory.multiscale.two_scale_cycle(4.0, 1.0, 1.0, rate=1.0)
    3.0
    """
    return (sharp - flat) * radius / (2 / rate - flat)


def staircase(magnitudes: Sequence[float], weights: Sequence[float]) -> Toy:
    """f(w) = Σ_k ρ_k (√(1 + (w x_k)²) − 1): one scale of width 1/x_k and curvature ρ_k x_k² for each magnitude x_k.

    >>> toy = lj.theory.multiscale.staircase(magnitudes=[1.0, 10.0], weights=[1.0, 0.01])
    >>> round(float(lj.theory.multiscale.curvature(toy)(0.0)), 3)  # Σ ρ x²
    2.0
    """

    def toy(w):
        steps = [rho * pseudo_huber(w * x) for x, rho in zip(magnitudes, weights, strict=True)]
        return functools.reduce(operator.add, steps)

    return toy


def two_cycle(toy: Toy, rate: Array, highest: float = 1e6, num_bisections: int = 200) -> Array:
    """x* > 0 with f'(x*)/x* = 2/η, by bisection on a logarithmic scale; 0 where η f''(0) ≤ 2. For subquadratic f.

    Args:
      rate: η, of any shape.
      highest: an upper bound on x*; a cycle beyond it is reported as NaN.

    >>> round(float(lj.theory.multiscale.two_cycle(lj.theory.multiscale.pseudo_huber, jnp.array(4.0))), 3)  # √(η²/4 − 1)
    1.732
    """
    target, q = 2 / rate, secant(toy)
    low, high = (jnp.full_like(rate, jnp.log(x)) for x in (1e-12, highest))

    def halve(_, ends):
        low, high = ends
        middle = (low + high) / 2
        above = q(jnp.exp(middle)) > target
        return jnp.where(above, middle, low), jnp.where(above, high, middle)

    low, high = jax.lax.fori_loop(0, num_bisections, halve, (low, high))
    found = jnp.where(q(jnp.full_like(rate, highest)) > target, jnp.nan, jnp.exp(high))
    return jnp.where(curvature(toy)(jnp.zeros_like(rate)) > target, found, 0.0)


def multiplier(toy: Toy, cycle: Array, rate: Array) -> Array:
    """1 − η f''(x*): the two-cycle ±x* is stable where this lies within (−1, 1).

    >>> toy, rate = lj.theory.multiscale.pseudo_huber, jnp.array(4.0)
    >>> round(float(lj.theory.multiscale.multiplier(toy, lj.theory.multiscale.two_cycle(toy, rate), rate)), 3)
    0.5
    """
    return 1 - rate * curvature(toy)(cycle)


# ── where scales come from ────────────────────────────────────────────────────────────────────────────────────────────


def saturating_loss(t: Array, magnitudes: Array, weights: Array, activation: Callable = jnp.tanh, centre: float = 0.0) -> Array:
    """L(t) = ½ Σ_x ρ(x) (φ((w* + t) x) − φ(w* x))², at distance t [...] from the minimum w* of a unit that sees data x [n].

    A datum of size x gives about ½ min((t x)², 1) under φ = tanh at w* = 0: a core of width 1/x with curvature x². Magnitudes
    far apart give separate scales, a continuum of them a power law. With φ(u) = u it is a parabola whatever the data. So it is,
    up to |t| = w*, with φ = relu, which does not saturate: relu(x u) = x relu(u) for x > 0, and L factorises,

        L(t) = ½ (relu(w* + t) − relu(w*))² Σ_x ρ(x) x²,

    so that magnitudes set its size and not its shape. The only scale is that of the kink, at the same t = −w* for every datum.

    >>> lj.theory.multiscale.saturating_loss(jnp.array([0.0, 100.0]), jnp.array([1.0, 2.0]), jnp.array([0.5, 0.5]))
    Array([0. , 0.5], dtype=float32)
    """
    at = jnp.tensordot(centre + t, magnitudes, axes=0)  # [..., n]
    return 0.5 * (activation(at) - activation(jnp.broadcast_to(centre * magnitudes, at.shape))) ** 2 @ weights


def continuum_exponent(q):
    """Magnitudes of density ρ(x) ∝ x^{−q} on [xmin, xmax] give L ∝ t^{min(q − 1, 2)} for 1/xmax ≪ t ≪ 1/xmin, 1 < q.

    ½ ∫ x^{−q} tanh²(tx) dx = ½ t^{q−1} ∫ u^{−q} tanh²(u) du, u = tx, which converges at 0 for q < 3 and at ∞ for q > 1. Near
    q = 3 a logarithm makes the approach slow.

    >>> float(lj.theory.multiscale.continuum_exponent(1.5)), float(lj.theory.multiscale.continuum_exponent(4.0))
    (0.5, 2.0)
    """
    return jnp.minimum(q - 1, 2.0)
