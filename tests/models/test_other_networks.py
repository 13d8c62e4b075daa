"""Other people's networks: Flax Linen, Flax NNX, Equinox and a list of arrays each train through `run` with sharpness, and do
what our own network with the same weights does. These are the recipes of the README."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import landscape_jax as lj

OURS = lj.models.mlp((7, 6), 10)


def ours(params):
    return OURS.apply, params


def linen(params):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = jnp.tanh(nn.Dense(7)(x))
            x = jnp.tanh(nn.Dense(6)(x))
            return nn.Dense(10)(x)

    theirs = {f"Dense_{i}": params[f"layer{i}"] for i in range(3)}
    net = Net()
    assert jax.tree.map(jnp.shape, net.init(jax.random.key(0), jnp.ones((1, 64)))["params"]) == jax.tree.map(jnp.shape, theirs)
    return lambda theta, x: net.apply({"params": theta}, x), theirs


def with_nnx(params):
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.layers = nnx.List([nnx.Linear(a, b, rngs=rngs) for a, b in ((64, 7), (7, 6), (6, 10))])

        def __call__(self, x):
            for layer in self.layers[:-1]:
                x = jnp.tanh(layer(x))
            return self.layers[-1](x)

    net = Net(nnx.Rngs(0))
    for i, layer in enumerate(net.layers):
        layer.kernel.set_value(params[f"layer{i}"]["kernel"])
        layer.bias.set_value(params[f"layer{i}"]["bias"])
    graph, theta = nnx.split(net)
    return lambda theta, x: nnx.merge(graph, theta)(x), theta


def equinox(params):
    net = eqx.nn.Sequential(
        [
            eqx.nn.Linear(64, 7, key=jax.random.key(0)),
            eqx.nn.Lambda(jnp.tanh),
            eqx.nn.Linear(7, 6, key=jax.random.key(1)),
            eqx.nn.Lambda(jnp.tanh),
            eqx.nn.Linear(6, 10, key=jax.random.key(2)),
        ]
    )
    for i in range(3):
        layer = params[f"layer{i}"]
        net = eqx.tree_at(lambda n, i=i: (n[2 * i].weight, n[2 * i].bias), net, (layer["kernel"].T, layer["bias"]))
    theta, static = eqx.partition(net, eqx.is_inexact_array)
    return lambda theta, x: jax.vmap(eqx.combine(theta, static))(x), theta


def arrays(params):
    def apply(theta, x):
        for w, b in theta[:-1]:
            x = jnp.tanh(x @ w + b[None])
        w, b = theta[-1]
        return x @ w + b[None]

    return apply, [(params[f"layer{i}"]["kernel"], params[f"layer{i}"]["bias"]) for i in range(3)]


def trained(make):
    train, _ = lj.data.digits(50)
    apply, theta = make(OURS.init(jax.random.key(4), train[0]))
    loss = lj.losses.mean(apply, lj.losses.cross_entropy)
    gd = lj.dynamics.gradient(loss, optax.sgd(0.5, momentum=0.5), lj.data.full_batch(train))
    watch = {
        "loss": lj.observe.loss,
        "sharpness": lj.observe.sharpness(lj.curvature.hessian(loss)),
        "norm": lj.observe.param_norm,
    }
    final, record = lj.run(jax.random.key(0), theta, gd, watch, num_steps=12, every=3)
    assert final.status == lj.Status.RUNNING
    assert jax.tree.structure(final.params) == jax.tree.structure(theta)
    return record


@pytest.fixture(scope="module")
def reference():
    return trained(ours)


@pytest.mark.parametrize(
    "make", [with_nnx, arrays, *(pytest.param(f, marks=pytest.mark.slow) for f in (linen, equinox))], ids=lambda f: f.__name__
)
def test_does_what_ours_does(make, reference):
    record = trained(make)
    assert reference["loss"][-1] < 0.8 * reference["loss"][0]
    for name in ("loss", "sharpness", "norm"):
        np.testing.assert_allclose(record[name], reference[name], rtol=3e-3 if name == "sharpness" else 1e-4)


def test_a_network_that_can_be_called_may_be_the_parameters_of_a_run():
    """What `equinox.partition` gives has a `__call__` of its own: for a while it was taken for a function."""
    params, static = eqx.partition(eqx.nn.MLP(64, 10, 8, 1, key=jax.random.key(0)), eqx.is_inexact_array)
    train, _ = lj.data.digits(20)
    loss = lj.losses.mean(lambda params, x: jax.vmap(eqx.combine(params, static))(x), lj.losses.square)
    descent = lj.dynamics.gradient(loss, optax.sgd(0.1), lj.data.full_batch(train))
    run, record = lj.run(jax.random.key(1), params, descent, {"loss": lj.observe.loss}, num_steps=3)
    assert record["loss"][-1] < record["loss"][0]
