"""Sparse coding with a threshold: the ReLU network whose bias only large steps learn, and its mean model.

    network       f(x) = a⁻ Σᵢ relu(−xᵢ + b) + a⁺ Σᵢ relu(xᵢ + b),   x = λ y e_j + N(0, I_d),   loss mean log(1 + exp(−y f))
    mean model    A' = A − 2d²η ℓ'(A g(b)) g(b)        A = d (a⁻ + a⁺),   g(b) = E relu(z + b) = φ(b) + b Φ(b),   g' = Φ
                  b' = b − η ℓ'(A g(b)) A g'(b)        ℓ(s) = ½ [log(1 + e⁻ˢ) + log(1 + eˢ)],   ℓ' = ½ tanh(s/2)

The mean model is the network with its sums over coordinates replaced by their means, λ dropped and labels balanced. Its
minima are A = 0 at any b; the sharpness there, in (a⁻, a⁺, b), is d² g(b)²/2. From b = 0, with g(0)² = 1/(2π), this is
stable up to the **critical step η_c = 8π/d²**.

Below η_c gradient flow conserves A²/2 − 2d² κ(b), κ(b) = ∫₀ᵇ g/g', and comes to rest at κ(b∞) = −A₀²/(4d²): no bias is
learned, b∞ = O(1/d) for A₀² ~ d. Above it A flips sign at every step, and b falls until the sharpness allows A to rest, a
little below 2/η. Little by how much follows as for the single neuron (`theory.neuron`): with d²η g²/4 = 1 + ε and u = (A g)²,
ℓ' = (s/4)(1 − s²/12 + …) gives du/dt = 4u (ε − u/12) and dε/dt = −(η Φ²/(2g²)) u, so that on the attracting branch
ε∞ = −3 · η Φ²/(2g²) = −6 Φ²/(d² g⁴) to leading order.

Functions of a state are elementwise over arrays; use float64 for the mean model's orbits.

Source: network, data and regimes: K. Ahn et al. 2023, arXiv 2212.07469. The form of both models is as we understand it from
there; critical step and limits are derived from them.
"""

import math

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.stats import norm

from landscape_jax.types import Params


def critical_rate(dim: float, scale: float = 1.0) -> float:
    """η_c = 8π/(d² p²): above it A = 0, b = 0 is unstable; p is the standard deviation of the inputs' noise.

    >>> round(lj.theory.sparse_coding.critical_rate(10), 4)
    0.2513
    """
    return 8 * math.pi / (dim * scale) ** 2


# ── the network ───────────────────────────────────────────────────────────────────────────────────────────────────────


def init(minus, plus, dtype=float) -> Params:
    """θ₀ = (a⁻, a⁺, b = 0).

    >>> lj.theory.sparse_coding.init(-0.1, 0.2)["bias"]
    Array(0., dtype=float32)
    """
    return {"minus": jnp.asarray(minus, dtype), "plus": jnp.asarray(plus, dtype), "bias": jnp.zeros((), dtype)}


def combined(params: Params, sums: Array) -> Array:
    """f [n] = a⁻ S⁻ + a⁺ S⁺, from the sums [2, n] of active hinges.

    >>> theta = lj.theory.sparse_coding.init(-1.0, 2.0)
    >>> lj.theory.sparse_coding.combined(theta, jnp.array([[1.0], [3.0]]))  # −1 · 1 + 2 · 3
    Array([5.], dtype=float32)
    """
    return params["minus"] * sums[0] + params["plus"] * sums[1]


def apply(params: Params, x: Array) -> Array:
    """f(x) = a⁻ Σᵢ relu(−xᵢ + b) + a⁺ Σᵢ relu(xᵢ + b), [n] from x [n, d].

    >>> theta = lj.theory.sparse_coding.init(-1.0, 2.0)
    >>> lj.theory.sparse_coding.apply(theta, jnp.array([[1.0, -3.0]]))  # −1 · 3 + 2 · 1
    Array([-1.], dtype=float32)
    """
    return combined(params, jax.nn.relu(jnp.stack([-x, x]) + params["bias"]).sum(axis=-1))


# ── the mean model ────────────────────────────────────────────────────────────────────────────────────────────────────


