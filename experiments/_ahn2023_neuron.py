"""Orbits of the single neuron, to hold against its closed forms (`landscape_jax.theory.neuron`). In float64 throughout."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments._float64 import float64
from landscape_jax.theory import neuron
from landscape_jax.theory.neuron import Potential

SMOOTH = {"log cosh": neuron.LOG_COSH, "√(1+s²)": neuron.ROOT}
VALUES = {"log cosh": lambda s: jnp.logaddexp(s, -s) - math.log(2), "√(1+s²)": lambda s: jnp.sqrt(1 + s * s)}
FAMILY = {"1.5": neuron.power(1.5), "2": neuron.ROOT, "3": neuron.power(3.0), "4": neuron.power(4.0), "∞": neuron.HUBER}
RATES = np.array([0.4, 0.2, 0.1, 0.05])  # [η]; claims judge from 0.2 on
STARTS = np.array([1.2, 1.3, 1.5])  # [s]: C₀ over 2/η
GRID_RATES = np.geomspace(0.05, 0.4, 24)
GRID_STARTS = np.linspace(0.2, 1.6, 57)
X0, STILL = 0.1, 1e-14
PLANE_RATE = 2 / 16
PLANE_Y = np.array([2.5, 3.25, 4.5, 5.25, 6.0, 7.0])  # starts of the orbits that are drawn
LEVELS = np.array([17.0, 18.0, 19.0])  # y² at which their |xy| is compared


@functools.partial(jax.jit, static_argnames="potential")
def rests(c0: Array, rate: Array, potential: Potential) -> dict[str, Array]:
    """Gradient descent from x = 0.1 and imbalances c0 until |xy| < 1e-14, all side by side: leaves like c0 and rate, broadcast.

    Returns: "end", the sharpness y² there; "steps"; "error", the largest deviation of C from its exact law on the way.
    """
    c0, rate = jnp.broadcast_arrays(c0, rate)

    def orbit(c0, rate):
        def moving(carry):
            (x, y), _, _ = carry
            return jnp.abs(x * y) > STILL

        def step(carry):
            (x, y), error, count = carry
            law = neuron.imbalance_step(neuron.imbalance(x, y), potential.slope(x * y), rate)
            x, y = neuron.step(x, y, rate, potential)
            return (x, y), jnp.maximum(error, jnp.abs(neuron.imbalance(x, y) - law)), count + 1

        start = jnp.asarray(X0, c0.dtype)
        (_, y), error, count = jax.lax.while_loop(moving, step, ((start, jnp.sqrt(c0 + start**2)), 0.0 * c0, 0))
        return {"end": y * y, "error": error, "steps": count}

    flat = jax.vmap(orbit)(c0.ravel(), rate.ravel())
    return jax.tree.map(lambda x: x.reshape(c0.shape), flat)


@functools.partial(jax.jit, static_argnames=("potential", "num_steps"))
def orbits(x: Array, y: Array, rate: Array, potential: Potential, num_steps: int) -> tuple[Array, Array]:
    """x and y at steps 0 … num_steps − 1, [start, step]."""

    def step(state, _):
        x, y = state
        return neuron.step(x, y, rate, potential), state

    xs, ys = jax.lax.scan(step, (x, y), length=num_steps)[1]
    return xs.T, ys.T


@functools.partial(jax.jit, static_argnames="name")
def autodiff_error(draws: Array, name: str) -> Array:
    """The largest |C' − C (1 − η² ℓ'²)| over draws (x, y, η) [n, 3], with x' and y' by autodiff of L = ℓ(xy)."""
    grads = jax.vmap(jax.grad(lambda p: VALUES[name](p[0] * p[1])))(draws[:, :2])
    after = draws[:, :2] - draws[:, 2:] * grads
    law = neuron.imbalance_step(neuron.imbalance(*draws[:, :2].T), grads[:, 0] / draws[:, 1], draws[:, 2])
    return jnp.max(jnp.abs(neuron.imbalance(*after.T) - law))


def simulate(key) -> dict[str, dict]:
    """ "smooth" and "family": [potential, rate, start] above the critical step; "below": [potential, rate] at half of it;
    "grid" (log cosh): [rate, start]; "plane": orbits in the (x, y) plane [start, step]; "law_error" []."""
    with float64():
        rates, starts = jnp.asarray(RATES)[:, None], jnp.asarray(STARTS)[None]

        def above(potentials):
            return _stacked([rests(starts * 2 / rates, rates, p) for p in potentials.values()])

        draws = jax.random.uniform(key, (100, 3), jnp.float64, 0.05, 3.0)
        grid_rates = jnp.asarray(GRID_RATES)[:, None]
        below = _stacked([rests(0.5 * 2 / rates[:, 0], rates[:, 0], p) for p in SMOOTH.values()])
        begin = jnp.full(PLANE_Y.shape, 0.3), jnp.asarray(PLANE_Y)
        plane = orbits(*begin, jnp.asarray(PLANE_RATE), neuron.LOG_COSH, 400)
        return jax.tree.map(
            np.asarray,
            {
                "smooth": above(SMOOTH),
                "family": above(FAMILY),
                "below": below,
                "grid": rests(jnp.asarray(GRID_STARTS)[None] * 2 / grid_rates, grid_rates, neuron.LOG_COSH),
                "plane": dict(zip("xy", plane, strict=True)),
                "law_error": jnp.max(jnp.stack([autodiff_error(draws, name) for name in SMOOTH])),
            },
        )


def _stacked(cells: list[dict]) -> dict[str, Array]:
    return jax.tree.map(lambda *x: jnp.stack(x), *cells)


# ── what the orbits say: (numbers, passed) for the record's "neuron" ──────────────────────────────────────────────────

JUDGED = RATES <= 0.2


def law(found) -> tuple[dict, bool]:
    error = float(found["law_error"])
    along = max(float(found[part]["error"].max()) for part in ("smooth", "family", "below", "grid"))
    return {"100 draws, autodiff": error, "along all orbits": along}, max(error, along) < 1e-12


def edge_deficit(found) -> tuple[dict, bool]:
    """(2/η − y∞²)/(η/(2c))."""
    shown, good = {}, True
    for (name, potential), ends in zip(SMOOTH.items(), found["smooth"]["end"], strict=True):
        ratio = (2 / RATES[:, None] - ends) / (RATES[:, None] / (2 * potential.c))  # [rate, start]
        shown[name] = {f"η={rate:g}": row.round(4).tolist() for rate, row in zip(RATES[JUDGED], ratio[JUDGED], strict=True)}
        good &= bool((np.abs(ratio[JUDGED] - 1) <= 0.03).all())
    return shown, good


def flow(found) -> tuple[dict, bool]:
    """(C₀ − y∞²)/η."""
    lost = (0.5 * 2 / RATES - found["below"]["end"])[:, JUDGED] / RATES[JUDGED]  # [potential, rate]
    return dict(zip(SMOOTH, lost.round(3).tolist(), strict=True)), bool(((lost >= 0) & (lost <= 0.5)).all())


def exponents(found) -> tuple[dict, bool]:
    """Slopes of the deficit in η, by least squares in the logarithms, and deficits over their closed form."""
    shown, good = {}, True
    for (name, potential), ends in zip(FAMILY.items(), found["family"]["end"], strict=True):
        deficits = (2 / RATES[:, None] - ends)[JUDGED, 1]  # from C₀ = 1.3 · 2/η
        slope = float(np.polyfit(np.log(RATES[JUDGED]), np.log(deficits), 1)[0])
        expected = 1 / (potential.beta - 1)
        closed = deficits / neuron.deficit(RATES[JUDGED], potential)
        shown[f"β={name}"] = {"slope": slope, "1/(β−1)": round(expected, 4), "over the closed form": closed.round(4).tolist()}
        good &= name not in ("1.5", "2", "3") or abs(slope - expected) <= 0.05
    return shown, good


def one_curve(found) -> tuple[dict, bool]:
    """How far the orbits from above 2/η are from each other, and from the envelope, where they bounce."""
    x, y = found["plane"]["x"], found["plane"]["y"]
    high = PLANE_Y**2 - 0.3**2 > 1.2 * 2 / PLANE_RATE
    size = np.abs(x * y)[high]
    at = [np.exp(np.interp(-LEVELS, -(row**2), np.log(s))) for row, s in zip(y[high], size, strict=True)]  # y² falls
    spread = np.ptp(at, axis=0) / np.min(at, axis=0)
    r = np.where(size > 0, np.tanh(size) / np.maximum(size, 1e-300), 1) * PLANE_RATE * y[high] ** 2 / 2
    bouncing = (y[high] ** 2 > 16.8) & (np.arange(y.shape[1]) >= 20)
    near = r[bouncing]
    measured = {"spread of |xy| at y² = 17, 18, 19": spread.tolist(), "r·ηy²/2": [float(near.min()), float(near.max())]}
    return measured, bool((spread <= 0.01).all() and 0.98 <= near.min() and near.max() <= 1.02)
