"""How far an operator may have moved since it was last looked at."""

import jax.numpy as jnp
from jax import Array

from landscape_jax.spectrum.tracking.memory import Side
from landscape_jax.spectrum.tracking.policy import Policy


def drifted(change: Array, before: Array, elapsed: Array, size: Array, policy: Policy) -> Array:
    """How far A may move from look to look, in its own units: a multiple of the change of v₁'s Rayleigh quotient, or what is
    left of the drift before, which fades with the steps that have passed. Changes of the other vectors that a look
    multiplies raise it before it is stored.

        drift = max(gain |⟨v₁, A v₁⟩ − θ₁|, max(decay^elapsed, least_decay) · before, least_drift · size)
    """
    steps = jnp.maximum(elapsed, 0).astype(before.dtype)  # a run may have begun anew with the memory of another
    faded = jnp.maximum(policy.decay**steps, policy.least_decay) * before
    return jnp.maximum(jnp.maximum(policy.gain * change, faded), policy.least_drift * size)


def trend(share: Array, change: Array, age: Array, before: Array, size: Array, policy: Policy) -> Array:
    """By how much values rise from look to look: what was measured of it where a vector was multiplied, and else what it was.

        rise = share · change / age + (1 − share) · before

    The first value may rest, and drift be little, while another comes up to it.

    Args:
      share, change, age, before, each [b]: how much of a vector was multiplied, by how much its value changed since it was
        multiplied before, how many looks ago that was, and the trend then.
    """
    most = policy.most_rise * size
    return share * jnp.clip(change / jnp.maximum(age, 1), -most, most) + (1 - share) * before


def repeated(values: Array, nearer: Array) -> Array:
    """The largest of b values, descending, whose successor is nearer than `nearer`; −∞ if there is none. [].

    A Krylov space of one vector holds one copy of a multiple eigenvalue. A second comes by rounding, and others may be missing.
    """
    equal = values[:-1] - values[1:] <= nearer
    return jnp.max(jnp.where(equal, values[:-1], -jnp.inf), initial=-jnp.inf)


def aged(side: Side, drift: Array, nearer: Array) -> Side:
    """What is still known a look later: the bounds widen by the drift, and by a vector's own trend; the ceiling comes down no
    faster than A can move, and stays above eigenvalues that are repeated."""
    widening = drift * jnp.eye(len(side.values), dtype=side.values.dtype)
    above = side.above + widening + jnp.diag(jnp.maximum(side.rises, 0))
    below = side.below + widening + jnp.diag(jnp.maximum(-side.rises, 0))
    ceiling = jnp.maximum(side.ceiling - drift, repeated(side.values, nearer) + drift)
    return side._replace(below=below, above=above, ages=side.ages + 1, ceiling=ceiling)
