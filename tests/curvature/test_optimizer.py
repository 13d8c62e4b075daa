"""The diagonal read from an optimizer's state is the one its update divides by, or it is refused by name."""

import functools
import inspect

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


# name: (optimizer, its hyperparameters where the state tells the rule, what P divides: the state's mu, or the gradient)
OPTIMIZERS = {
    "adam": (optax.adam(RATE), None, "mu"),
    "adam, other betas": (optax.adam(RATE, b1=0.8, b2=0.9, eps=1e-3, eps_root=1e-2), None, "mu"),
    "adamw without decay": (optax.adamw(RATE, weight_decay=0.0), None, "mu"),
    "nadam, no momentum": (optax.nadam(RATE, b1=0.0), None, "grads"),
    "adamax": (optax.adamax(RATE), None, "mu"),
    "adamax, other betas": (optax.adamax(RATE, b1=0.5, b2=0.8), None, "mu"),
    "radam": (optax.radam(RATE), None, "mu"),
    "radam, rectified": (optax.radam(RATE, b2=0.9, threshold=4.2), None, "mu"),
    "yogi": (optax.yogi(RATE), None, "mu"),
    "amsgrad": (optax.amsgrad(RATE), {}, "mu"),
    "adabelief": (optax.adabelief(RATE), None, "mu"),
    "rmsprop": (optax.rmsprop(RATE), {}, "grads"),
    "rmsprop, eps outside": (optax.rmsprop(RATE, eps=0.1, eps_in_sqrt=False), dict(eps=0.1, eps_in_sqrt=False), "grads"),
    "rmsprop, corrected": (optax.rmsprop(RATE, bias_correction=True), {}, "grads"),
    "rmsprop, centred": (optax.rmsprop(RATE, centered=True, decay=0.8), dict(decay=0.8), "grads"),
    "rmsprop, centred, corrected": (optax.rmsprop(RATE, centered=True, bias_correction=True), {}, "grads"),
    "adagrad": (optax.adagrad(RATE), {}, "grads"),
    "chain": (optax.chain(optax.clip(1e9), optax.adam(RATE)), None, "mu"),
    "injected": (optax.inject_hyperparams(optax.adam)(RATE, b1=0.7, b2=0.95), None, "mu"),
    "injected amsgrad": (optax.inject_hyperparams(optax.amsgrad)(RATE, b1=0.7, b2=0.95), {}, "mu"),
    "in a list of chains": (optax.chain(optax.chain(optax.identity(), optax.scale_by_adam()), optax.scale(-RATE)), None, "mu"),
    "named chain": (optax.named_chain(("b", optax.adamax(1.0)), ("a", optax.scale(RATE))), None, "mu"),
    "accumulated": (optax.MultiSteps(optax.adamax(RATE), 1).gradient_transformation(), None, "mu"),
    "a schedule": (optax.adam(lambda t: RATE), None, "mu"),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("steps", [3, 8])
def test_it_is_what_the_update_divides_by(name, steps):
    optimizer, hyperparams, divided = OPTIMIZERS[name]
    state, grads, updates = after(optimizer, steps)
    scales = [preconditioner(state, optimizer=optimizer)]
    if hyperparams is not None:
        scales.append(preconditioner(state, **hyperparams))
    expected = grads if divided == "grads" else found(state, "mu")
    for scale in scales:
        assert jax.tree.structure(scale) == jax.tree.structure(PARAMS)
        for p, u, m in zip(*(jax.tree.leaves(x) for x in (scale, updates, expected)), strict=True):
            np.testing.assert_allclose(-p * u / RATE, m, rtol=2e-4)


def installed():
    """name ↦ an optimizer, for everything in optax and optax.contrib that asks for no more than a learning rate."""
    made = {}
    for module in (optax, optax.contrib):
        for name in sorted(vars(module)):
            factory = getattr(module, name)
            if not inspect.isfunction(factory) or name.startswith("_"):
                continue
            needed = {p.name for p in inspect.signature(factory).parameters.values() if p.default is p.empty}
            if needed <= {"learning_rate"} and (needed or name.startswith("scale_by_")):
                made[name] = functools.partial(factory, **dict.fromkeys(needed, RATE))
    return made


KNOWN = {  # of the installed ones
    "adabelief",
    "adagrad",
    "adam",
    "adamax",
    "adamaxw",
    "adamw",
    "amsgrad",
    "nadam",
    "nadamw",
    "radam",
    "rmsprop",
    "yogi",
    "scale_by_adam",
    "scale_by_adamax",
    "scale_by_amsgrad",
    "scale_by_belief",
    "scale_by_radam",
    "scale_by_rms",
    "scale_by_rss",
    "scale_by_stddev",
    "scale_by_yogi",
}


@pytest.mark.parametrize("name", installed())
def test_every_optimizer_of_optax_is_read_rightly_or_refused_by_name(name):
    optimizer = installed()[name]()
    if not isinstance(optimizer, optax.GradientTransformation):
        pytest.skip("no optimizer")
    g = {"a": jnp.array([1e-3, 1.0, 100.0])}  # where eps and the powers of ν tell rules apart
    params, rate = tree.scale(0.0, g), 1.0 if name.startswith("scale_by") else -RATE
    try:
        state, updates = optimizer.init(params), None
        for t in range(20):
            grads = tree.scale(1.0 + 0.1 * t, g)
            with jax.numpy_dtype_promotion("standard"):
                updates, state = optimizer.update(grads, state, params)
    except (TypeError, ValueError):
        assert name not in KNOWN
        return  # it asks for more than a gradient
    if name not in KNOWN:
        with pytest.raises(ValueError, match=r"is not known as a division by a diagonal|holds no preconditioner"):
            preconditioner(state, optimizer=optimizer)
        return
    moment = found(state, "mu") if found(state, "mu") is not None and "stddev" not in name else grads
    if name.startswith("nadam"):  # its m is an average with the next gradient
        moment = jax.tree.map(lambda m, g: (0.9 * m / (1 - 0.9**21) + 0.1 * g / (1 - 0.9**20)) * (1 - 0.9**20), moment, grads)
    np.testing.assert_allclose(preconditioner(state, optimizer=optimizer)["a"], rate * moment["a"] / updates["a"], rtol=1e-4)


SHARED = ["adam", "nadam", "radam", "adamax", "yogi", "adopt", "acprop"]


@pytest.mark.parametrize("name", [name for name in SHARED if name in installed()])
def test_a_state_that_rules_share_is_not_read_without_the_rule(name):
    state, *_ = after(installed()[name]())
    with pytest.raises(ValueError, match=r"have the same ScaleBy\w+State .* pass optimizer="):
        preconditioner(state)


REFUSED = {
    **{name: (installed()[name](), f"scale_by_{name}") for name in ("adopt", "acprop") if name in installed()},
    "lamb": (optax.lamb(RATE), "scale_by_trust_ratio"),
    "clipped after": (optax.chain(optax.adam(RATE), optax.clip(0.1)), "clip does after the preconditioner"),
    "looking ahead": (optax.chain(optax.scale_by_adam(), optax.scale_by_optimistic_gradient()), "scale_by_optimistic_gradient"),
    "of one's own": (optax.chain(optax.adam(RATE), optax.stateless(lambda u, p: jax.tree.map(jnp.sign, u))), "stateless"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_known_is_refused_by_name(name):
    optimizer, told = REFUSED[name]
    state, *_ = after(optimizer)
    with pytest.raises(ValueError, match=f"preconditioner: what {told}.* a function of your own"):
        preconditioner(state, optimizer=optimizer)


def test_the_state_of_another_optimizer():
    with pytest.raises(ValueError, match="was not made by this optimizer"):
        preconditioner(after(optax.rmsprop(RATE))[0], optimizer=optax.adam(RATE))
    with pytest.raises(ValueError, match=r"\['b2'\] are read from the optimizer"):
        preconditioner(after(optax.adam(RATE))[0], optimizer=optax.adam(RATE), b2=0.9)


def test_in_a_compiled_run_with_a_traced_rate():
    def trained(b2):
        optimizer = optax.inject_hyperparams(optax.adam)(RATE, b2=b2)
        read = functools.partial(preconditioner, optimizer=optimizer)
        gd = lj.dynamics.gradient(lambda p, b: 0.5 * jnp.sum(b * p**2), optimizer, lambda key, t: jnp.array([1.0, 4.0]))
        watch = {
            "P": lj.observe.stateless(lambda m: read(m.state)),
            "u": lj.observe.stateless(lambda m: m.updates),
            "m": lj.observe.stateless(lambda m: found(m.state, "mu")),
        }
        return lj.run(jax.random.key(0), jnp.array([1.0, 2.0]), gd, watch, num_steps=4)[1]

    record = jax.jit(jax.vmap(trained))(jnp.array([0.9, 0.999]))
    np.testing.assert_allclose(record["P"], -RATE * record["m"] / record["u"], rtol=1e-4)


def test_masked_leaves_count_as_one():
    by_name = {"a": True, "b": False}  # a whole subtree
    optimizer = optax.chain(optax.masked(optax.scale_by_adam(), by_name), optax.scale(-RATE))
    state, *_ = after(optimizer)
    alone, *_ = after(optax.scale_by_adam())
    scale = preconditioner(state, optimizer=optimizer)
    assert scale["b"] == 1
    whole = preconditioner(state, PARAMS, optimizer=optimizer)
    assert jax.tree.structure(whole) == jax.tree.structure(PARAMS)
    np.testing.assert_array_equal(whole["b"]["c"], np.ones(4))
    assert scale["a"].shape == (3, 2)
    assert preconditioner(alone, optimizer=optax.scale_by_adam())["b"]["d"].shape == ()


def test_parts_with_optimizers_of_their_own_come_together():
    labels = {"a": "adam", "b": "rms"}
    both = optax.partition({"rms": optax.rmsprop(RATE), "adam": optax.adam(RATE, b2=0.9)}, labels)
    state, grads, updates = after(both)
    scale = preconditioner(state, optimizer=both)
    np.testing.assert_allclose(-scale["b"]["c"] * updates["b"]["c"] / RATE, grads["b"]["c"], rtol=1e-4)
    np.testing.assert_allclose(-scale["a"] * updates["a"] / RATE, found(state.inner_states["adam"], "mu")["a"], rtol=1e-4)


@pytest.mark.parametrize("optimizer", [optax.sgd(0.1), optax.sgd(0.1, momentum=0.9), optax.identity(), optax.lion(0.1)])
def test_a_state_without_one_says_so(optimizer):
    state, *_ = after(optimizer)
    with pytest.raises(ValueError, match=r"holds no preconditioner .*SGD and momentum have none.*known are Adam"):
        preconditioner(state)


def test_before_the_first_update_and_with_unknown_names():
    with pytest.raises(ValueError, match="no update yet: make a step first"):
        preconditioner(optax.adam(RATE).init(PARAMS), optimizer=optax.adam(RATE))
    with pytest.raises(ValueError, match=r"unknown hyperparameters \['beta2'\]"):
        preconditioner(after(optax.amsgrad(RATE))[0], beta2=0.9)


def test_prefix_of_a_tree_broadcasts():
    def loss(theta, batch):
        return 0.5 * tree.vdot(theta, theta)

    product = preconditioned(lj.curvature.hessian(loss), {"a": 4.0, "b": {"c": jnp.array([1.0, 2, 4, 8]), "d": 1.0}})
    out = product(PARAMS, None)(jax.tree.map(jnp.ones_like, PARAMS))
    np.testing.assert_allclose(out["a"], np.full((3, 2), 0.25))
    np.testing.assert_allclose(out["b"]["c"], [1, 0.5, 0.25, 0.125])
    everywhere = preconditioned(lj.curvature.hessian(loss), 2.0)(PARAMS, None)(jax.tree.map(jnp.ones_like, PARAMS))
    np.testing.assert_allclose(everywhere["b"]["d"], 0.5)
