"""The sparse-coding network and its mean model: closed forms against autodiff and against simulation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import landscape_jax as lj
from landscape_jax.theory import hinges
from landscape_jax.theory import sparse_coding as sc

D = 200
RATE = sc.critical_rate(D)


def tabulated(table, params):
    return sc.combined(params, hinges.hinge_sums(table, params["bias"]).reshape(2, -1))


@pytest.fixture(scope="module")
def data():
    """64 examples of 50 coordinates; NumPy, so that each test has them in its own precision."""
    return jax.tree.map(np.asarray, lj.data.sparse_coding(jax.random.key(100), 64, 50, 3.0))


def losses(x, y):
    """The loss as defined, and by look-up."""
    table = hinges.pieces(np.concatenate([x, -x]))
    y = jnp.asarray(y, float)
    plain = lj.losses.mean(sc.apply, lj.losses.logistic)
    return lambda p: plain(p, (jnp.asarray(x, float), y)), lambda p: jnp.mean(lj.losses.logistic(tabulated(table, p), y))


def test_the_network_by_hand():
    x = jnp.array([[1.0, -2.0, 0.3]])
    params = sc.init(2.0, 10.0) | {"bias": jnp.asarray(-0.5)}
    # relu(−x + b) = 0, 1.5, 0 and relu(x + b) = 0.5, 0, 0
    np.testing.assert_allclose(sc.apply(params, x), [2 * 1.5 + 10 * 0.5])


def test_by_look_up_it_is_the_same_loss_gradient_and_hessian(data, x64):
    where = np.random.default_rng(0).standard_normal((3, 8)) * [[0.1], [0.1], [1.0]]
    at = dict(zip(("minus", "plus", "bias"), map(jnp.asarray, where), strict=True))
    truth, mine = (jax.jit(jax.vmap(lambda p, f=f: (f(p), jax.grad(f)(p), jax.hessian(f)(p))))(at) for f in losses(*data))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-13), mine, truth)


def test_by_look_up_it_is_the_same_descent(data, x64):
    """Through the edge of stability, where orbits that differ would part."""

    def descended(loss):
        def step(params, _):
            return lj.tree.axpy(-3 * sc.critical_rate(50), jax.grad(loss)(params), params), params

        return jax.jit(lambda: jax.lax.scan(step, sc.init(0.05, 0.12), length=300)[1])()

    truth, mine = map(descended, losses(*data))
    assert truth["bias"][-1] < -0.3
    assert np.sum(np.diff(np.sign(np.diff(truth["plus"]))) != 0) > 20  # it bounces
    for name in truth:
        np.testing.assert_allclose(mine[name], truth[name], rtol=1e-8, atol=1e-11)


def test_the_mean_model_is_the_network_s_mean(x64):
    """One step of each from the same place, over many examples without a signal."""
    d, n = 20, 40_000
    x = jax.random.normal(jax.random.key(1), (n, d))
    y = jnp.where(jnp.arange(n) < n // 2, 1.0, -1.0)[:, None]
    params = sc.init(0.02, 0.03) | {"bias": jnp.asarray(-0.2)}
    grads = jax.jit(jax.grad(lj.losses.mean(sc.apply, lj.losses.logistic)))(params, (jnp.concatenate([x[: n // 2]] * 2), y))
    a = d * (params["minus"] + params["plus"])
    after_a, after_b = sc.mean_step(a, params["bias"], 1.0, d)
    # the mean model has E ℓ'(f) at the mean of f: here f is small and fluctuates by 1/√d
    assert float(-d * (grads["minus"] + grads["plus"])) == pytest.approx(float(after_a - a), rel=0.05)
    assert float(-grads["bias"]) == pytest.approx(float(after_b - params["bias"]), rel=0.05)


def test_mean_step_and_sharpness_are_of_one_loss(x64):
    d, rate = 30, 0.01

    def loss(p):  # of (a⁻, a⁺, b)
        s = d * (p[0] + p[1]) * sc.firing(p[2])
        return jnp.logaddexp(0.0, s) / 2 + jnp.logaddexp(0.0, -s) / 2

    p = jnp.array([0.03, 0.04, -0.4])
    after = p - rate * jax.jit(jax.grad(loss))(p)
    a, b = sc.mean_step(d * (p[0] + p[1]), p[2], rate, d)
    np.testing.assert_allclose((d * (after[0] + after[1]), after[2]), (a, b), rtol=1e-12)
    rest = jnp.array([0.03, -0.03, -0.4])
    top = jnp.linalg.eigvalsh(jax.jit(jax.hessian(loss))(rest))[-1]
    assert float(top) == pytest.approx(float(sc.mean_sharpness(-0.4, d)), rel=1e-10)


def test_the_critical_step_is_two_over_the_sharpness_at_the_start(x64):
    assert RATE == pytest.approx(2 / float(sc.mean_sharpness(0.0, D)), rel=1e-12)
    assert pytest.approx(6.283e-4, rel=1e-3) == RATE
    assert sc.critical_rate(D, 2.0) == RATE / 4


@functools.lru_cache
def rest(ratio):
    """(A, b) where the mean model ends."""

    @jax.jit
    def orbit():
        def on(state):
            return (jnp.abs(state[0]) > 1e-12) & (state[2] < 2_000_000)

        def step(state):
            return *sc.mean_step(*state[:2], ratio * RATE, D), state[2] + 1

        return jax.lax.while_loop(on, step, (jnp.asarray(D**0.5), jnp.asarray(0.0), 0))

    return [float(x) for x in orbit()]


def test_below_the_critical_step_no_bias(x64):
    flow = float(sc.flow_limit(D**0.5, D))
    assert flow == pytest.approx(-0.00157, abs=1e-5)
    assert rest(0.02)[1] == pytest.approx(flow, rel=0.02)
    for ratio in (0.5, 0.9):
        assert -0.01 < rest(ratio)[1] < 0


@pytest.mark.parametrize("ratio", [1.5, 2.0, 4.0])
def test_above_it_the_bias_makes_the_sharpness_fit(ratio, x64):
    a, b, _ = rest(ratio)
    assert abs(a) < 1e-12
    assert b == pytest.approx(float(sc.edge_limit(ratio * RATE, D)), abs=0.01)
    measured = float(sc.mean_sharpness(b, D)) * ratio * RATE / 2
    assert 0.98 < measured < 1
    better = float(sc.next_edge_limit(ratio * RATE, D))
    assert b == pytest.approx(better, abs=2e-5)
    assert 1 - measured == pytest.approx(1 - float(sc.edge_sharpness(better, D)), rel=0.02)


def test_the_inverse_of_firing(x64):
    b = jnp.linspace(-4, 3, 29)
    np.testing.assert_allclose(sc.inverse_firing(sc.firing(b)), b, atol=1e-10)
