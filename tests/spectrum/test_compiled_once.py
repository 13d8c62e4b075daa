"""`eigsh` outside of jit: one program for operators of one form, none for those that are gone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import landscape_jax as lj
from landscape_jax import programs, spectrum

DIAGONAL = jnp.arange(1.0, 9.0)
START = lj.tree.normal_like(jax.random.key(0), DIAGONAL)


def top(matvec, start=START, **options):
    return np.asarray(spectrum.eigsh(matvec, start, 1, **options).values)[0]


@pytest.fixture
def sizes(monkeypatch):
    """How many programs are known, from none."""
    monkeypatch.setattr(programs, "_operator_programs", {})
    return lambda: len(programs._operator_programs)


def test_operators_of_one_form_share_a_program_and_keep_their_own_numbers(sizes):
    def at(theta, batch):
        return lj.curvature.hessian(lambda p, b: jnp.sum(b[0] * jnp.cosh(p["a"])) + jnp.sum(b[0] * p["b"] ** 2))(theta, batch)

    theta = {"a": DIAGONAL / 4, "b": DIAGONAL}
    start = lj.tree.normal_like(jax.random.key(1), theta)
    for scale in (1.0, 2.0, 0.5):
        found = top(at({"a": scale * theta["a"], "b": theta["b"]}, (jnp.float32(scale),)), start)
        np.testing.assert_allclose(found, scale * max(2.0, np.cosh(2.0 * scale)), rtol=1e-5)
        assert sizes() == 1
    (go,) = programs._operator_programs.values()
    assert go._cache_size() == 1


def test_operators_of_other_forms_do_not(sizes):
    for i, (matvec, expected) in enumerate(
        {
            lambda v: DIAGONAL * v: 8.0,
            lambda v: 2.0 * (DIAGONAL * v): 16.0,
            lambda v: 3.0 * (DIAGONAL * v): 24.0,  # the same but for a number in the program
            lambda v: (DIAGONAL + 1) * v: 9.0,
            lambda v: DIAGONAL * v + jnp.flip(v): None,
        }.items()
    ):
        found = top(matvec)
        expected = np.linalg.eigvalsh(jax.vmap(matvec)(jnp.eye(8)))[-1] if expected is None else expected
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        assert sizes() in (i, i + 1)  # the fourth is of the first one's form
    few = sizes()
    top(lambda v: DIAGONAL * v, num_steps=5)
    top(lambda v: DIAGONAL * v, tol=1e-3)
    assert sizes() == few + 2


def test_a_callback_a_trace_and_a_batch_go_their_own_way(sizes):
    shape = jax.ShapeDtypeStruct((8,), jnp.float32)
    for factor in (1.0, 2.0):
        found = top(
            lambda v, f=factor: jax.pure_callback(lambda v: np.float32(f) * np.arange(1, 9, dtype=v.dtype) * v, shape, v)
        )
        np.testing.assert_allclose(found, 8 * factor, rtol=1e-5)
    scales = jnp.array([1.0, 3.0])
    batched = jax.vmap(lambda s: spectrum.eigsh(lambda v: s * DIAGONAL * v, START).values[0])(scales)
    np.testing.assert_allclose(batched, [8.0, 24.0], rtol=1e-5)
    within = jax.jit(lambda s: spectrum.eigsh(lambda v: s * DIAGONAL * v, START).values[0])(2.0)
    np.testing.assert_allclose(within, 16.0, rtol=1e-5)
    assert sizes() == 0


def test_no_more_are_kept_than_memory_has_room_for(sizes, monkeypatch):
    monkeypatch.setattr(programs, "MOST_OPERATORS", 2)
    for i in range(4):
        top(lambda v, i=i: (1.0 + i) * (DIAGONAL * v), num_steps=3)
    assert sizes() == 2
