"""Batch statistics among the parameters: no gradient descent may train them, and no curvature count them, as weights."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx

import landscape_jax as lj

X, Y = jnp.linspace(-1.0, 1.0, 24).reshape(8, 3), jnp.zeros((8, 2))


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(nn.BatchNorm(use_running_average=True)(x))


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.BatchNorm(3, use_running_average=True, rngs=rngs)
        self.out = nnx.Linear(3, 2, rngs=rngs)

    def __call__(self, x):
        return self.out(self.norm(x))


def linen():
    """(θ with statistics, θ alone, statistics ↦ loss)"""
    net = Linen()
    variables = net.init(jax.random.key(0), X)

    def whole(variables, batch):
        return jnp.mean((net.apply(variables, batch[0]) - batch[1]) ** 2)

    def alone(params, batch):
        return whole({**variables, "params": params}, batch)

    return (variables, whole), (variables["params"], alone)


def nnx_state():
    net = Nnx(nnx.Rngs(0))
    graph, state = nnx.split(net)
    divided, params, rest = nnx.split(net, nnx.Param, ...)

    def whole(state, batch):
        return jnp.mean((nnx.merge(graph, state)(batch[0]) - batch[1]) ** 2)

    def alone(params, batch):
        return jnp.mean((nnx.merge(divided, params, rest)(batch[0]) - batch[1]) ** 2)

    return (state, whole), (params, alone)


def uses(params, loss):
    gd = lj.dynamics.gradient(loss, optax.sgd(0.1), lj.data.full_batch((X, Y)))
    watch = {"loss": lj.observe.loss}
    key = jax.random.key(0)
    return {
        "run": lambda: lj.run(key, params, gd, watch, num_steps=1),
        "start": lambda: jax.vmap(lambda k: lj.start(k, params, gd, watch))(jax.random.split(key, 2)),
        "hessian": lambda: lj.curvature.hessian(loss)(params, (X, Y))(params),
        "sharpness": lambda: lj.spectrum.eigsh(
            lj.curvature.hessian(loss)(params, (X, Y)), lj.tree.normal_like(jax.random.key(1), params), 1
        ),
    }


@pytest.mark.parametrize("use", ["run", "start", "hessian", "sharpness"])
@pytest.mark.parametrize("library", [linen, nnx_state])
def test_statistics_are_refused_by_name_and_weights_alone_work(library, use):
    mixed, alone = library()
    with pytest.raises(ValueError, match=r"\['(BatchNorm_0|norm)'\].*\['mean'\].* running statistic .*keep the weights alone"):
        uses(*mixed)[use]()
    uses(*alone)[use]()
