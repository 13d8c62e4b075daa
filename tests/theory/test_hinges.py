"""Tabulated sums of hinges against the sums themselves."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landscape_jax.theory import hinges

T = np.random.default_rng(3).standard_normal((7, 40)) * np.linspace(0.5, 3, 7)[:, None]
BIASES = np.concatenate([[-30.0, 30.0, 0.0], 2 * np.random.default_rng(4).standard_normal(60)])


def summed(b):
    return jax.nn.relu(b - T).sum(axis=1)


def derivatives(fn):
    """Value, slope by forward and by reverse mode, and second derivative, at many b."""
    return jax.jit(jax.vmap(lambda b: (fn(b), jax.jacfwd(fn)(b), jax.jacrev(fn)(b), jax.jacfwd(jax.jacrev(fn))(b))))


@pytest.mark.parametrize("per_piece", [0.3, 1.5, 100.0])
def test_pieces_are_the_sum_and_its_derivatives(per_piece, x64):
    table = hinges.pieces(T, per_piece)
    at = jnp.asarray(np.concatenate([BIASES, np.asarray(table.edges)[:9] + 1e-9, np.asarray(table.edges)[:9]]))
    found, truth = (derivatives(f)(at) for f in (functools.partial(hinges.hinge_sums, table), summed))
    for mine, theirs in zip(found, truth, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-12, atol=1e-12)


def test_single_precision_is_not_lost_between_large_numbers():
    """Sums are kept from the interval's own end: no difference of totals."""
    table = hinges.pieces(T)
    found = jax.vmap(functools.partial(hinges.hinge_sums, table))(jnp.asarray(BIASES, jnp.float32))
    with jax.enable_x64(True):
        truth = jax.vmap(summed)(jnp.asarray(np.float32(BIASES), float))
    np.testing.assert_allclose(found, truth, rtol=3e-7, atol=3e-6)


def test_few_thresholds_lie_in_a_piece():
    table = hinges.pieces(np.random.default_rng(0).standard_normal((100, 200)))
    assert table.inside.shape[0] == 133
    assert table.inside.shape[1] <= 10
    assert table.inside.dtype == jnp.float32


def test_stacked_tables_are_each_their_own(x64):
    tables = [hinges.pieces(T), hinges.pieces(T[:, :9]), hinges.pieces(-T, per_piece=4.0)]
    both = hinges.stacked(tables)
    at = jnp.asarray(BIASES)
    for i, table in enumerate(tables):
        mine = jax.tree.map(lambda x, i=i: x[i], both)
        found, truth = (jax.vmap(functools.partial(hinges.hinge_sums, t))(at) for t in (mine, table))
        np.testing.assert_array_equal(found, truth)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: hinges.pieces(np.array([[0.0, np.inf]])), r"thresholds \(1, 2\) must be finite"),
        (lambda: hinges.pieces(np.zeros(3)), r"thresholds \(3,\) must be finite numbers, one row a sum"),
        (lambda: hinges.pieces(T, 0.0), "per_piece=0.0 must be positive"),
        (lambda: hinges.stacked([hinges.pieces(T), hinges.pieces(T[:3])]), r"rows differ, \[7, 3\]"),
    ],
)
def test_what_is_no_table(call, said):
    with pytest.raises(ValueError, match=said):
        call()
