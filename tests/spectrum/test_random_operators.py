"""Eigensolvers on operators drawn at random: `converged` stands beside no wrong answer."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landscape_jax import spectrum

SHAPES = [(6, 1), (12, 2), (20, 3), (32, 4), (40, 5), (24, 1), (60, 2)]  # p, k: depths from p to a third of it


def eigenvalues(g, p):
    """Graded, random, of few values, of low rank, close, in clusters, with a multiple top, or a multiple of the identity."""
    i = np.arange(p)
    few = g.choice(g.normal(size=3), p)
    kinds = [
        10.0 ** (-g.uniform(1.1, 1.3) * i),
        10.0 ** (-g.uniform(0.1, 3) * i),
        g.normal(size=p),
        few,
        np.r_[g.normal(size=p // 3), np.zeros(p - p // 3)],
        1 - 10.0 ** g.uniform(-7, -2) * i,
        few + 10.0 ** g.uniform(-9, -3) * g.normal(size=p),
        np.r_[np.ones(p // 2), g.uniform(-0.5, 0.999, p - p // 2)],
        np.full(p, g.normal()) + (g.random() < 0.5) * (i == 0),
    ]
    signs = [np.ones(p), -np.ones(p), (-1.0) ** i, g.choice([-1.0, 1.0], p)]
    return kinds[g.integers(len(kinds))] * signs[g.integers(len(signs))] * 10.0 ** g.uniform(-3, 3)


def draw(seed, p, dtype):
    """A symmetric matrix [p, p], diagonal or rotated, and a start vector [p]: ones, normal, or the first axis."""
    g = np.random.default_rng(seed)
    diagonal = np.diag(g.permutation(eigenvalues(g, p)))
    q = np.linalg.qr(g.normal(size=(p, p)))[0] if g.random() < 0.5 else np.eye(p)
    matrix = (q @ diagonal @ q.T).astype(dtype)
    start = [np.ones(p), g.normal(size=p), np.eye(p)[0]][g.integers(3)]
    return (matrix + matrix.T) / 2, start.astype(dtype)


@functools.partial(jax.jit, static_argnums=(2, 3))
def solve(matrices, starts, k, options):
    def one(a, v):
        return spectrum.eigsh(lambda x: jnp.matmul(a, x, precision="highest"), v, k, **dict(options))

    return jax.vmap(one)(matrices, starts)


def faults(eigs, matrices, k, tol):
    """Of each operator: a value wrong by more than its residual and tol · max|λ|; a residual told too small; vectors that are
    not orthonormal. All [n] bool."""
    matrices, eps = np.float64(matrices), np.finfo(eigs.values.dtype).eps
    true = np.linalg.eigvalsh(matrices)[:, ::-1]
    values, residuals, vectors = np.float64(eigs.values), np.float64(eigs.residuals), np.float64(eigs.vectors)
    allowed = np.maximum(residuals, tol * np.abs(true).max(axis=1, keepdims=True))
    left = np.linalg.norm(vectors @ matrices - values[..., None] * vectors, axis=2)
    off = np.abs(vectors @ vectors.swapaxes(1, 2) - np.eye(k)).max(axis=(1, 2))
    return (np.abs(values - true[:, :k]) > allowed).any(axis=1), (left > residuals).any(axis=1), off > 50 * eps


def check(seeds, p, k, dtype, **options):
    drawn = [draw(seed, p, dtype) for seed in seeds]
    matrices, starts = (np.stack(x) for x in zip(*drawn, strict=True))
    eigs = jax.tree.map(np.asarray, solve(matrices, starts, k, tuple(options.items())))
    eps = np.finfo(dtype).eps
    tol = max(eps ** (2 / 3), 20 * eps * min(4 * k + 16, p) ** 0.5)
    for name, bad in zip(("value", "residual", "orthonormality"), faults(eigs, matrices, k, tol), strict=True):
        assert not (bad & eigs.converged).any(), (name, np.flatnonzero(bad & eigs.converged))
    return eigs


@pytest.mark.parametrize(("p", "k", "dtype"), [(20, 3, "float64"), (24, 2, "float32")])
def test_no_wrong_answer_is_told_as_converged(x64, p, k, dtype):
    eigs = check(range(150), p, k, dtype, max_restarts=20)
    assert eigs.converged.mean() > 0.95


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("p", "k"), SHAPES)
def test_no_wrong_answer_among_ten_thousand(x64, p, k, dtype):
    eigs = check(range(1000, 1715), p, k, dtype, max_restarts=20)
    assert eigs.converged.mean() > 0.9


@pytest.mark.parametrize("rate", [1.19, 1.20, 1.22, 1.23, 1.3])
def test_a_graded_operator_in_a_space_as_deep_as_it_is(x64, rate):
    """Eigenvalues (−1)^i 10^(−rate i): no copies of the first, nor nodes of the density beyond it."""
    diagonal = jnp.asarray(10.0 ** (-rate * np.arange(32)) * (-1.0) ** np.arange(32))
    eigs = graded(diagonal)
    assert eigs.converged
    np.testing.assert_allclose(eigs.values, np.sort(diagonal)[::-1][:4], rtol=0, atol=1e-12)
    np.testing.assert_allclose(eigs.vectors @ eigs.vectors.T, np.eye(4), rtol=0, atol=1e-13)
    nodes = graded_density(diagonal).nodes
    assert nodes.max() <= 1 + 1e-12
    assert nodes.min() >= diagonal.min() - 1e-12


@jax.jit
def graded(diagonal):
    return spectrum.eigsh(lambda v: diagonal * v, jnp.ones(32), 4)


@jax.jit
def graded_density(diagonal):
    return spectrum.density(lambda v: diagonal * v, jax.random.key(0), diagonal, num_probes=5)


@pytest.mark.parametrize("options", [{}, {"num_steps": 20}, {"confirm": 0}], ids=str)
def test_an_operator_that_is_not_symmetric_does_not_converge(options):
    matrix = jax.random.normal(jax.random.key(0), (20, 20))
    eigs = jax.jit(lambda a: spectrum.eigsh(lambda v: a @ v, jnp.ones(20), k=2, **options))(matrix)
    assert not eigs.converged
    assert (eigs.residuals > 1).all()


def test_a_block_does_not_converge_on_such_an_operator_either():
    matrix = jax.random.normal(jax.random.key(0), (20, 20))
    block = jax.random.normal(jax.random.key(1), (3, 20))
    assert not jax.jit(lambda a, s: spectrum.block_eigsh(lambda v: a @ v, s, k=2))(matrix, block).converged


def test_residuals_hold_where_restarts_meet_an_operator_that_is_nearly_symmetric():
    """S + e K with K antisymmetric, e from 1e-6 to 0.1: where it converges the residual told is no less than the true one."""
    matrices, p = [], 100
    for i in range(60):
        g = np.random.default_rng(i)
        q, k = np.linalg.qr(g.normal(size=(p, p)))[0], g.normal(size=(p, p)) / p**0.5
        values = [np.linspace(0, 2, p), g.normal(size=p)][i % 2]
        matrices.append((q * values) @ q.T + 10 ** g.uniform(-6, -1) * (k - k.T))
    matrices = np.float32(matrices)
    eigs = jax.tree.map(np.asarray, solve(matrices, np.ones((60, p), np.float32), 2, (("max_restarts", 10),)))
    vectors, exact = np.float64(eigs.vectors), np.float64(matrices)
    left = np.linalg.norm(vectors @ exact.swapaxes(1, 2) - np.float64(eigs.values)[..., None] * vectors, axis=2)
    assert (left <= eigs.residuals)[eigs.converged].all()
    assert 0.05 < eigs.converged.mean() < 0.95
