"""The diagonal read from an optimizer's state is the one its update divides by."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import landscape_jax as lj
from landscape_jax import tree
from landscape_jax.curvature import preconditioned, preconditioner

PARAMS = {"a": jnp.zeros((3, 2)), "b": {"c": jnp.zeros(4), "d": jnp.zeros(())}}
RATE = 0.1


def after(optimizer, steps=3, params=PARAMS):
    """(state, the last gradient, the last updates) after some steps on random gradients."""
    state = optimizer.init(params)
    for t in range(steps):
        grads = tree.normal_like(jax.random.key(t), params)
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(grads, state, params)
    return state, grads, updates


def found(state, name):
    """The first part of a state with a field of some name."""
    if hasattr(state, name):
        return getattr(state, name)
    inner = state.values() if isinstance(state, dict) else state
    return next((x for s in inner if isinstance(s, (tuple, dict)) and (x := found(s, name)) is not None), None)


# name: (optimizer, hyperparameters to pass on, what P divides: the state's mu, or the gradient)
OPTIMIZERS = {
    "adam": (optax.adam(RATE), {}, "mu"),
    "adam, other betas": (optax.adam(RATE, b1=0.8, b2=0.9, eps=1e-3), dict(b1=0.8, b2=0.9, eps=1e-3), "mu"),
    "adamw without decay": (optax.adamw(RATE, weight_decay=0.0), {}, "mu"),
    "nadam, no momentum": (optax.nadam(RATE, b1=0.0), dict(b1=0.0), "grads"),
    "amsgrad": (optax.amsgrad(RATE), {}, "mu"),
    "adabelief": (optax.adabelief(RATE), {}, "mu"),
    "rmsprop": (optax.rmsprop(RATE), {}, "grads"),
    "rmsprop, eps outside": (optax.rmsprop(RATE, eps=0.1, eps_in_sqrt=False), dict(eps=0.1, eps_in_sqrt=False), "grads"),
    "rmsprop, corrected": (optax.rmsprop(RATE, bias_correction=True), {}, "grads"),
    "rmsprop, centred": (optax.rmsprop(RATE, centered=True, decay=0.8), dict(decay=0.8), "grads"),
    "rmsprop, centred, corrected": (optax.rmsprop(RATE, centered=True, bias_correction=True), {}, "grads"),
    "adagrad": (optax.adagrad(RATE), {}, "grads"),
    "chain": (optax.chain(optax.clip(1e9), optax.adam(RATE)), {}, "mu"),
    "injected": (optax.inject_hyperparams(optax.adam)(RATE, b1=0.7, b2=0.95), {}, "mu"),
    "in a list of chains": (optax.chain(optax.chain(optax.identity(), optax.scale_by_adam()), optax.scale(-RATE)), {}, "mu"),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_it_is_what_the_update_divides_by(name):
    optimizer, hyperparams, divided = OPTIMIZERS[name]
    state, grads, updates = after(optimizer)
    scale = preconditioner(state, **hyperparams)
    assert jax.tree.structure(scale) == jax.tree.structure(PARAMS)
    expected = grads if divided == "grads" else found(state, "mu")
    for p, u, m in zip(*(jax.tree.leaves(x) for x in (scale, updates, expected)), strict=True):
        np.testing.assert_allclose(-p * u / RATE, m, rtol=2e-4)


def test_masked_leaves_count_as_one():
    by_name = {"a": True, "b": False}  # a whole subtree
    state, *_ = after(optax.chain(optax.masked(optax.scale_by_adam(), by_name), optax.scale(-RATE)))
    alone, *_ = after(optax.scale_by_adam())
    scale = preconditioner(state)
    assert scale["b"] == 1
    whole = preconditioner(state, PARAMS)
    assert jax.tree.structure(whole) == jax.tree.structure(PARAMS)
    np.testing.assert_array_equal(whole["b"]["c"], np.ones(4))
    assert scale["a"].shape == (3, 2)
    assert preconditioner(alone)["b"]["d"].shape == ()


def test_parts_with_optimizers_of_their_own_come_together():
    labels = {"a": "adam", "b": "rms"}
    both = optax.partition({"adam": optax.adam(RATE), "rms": optax.rmsprop(RATE)}, labels)
    state, grads, updates = after(both)
    scale = preconditioner(state)
    np.testing.assert_allclose(-scale["b"]["c"] * updates["b"]["c"] / RATE, grads["b"]["c"], rtol=1e-4)
    np.testing.assert_allclose(-scale["a"] * updates["a"] / RATE, found(state.inner_states["adam"], "mu")["a"], rtol=1e-4)


@pytest.mark.parametrize("optimizer", [optax.sgd(0.1), optax.sgd(0.1, momentum=0.9), optax.identity(), optax.lion(0.1)])
def test_a_state_without_one_says_so(optimizer):
    state, *_ = after(optimizer)
    with pytest.raises(ValueError, match=r"holds no preconditioner .*SGD and momentum have none.*known are Adam"):
        preconditioner(state)


def test_before_the_first_update_and_with_unknown_names():
    with pytest.raises(ValueError, match="no update yet: make a step first"):
        preconditioner(optax.adam(RATE).init(PARAMS))
    with pytest.raises(ValueError, match=r"unknown hyperparameters \['beta2'\]"):
        preconditioner(after(optax.adam(RATE))[0], beta2=0.9)


def test_prefix_of_a_tree_broadcasts():
    def loss(theta, batch):
        return 0.5 * tree.vdot(theta, theta)

    product = preconditioned(lj.curvature.hessian(loss), {"a": 4.0, "b": {"c": jnp.array([1.0, 2, 4, 8]), "d": 1.0}})
    out = product(PARAMS, None)(jax.tree.map(jnp.ones_like, PARAMS))
    np.testing.assert_allclose(out["a"], np.full((3, 2), 0.25))
    np.testing.assert_allclose(out["b"]["c"], [1, 0.5, 0.25, 0.125])
    everywhere = preconditioned(lj.curvature.hessian(loss), 2.0)(PARAMS, None)(jax.tree.map(jnp.ones_like, PARAMS))
    np.testing.assert_allclose(everywhere["b"]["d"], 0.5)
