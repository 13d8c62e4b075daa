"""How far an operator may have moved since the last look."""

import jax.numpy as jnp
from jax import Array

from landscape_jax.spectrum.tracking.memory import Side
from landscape_jax.spectrum.tracking.policy import Policy


def update_drift(change: Array, previous: Array, elapsed: Array, size: Array, policy: Policy) -> Array:
    """How far A may move from look to look, in its own units: a multiple of the change of v₁'s Rayleigh quotient, or the
    previous drift, which fades with the steps that have passed.

        drift = max(gain |⟨v₁, A v₁⟩ − θ₁|, max(decay^elapsed, least_decay) · previous, least_drift · size)

    Changes of the other vectors that a look multiplies raise it before it is stored.
    """
    steps = jnp.maximum(elapsed, 0).astype(previous.dtype)  # less than 0 in a run that restarts with the memory of another
    faded = jnp.maximum(policy.decay**steps, policy.least_decay) * previous
    return jnp.maximum(jnp.maximum(policy.gain * change, faded), policy.least_drift * size)


def update_trend(share: Array, change: Array, age: Array, previous: Array, size: Array, policy: Policy) -> Array:
    """By how much values rise from look to look: as measured on the share of a vector that was multiplied, and as before on the
    rest.

        rise = share · change / age + (1 − share) · previous

    The largest value may stand still, and the drift be small, while another value rises towards it.

    Args:
      share, change, age, previous, each [b]: the share of a vector that was multiplied, the change of its value since it was
        last multiplied, how many looks ago that was, and the trend then.
      size: []; the measured rise is at most `most_rise` of it.
    """
    most = policy.most_rise * size
    return share * jnp.clip(change / jnp.maximum(age, 1), -most, most) + (1 - share) * previous


def largest_repeated_value(values: Array, tolerance: Array) -> Array:
    """The largest of b values, descending, whose successor is within `tolerance`; −∞ if there is none. [].

    A Krylov space of one vector holds one copy of a multiple eigenvalue. A second comes by rounding, and others may be missing.
    """
    repeated = values[:-1] - values[1:] <= tolerance
    return jnp.max(jnp.where(repeated, values[:-1], -jnp.inf), initial=-jnp.inf)


def widen(side: Side, drift: Array, tolerance: Array) -> Side:
    """What is still known a look later: the bounds widen by the drift, and by a vector's own trend. The ceiling comes down no
    faster than A can move, and stays above repeated eigenvalues (within `tolerance`)."""
    widening = drift * jnp.eye(len(side.values), dtype=side.values.dtype)
    above = side.above + widening + jnp.diag(jnp.maximum(side.rises, 0))
    below = side.below + widening + jnp.diag(jnp.maximum(-side.rises, 0))
    ceiling = jnp.maximum(side.ceiling - drift, largest_repeated_value(side.values, tolerance) + drift)
    return side._replace(below=below, above=above, ages=side.ages + 1, ceiling=ceiling)
