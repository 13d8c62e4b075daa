"""Optax inside, the textbook outside."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import landscape_jax as lj

SCALES = {"a": jnp.array([1.0, 3.0]), "b": jnp.array([[0.5]])}
START = {"a": jnp.array([1.0, -2.0]), "b": jnp.array([[4.0]])}
NONE = lj.data.full_batch(jnp.zeros((1, 1)))
lam, theta0 = np.array([1.0, 3.0, 0.5]), np.array([1.0, -2.0, 4.0])


def bowl(params, batch):
    return 0.5 * lj.tree.vdot(SCALES, jax.tree.map(jnp.square, params))


def trajectory(optimizer, num_steps=8):
    seen = lj.observe.stateless(lambda m: jnp.concatenate([m.params["a"], m.params["b"][0]]))
    gd = lj.dynamics.gradient(bowl, optimizer, NONE)
    return lj.run(jax.random.key(0), START, gd, {"params": seen, "loss": lj.observe.loss}, num_steps=num_steps)[1]


def recursion(rate, beta, nesterov, num_steps=8):
    theta, v, out = theta0.copy(), np.zeros(3), []
    for _ in range(num_steps):
        out.append(theta)
        g = lam * theta
        v = beta * v + g
        theta = theta - rate * (g + beta * v if nesterov else v)
    return np.stack(out)


@pytest.mark.parametrize(("beta", "nesterov"), [(0.0, False), (0.7, False), (0.7, True)])
def test_equals_the_recursion(beta, nesterov):
    record = trajectory(optax.sgd(0.2, momentum=beta or None, nesterov=nesterov))
    np.testing.assert_allclose(record["params"], recursion(0.2, beta, nesterov), rtol=1e-4, atol=1e-5)


def test_polyaks_step_is_told_the_loss():
    """η = L / ‖∇L‖², so the first step is known."""
    record = trajectory(optax.polyak_sgd(max_learning_rate=10.0), num_steps=2)
    g = lam * theta0
    rate = 0.5 * np.sum(lam * theta0**2) / np.sum(g**2)
    np.testing.assert_allclose(record["params"][1], theta0 - rate * g, rtol=1e-5)


def test_lbfgs_can_search_along_the_line():
    assert trajectory(optax.lbfgs(), num_steps=8)["loss"][-1] < 1e-6


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.sgd(optax.linear_schedule(0.0, 0.1, 20)),  # it stands still at first
        optax.MultiSteps(optax.sgd(0.1), 4).gradient_transformation(),
        optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3)),
        optax.inject_hyperparams(optax.adam)(learning_rate=1e-3),
    ],
    ids=["warm-up", "accumulation", "chain", "inject_hyperparams"],
)
def test_an_optimizer_that_descends_in_the_end_is_let_through(optimizer):
    lj.dynamics.gradient(bowl, optimizer, NONE).init(START)


def test_a_traced_rate_is_let_through_whatever_its_sign():
    init = jax.jit(lambda rate: lj.dynamics.gradient(bowl, optax.sgd(rate, momentum=0.9), NONE).init(START))
    assert not jax.tree.leaves(init(-1.0))[0].any()
