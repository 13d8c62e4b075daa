"""The single neuron's closed forms against its own orbits, in float64."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landscape_jax.theory import neuron

VALUES = {neuron.LOG_COSH: lambda s: jnp.logaddexp(s, -s) - math.log(2), neuron.ROOT: lambda s: jnp.sqrt(1 + s * s)}


def end(start, rate, potential):
    """y² where gradient descent comes to rest."""

    @jax.jit
    def rest(x, y):
        def on(state):
            return jnp.abs(state[0] * state[1]) > 1e-14

        return jax.lax.while_loop(on, lambda state: neuron.step(*state, rate, potential), (x, y))

    x0 = 0.1
    return float(rest(jnp.asarray(x0), jnp.asarray((start + x0**2) ** 0.5))[1] ** 2)


@pytest.mark.parametrize("potential", VALUES, ids=["log cosh", "root"])
def test_the_step_is_gradient_descent_and_the_imbalance_its_law(potential, x64):
    draws = np.random.default_rng(0).uniform(0.05, 3, (100, 3))
    grad = jax.jit(jax.vmap(jax.grad(lambda p: VALUES[potential](p[0] * p[1]))))
    x, y, rate = map(jnp.asarray, draws.T)
    slope = grad(jnp.stack([x, y], axis=1))
    after = neuron.step(x, y, rate, potential)
    np.testing.assert_allclose(after, (x - rate * slope[:, 0], y - rate * slope[:, 1]), atol=1e-13)
    law = neuron.imbalance_step(neuron.imbalance(x, y), slope[:, 0] / y, rate)
    np.testing.assert_allclose(neuron.imbalance(*after), law, atol=1e-12)


@pytest.mark.parametrize(
    "potential",
    [neuron.LOG_COSH, neuron.ROOT, neuron.power(3.0), neuron.power(1.5), neuron.HUBER],
    ids=["log cosh", "root", "3", "1.5", "huber"],
)
def test_the_expansion_at_zero_is_the_slopes(potential, x64):
    s = jnp.asarray(0.01)
    if math.isinf(potential.beta):
        assert neuron.ratio(jnp.asarray(0.99), potential) == 1
        assert neuron.ratio(jnp.asarray(1.25), potential) == 0.8
    else:
        left = 1 - neuron.ratio(s, potential)
        assert float(left) == pytest.approx(potential.c * 0.01**potential.beta, rel=2e-3)
    assert neuron.ratio(jnp.asarray(0.0), potential) == 1
    assert potential.slope(-s) == -potential.slope(s)


@pytest.mark.parametrize(
    ("potential", "rate", "within"),
    [
        (neuron.LOG_COSH, 0.1, 0.005),
        (neuron.ROOT, 0.1, 0.006),
        (neuron.power(1.5), 0.2, 0.006),
        (neuron.power(3.0), 0.1, 0.02),
        (neuron.power(4.0), 0.1, 0.025),
        (neuron.HUBER, 0.05, 0.03),
    ],
    ids=["log cosh", "root", "1.5", "3", "4", "huber"],
)
def test_above_the_critical_step_every_start_ends_the_deficit_below(potential, rate, within, x64):
    ends = [end(factor * 2 / rate, rate, potential) for factor in (1.2, 1.6)]
    assert [2 / rate - y2 for y2 in ends] == pytest.approx([neuron.deficit(rate, potential)] * 2, rel=within)


def test_below_the_critical_step_the_flow_s_minimum(x64):
    for rate, potential in itertools.product((0.1, 0.2), VALUES):
        start = 0.5 * 2 / rate
        assert rate < neuron.critical_rate(start)
        assert 0 <= start - end(start, rate, potential) <= 0.5 * rate


def test_bouncing_orbits_keep_to_the_envelope(x64):
    rate, potential = 2 / 16, neuron.LOG_COSH
    x, y = jnp.asarray(0.1), jnp.asarray(30.0**0.5)
    seen = []
    while y * y > 16.8:
        x, y = neuron.step(x, y, rate, potential)
        seen.append(float(neuron.ratio(x * y, potential) * rate * y * y / 2))
    assert len(seen) > 40
    np.testing.assert_allclose(seen[10:], 1, atol=0.012)
    at_x, at_y = neuron.envelope(jnp.abs(x * y), rate, potential)
    assert float(at_y) == pytest.approx(float(y), rel=1e-2)
    assert float(at_x * at_y) == pytest.approx(float(abs(x * y)))


def test_the_branch_ends_where_it_can_be_solved():
    assert neuron.branch_end(2.0) == pytest.approx(0.25, abs=1e-6)
    assert neuron.deficit(0.1, neuron.LOG_COSH) == pytest.approx(0.15, rel=1e-5)
    assert neuron.branch_end(60.0) == pytest.approx(neuron.branch_end(math.inf), rel=0.12)
    fine = [neuron.branch_end(beta, num_steps=32_000, start=8.0) for beta in (1.5, 3.0, 4.0)]
    assert [neuron.branch_end(beta) for beta in (1.5, 3.0, 4.0)] == pytest.approx(fine, abs=1e-5)


def test_a_potential_without_a_branch_is_refused():
    with pytest.raises(ValueError, match="beta=1.0 must be above 1"):
        neuron.power(1.0)
