"""Stochastic Lanczos quadrature: weights, moments, curves and traces of functions."""

import functools

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


@functools.partial(jax.jit, static_argnums=2)
def many(matrix, key, reorthogonalise=True):
    return spectrum.density(product(matrix), key, LIKE, num_probes=40, num_steps=24, reorthogonalise=reorthogonalise)


@pytest.mark.parametrize("reorthogonalise", [True, False], ids=["basis", "three terms"])
@pytest.mark.parametrize("seed", range(3))
def test_each_probe_is_a_quadrature(seed, reorthogonalise):
    """Weights ≥ 0 that sum to 1, nodes in the range of A, and Σ w θ^j = zᵀA^j z for the probe itself, j ≤ 2m − 1."""
    matrix = example(seed)
    nodes, weights = jax.tree.map(np.float64, many(matrix, jax.random.key(seed), reorthogonalise))
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


CHEBYSHEV = np.polynomial.chebyshev.chebvander


def outlying(p=2000, seed=0):
    """Ten outliers above a bulk within a twentieth of the range: they converge early, and rounding brings them back."""
    return np.float32(np.r_[np.linspace(20, 40, 10), rng(seed).uniform(-1, 1, p - 10)])


@functools.partial(jax.jit, static_argnums=1)
def of_diagonal(diagonal, reorthogonalise):
    given = dict(num_probes=2, num_steps=64, reorthogonalise=reorthogonalise)
    return spectrum.density(lambda v: diagonal * v, jax.random.key(0), diagonal, **given)


def test_three_terms_are_a_quadrature_to_rounding_though_eigenvalues_come_back():
    """zᵀ T_k(A) z for every k < 2m, from z itself in float64; and the curve at its default width is that with a basis."""
    diagonal = outlying()
    whole, terms = of_diagonal(diagonal, True), of_diagonal(diagonal, False)
    least, most = diagonal.min(), diagonal.max()
    unit = lambda t: np.clip(2 * (np.float64(t) - least) / (most - least) - 1, -1, 1)  # noqa: E731
    for i in range(2):
        z = np.float64(tree.normal_like(jax.random.fold_in(jax.random.key(0), i), jnp.asarray(diagonal)))
        exact = (z**2 / (z @ z)) @ CHEBYSHEV(unit(diagonal), 127)  # [128]
        for found in (whole, terms):
            moments = np.float64(found.weights[i]) @ CHEBYSHEV(unit(found.nodes[i]), 127)
            np.testing.assert_allclose(moments, exact, atol=2e-4)  # a node's last digit is worth k² ε, up to 1e-3
    copies = lambda found: int((found.nodes[0] > 39.99).sum())  # noqa: E731
    assert copies(whole) == 1 < copies(terms)
    grid = jnp.linspace(-2, 42, 500)
    np.testing.assert_allclose(spectrum.smoothed(terms, grid).value, spectrum.smoothed(whole, grid).value, atol=1e-4)


def test_three_terms_end_with_the_krylov_space():
    diagonal = np.float32([3.0, 3, 3, 2, 2, 1])
    solve = jax.jit(lambda d: spectrum.recurrence(lambda v: d * v, jnp.ones(6), 6))
    alpha, beta = solve(diagonal)
    np.testing.assert_allclose(alpha[0], diagonal.mean(), rtol=1e-6)
    assert (beta[:2] > 0).all()
    assert (beta[2:] == 0).all()
    np.testing.assert_array_equal(alpha[3:], alpha[0])
    three = np.diag(alpha[:3]) + np.diag(beta[:2], 1) + np.diag(beta[:2], -1)
    np.testing.assert_allclose(np.linalg.eigvalsh(three), [1, 2, 3], rtol=1e-5)
    of_nothing = jax.jit(lambda z: spectrum.recurrence(lambda v: v, z, 2))(jnp.zeros(3))
    np.testing.assert_array_equal(of_nothing, np.zeros((2, 2)))


def test_three_terms_keep_no_basis():
    p, given = 100_000, dict(num_probes=2, num_steps=40)
    takes = {
        kept: jax.jit(lambda d, k, kept=kept: spectrum.density(lambda v: d * v, k, d, **given, reorthogonalise=kept))
        .lower(jnp.ones(p), jax.random.key(0))
        .compile()
        .memory_analysis()
        .temp_size_in_bytes
        / (4 * p)
        for kept in (True, False)
    }
    assert takes[True] > 41
    assert takes[False] < 8


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
