"""Curvatures of a part of the parameters, in every observer and dynamics that takes a curvature."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

import landscape_jax as lj
from landscape_jax import curvature as cv
from landscape_jax import observe, tree

STEPS = 3
RATE = 0.05


def weights(path):
    return not path.endswith("b") and path != "shift"


def block(problem, params, scale=None):
    """The dense block of the weights, by another way, and which entries of θ they are."""
    inside = np.asarray(ravel_pytree(tree.fill_zeros(tree.select(jax.tree.map(jnp.ones_like, params), weights), params))[0]) > 0
    unravel = ravel_pytree(params)[1]
    whole = jax.hessian(lambda x: problem.loss(unravel(x), problem.data))(ravel_pytree(params)[0])
    if scale is not None:
        root = ravel_pytree(scale)[0] ** -0.5
        whole = root[:, None] * whole * root[None]
    return np.asarray(whole)[np.ix_(inside, inside)], inside


def watched(problem, watch, optimizer=None, dynamics=lambda inner, curvature: inner):
    curvature = cv.restricted(cv.hessian(problem.loss), weights)
    gd = lj.dynamics.gradient(problem.loss, optimizer or optax.sgd(RATE), lj.data.full_batch(problem.data))
    observed = {name: make(curvature) for name, make in watch.items()}
    return lj.run(jax.random.key(0), problem.params, dynamics(gd, curvature), observed, num_steps=STEPS)


@pytest.fixture(scope="module")
def small(problem):
    """On 12 digits with 4 pixels each, so that the dense block is cheap: p = 8 · 4 + 8 + 80 + 10."""
    params = {**problem.params, "hidden": {"w": problem.params["hidden"]["w"][:4], "b": problem.params["hidden"]["b"]}}
    return problem._replace(params=params, data=(problem.data[0][:12, 20:24], problem.data[1][:12]))


def test_what_observers_see_of_a_block(small):
    watch = {
        "pair": lambda c: observe.eigenpairs(c, 1, lambda key, eigs, moment: (eigs.values[0], tree.row(eigs.vectors, 0))),
        "density": lambda c: observe.spectral_density(c, num_steps=8),
        "ratio": lambda c: observe.trace_ratio(c, num_probes=400),
    }
    _, record = watched(small, watch)
    matrix, inside = block(small, small.params)
    values, vectors = np.linalg.eigh(matrix)
    value, first = jax.tree.map(lambda x: x[0], record["pair"])
    np.testing.assert_allclose(value, values[-1], rtol=5e-3)
    first = ravel_pytree(first)[0]
    np.testing.assert_array_equal(first[~inside], 0)
    assert abs(first[inside] @ vectors[:, -1]) > 0.99
    nodes, weight = record["density"]["nodes"][0], record["density"]["weights"][0]
    assert nodes.min() > values[0] - 0.01
    spread = np.linalg.norm(matrix) / len(matrix)  # of the mean eigenvalue by two probes
    assert abs(np.sum(nodes * weight, axis=-1).mean() - values.mean()) < 4 * spread
    ratio = np.trace(matrix) / np.linalg.norm(matrix)
    assert abs(record["ratio"]["value"][0] - ratio) < 5 * record["ratio"]["error"][0]


@pytest.mark.slow
def test_what_else_observers_see_of_a_block(small):
    watch = {
        "shifted": lambda c: observe.sharpness(cv.shifted(cv.chunked(c, 3), 1.0), k=2),
        "alignment": lambda c: observe.alignment(c, k=2),
        "effect": lambda c: observe.step_effect(small.loss, c, k=2),
        "sections": lambda c: observe.cross_sections(small.loss, c, k=1),
    }
    _, record = watched(small, watch)
    matrix, inside = block(small, small.params)
    values, vectors = np.linalg.eigh(matrix)
    top = vectors[:, ::-1][:, :2]
    np.testing.assert_allclose(record["shifted"][0], values[::-1][:2] + 1, rtol=5e-3)
    gradient = ravel_pytree(jax.grad(small.loss)(small.params, small.data))[0]
    cosines = np.abs(top.T @ gradient[inside]) / np.linalg.norm(gradient)
    np.testing.assert_allclose(record["alignment"]["cosines"][0], cosines, rtol=0.05, atol=0.02)
    np.testing.assert_allclose(record["effect"]["slope"][0][0] ** 2, (top[:, 0] @ gradient[inside]) ** 2, rtol=0.05)
    assert np.isfinite(record["sections"]["loss"]).all()


def test_with_the_preconditioner_of_the_whole(small):
    optimizer = optax.adam(RATE)
    read = functools.partial(cv.preconditioner, optimizer=optimizer)
    watch = {
        "sharpness": lambda c: observe.sharpness(c, preconditioner=read),
        "P": lambda c: observe.stateless(lambda m: read(m.state)),
    }
    _, record = watched(small, watch, optimizer)
    scale = jax.tree.map(lambda x: x[0], record["P"])
    np.testing.assert_allclose(record["sharpness"][0], np.linalg.eigvalsh(block(small, small.params, scale)[0])[-1], rtol=5e-3)


@pytest.mark.slow
def test_a_dynamics_nudged_along_a_block(small):
    """γ = 0 never moves along the first eigenvector of the block."""
    run, _ = watched(small, {}, dynamics=lambda inner, c: lj.dynamics.nudged(inner, c, gamma=0.0, k=1, refresh=STEPS))
    moved = ravel_pytree(tree.sub(run.params, small.params))[0]
    matrix, inside = block(small, small.params)
    along = moved[inside] @ np.linalg.eigh(matrix)[1][:, -1]
    assert abs(along) < 0.05 * np.linalg.norm(moved)
    assert jax.tree.structure(run.state.vectors) == jax.tree.structure(small.params)


def test_blocks_of_blocks_and_dense(small):
    inner = cv.restricted(cv.hessian(small.loss), weights)
    whole = cv.dense(inner)(small.params, small.data)
    np.testing.assert_allclose(whole, block(small, small.params)[0], atol=1e-5)
    nested = cv.dense(cv.restricted(inner, lambda path: path == "out"))(small.params, small.data)
    np.testing.assert_allclose(nested, whole[-80:, -80:], atol=1e-6)  # hidden/w comes first


def test_the_kernel_of_outputs_is_refused(small):
    kernel = cv.ntk(small.apply)
    with pytest.raises(ValueError, match=r"ntk acts on outputs \[n, c\], not on θ.* spectrum\.eigsh"):
        lj.start(
            jax.random.key(0),
            small.params,
            lj.dynamics.gradient(small.loss, optax.sgd(0.1), lambda key, t: small.data),
            {"sharpness": observe.sharpness(kernel)},
        )
    with pytest.raises(ValueError, match="ntk acts on outputs"):
        cv.dense(kernel)(small.params, small.data)
