"""How far an operator may have moved."""

import jax.numpy as jnp
import numpy as np

from landscape_jax.spectrum.tracking.drift import largest_repeated_value, update_drift, update_trend, widen
from landscape_jax.spectrum.tracking.memory import Side
from landscape_jax.spectrum.tracking.policy import POLICY


def test_drift_is_the_largest_of_change_memory_and_floor():
    drift = lambda change, before, elapsed: float(  # noqa: E731
        update_drift(jnp.float32(change), jnp.float32(before), jnp.int32(elapsed), jnp.float32(10), POLICY)
    )
    np.testing.assert_allclose(drift(1, 0, 1), POLICY.gain, rtol=1e-6)
    np.testing.assert_allclose(drift(0, 1, 2), POLICY.decay**2, rtol=1e-6)
    np.testing.assert_allclose(drift(0, 1, 500), POLICY.least_decay, rtol=1e-6)
    np.testing.assert_allclose(drift(0, 0, 1), 10 * POLICY.least_drift, rtol=1e-6)


def test_a_trend_is_what_was_measured_of_it():
    share, change, age = jnp.array([1.0, 0.0, 0.5, 1.0]), jnp.array([0.2, 0.2, 0.2, 99.0]), jnp.array([4.0, 4.0, 0.0, 1.0])
    got = update_trend(share, change, age, jnp.full(4, 0.1), jnp.float32(1), POLICY)
    np.testing.assert_allclose(got, [0.05, 0.1, 0.1, POLICY.most_rise], rtol=1e-6)


def test_bounds_widen_with_drift_and_trend():
    nothing = jnp.zeros((2, 2))
    side = Side(jnp.array([3.0, 1.0]), nothing, nothing, jnp.array([0.2, -0.3]), jnp.zeros(2), jnp.float32(1))
    side = widen(side, jnp.float32(0.1), jnp.float32(1e-3))
    np.testing.assert_allclose(jnp.diagonal(side.above), [0.3, 0.1], rtol=1e-6)
    np.testing.assert_allclose(jnp.diagonal(side.below), [0.1, 0.4], rtol=1e-6)
    np.testing.assert_allclose(side.ceiling, 0.9, rtol=1e-6)
    assert side.ages.tolist() == [1, 1]


def test_the_largest_value_that_comes_twice():
    values = jnp.array([9.0, 8.0, 7.9995, 1.0, 1.0])
    assert largest_repeated_value(values, jnp.float32(1e-3)) == 8
    assert largest_repeated_value(values, jnp.float32(1e-4)) == 1
    assert largest_repeated_value(values[:3], jnp.float32(1e-4)) == -jnp.inf
    assert largest_repeated_value(values[:1], jnp.float32(1)) == -jnp.inf


def test_the_ceiling_stays_above_a_value_that_comes_twice():
    nothing = jnp.zeros((3, 3))
    side = Side(jnp.array([9.0, 8.0, 8.0]), nothing, nothing, jnp.zeros(3), jnp.zeros(3), jnp.float32(1))
    np.testing.assert_allclose(widen(side, jnp.float32(0.1), jnp.float32(1e-3)).ceiling, 8.1, rtol=1e-6)
