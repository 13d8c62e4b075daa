"""The uv model's closed forms against gradient descent on u and v themselves, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landscape_jax.theory import uv


def layers(width, seed=0):
    return np.random.default_rng(seed).standard_normal((2, width))


def descended(u, v, rate, num_steps, target):
    """(f, λ) at every step, by autodiff."""

    def loss(params):
        a, b = params
        return 0.5 * (a @ b / a.size**0.5 - target) ** 2

    def step(params, _):
        a, b = params
        seen = jnp.stack([a @ b / a.size**0.5, (a @ a + b @ b) / a.size])
        return jax.tree.map(lambda x, g: x - rate * g, params, jax.grad(loss)(params)), seen

    return np.asarray(jax.lax.scan(step, (jnp.asarray(u), jnp.asarray(v)), length=num_steps)[1])


@pytest.mark.parametrize("target", [0.0, 1.5, -0.7])
@pytest.mark.parametrize("width", [1, 5, 64])
def test_the_map_is_gradient_descent(target, width, x64):
    u, v = layers(width, seed=width)
    f, lam = uv.output(u, v), uv.trace(u, v)
    truth = descended(u, v, rate := 0.9 / max(lam, uv.minimal_trace(target, width)), 40, target)
    for seen in truth:
        np.testing.assert_allclose((f, lam), seen, rtol=1e-12, atol=1e-12)
        f, lam = uv.step(f, lam, rate, width, target)


@pytest.mark.parametrize("width", [16, 256])
def test_the_map_is_gradient_descent_through_a_catapult(width, x64):
    """k = 3: the loss rises by far, and falls at a smaller trace. Errors of rounding grow with it."""
    u, v = layers(width, seed=width)
    f, lam = start = uv.output(u, v), uv.trace(u, v)
    truth = descended(u, v, rate := 3 / lam, 40, 0.0)
    peak = np.abs(truth).max(axis=0)
    for seen in truth:
        np.testing.assert_allclose((f, lam) / peak, seen / peak, atol=1e-12)
        f, lam = uv.step(f, lam, rate, width)
    assert peak[0] > 1.5 * abs(start[0])
    assert abs(f) < 1e-2 * peak[0]
    assert lam < 2 / rate


def test_the_scaled_map_is_the_map():
    f, lam, rate, width = 0.7, 1.3, 1.9, 16
    x, kappa = rate**2 * f**2 / width, rate * lam
    for _ in range(5):
        f, lam = uv.step(f, lam, rate, width)
        x, kappa = uv.scaled_step(x, kappa)
        np.testing.assert_allclose((x, kappa), (rate**2 * f**2 / width, rate * lam), rtol=1e-12)


@pytest.mark.parametrize("target", [0.0, 2.0, -1.0])
@pytest.mark.parametrize("width", [1, 2, 8])
def test_top_eigenvalue_is_that_of_the_dense_hessian(target, width, x64):
    for seed in range(5):
        u, v = layers(width, seed)

        def loss(x):
            return 0.5 * (uv.output(x[:width], x[width:]) - target) ** 2

        hessian = jax.hessian(loss)(jnp.concatenate([jnp.asarray(u), jnp.asarray(v)]))
        f, lam = uv.output(u, v), uv.trace(u, v)
        np.testing.assert_allclose(np.trace(hessian), lam, rtol=1e-12)
        np.testing.assert_allclose(uv.top_eigenvalue(f, lam, width, target), np.linalg.eigvalsh(hessian)[-1], rtol=1e-12)


def highest(a, k, num_steps):
    """The largest X and κ after the start, and the start."""
    x, kappa = start = k**2 * a, k
    seen = []
    for _ in range(num_steps):
        x, kappa = uv.scaled_step(x, kappa)
        seen.append((x, kappa))
        if x > 1e12:
            break
    return *np.max(seen, axis=0), *start


@pytest.mark.parametrize("a", [1e-3, 1e-2, 0.06, 0.12])
def test_thresholds_part_what_happens(a):
    k = uv.loss_threshold(a)
    assert 2 < k < 4
    for factor, rises in ((0.999, False), (1.001, True)):
        x, _, x0, _ = highest(a, factor * k, 10)
        assert (x > x0) == rises
    for factor, rises in ((0.999, False), (1.001, True)):
        x, kappa, _, kappa0 = highest(a, factor * uv.TRACE_THRESHOLD, 5000)
        assert (kappa > kappa0) == rises
        assert (x > 1e12) == rises  # and it diverges


def test_top_eigenvalue_rises_from_five_halves_in_a_wide_model():
    for factor, rises in ((0.995, False), (1.005, True)):
        k, x = factor * uv.TOP_THRESHOLD_WIDE, 1e-7
        x, kappa, start = k**2 * x, k, uv.top_eigenvalue((k**2 * x) ** 0.5, k, 1)
        tops = []
        for _ in range(60):
            x, kappa = uv.scaled_step(x, kappa)
            tops.append(uv.top_eigenvalue(x**0.5, kappa, 1))
        # the rise is of first order in X: it is seen in the first step
        assert (tops[0] > start) == rises


def test_the_window_opens_with_a_and_has_no_formula_past_an_eighth():
    a = np.geomspace(1e-6, 0.125, 50)
    window = uv.loss_threshold(a) - 2
    assert (np.diff(window) > 0).all()
    np.testing.assert_allclose(window[0], 4e-6, rtol=1e-3)
    with np.errstate(invalid="ignore"):
        assert np.isnan(uv.loss_threshold(np.array([0.13])))


def test_asymmetry_is_at_most_a_quarter_and_reached():
    u, _ = layers(7)
    assert uv.asymmetry(uv.output(u, u), uv.trace(u, u), 7) == pytest.approx(0.25)
    for seed in range(20):
        u, v = layers(3, seed)
        assert 0 <= uv.asymmetry(uv.output(u, v), uv.trace(u, v), 3) < 0.25


@pytest.mark.parametrize(("r", "rests"), [(1.95, True), (2.05, False)])
def test_rests_only_where_the_minimal_trace_is_stable(r, rests):
    target, width = 2.0, 64
    rate = r / uv.minimal_trace(target, width)
    f, lam = 0.02 * target, 0.3
    late = []
    for t in range(6000):
        f, lam = uv.step(f, lam, rate, width, target)
        late += [abs(f - target)] if t >= 5900 else []
    assert (max(late) < 1e-6) == rests
    assert max(late) < 10
