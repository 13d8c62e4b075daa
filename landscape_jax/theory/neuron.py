"""The single neuron: the smallest problem in which a large step chooses another minimum than a small one.

    L(x, y) = ℓ(xy),  ℓ even and convex, 1-Lipschitz, ℓ''(0) = 1;   r(s) = ℓ'(s)/s = 1 − c|s|^β + … decreases in |s|

Gradient descent, x' = x − η ℓ'(xy) y and y' = y − η ℓ'(xy) x, ends on x = 0, where the sharpness is y². It has one exact
law: the imbalance C = y² − x², which gradient flow conserves, shrinks (`imbalance_step`). From C₀ < 2/η the minimum that the
flow would reach is stable, and y∞² = C₀ − O(η). From C₀ > 2/η it is not: s = xy flips sign at every step and grows until
r(s) = 2/(η y²) (the envelope), C shrinks along with it, and all starts follow one curve to just below 2/η (`deficit`).

Derivation of the deficit. With y² = (2/η)(1 + ε) and w = |xy|, both slow over pairs of steps,

    dw/dt = 2w (ε − c w^β)          dε/dt = −η² w²          so that, with U = w²,      dU/dε = −(4/η²) (ε − c U^{β/2}).

The scales ε ~ η^{β/(β−1)} c^{−1/(β−1)} and w ~ (η/c)^{1/(β−1)} take η and c out. Falling ε draws all solutions to one branch,
the envelope U^{β/2} = ε while ε is large, which ends (U = 0) at a number −e_β below 0; hence 2/η − y∞² = 2 e_β (η/c)^{1/(β−1)}.
For β = 2 the equation is linear, its branch U = ε + ¼, e₂ = ¼ and the deficit η/(2c). As β → ∞ the branch is held at U = 1
while ε > 0 and then falls as 1 − 2ε²: e_∞ = 1/√2, a deficit of √2 at every small step.

All functions of a state are plain arithmetic, elementwise over arrays in the dtype these come in; use float64 for orbits.

Source: model and regimes: K. Ahn et al. 2023, arXiv 2212.07469. The law of C, and e_β for every β, are derived here.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp


class Potential(NamedTuple):
    """ℓ by its slope, and by how r(s) = ℓ'(s)/s leaves 1."""

    slope: Callable  # s ↦ ℓ'(s)
    beta: float  # r(s) = 1 − c|s|^β + …; inf: 1 up to |s| = 1
    c: float


def power(beta: float) -> Potential:
    """r(s) = (1 + |s|^β)^{−1/β}: for β = 2 ℓ = √(1 + s²), for large β almost `HUBER`.

    >>> round(float(lj.theory.neuron.power(2.0).slope(1.0)), 4)  # 1/√2
    0.7071
    """
    if not beta > 1:
        raise ValueError(f"power: beta={beta} must be above 1, or the orbit has no slow branch to end on")
    return Potential(lambda s: s * (1 + abs(s) ** beta) ** (-1 / beta), beta, 1 / beta)


LOG_COSH = Potential(jnp.tanh, 2.0, 1 / 3)
"""ℓ = log cosh s."""
ROOT = power(2.0)
"""ℓ = √(1 + s²)."""
HUBER = Potential(lambda s: s.clip(-1, 1), math.inf, 1.0)
"""ℓ = s²/2 up to |s| = 1, |s| − ½ beyond."""


def step(x, y, rate, potential: Potential):
    """(x, y) after one step of gradient descent with rate η.

    >>> x, y = lj.theory.neuron.step(0.0, 2.0, 0.1, lj.theory.neuron.ROOT)
    >>> float(x), float(y)
    (0.0, 2.0)
    """
    slope = potential.slope(x * y)
    return x - rate * slope * y, y - rate * slope * x


def imbalance(x, y):
    """C = y² − x²; at the minimum, its sharpness.

    >>> lj.theory.neuron.imbalance(1.0, 2.0)
    3.0
    """
    return y * y - x * x


def imbalance_step(c, slope, rate):
    """C' = C (1 − η² ℓ'(xy)²), exactly; slope is ℓ'(xy).

    >>> lj.theory.neuron.imbalance_step(3.0, slope=0.5, rate=1.0)
    2.25
    """
    return c * (1 - (rate * slope) ** 2)


def critical_rate(c):
    """2/C: the step above which the minimum that gradient flow reaches from imbalance C is unstable.

    >>> lj.theory.neuron.critical_rate(4.0)
    0.5
    """
    return 2 / c


def ratio(s, potential: Potential):
    """r(s) = ℓ'(s)/s, and 1 at s = 0.

    >>> float(lj.theory.neuron.ratio(0.0, lj.theory.neuron.ROOT))
    1.0
    """
    at_zero = s == 0
    return jnp.where(at_zero, 1.0, potential.slope(s) / jnp.where(at_zero, 1.0, s))


def envelope(s, rate, potential: Potential):
    """(x, y) with xy = s on the curve of bouncing orbits, r(s) = 2/(η y²), for s ≥ 0.

    >>> x, y = lj.theory.neuron.envelope(0.0, 0.5, lj.theory.neuron.ROOT)
    >>> float(x), float(y)  # y² = 2/η at s = 0
    (0.0, 2.0)
    """
    y = (2 / (rate * ratio(s, potential))) ** 0.5
    return s / y, y


def deficit(rate, potential: Potential):
    """2/η − y∞² = 2 e_β (η/c)^{1/(β−1)}, to leading order in η, from every start with η y₀²/2 − 1 well above η²/(4c).

    >>> round(float(lj.theory.neuron.deficit(0.1, lj.theory.neuron.ROOT)), 4)
    0.1
    """
    beta, c = potential.beta, potential.c
    return 2 * branch_end(beta) * (rate / c) ** (1 / (beta - 1))


def branch_end(beta: float, num_steps: int = 8000, start: float = 6.0) -> float:
    """e_β: where the branch of dU/dε = −4 (ε − U^{β/2}) that comes from U^{β/2} = ε ≫ 1 meets U = 0, at ε = −e_β.

    By Runge–Kutta steps downwards from ε = `start`, where the branch has long forgotten how it began.
    Error: about 1e-6.

    >>> round(lj.theory.neuron.branch_end(2.0), 3)
    0.25
    """
    if math.isinf(beta):
        return 1 / math.sqrt(2)
    h = (start + 1) / num_steps  # e_β < 1

    def fall(epsilon: float, u: float) -> float:  # −dU/dε
        return 4 * (epsilon - max(u, 0.0) ** (beta / 2))

    epsilon, u = start, start ** (2 / beta)
    while True:
        k1 = fall(epsilon, u)
        k2 = fall(epsilon - h / 2, u + h / 2 * k1)
        k3 = fall(epsilon - h / 2, u + h / 2 * k2)
        k4 = fall(epsilon - h, u + h * k3)
        after = u + h * (k1 + 2 * k2 + 2 * k3 + k4) / 6
        if after <= 0:
            return -(epsilon - h * u / (u - after))
        epsilon, u = epsilon - h, after
