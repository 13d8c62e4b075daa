"""What each backend chooses."""

import jax
import pytest

from landscape_jax.backend import policy


@pytest.mark.parametrize(
    ("backend", "runs", "points", "splits", "precision"), [("cpu", 1, 1, True, "highest"), ("gpu", 7, 16, False, None)]
)
def test_defaults_by_backend(backend, runs, points, splits, precision, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    assert (policy.on_cpu(), policy.on_gpu()) == (backend == "cpu", backend == "gpu")
    assert policy.runs_at_once(7) == runs
    assert policy.points_at_once() == points
    assert policy.splits_on_host() == splits
    before = jax.config.jax_default_matmul_precision
    with policy.shared_gradient_precision():
        assert jax.config.jax_default_matmul_precision == (before if precision is None else precision)
    assert jax.config.jax_default_matmul_precision == before


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_a_given_number_holds_everywhere(backend, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    assert [policy.runs_at_once(7, size) for size in (1, 4, 9)] == [1, 4, 7]
    assert [policy.points_at_once(size) for size in (1, 40)] == [1, 40]
