"""Density and tr/‖·‖_F in time against the dense matrix."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import landscape_jax as lj
from landscape_jax import observe, spectrum


@pytest.fixture(scope="module")
def watched(problem):
    hessian = lj.curvature.hessian(problem.loss)
    watch = {
        "density": observe.spectral_density(hessian, num_probes=4, num_steps=20),
        "ratio": observe.trace_ratio(hessian, batch=jax.tree.map(lambda x: x[:8], problem.data), num_probes=300),
        "params": observe.stateless(lambda m: m.params),
    }
    gd = lj.dynamics.gradient(problem.loss, optax.sgd(0.1), lj.data.full_batch(problem.data))
    record = lj.run(jax.random.key(0), problem.params, gd, watch, num_steps=20, every=10)[1]
    dense = jax.jit(lj.curvature.dense(hessian))
    at = [jax.tree.map(lambda x: x[i], record["params"]) for i in range(2)]  # noqa: B023
    part = jax.tree.map(lambda x: x[:8], problem.data)
    return record, *([np.asarray(dense(params, data), np.float64) for params in at] for data in (problem.data, part))


def ratio(matrix):
    return np.trace(matrix) / np.linalg.norm(matrix)


def test_ratio_is_that_of_the_dense_hessian_within_its_error(watched):
    record, _, matrices = watched
    for value, error, matrix in zip(record["ratio"]["value"], record["ratio"]["error"], matrices, strict=True):
        assert abs(value - ratio(matrix)) < 4 * error
        assert 0 < error < 0.1


def test_error_of_the_ratio_covers():
    """200 repeats: the standard error is their spread, within its own error of 5 %."""
    matrix = jnp.diag(jnp.linspace(-1, 2, 30)) + 0.3 * jnp.ones((30, 30))

    def one(key):
        return observe.hutchinson_ratio(lambda v: matrix @ v, key, jnp.zeros(30), 40)

    found = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), 400))
    np.testing.assert_allclose(np.mean(found.value), ratio(np.asarray(matrix)), atol=0.03)
    np.testing.assert_allclose(np.mean(found.error), np.std(found.value), rtol=0.15)


def test_ratio_of_nothing_is_nothing():
    assert observe.hutchinson_ratio(jnp.zeros_like, jax.random.key(0), jnp.ones(5), 3) == (0, 0)


def test_density_has_the_moments_of_the_dense_hessian(watched):
    record, matrices, _ = watched
    for t, matrix in enumerate(matrices):
        seen = spectrum.Density(**jax.tree.map(lambda x: x[t], dict(record["density"])))  # noqa: B023
        assert seen.nodes.shape == (4, 20)
        np.testing.assert_allclose(np.sum(seen.weights, axis=1), 1, rtol=1e-5)
        values = np.linalg.eigvalsh(matrix)
        np.testing.assert_allclose(seen.nodes[:, 0], values[-1], rtol=1e-3)
        np.testing.assert_allclose(np.sum(seen.weights * seen.nodes**2) / 4, np.mean(values**2), rtol=0.5)


def test_one_probe_has_no_error():
    with pytest.raises(ValueError, match="num_probes=1 must be at least 2"):
        observe.trace_ratio(lambda params, batch: lambda v: v, num_probes=1)
