"""The step against a curvature that is known: on a quadratic every change of the loss has a closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import landscape_jax as lj
from landscape_jax.theory import noisy_step
from landscape_jax.types import Moment

SCALES = np.array([8.0, 4.0, 2.0, 0.5, 0.25, 0.1])
THETA = np.array([0.3, -1.0, 0.5, 2.0, 1.0, -3.0])
ALPHAS = (0.5, 1.0, 2.0)


def bowl(params, batch):
    return 0.5 * jnp.sum(jnp.asarray(SCALES, jnp.float32) * params["x"].reshape(-1) ** 2) + 0.0 * jnp.sum(batch)


HESSIAN = lj.curvature.hessian(bowl)
STEPS = np.array([[-0.4, 0.3, -0.2, -0.1, 0.05, 0.01], [-0.1, 0.5, 0.1, -0.2, -0.02, 0.03]])  # u, two of them
DRAWN = {"x": jnp.asarray(STEPS, jnp.float32).reshape(2, 3, 2)}


def measured(observable):
    theta = {"x": jnp.asarray(THETA, jnp.float32).reshape(3, 2)}
    moment = Moment(jnp.int32(0), theta, jnp.zeros((1, 1)), jnp.zeros(()), theta, theta, ())
    return jax.jit(lambda key: observable.measure(key, observable.init(key, theta), moment)[1])(jax.random.key(0))


def change(parts, alpha):
    """ΔL for moves [m, p], the mean over m."""
    value = lambda x: 0.5 * np.sum(SCALES * x**2, axis=-1)  # noqa: E731
    return np.mean(value(THETA + alpha * parts) - value(THETA))


def test_changes_of_the_loss_along_every_part_of_the_step():
    value = measured(lj.observe.step_effect(bowl, HESSIAN, k=3, multiples=ALPHAS, steps=lambda key, m: DRAWN, tol=1e-6))
    np.testing.assert_allclose(value["eigenvalues"], SCALES[:3], rtol=1e-4)
    for j, alpha in enumerate(ALPHAS):
        for i in range(3):
            only = np.where(np.arange(6) == i, STEPS, 0)
            np.testing.assert_allclose(value["sharpest"][i, j], change(only, alpha), rtol=1e-3, atol=1e-5)
        top = np.where(np.arange(6) < 3, STEPS, 0)
        np.testing.assert_allclose(value["subspace"][j], change(top, alpha), rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(value["whole"][j], change(STEPS, alpha), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(value["loss"], 0.5 * np.sum(SCALES * THETA**2), rtol=1e-5)


def test_the_recorded_terms_give_the_change_and_where_it_turns():
    """e_i have a sign of their own: slope and first change it together."""
    watch = lj.observe.step_effect(bowl, HESSIAN, 3, multiples=ALPHAS, steps=lambda key, m: DRAWN)
    value = jax.tree.map(np.float64, measured(watch))
    terms = [value[name][:, None] for name in ("slope", "first", "second", "eigenvalues")]
    np.testing.assert_allclose(value["sharpest"], noisy_step.expected_change(np.array(ALPHAS), *terms), rtol=2e-3, atol=1e-4)
    turn = noisy_step.critical_multiple(*(value[name] for name in ("slope", "first", "second", "eigenvalues")))
    c, slope = STEPS[:, :3], (SCALES * THETA)[:3]
    expected = np.maximum(-2 * slope * c.mean(0) / (SCALES[:3] * (c**2).mean(0)), 0)
    np.testing.assert_allclose(turn, expected, rtol=1e-2)
    risen = value["sharpest"] > 0
    clear = np.abs(np.array(ALPHAS) / turn[:, None] - 1) > 1e-3  # at the turn itself rounding decides
    np.testing.assert_array_equal(risen[clear], (np.array(ALPHAS) > turn[:, None])[clear])
    assert 0 < risen.mean() < 1


def test_a_random_direction_takes_the_steps_component_along_it():
    """So small a part of the step that ΔL is linear in α, with mean slope ḡ·u/p over directions; drawn anew at each key."""
    many = {"x": jnp.tile(DRAWN["x"][:1], (20_000, 1, 1)) * 1e-2}
    value = measured(lj.observe.step_effect(bowl, HESSIAN, k=1, multiples=(1.0,), steps=lambda key, m: many))
    expected = np.sum(SCALES * THETA * STEPS[0]) * 1e-2 / 6
    np.testing.assert_allclose(value["random"][0], expected, rtol=0.05)


def test_cross_sections_are_the_bowl_in_units_of_the_step():
    places = (-2.0, 0.0, 1.0, 4.0)
    value = measured(lj.observe.cross_sections(bowl, HESSIAN, k=3, places=places, steps=lambda k, m: DRAWN, tol=1e-6))
    c = STEPS[:, :3]
    unit = np.abs(c).mean(0)
    np.testing.assert_allclose(value["unit"], unit, rtol=1e-3)
    for i in range(3):
        towards = np.sign(c[:, i].mean()) * unit[i]
        for j, a in enumerate(places):
            there = THETA + a * towards * np.eye(6)[i]
            np.testing.assert_allclose(value["loss"][i, j], 0.5 * np.sum(SCALES * there**2), rtol=1e-3)


def test_measures_of_one_look_are_those_of_looks_of_their_own():
    """But for what is random: each has a key of its own."""
    taken = dict(steps=lambda key, m: DRAWN)
    drawn = lambda key, eigs, moment: jax.random.uniform(key)  # noqa: E731
    bowls = lj.observe.sections(bowl, (1.0, 2.0), **taken)
    shared = {"step": lj.observe.changes(bowl, ALPHAS, **taken), "more": [bowls, drawn, drawn]}
    together = measured(lj.observe.eigenpairs(HESSIAN, 3, shared, 6, tol=None))
    change = measured(lj.observe.step_effect(bowl, HESSIAN, 3, multiples=ALPHAS, num_steps=6, tol=None, **taken))
    section = measured(lj.observe.cross_sections(bowl, HESSIAN, 3, places=(1.0, 2.0), num_steps=6, tol=None, **taken))
    for found, expected in ((together["step"], change), (together["more"][0], section)):
        assert found.keys() == expected.keys()
        for name in found.keys() - {"random"}:
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-5)
    assert together["more"][1] != together["more"][2]


@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_critical_multiple_against_a_simulation_of_noisy_sgd(noise):
    """Along one direction: gradients s + noise; the sign of the mean ΔL turns at α*."""
    rate, slope, curvature = 0.1, 0.7, 6.0
    g = slope + noise * np.random.default_rng(0).standard_normal(400_000)
    turn = float(noisy_step.sgd_critical_multiple(rate, slope, np.mean(g**2), curvature))
    assert turn == pytest.approx(2 / (rate * curvature) * slope**2 / (slope**2 + noise**2), rel=0.01)

    def mean_change(alpha):
        x = -alpha * rate * g
        return np.mean(slope * x + 0.5 * curvature * x**2)

    assert mean_change(0.97 * turn) < 0 < mean_change(1.03 * turn)
    np.testing.assert_allclose(
        mean_change(turn / 2),
        noisy_step.expected_change(turn / 2, slope, -rate * slope, rate**2 * np.mean(g**2), curvature),
        rtol=0.02,
    )


def test_critical_multiple_where_it_is_not_a_number():
    first, second, curvature = [-1.0, 1.0, -1.0, 0.0], [1.0, 1.0, 1.0, 0.0], [-2.0, 2.0, 2.0, 2.0]
    found = noisy_step.critical_multiple(1.0, first, second, curvature)
    np.testing.assert_array_equal(found, [np.inf, 0.0, 1.0, np.nan])
