"""Every estimate with its error: the truth lies within two standard errors as often as it should."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landscape_jax import spectrum

P, REPEATS = 120, 200
rng = np.random.default_rng

SPECTRA = {
    "power law": 1 / np.arange(1.0, P + 1),
    "both signs": rng(1).normal(size=P),
    "flat": rng(2).uniform(1, 2, P),
    "network": np.r_[np.geomspace(20, 2, 10), np.geomspace(0.5, 1e-4, P - 20), -np.geomspace(0.2, 1e-3, 10)],
}


def product(matrix):
    return lambda v: jnp.matmul(matrix, v, precision="highest")


LIKE = np.zeros(P, np.float32)
ESTIMATORS = {  # name: ((matvec, key) ↦ Estimate, the truth from the dense matrix)
    "trace": (lambda a, k: spectrum.trace(product(a), k, LIKE, num_probes=60), np.trace),
    "hutch_plus_plus": (lambda a, k: spectrum.hutch_plus_plus(product(a), k, LIKE, num_products=99), np.trace),
    "xtrace": (lambda a, k: spectrum.xtrace(product(a), k, LIKE, num_products=60), np.trace),
    "frobenius_norm": (lambda a, k: spectrum.frobenius_norm(product(a), k, LIKE, num_probes=60), np.linalg.norm),
    "function_trace": (
        lambda a, k: spectrum.function_trace(jnp.exp, product(a), k, LIKE, num_probes=40, num_steps=12),
        lambda a: np.exp(np.linalg.eigvalsh(a)).sum(),
    ),
    "diagonal": (lambda a, k: spectrum.diagonal(product(a), k, LIKE, num_probes=60), np.diag),
}
COMPILED = {name: jax.jit(jax.vmap(estimate, in_axes=(None, 0))) for name, (estimate, _) in ESTIMATORS.items()}


def example(name):
    q = np.linalg.qr(rng(0).normal(size=(P, P)))[0]
    matrix = (q * SPECTRA[name]) @ q.T
    return ((matrix + matrix.T) / 2).astype(np.float32)


@pytest.mark.parametrize("spectrum_name", SPECTRA)
@pytest.mark.parametrize("name", ESTIMATORS)
def test_two_standard_errors_cover(name, spectrum_name):
    """In 90–99 % of 200 repeats, without bias, and of the right size."""
    matrix = example(spectrum_name)
    true = ESTIMATORS[name][1](np.float64(matrix))
    keys = jax.random.split(jax.random.key(17), REPEATS)
    value, error = jax.tree.map(np.float64, COMPILED[name](matrix, keys))
    assert value.shape == error.shape == (REPEATS, *np.shape(true))
    covered = np.mean(np.abs(value - true) <= 2 * error)
    assert 0.90 <= covered <= 0.99
    rms = np.sqrt(np.mean((value - true) ** 2))
    assert abs(np.mean(value - true)) < 4 * rms / value.size**0.5
    assert 0.8 < rms / np.sqrt(np.mean(error**2)) < 1.25


def test_low_rank_is_exact_to_rounding():
    g = rng(3).normal(size=(P, 6))
    matrix = (g @ g.T).astype(np.float32)
    for name in ("hutch_plus_plus", "xtrace"):
        value, error = COMPILED[name](matrix, jax.random.split(jax.random.key(0), 5))
        np.testing.assert_allclose(value, np.trace(matrix), rtol=2e-6)
        assert (np.abs(value - np.trace(np.float64(matrix))) <= 2 * error).all()
        assert (error < 1e-5 * np.trace(matrix)).all()


def test_more_exact_where_the_spectrum_decays():
    """Equal products: XTrace before Hutch++ before Hutchinson."""
    matrix = example("power law")
    errors = []
    for estimate in (spectrum.trace, spectrum.hutch_plus_plus, spectrum.xtrace):
        count = {"num_probes": 60} if estimate is spectrum.trace else {"num_products": 60}
        keys = jax.random.split(jax.random.key(4), 100)
        values = jax.jit(jax.vmap(lambda k, e=estimate, c=count: e(product(matrix), k, LIKE, **c).value))(keys)
        errors.append(np.sqrt(np.mean((values - np.trace(matrix)) ** 2)))
    assert errors[0] > 2 * errors[1] > 2 * errors[2]


def test_zero_operator():
    for name in ESTIMATORS:
        if name != "function_trace":
            value, error = COMPILED[name](np.zeros((P, P), np.float32), jax.random.split(jax.random.key(0), 1))
            assert (value == 0).all()
            assert (error == 0).all()
