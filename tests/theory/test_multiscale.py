"""Closed forms of the toys against gradient descent on them, in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landscape_jax.theory import multiscale as toys


@functools.partial(jax.jit, static_argnums=(0, 3))
def descended(toy, x, rate, num_steps):
    return jax.lax.fori_loop(0, num_steps, lambda _, x: x - rate * toys.slope(toy)(x), x)


@pytest.mark.parametrize(
    ("toy", "closed"),
    [
        (toys.log_cosh, {2.5: 0.888015, 3.0: 1.287839, 4.0: 1.915008}),
        (toys.pseudo_huber, {r: (r**2 / 4 - 1) ** 0.5 for r in (2.5, 3.0, 4.0, 6.0)}),
        (toys.cauchy, {r: (r / 2 - 1) ** 0.5 for r in (2.5, 3.0)}),
    ],
)
def test_descent_settles_on_the_secant_cycle(toy, closed, x64):
    rates = jnp.array([1.5, *closed])
    cycle = toys.two_cycle(toy, rates)
    np.testing.assert_allclose(cycle, [0, *closed.values()], rtol=1e-6)
    last = descended(toy, jnp.full_like(rates, 0.3), rates, 5001)
    np.testing.assert_allclose(jnp.abs(last), cycle, rtol=1e-9, atol=1e-9)
    assert (jnp.abs(toys.multiplier(toy, cycle[1:], rates[1:])) < 1).all()


def test_the_cauchy_cycle_loses_stability_at_four(x64):
    rates = jnp.array([3.9, 4.0, 4.1, 6.0])
    multipliers = toys.multiplier(toys.cauchy, toys.two_cycle(toys.cauchy, rates), rates)
    np.testing.assert_array_equal(multipliers > 1 + 1e-12, [False, False, True, True])
    assert multipliers[1] == pytest.approx(1)
    late = jnp.abs(descended(toys.cauchy, jnp.full(2, 0.3), rates[jnp.array([0, 3])], 5000))
    np.testing.assert_array_equal(jnp.abs(late - (rates[jnp.array([0, 3])] / 2 - 1) ** 0.5) > 0.1, [False, True])


def test_powers(x64):
    rate = jnp.array([0.2, 0.05])
    for p in (1.2, 1.5, 1.8):
        cycle = toys.power_cycle(p, rate)
        np.testing.assert_allclose(toys.secant(toys.power(p))(cycle), 2 / rate, rtol=1e-12)
        np.testing.assert_allclose(toys.multiplier(toys.power(p), cycle, rate), 3 - 2 * p, rtol=1e-9)


def test_a_superquadratic_loss_diverges_beyond_the_edge_only(x64):
    assert abs(descended(toys.quartic, jnp.array(0.01), jnp.array(1.95), 2000)) < 1e-9
    assert not abs(descended(toys.quartic, jnp.array(0.01), jnp.array(2.05), 100)) < 1e6
    assert jnp.isnan(toys.two_cycle(lambda x: 0.5 * x**2, jnp.array(2.5)))  # a parabola has no cycle to settle on


def test_two_scales_park_where_they_should(x64):
    toy, rate = toys.two_scale(100.0, 1.0, 0.05), jnp.array(0.5)
    cycle = toys.two_scale_cycle(100.0, 1.0, 0.05, rate)
    assert float(cycle) == pytest.approx(1.65)
    assert float(toys.two_cycle(toy, rate)) == pytest.approx(1.65)
    assert float(toy(cycle)) == pytest.approx(9.405)
    assert abs(descended(toy, jnp.array(3.0), rate, 1000)) == pytest.approx(1.65)
    edges = jnp.array([0.05, -0.05])
    np.testing.assert_allclose(toys.slope(toy)(edges * (1 - 1e-9)), toys.slope(toy)(edges * (1 + 1e-9)), rtol=1e-6)


def test_a_staircase_has_a_plateau_for_every_rate(x64):
    toy = toys.staircase((1.0, 30.0, 1000.0), (1.0, 0.05, 0.0025))
    rates = jnp.geomspace(1e-3, 1.5, 4)
    last = descended(toy, jnp.full_like(rates, 3.0), rates, 40_000)
    np.testing.assert_allclose(toy(last), toy(toys.two_cycle(toy, rates)), rtol=1e-3, atol=1e-6)


def test_magnitudes_make_the_exponent(x64):
    t, x = jnp.geomspace(3e-3, 3e-2, 11), jnp.geomspace(1.0, 1e4, 2001)
    for q in (1.5, 2.0, 2.5):
        rise = toys.saturating_loss(t, x, x ** (1 - q))  # logarithmically spaced: dx = x d log x
        assert np.polyfit(np.log(t), np.log(rise), 1)[0] == pytest.approx(float(toys.continuum_exponent(q)), abs=0.1)
        linear = toys.saturating_loss(t, x, x ** (1 - q), activation=lambda u: u)
        assert np.polyfit(np.log(t), np.log(linear), 1)[0] == pytest.approx(2)
    assert toys.continuum_exponent(5.0) == 2


def test_magnitudes_do_not_shape_the_loss_of_a_relu(x64):
    t, x = jnp.array([-0.9, -1e-3, 1e-3, 0.5]), jnp.geomspace(1.0, 1e4, 101)
    for weights in (x**-0.5, x**-2.0):
        of_one = 0.5 * t**2 * (weights @ x**2)  # a parabola, up to the kink at −1 …
        np.testing.assert_allclose(toys.saturating_loss(t, x, weights, jax.nn.relu, 1.0), of_one, rtol=1e-9)
        beyond = toys.saturating_loss(jnp.array([-1.0, -3.0]), x, weights, jax.nn.relu, 1.0)
        np.testing.assert_allclose(beyond, 0.5 * (weights @ x**2), rtol=1e-9)  # … and flat beyond
