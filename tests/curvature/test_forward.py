"""Curvatures of functions that hold a `jax.custom_vjp`, as fused kernels do: JAX refuses forward mode when it compiles."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, PartitionSpec

import landscape_jax as lj
from landscape_jax import curvature as cv
from landscape_jax import losses, tree
from landscape_jax.landscape.multiscale import line_minimum

WARNING = r"does not allow forward mode \(it holds a jax\.custom_vjp\)"


@jax.custom_vjp
def fused(x):
    """tanh, whose backward pass is ordinary JAX."""
    return jnp.tanh(x)


fused.defvjp(lambda x: (jnp.tanh(x), x), lambda x, g: (g * (1 - jnp.tanh(x) ** 2),))


@jax.custom_vjp
def slope(x, g):
    return g * (1 - jnp.tanh(x) ** 2)


def slope_backward(kept, c):
    x, g = kept
    sech2 = 1 - jnp.tanh(x) ** 2
    return -2 * c * g * jnp.tanh(x) * sech2, c * sech2


slope.defvjp(lambda x, g: (slope(x, g), (x, g)), slope_backward)


@jax.custom_vjp
def nested(x):
    """tanh, whose backward pass is a `custom_vjp` too."""
    return jnp.tanh(x)


nested.defvjp(lambda x: (jnp.tanh(x), x), lambda x, g: (slope(x, g),))


@jax.custom_jvp
def hidden(x):
    """tanh, with a derivative rule that holds a `custom_vjp`: the function's own jaxpr does not show it."""
    return jnp.tanh(x)


hidden.defjvp(lambda primals, tangents: (jnp.tanh(primals[0]), tangents[0] * slope(primals[0], jnp.ones_like(primals[0]))))


def scanned(x):
    return jax.lax.scan(lambda carry, _: (nested(carry), None), x, length=2)[0]


def twice(x):
    return jnp.tanh(jnp.tanh(x))


def branched(x):
    return jax.lax.cond(jnp.sum(x) > -1e9, nested, lambda x: x, x)


# name: (with custom derivatives, the same in plain JAX)
ACTIVATIONS = {
    "plain backward pass": (fused, jnp.tanh),
    "nested": (nested, jnp.tanh),
    "in jit": (jax.jit(nested), jnp.tanh),
    "in scan": (scanned, twice),
    "in cond": (branched, jnp.tanh),
    "in a derivative rule": (hidden, jnp.tanh),
    "in checkpoint": (jax.checkpoint(nested), jnp.tanh),
}
INPUTS = jnp.asarray(np.random.default_rng(0).normal(size=(9, 4)), jnp.float32)
PARAMS = {"w": jnp.asarray(np.random.default_rng(1).normal(size=(4, 3)), jnp.float32), "b": jnp.zeros(3)}
BATCH = INPUTS, jnp.eye(3)[jnp.arange(9) % 3]
V = tree.scattered_like(3, PARAMS)


def network(activation):
    return lambda params, x: activation(x @ params["w"] + params["b"][None])


def of_loss(make):
    return lambda activation: make(losses.mean(network(activation), losses.square))


def of_outputs(make, **options):
    return lambda activation: make(network(activation), losses.square, **options)


MEMBERS = {
    "hessian": of_loss(cv.hessian),
    "linearized_hessian": of_loss(cv.linearized_hessian),
    "reverse_hessian": of_loss(cv.reverse_hessian),
    "ggn": of_outputs(cv.ggn),
    "h_term": of_outputs(cv.h_term),
    "fisher": of_outputs(cv.fisher),
    "gradient_covariance": of_outputs(cv.gradient_covariance),
    "sampled_fisher": of_outputs(cv.sampled_fisher, key=jax.random.key(0)),
    "ntk": lambda activation: cv.ntk(network(activation)),
}


def close(mine, true):
    for a, b in zip(jax.tree.leaves(mine), jax.tree.leaves(true), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * float(tree.norm(true)))


@pytest.mark.filterwarnings(f"ignore:.*{WARNING}")
@pytest.mark.parametrize(
    ("member", "activation"), [(m, a) for m in MEMBERS for a in ACTIVATIONS if a == "nested" or m == "ggn"]
)
def test_products_are_those_of_plain_jax(member, activation):
    with_custom, plain = ACTIVATIONS[activation]
    v = BATCH[1] if member == "ntk" else V
    expected = MEMBERS[member](plain)(PARAMS, BATCH)(v)
    curvature = MEMBERS[member](with_custom)
    close(curvature(PARAMS, BATCH)(v), expected)
    close(jax.jit(lambda params, v: curvature(params, BATCH)(v))(PARAMS, v), expected)


