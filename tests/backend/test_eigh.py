"""Small eigenproblems: LAPACK's, alone and under vmap."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landscape_jax.backend.eigh import FEW_MATRICES, eigh


def matrices(*lead):
    x = jax.random.normal(jax.random.key(0), (*lead, 5, 5))
    return x + jnp.swapaxes(x, -1, -2)


@pytest.mark.parametrize("lead", [(), (FEW_MATRICES,), (FEW_MATRICES + 2,), (3, 4)], ids=str)
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_pairs_from_the_upper_triangle_at_any_scale(lead, scale):
    full = matrices(*lead) * scale
    solve = eigh
    for _ in lead:
        solve = jax.vmap(solve)
    values, vectors = jax.jit(solve)(jnp.triu(full))
    exact = np.linalg.eigvalsh(np.float64(full))
    np.testing.assert_allclose(values / scale, exact / scale, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(full @ vectors / scale, vectors * values[..., None, :] / scale, rtol=1e-4, atol=1e-4)


def test_a_cpu_never_runs_the_batched_kernel():
    """It can deadlock between devices."""
    text = jax.jit(jax.vmap(eigh)).lower(matrices(4)).as_text()
    calls = [line for line in text.splitlines() if "lapack_ssyevd" in line]
    assert calls
    assert not any("4x5x5" in line for line in calls)
