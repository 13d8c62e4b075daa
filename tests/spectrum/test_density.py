"""Stochastic Lanczos quadrature: weights, moments, curves and traces of functions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landscape_jax import spectrum, tree

P = 150
rng = np.random.default_rng


def example(seed, dtype=np.float32):
    q = np.linalg.qr(rng(seed).normal(size=(P, P)))[0]
    eigenvalues = np.sort(np.r_[rng(seed).normal(size=P - 2), 6.0, 5.0])[::-1]
    matrix = ((q * eigenvalues) @ q.T).astype(dtype)
    return (matrix + matrix.T) / 2


def product(matrix):
    def matvec(v):
        image = matrix @ jnp.concatenate([v["a"], v["b"]])
        return {"a": image[:100], "b": image[100:]}

    return matvec


LIKE = {"a": np.zeros(100, np.float32), "b": np.zeros(50, np.float32)}


@jax.jit
def many(matrix, key):
    return spectrum.density(product(matrix), key, LIKE, num_probes=40, num_steps=24)


@pytest.mark.parametrize("seed", range(3))
def test_each_probe_is_a_quadrature(seed):
    """Weights ≥ 0 that sum to 1, nodes in the range of A, and Σ w θ^j = zᵀA^j z for the probe itself, j ≤ 2m − 1."""
    matrix = example(seed)
    nodes, weights = jax.tree.map(np.float64, many(matrix, jax.random.key(seed)))
    assert nodes.shape == weights.shape == (40, 24)
    assert (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-6)
    true = np.linalg.eigvalsh(np.float64(matrix))
    assert nodes.min() >= true[0] - 1e-5
    assert nodes.max() <= true[-1] + 1e-5
    for i in range(3):
        probe = jax.random.fold_in(jax.random.key(seed), i)
        z = np.concatenate([np.float64(x) for x in jax.tree.leaves(tree.normal_like(probe, LIKE))])
        z /= np.linalg.norm(z)
        for j in range(1, 7):
            power = np.linalg.matrix_power(np.float64(matrix), j)
            np.testing.assert_allclose(weights[i] @ nodes[i] ** j, z @ power @ z, rtol=2e-4)


@pytest.mark.parametrize("seed", range(3))
def test_moments_match_the_exact_ones(seed):
    matrix = example(seed)
    true = np.linalg.eigvalsh(np.float64(matrix))
    nodes, weights = jax.tree.map(np.float64, many(matrix, jax.random.key(seed)))
    for j in range(1, 5):
        samples = (weights * nodes**j).sum(axis=1)
        error = samples.std(ddof=1) / len(samples) ** 0.5
        assert abs(samples.mean() - (true**j).mean()) < 4 * error
        assert error < 0.2 * np.mean(np.abs(true) ** j)


def test_all_steps_of_one_probe_in_every_direction_give_the_spectrum():
    matrix = example(0)
    solve = jax.jit(lambda a, k: spectrum.density(product(a), k, LIKE, num_probes=1, num_steps=10_000))
    density = solve(matrix, jax.random.key(0))
    assert density.nodes.shape == (1, P)
    np.testing.assert_allclose(density.nodes[0], np.linalg.eigvalsh(np.float64(matrix))[::-1], atol=2e-5)


def test_smoothed_is_the_density_with_its_band():
    matrix = example(1)
    true = np.linalg.eigvalsh(np.float64(matrix))
    grid = jnp.linspace(-5, 8, 200)
    curve = spectrum.smoothed(many(matrix, jax.random.key(5)), grid, 0.4)
    assert curve.value.shape == curve.error.shape == (200,)
    np.testing.assert_allclose(np.trapezoid(curve.value, grid), 1, rtol=1e-3)
    exact = np.exp(-0.5 * ((np.asarray(grid)[:, None] - true) / 0.4) ** 2).mean(axis=1) / (0.4 * np.sqrt(2 * np.pi))
    inside = np.abs(curve.value - exact) <= 2 * curve.error + 1e-4
    assert inside.mean() > 0.85  # the points of one curve are not independent of each other
    assert np.isnan(spectrum.smoothed(jax.tree.map(lambda x: x[:1], many(matrix, jax.random.key(5))), grid).error).all()


@pytest.mark.slow
def test_trace_of_a_function_and_probes_at_once():
    matrix = example(2)
    true = np.linalg.eigvalsh(np.float64(matrix))

    def log_determinant(a, key, batch_size=None):
        options = dict(num_probes=30, num_steps=20, batch_size=batch_size)
        return spectrum.function_trace(lambda t: jnp.log1p(t**2), product(a), key, LIKE, **options)

    one_by_one = jax.jit(log_determinant)(matrix, jax.random.key(3))
    assert abs(one_by_one.value - np.log1p(true**2).sum()) < 4 * one_by_one.error < 0.2 * np.log1p(true**2).sum()
    at_once = jax.jit(log_determinant, static_argnums=2)(matrix, jax.random.key(3), 7)
    np.testing.assert_allclose(at_once, one_by_one, rtol=1e-3)
