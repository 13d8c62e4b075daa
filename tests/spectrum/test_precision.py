"""Estimates of any multiple of an operator are that multiple of its estimates, and leaves of 16 bits are told as such."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landscape_jax import spectrum, tree
from landscape_jax.observe.spectra import hutchinson_ratio

P = 50
LIKE = jnp.zeros(P)
MATRIX = np.float32(np.diag(np.linspace(1, 2, P)) + 0.01)


def start(b=None):
    return jax.random.normal(jax.random.key(1), (P,) if b is None else (b, P))


def tracked(matvec):
    tracker = spectrum.tracker(1)
    memory, _ = tracker.update(matvec, tracker.init(LIKE))
    return tracker.update(matvec, memory)[1]


def values_of(solve):
    def estimate(matvec):
        eigs = solve(matvec)
        return eigs.values, eigs.residuals

    return estimate


ESTIMATES = {  # all linear in A, errors too
    "eigsh": values_of(lambda a: spectrum.eigsh(a, start(), 2)),
    "eigsh num_steps": values_of(lambda a: spectrum.eigsh(a, start(), 1, num_steps=4)),
    "block_eigsh": values_of(lambda a: spectrum.block_eigsh(a, start(3), 2)),
    "tracker": values_of(tracked),
    "density": lambda a: spectrum.density(a, jax.random.key(0), LIKE, num_probes=2, num_steps=8).nodes,
    "recurrence": lambda a: (
        spectrum.density(a, jax.random.key(0), LIKE, num_probes=2, num_steps=8, reorthogonalise=False).nodes
    ),
    "trace": lambda a: spectrum.trace(a, jax.random.key(0), LIKE, num_probes=10),
    "hutch_plus_plus": lambda a: spectrum.hutch_plus_plus(a, jax.random.key(0), LIKE, num_products=21),
    "xtrace": lambda a: spectrum.xtrace(a, jax.random.key(0), LIKE, num_products=20),
    "diagonal": lambda a: spectrum.diagonal(a, jax.random.key(0), LIKE, num_probes=10),
    "frobenius_norm": lambda a: spectrum.frobenius_norm(a, jax.random.key(0), LIKE, num_probes=10),
    "function_trace": lambda a: spectrum.function_trace(jnp.abs, a, jax.random.key(0), LIKE, num_probes=4, num_steps=8),
}


@pytest.mark.parametrize("name", ESTIMATES)
def test_a_multiple_of_the_operator_has_that_multiple_of_the_estimate(name):
    @jax.jit
    def scaled(matrix):
        return ESTIMATES[name](lambda v: jnp.matmul(matrix, v, precision="highest"))

    expected = jax.tree.map(np.float64, scaled(MATRIX))
    for exponent in (-98, -73, -40, 40, 70, 98):  # 3e-30 to 3e29: powers of two change no digit
        s = 2.0**exponent
        found = jax.tree.map(lambda x, s=s: np.float64(x) / s, scaled(MATRIX * np.float32(s)))
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-5, atol=1e-5), found, expected)


def test_the_ratio_of_trace_and_norm_is_that_of_any_multiple():
    ratio = jax.jit(lambda a: hutchinson_ratio(lambda v: jnp.matmul(a, v, precision="highest"), jax.random.key(0), LIKE, 10))
    expected = ratio(MATRIX)
    for exponent in (-98, -73, 73, 98):
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), ratio(MATRIX * 2.0**exponent), expected)


def test_frobenius_norm_of_nan_has_the_error_nan():
    value, error = jax.jit(lambda x: spectrum.frobenius_norm(lambda v: x * v, jax.random.key(0), LIKE, num_probes=4))(jnp.nan)
    assert np.isnan(value)
    assert np.isnan(error)


@pytest.mark.parametrize("c", [0.0, 3.0, -1e-20])
def test_a_multiple_of_the_identity_is_smoothed_to_one_line(c):
    options = dict(num_probes=3, num_steps=6)
    density = jax.jit(lambda c: spectrum.density(lambda v: c * v, jax.random.key(0), LIKE, **options))(jnp.float32(c))
    grid = jnp.linspace(-5, 5, 1001)
    value, error = spectrum.smoothed(density, grid)
    assert np.isfinite(value).all()
    assert np.isfinite(error).all()
    np.testing.assert_allclose(np.trapezoid(value, grid), 1, rtol=1e-3)
    assert abs(grid[np.argmax(value)] - c) < 0.01
    with pytest.raises(ValueError, match="must be positive"):
        spectrum.smoothed(density, grid, 0.0)


# ── leaves of 16 bits ─────────────────────────────────────────────────────────────────────────────────────────────────

HALF = P // 2
Q = np.linalg.qr(np.random.default_rng(0).normal(size=(P, P)))[0]
WIDE = (Q * np.linspace(-1, 3, P) ** 3) @ Q.T  # eigenvalues −1 … 27
STORED = {
    "bfloat16": ("bfloat16", "bfloat16"),
    "float16": ("float16", "float16"),
    "float32 and bfloat16": ("float32", "bfloat16"),
    "float32 and float16": ("float32", "float16"),
}
ALL = [pytest.param(name, marks=[pytest.mark.slow] if name in ("float16", "float32 and bfloat16") else []) for name in STORED]


def narrow(stored):
    """(product on {"a", "b"} with leaves stored so, a vector)"""
    matrix, one, two = jnp.float32(WIDE), *(jnp.dtype(d) for d in stored)

    def matvec(v):
        assert (v["a"].dtype, v["b"].dtype) == (one, two)
        image = jnp.matmul(matrix, jnp.concatenate([x.astype(jnp.float32) for x in (v["a"], v["b"])]), precision="highest")
        return {"a": image[:HALF].astype(one), "b": image[HALF:].astype(two)}

    return matvec, {"a": jnp.zeros(HALF, one), "b": jnp.zeros(HALF, two)}


def guesses(like, b):
    return jax.vmap(lambda key: tree.normal_like(key, like))(jax.random.split(jax.random.key(0), b))


def looks(matvec, like):
    tracker = spectrum.tracker(2)
    memory, _ = tracker.update(matvec, tracker.init(like))
    return tracker.update(matvec, memory)[1]


SOLVERS = {
    "eigsh": lambda a, like: spectrum.eigsh(a, tree.normal_like(jax.random.key(0), like), 2),
    "num_steps": lambda a, like: spectrum.eigsh(a, tree.normal_like(jax.random.key(0), like), 2, num_steps=30),
    "confirm=0": lambda a, like: spectrum.eigsh(a, tree.normal_like(jax.random.key(0), like), 2, confirm=0),
    "block_eigsh": lambda a, like: spectrum.block_eigsh(a, guesses(like, 3), 2),
    "tracker": looks,
}


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("stored", ALL)
def test_residuals_hold_for_leaves_of_16_bits(stored, name):
    matvec, like = narrow(STORED[stored])
    eigs = jax.jit(lambda: SOLVERS[name](matvec, like))()
    rows = [np.asarray(x.astype(jnp.float32), np.float64) for x in jax.tree.leaves(eigs.vectors)]
    vectors, eps, size = np.concatenate(rows, axis=1), tree.eps(like), 27
    assert jax.tree.map(lambda x: x.dtype, eigs.vectors) == jax.tree.map(lambda x: x.dtype, like)
    assert eigs.values.dtype == jnp.float32
    left = np.linalg.norm(vectors @ WIDE - np.float64(eigs.values)[:, None] * vectors, axis=1)
    assert (left <= eigs.residuals).all()
    assert (eigs.residuals >= eps * size).all()  # none is told below what products round
    assert eigs.converged
    assert eigs.products < 100
    true = np.linalg.eigvalsh(WIDE)[::-1]
    np.testing.assert_allclose(eigs.values[:2], true[:2], rtol=0, atol=8 * eps * size)
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(len(vectors)), rtol=0, atol=eps)


@pytest.mark.parametrize("stored", ALL)
def test_moments_and_densities_of_leaves_of_16_bits(stored):
    matvec, like = narrow(STORED[stored])
    eps, size = tree.eps(like), 27
    for density in (True, False):
        options = dict(num_probes=2, num_steps=20, reorthogonalise=density)
        found = jax.jit(lambda o=options: spectrum.density(matvec, jax.random.key(0), like, **o))()
        assert found.nodes.dtype == jnp.float32
        np.testing.assert_allclose(found.nodes[:, 0], size, rtol=0, atol=4 * eps * size)
        assert (found.nodes >= -1 - 4 * eps * size).all()
    trace = np.trace(WIDE)
    for estimate, count in ((spectrum.hutch_plus_plus, 60), (spectrum.xtrace, 60)):
        value, error = jax.jit(lambda e=estimate, n=count: e(matvec, jax.random.key(0), like, num_products=n))()
        assert value.dtype == error.dtype == jnp.float32
        assert abs(value - trace) < 4 * error + 1
    diagonal = jax.jit(lambda: spectrum.diagonal(matvec, jax.random.key(0), like, num_probes=200))()
    for value, error, true in zip(*(jax.tree.leaves(x) for x in diagonal), np.split(np.diag(WIDE), [HALF]), strict=True):
        assert value.dtype == error.dtype == jnp.float32
        assert (np.abs(value - true) < 5 * error).all()


def test_a_tolerance_finer_than_the_narrowest_leaf_is_refused():
    matvec, like = narrow(STORED["bfloat16"])
    with pytest.raises(ValueError, match="less than what rounding leaves"):
        spectrum.eigsh(matvec, tree.normal_like(jax.random.key(0), like), 1, tol=1e-3)


def test_noise_that_no_product_will_lower_ends_the_search():
    """A product that rounds to seven bits, in leaves that are not told as such."""

    def coarse(v):
        return jax.lax.reduce_precision(jnp.matmul(jnp.float32(WIDE), v, precision="highest"), 8, 7)

    eigs = jax.jit(lambda: spectrum.eigsh(coarse, start(), 1))()
    assert not eigs.converged
    assert eigs.products < 200
