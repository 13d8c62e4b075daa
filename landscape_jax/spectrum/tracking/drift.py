"""How far an operator may have moved since it was last looked at."""

import jax.numpy as jnp
from jax import Array

from landscape_jax.spectrum.tracking.policy import Policy


def drifted(change: Array, before: Array, elapsed: Array, size: Array, policy: Policy) -> Array:
    """How far A may move from look to look, in the operator's units: a multiple of the change of the first Rayleigh quotient
    since the memory was made, or what is left of the drift before, which fades by the clock of the steps.

        drift = max(gain |⟨v₁, A v₁⟩ − θ₁|, max(decay^elapsed, least_decay) · before, least_drift · size)
    """
    faded = jnp.maximum(policy.decay ** elapsed.astype(before.dtype), policy.least_decay) * before
    return jnp.maximum(jnp.maximum(policy.gain * change, faded), policy.least_drift * size)


def trend(share: Array, change: Array, age: Array, before: Array, size: Array, policy: Policy) -> Array:
    """By how much a value rises a look: what was measured of it where its vector was multiplied, and else what it was.

        rise = share · change / age + (1 − share) · before

    Args, each [b]: what share of a vector was multiplied, the change since it was multiplied before, how many looks ago that
      was, and the trend of before.
    """
    fresh = jnp.clip(change / jnp.maximum(age, 1), -policy.most_rise * size, policy.most_rise * size)
    return share * fresh + (1 - share) * before
