"""Gradient descent on losses of one and several scales, and the losses of one unit on data of many magnitudes. In float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments._float64 import float64
from landscape_jax.theory import multiscale as toys

CYCLES = {"log_cosh": toys.log_cosh, "pseudo_huber": toys.pseudo_huber, "cauchy": toys.cauchy}
CYCLE_RATES = np.array([1.5, 2.5, 3.0, 4.0, 6.0])  # η, for f''(0) = 1
POWERS, POWER_RATES = np.array([1.2, 1.5, 1.8]), np.array([0.2, 0.1, 0.05, 0.025])
SHARP, FLAT, RADIUS, SLOW = 100.0, 1.0, 0.05, 0.2  # a, b, r of the two scales, and μ of the slow direction
BIG, SMALL = 0.5, 0.015
SCHEDULES = {"big": (BIG, 600), "small": (SMALL, 600), "big, then small": (BIG, 300), "decay too early": (BIG, 60)}
STAIRCASE = (1.0, 30.0, 1000.0), (1.0, 0.05, 0.0025)  # magnitudes x, weights ρ
STAIR_RATES = np.geomspace(1e-4, 1.5, 14)
DECAYS, DECAY_STEPS = np.array([0.5, 0.1, 0.02, 4e-3, 8e-4, 1.6e-4]), 200
QS = np.array([1.5, 2.0, 2.5, 2.9, 3.5])  # tails of the magnitudes' density
DISTANCES = np.geomspace(1e-6, 10, 141)
SEPARATED = np.array([1.0, 1e2, 1e4]), np.array([1.0, 0.1, 0.01])  # magnitudes, weights
SEPARATED_AT, SEPARATED_P = 10 ** np.array([-5.5, -4, -3, -2, -1.2, 0]), np.array([2, 1.1, 0.18, 0.94, 0.07, 0.92])


@functools.partial(jax.jit, static_argnums=(0, 3))
def descent(toy: toys.Toy, x: Array, rate: Array, num_steps: int) -> Array:
    """x after `num_steps` of x' = x − η f'(x), elementwise."""
    return jax.lax.fori_loop(0, num_steps, lambda _, x: x - rate * toys.slope(toy)(x), x)


@functools.partial(jax.jit, static_argnums=0)
def scheduled(toy: toys.Toy, x: Array, rates: Array) -> Array:
    """The losses before each step of gradient descent with rates [T, ...]: [T, ...]."""

    def step(x, rate):
        return x - rate * toys.slope(toy)(x), toy(x)

    return jax.lax.scan(step, x, rates)[1]


def measured() -> dict[str, dict]:
    """Everything about the toys; nothing in it is random."""
    with float64():
        found = {"cycles": _cycles(), "powers": _powers(), "two_scale": _two_scale(), "staircase": _staircase()}
        return jax.tree.map(np.asarray, found | {"continuum": _continuum(), "separated": _separated()})


def _cycles() -> dict:
    rates, start = jnp.asarray(CYCLE_RATES), jnp.full(len(CYCLE_RATES), 0.3)
    found: dict = {"rate": rates}
    for name, toy in CYCLES.items():
        cycle = toys.two_cycle(toy, rates)
        late = jnp.abs(descent(toy, start, rates, 20_000))
        found[name] = {"predicted": cycle, "settled": late, "multiplier": toys.multiplier(toy, cycle, rates)}
    gone = ~(jnp.abs(scheduled(toys.quartic, jnp.array(0.01), jnp.full(200, 2.05))) < 1e6)
    return found | {"quartic_diverges_at": jnp.where(gone.any(), jnp.argmax(gone), -1)}


def _powers() -> dict:
    p, rate = jnp.asarray(POWERS)[:, None], jnp.asarray(POWER_RATES)[None]
    toy = toys.power(p)
    late = descent(toy, jnp.full((len(POWERS), len(POWER_RATES)), 0.7), rate, 200_000)
    return {"p": POWERS, "rate": POWER_RATES, "plateau": toy(late), "predicted": toy(toys.power_cycle(p, rate))}


def _two_scale() -> dict:
    """L = f(x) + ½ μ y² from (3, 3), under four schedules."""
    toy, steps = toys.two_scale(SHARP, FLAT, RADIUS), jnp.arange(600)[:, None]
    rates = jnp.where(
        steps < jnp.array([until for _, until in SCHEDULES.values()])[None],
        jnp.array([rate for rate, _ in SCHEDULES.values()])[None],
        SMALL,
    )  # [T, schedule]
    start = jnp.full(len(SCHEDULES), 3.0)
    loss = scheduled(toy, start, rates) + scheduled(lambda y: 0.5 * SLOW * y**2, start, rates)
    return {"loss": loss.T, "predicted": toy(jnp.array(toys.two_scale_cycle(SHARP, FLAT, RADIUS, BIG)))}


def _staircase() -> dict:
    toy, rates = toys.staircase(*STAIRCASE), jnp.asarray(STAIR_RATES)
    late = descent(toy, jnp.full(len(rates), 3.0), rates, 60_000)
    decays = scheduled(toy, jnp.array(3.0), jnp.repeat(jnp.asarray(DECAYS), DECAY_STEPS))
    plateaus = toy(toys.two_cycle(toy, jnp.asarray(DECAYS)))
    return {
        "rate": rates,
        "plateau": toy(late),
        "predicted": toy(toys.two_cycle(toy, rates)),
        "decays": decays,
        "decay_plateaus": plateaus,
    }


def _continuum() -> dict:
    """Magnitudes from 1 to 10⁴ with density x^−q, log-spaced; tanh about 0, and units that do not saturate: linear, and ReLU
    about w* = 1, even part."""
    t, x = jnp.asarray(DISTANCES), jnp.geomspace(1.0, 1e4, 4001)

    def rise(q: float) -> dict[str, Array]:
        of = functools.partial(toys.saturating_loss, magnitudes=x, weights=x ** (1 - q))
        relu = (of(t, activation=jax.nn.relu, centre=1.0) + of(-t, activation=jax.nn.relu, centre=1.0)) / 2
        return {"tanh": of(t), "linear": of(t, activation=lambda u: u), "relu": relu}

    return {
        "q": QS,
        "t": t,
        "predicted": toys.continuum_exponent(jnp.asarray(QS)),
        **jax.tree.map(lambda *rows: jnp.stack(rows), *map(rise, QS)),
    }


def _separated() -> dict:
    t = jnp.asarray(DISTANCES)
    rise = toys.saturating_loss(t, jnp.asarray(SEPARATED[0]), jnp.asarray(SEPARATED[1]))
    return {"t": t, "rise": rise, "exponent": jnp.gradient(jnp.log(rise), jnp.log(t))}
