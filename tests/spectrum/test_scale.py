"""Spectra of parameters split over devices, and of many networks at once."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import landscape_jax as lj
from landscape_jax import spectrum, tree

SHAPES = {"a": (24, 56), "b": (56, 72), "c": (72, 11)}
SPLIT = {"a": PartitionSpec(None, "p"), "b": PartitionSpec(None, "p"), "c": PartitionSpec("p", None)}


def apply(theta, x):
    return jnp.tanh(jnp.tanh(x @ theta["a"]) @ theta["b"]) @ theta["c"]


CURVATURE = lj.curvature.hessian(lj.losses.mean(apply, lj.losses.square))


@pytest.fixture(scope="module")
def placed():
    """(θ, start) on one device, both split over eight, the batch"""
    mesh = jax.make_mesh((8,), ("p",), axis_types=(AxisType.Auto,))
    shardings = {name: NamedSharding(mesh, spec) for name, spec in SPLIT.items()}
    params = {name: jnp.zeros(shape) for name, shape in SHAPES.items()}
    whole = tree.scale(0.2, tree.normal_like(jax.random.key(0), params)), tree.normal_like(jax.random.key(1), params)
    generator = np.random.default_rng(0)
    batch = tuple(jnp.asarray(generator.normal(size=(37, d)), jnp.float32) for d in (24, 11))
    return whole, tuple(jax.device_put(x, shardings) for x in whole), batch


def to_tolerance(params, start, batch):
    return spectrum.eigsh(CURVATURE(params, batch), start, k=3, smallest=1)


def fixed(params, start, batch):
    return spectrum.eigsh(CURVATURE(params, batch), start, k=3, num_steps=12)


def densities(params, start, batch):
    return spectrum.density(CURVATURE(params, batch), jax.random.key(2), params, num_probes=2, num_steps=8)


def moments(params, start, batch):
    matvec = CURVATURE(params, batch)
    one, two, three = jax.random.split(jax.random.key(3), 3)
    return (
        spectrum.trace(matvec, one, params, num_probes=4),
        spectrum.diagonal(matvec, two, params, num_probes=4),
        spectrum.xtrace(matvec, three, params, num_products=8),
    )


@pytest.mark.parametrize(
    "solve",
    [to_tolerance, *(pytest.param(f, marks=pytest.mark.slow) for f in (fixed, densities, moments))],
    ids=lambda f: f.__name__,
)
def test_no_device_holds_a_whole_vector(placed, solve):
    (params, start), split, batch = placed
    program = jax.jit(solve).lower(*split, batch).compile()
    out = program(*split, batch)
    if hasattr(out, "vectors"):
        for name, spec in SPLIT.items():
            assert out.vectors[name].sharding.shard_shape(out.vectors[name].shape)[1:] == tuple(
                n // 8 if axis == "p" else n for n, axis in zip(SHAPES[name], spec, strict=True)
            )
    sizes = {int(np.prod(shape)) for shape in SHAPES.values()}
    for shape in set(re.findall(r"(?:f32|u32|s32)\[([\d,]+)\]", program.as_text())):
        dims = tuple(map(int, shape.split(",")))
        for axes in range(len(dims)):  # as it is, and as a stack
            local = int(np.prod(dims[axes:]))
            assert local not in sizes, f"a buffer of shape [{shape}] holds a whole leaf"
    expected = jax.jit(solve)(params, start, batch)
    rtol, atol = (1e-3, 1e-3) if solve is moments else (1e-4, 1e-3)
    compared = (expected.values, out.values) if hasattr(out, "values") else (expected, out)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), *compared)


def test_the_check_itself_sees_a_gathered_vector(placed):
    _, split, batch = placed
    text = jax.jit(lambda params: jnp.sort(params["b"].ravel())).lower(split[0]).compile().as_text()
    assert "f32[4032]" in text or "f32[56,72]" in text


@pytest.mark.slow
def test_the_spectra_of_64_networks_in_one_call():
    model = lj.models.mlp((4,), 2)
    batch = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32), np.arange(20) % 2
    loss = lj.losses.mean(model.apply, lj.losses.cross_entropy)
    keys = jax.random.split(jax.random.key(0), 64)
    params = jax.vmap(lambda key: model.init(key, batch[0]))(keys)

    @jax.jit
    def top(params):
        start = tree.scattered_like(1, params)
        return spectrum.eigsh(lj.curvature.hessian(loss)(params, batch), start, k=3)

    eigs = jax.jit(jax.vmap(top))(params)
    assert eigs.values.shape == (64, 3)
    assert eigs.converged.all()
    dense = jax.jit(jax.vmap(lambda theta: lj.curvature.dense(lj.curvature.hessian(loss))(theta, batch)))(params)
    true = np.linalg.eigvalsh(np.float64(dense))[:, ::-1][:, :3]
    np.testing.assert_allclose(eigs.values, true, rtol=0, atol=2e-5 * true[:, :1].max())
