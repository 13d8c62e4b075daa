"""Optax inside, the textbook outside."""

import functools
import inspect
import warnings

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
        optax.chain(optax.sgd(0.1), optax.keep_params_nonnegative()),
        optax.partition(
            {"large": optax.sgd(0.1), "small": optax.set_to_zero()},
            lambda theta: jax.tree.map(lambda x: "large" if x.size > 1 else "small", theta),
        ),
        optax.partition({"down": optax.sgd(0.1), "up": optax.sgd(-1.0)}, {"a": "down", "b": "up"}),
        optax.chain(optax.set_to_zero(), optax.add_decayed_weights(0.1), optax.scale(-0.1)),
        optax.sgd(lambda t: jnp.where(t < 20_000, 0.0, 0.1)),
        optax.contrib.sam(optax.sgd(0.1), optax.chain(optax.contrib.normalize(), optax.sgd(0.1))),
    ],
    ids=[
        "warm-up",
        "accumulation",
        "chain",
        "inject_hyperparams",
        "constraint",
        "labels by size",
        "a saddle",
        "decay alone",
        "long warm-up",
        "uphill and down",
    ],
)
@pytest.mark.parametrize("compiled", [False, True])
def test_an_optimizer_that_descends_in_the_end_is_let_through(optimizer, compiled):
    init = lj.dynamics.gradient(bowl, optimizer, NONE).init
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (jax.jit(init) if compiled else init)(START)


@pytest.mark.parametrize(
    "optimizer", [optax.set_to_zero(), optax.MultiSteps(optax.sgd(0.1), 30_000).gradient_transformation()], ids=["none", "rare"]
)
def test_one_that_does_not_seem_to_move_gets_a_warning(optimizer):
    with pytest.warns(UserWarning, match="did not move θ in 10000 steps .* look at its learning rate"):
        lj.dynamics.gradient(bowl, optimizer, NONE).init(START)


def test_a_traced_rate_is_let_through_whatever_its_sign():
    init = jax.jit(lambda rate: lj.dynamics.gradient(bowl, optax.sgd(rate, momentum=0.9), NONE).init(START))
    assert not jax.tree.leaves(init(-1.0))[0].any()


CONTRIB = {  # those of optax.contrib that need more than a learning rate
    "mechanize": lambda: optax.contrib.mechanize(optax.sgd(0.1)),
    "sam": lambda: optax.contrib.sam(optax.sgd(0.1), optax.chain(optax.contrib.normalize(), optax.sgd(0.05))),
    "sam, opaque": lambda: optax.contrib.sam(
        optax.sgd(0.1), optax.chain(optax.contrib.normalize(), optax.sgd(0.05)), opaque_mode=True
    ),
    "sam in a chain": lambda: optax.chain(
        optax.contrib.sam(optax.sgd(0.1), optax.sgd(0.01), opaque_mode=True), optax.identity()
    ),
    "schedule_free": lambda: optax.contrib.schedule_free(optax.sgd(0.1), 0.1),
    "split_real_and_imaginary": lambda: optax.contrib.split_real_and_imaginary(optax.sgd(0.1)),
    "reduce_on_plateau": lambda: optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau()),
    "dpsgd": lambda: optax.contrib.dpsgd(0.1, 1.0, 1.0, 0),
}
WHOLE = {  # in optax.contrib, by a learning rate alone
    "acprop",
    "ademamix",
    "adopt",
    "cocob",
    "dadapt_adamw",
    "dog",
    "dowg",
    "galore",
    "madgrad",
    "momo",
    "momo_adam",
    "muon",
    "prodigy",
    "schedule_free_adamw",
    "schedule_free_sgd",
    "simplified_ademamix",
    "sophia",
}
PARTS = {"normalize", "hutchinson_estimator_diag_hessian", "differentially_private_aggregate", "schedule_free_eval_params"}
REFUSED = {"dpsgd": "per-example gradients"}  # it wants a gradient of each example


def test_the_table_of_contrib_is_whole():
    functions = {name for name, f in vars(optax.contrib).items() if inspect.isfunction(f) and not name.startswith("scale_by_")}
    assert functions - PARTS <= WHOLE | set(CONTRIB)


@pytest.mark.parametrize("name", [*sorted(WHOLE), *CONTRIB])
def test_every_optimizer_of_contrib_runs_or_says_why_not(name):
    factory = CONTRIB.get(name) or getattr(optax.contrib, name, None)
    if factory is None:
        pytest.skip("not in this version of optax")
    if name in WHOLE:
        needed = {p.name for p in inspect.signature(factory).parameters.values() if p.default is p.empty}
        factory = functools.partial(factory, **dict.fromkeys(needed, 0.01))
    if name in REFUSED:
        with pytest.raises(ValueError, match=REFUSED[name]):
            trajectory(factory(), num_steps=2)
        return
    record = trajectory(factory(), num_steps=40)
    assert np.isfinite(record["loss"]).all()
    assert record["loss"][-1] < record["loss"][0]


def test_an_unknown_argument_of_ones_own_is_not_swallowed():
    def update(updates, state, params=None, *, other):
        return updates, state

    optimizer = optax.GradientTransformationExtraArgs(lambda params: (), update)
    with pytest.raises(TypeError, match="missing 1 required keyword-only argument: 'other'"):
        lj.dynamics.gradient(bowl, optimizer, NONE).init(START)