def firing(b):
    """g(b) = E relu(z + b) = φ(b) + b Φ(b), z ~ N(0, 1); its slope is Φ(b).

    >>> round(float(lj.theory.sparse_coding.firing(0.0)), 4)  # 1/√(2π)
    0.3989
    """
    return norm.pdf(b) + b * norm.cdf(b)


def mean_step(a, b, rate, dim):
    """(A, b) after one step of gradient descent with rate η on the mean model.

    >>> a, b = lj.theory.sparse_coding.mean_step(1.0, 0.0, rate=0.1, dim=10)
    >>> bool(a < 1), bool(b < 0)
    (True, True)
    """
    g = firing(b)
    slope = 0.5 * jnp.tanh(0.5 * a * g)  # ℓ'(A g)
    return a - 2 * dim**2 * rate * slope * g, b - rate * slope * a * norm.cdf(b)


def mean_sharpness(b, dim):
    """d² g(b)²/2: the largest Hessian eigenvalue at the minimum A = 0, in (a⁻, a⁺, b).

    >>> round(float(lj.theory.sparse_coding.mean_sharpness(0.0, dim=10)), 3)
    7.958
    """
    return (dim * firing(b)) ** 2 / 2


def flow_limit(a0, dim, num_steps: int = 64) -> Array:
    """b∞ of gradient flow from A₀ and b = 0: κ(b∞) = −A₀²/(4d²), by Runge–Kutta steps of db/dκ = Φ/g.

    >>> bool(-0.1 < lj.theory.sparse_coding.flow_limit(1.0, dim=10) < 0)
    True
    """
    h = -(jnp.asarray(a0, float) ** 2) / (4 * dim**2) / num_steps

    def slope(b):
        return norm.cdf(b) / firing(b)

    def step(_, b):
        k1 = slope(b)
        k2 = slope(b + h / 2 * k1)
        k3 = slope(b + h / 2 * k2)
        k4 = slope(b + h * k3)
        return b + h * (k1 + 2 * k2 + 2 * k3 + k4) / 6

    return jax.lax.fori_loop(0, num_steps, step, jnp.zeros_like(h))


def inverse_firing(value, low: float = -12.0, high: float = 12.0) -> Array:
    """b with g(b) = value, by bisection to the last bit; low or high where it lies beyond.

    >>> round(float(lj.theory.sparse_coding.firing(lj.theory.sparse_coding.inverse_firing(0.2))), 4)
    0.2
    """
    value = jnp.asarray(value, float)

    def halved(_, ends):
        middle = (ends[0] + ends[1]) / 2
        above = firing(middle) > value
        return jnp.where(above, ends[0], middle), jnp.where(above, middle, ends[1])

    ends = jax.lax.fori_loop(0, 64, halved, (jnp.full_like(value, low), jnp.full_like(value, high)))
    return (ends[0] + ends[1]) / 2


def edge_limit(rate, dim) -> Array:
    """b∞ above the critical step, to leading order: g(b∞) = 2/(d√η), where the sharpness is 2/η.

    >>> rate = 4 * lj.theory.sparse_coding.critical_rate(10)
    >>> round(float(rate * lj.theory.sparse_coding.mean_sharpness(lj.theory.sparse_coding.edge_limit(rate, 10), 10)), 3)
    2.0
    """
    return inverse_firing(2 / (dim * jnp.asarray(rate, float) ** 0.5))


def next_edge_limit(rate, dim) -> Array:
    """b∞ above the critical step, to next order: g(b∞) = 2/(d√η) · √(1 − 6 Φ²/(d² g⁴)), with the correction at `edge_limit`.

    >>> rate = 2 * lj.theory.sparse_coding.critical_rate(30)
    >>> bool(lj.theory.sparse_coding.next_edge_limit(rate, 30) < lj.theory.sparse_coding.edge_limit(rate, 30))
    True
    """
    corrected = edge_sharpness(edge_limit(rate, dim), dim) ** 0.5
    return inverse_firing(2 / (dim * jnp.asarray(rate, float) ** 0.5) * corrected)


def edge_sharpness(b, dim):
    """η λ/2 = d²η g²/4 at the end, to next order: 1 − 6 Φ(b)²/(d² g(b)⁴) for b = b∞.

    >>> round(float(lj.theory.sparse_coding.edge_sharpness(0.0, dim=100)), 3)
    0.994
    """
    return 1 - 6 * norm.cdf(b) ** 2 / (dim**2 * firing(b) ** 4)