@pytest.mark.filterwarnings(f"ignore:.*{WARNING}")
@pytest.mark.parametrize("member", ["hessian", pytest.param("linearized_hessian", marks=pytest.mark.slow), "ggn"])
def test_under_every_transformation(member):
    mine, plain = (MEMBERS[member](activation) for activation in (nested, jnp.tanh))
    stack = jax.vmap(lambda i: tree.scattered_like(i, PARAMS))(jnp.arange(3))
    thetas = jax.vmap(lambda a: tree.scale(a, PARAMS))(jnp.array([0.5, 1.0]))

    def everything(curvature):
        at = curvature(PARAMS, BATCH)
        return {
            "vmap over v": jax.vmap(at)(stack),
            "vmap over θ": jax.vmap(lambda theta: curvature(theta, BATCH)(V))(thetas),
            "scan": jax.lax.map(at, stack),
            "chunked": cv.chunked(curvature, 3)(PARAMS, BATCH)(V),
            "gradient": jax.grad(lambda theta: tree.vdot(V, curvature(theta, BATCH)(V)))(PARAMS),
        }

    close(everything(mine), everything(plain))


@pytest.mark.filterwarnings(f"ignore:.*{WARNING}")
def test_in_a_run_and_along_a_line():
    records, minima = [], []
    for activation in (nested, jnp.tanh):
        loss = losses.mean(network(activation), losses.square)
        gd = lj.dynamics.gradient(loss, optax.sgd(0.1), lj.data.full_batch(BATCH))
        watch = {"sharpness": lj.observe.sharpness(cv.hessian(loss))}
        records.append(lj.run(jax.random.key(0), PARAMS, gd, watch, num_steps=5)[1]["sharpness"])
        minima.append(jax.jit(lambda v, loss=loss: line_minimum(loss, PARAMS, v, BATCH, num=11))(V))
    np.testing.assert_allclose(*records, rtol=5e-3)
    close(*minima)


@pytest.mark.parametrize("activation", ["in a derivative rule", "in jit", "in scan", "in cond"])
def test_wherever_it_hides_it_is_seen(activation):
    mine, plain = (cv.hessian(losses.mean(network(f), losses.square)) for f in ACTIVATIONS[activation])
    with pytest.warns(UserWarning, match=WARNING):
        product = mine(PARAMS, BATCH)
    close(jax.jit(product)(V), jax.jit(plain(PARAMS, BATCH))(V))


def test_forward_mode_stays_where_only_the_loss_holds_one():
    """An ordinary backward pass can be differentiated forward: no warning, no second reverse pass."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        product = cv.hessian(losses.mean(network(fused), losses.square))(PARAMS, BATCH)
        jax.block_until_ready(product(V))


def test_the_warning_comes_once_where_the_curvature_is_built():
    curvature = cv.hessian(losses.mean(network(nested), losses.square))
    with pytest.warns(UserWarning, match=WARNING) as seen:
        product = curvature(PARAMS, BATCH)
    assert len(seen) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        product(V)


def test_products_at_a_point_are_traced_once():
    traces = []

    def loss(theta, batch):
        traces.append(1)
        return jnp.sum(jnp.cos(theta["w"]) ** 2) + jnp.sum(theta["b"] ** 4)

    product = cv.hessian(loss)(PARAMS, None)
    product(V)
    count = len(traces)
    product(V)
    jax.jit(lambda v: product(product(v)))(V)
    assert len(traces) <= count + 1


def test_in_shard_map_with_vectors_that_vary():
    mesh = Mesh(np.array(jax.devices()[:3]), ("examples",))
    loss = losses.mean(network(jnp.tanh), losses.square)

    def of_part(params, batch):
        v = jax.tree.map(lambda x: x + 0 * jnp.sum(batch[0]), V)
        third = cv.hessian(lambda *args: loss(*args) / 3)  # JAX sums the gradient by replicated parameters over devices
        return jax.lax.pmean(third(params, batch)(v), "examples")

    spread = jax.shard_map(of_part, mesh=mesh, in_specs=(PartitionSpec(), PartitionSpec("examples")), out_specs=PartitionSpec())
    close(jax.jit(spread)(PARAMS, BATCH), cv.hessian(loss)(PARAMS, BATCH)(V))
