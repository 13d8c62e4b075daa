import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from landscape_jax import tree
from landscape_jax.backend import layout

X = {"w": jnp.arange(6.0).reshape(2, 3), "rest": [jnp.array(-2.0), jnp.array([0.5, 4.0])]}
Y = {"w": jnp.full((2, 3), 0.5), "rest": [jnp.array(3.0), jnp.array([-1.0, 2.0])]}
FLAT_X, FLAT_Y = (np.float64(ravel_pytree(t)[0]) for t in (X, Y))


def flat(t):
    return np.float64(ravel_pytree(t)[0])


def test_arithmetic_is_that_of_the_flat_vector():
    assert tree.vdot(X, Y) == FLAT_X @ FLAT_Y
    np.testing.assert_allclose(tree.norm(X), np.linalg.norm(FLAT_X), rtol=1e-6)
    np.testing.assert_array_equal(flat(tree.add(X, Y)), FLAT_X + FLAT_Y)
    np.testing.assert_array_equal(flat(tree.sub(X, Y)), FLAT_X - FLAT_Y)
    np.testing.assert_array_equal(flat(tree.scale(-2, X)), -2 * FLAT_X)
    np.testing.assert_array_equal(flat(tree.axpy(0.5, X, Y)), 0.5 * FLAT_X + FLAT_Y)
    np.testing.assert_array_equal(flat(tree.zeros_like(X)), 0 * FLAT_X)
    assert tree.size(X) == 9


def test_mixed_dtypes_keep_their_own_and_sum_in_the_widest():
    x = {"a": jnp.full(3, 1.5, jnp.bfloat16), "b": jnp.full(2, 2.0, jnp.float32)}
    assert tree.dtype(x) == jnp.float32
    assert tree.vdot(x, x).dtype == jnp.float32
    assert tree.vdot(x, x) == 3 * 2.25 + 8
    assert tree.scale(jnp.float32(2), x)["a"].dtype == jnp.bfloat16
    assert tree.axpy(jnp.float32(2), x, x)["a"].dtype == jnp.bfloat16


def test_where_takes_whole_trees_and_typed_keys():
    for condition, expected, seed in ((True, X, 1), (False, Y, 2)):
        values, key = tree.where(jnp.array(condition), (X, jax.random.key(1)), (Y, jax.random.key(2)))
        np.testing.assert_array_equal(flat(values), flat(expected))
        assert (jax.random.key_data(key) == jax.random.key_data(jax.random.key(seed))).all()


def test_all_finite_looks_at_floats_only():
    assert tree.all_finite(X)
    assert tree.all_finite({"count": jnp.array(3), "key": jax.random.key(0)})
    for bad in (jnp.nan, jnp.inf, -jnp.inf):
        assert not tree.all_finite((X, jnp.array([1.0, bad])))


def test_normal_like_is_standard_normal_leaf_by_leaf():
    shape = {"a": jnp.zeros((40, 50)), "b": jnp.zeros((40, 50))}
    v = tree.normal_like(jax.random.key(0), shape)
    a, b = np.asarray(v["a"]).ravel(), np.asarray(v["b"]).ravel()
    for x in (a, b):
        assert abs(x.mean()) < 0.1
        assert abs(x.std() - 1) < 0.05
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.1


def test_scattered_directions_are_spread_and_nearly_orthogonal():
    shape = {"a": jnp.zeros((20, 50)), "b": jnp.zeros(()), "c": jnp.zeros(999)}
    rows = np.stack([flat(tree.scattered_like(i, shape)) for i in range(6)])
    assert rows.min() >= -1
    assert rows.max() < 1
    assert np.abs(rows.mean(axis=1)).max() < 0.1
    assert np.abs(rows.std(axis=1) - 3**-0.5).max() < 0.05
    assert np.abs(np.corrcoef(rows) - np.eye(6)).max() < 0.1
    assert len(np.unique(rows[0])) > 1990
    traced = jax.jit(lambda i: tree.scattered_like(i, shape))(3)
    np.testing.assert_array_equal(flat(traced), rows[3])


def test_stacks_are_matrices():
    stack = jax.tree.map(lambda x, y: jnp.stack([x, y, x - y]), X, Y)
    rows = np.stack([FLAT_X, FLAT_Y, FLAT_X - FLAT_Y])
    for i in range(3):
        np.testing.assert_array_equal(flat(tree.row(stack, i)), rows[i])
    np.testing.assert_allclose(tree.dots(stack, Y), rows @ FLAT_Y, rtol=1e-6)
    weights = np.array([[1.0, 2.0, -1.0], [0.0, 0.5, 3.0]], np.float32)
    np.testing.assert_allclose(flat(tree.combine(jnp.asarray(weights[0]), stack)), weights[0] @ rows, rtol=1e-6)
    both = tree.combine(jnp.asarray(weights), stack)
    np.testing.assert_allclose(flat(tree.row(both, 1)), weights[1] @ rows, rtol=1e-6)
    changed = tree.with_row(stack, 1, X)
    np.testing.assert_array_equal(flat(tree.row(changed, 1)), FLAT_X)
    np.testing.assert_array_equal(flat(tree.row(changed, 2)), rows[2])
    assert jax.tree.map(jnp.shape, tree.zero_stack(X, 4)) == {"w": (4, 2, 3), "rest": [(4,), (4, 2)]}


def test_num_examples():
    assert tree.num_examples((jnp.zeros((5, 2)), {"y": jnp.zeros(5)})) == 5
    with pytest.raises(ValueError, match=r"have \[0\]: 5, \[1\]: 4"):
        tree.num_examples((jnp.zeros((5, 2)), jnp.zeros(4)))
    with pytest.raises(ValueError, match="a scalar"):
        tree.num_examples((jnp.zeros((5, 2)), jnp.zeros(())))
    with pytest.raises(ValueError, match="no array"):
        tree.num_examples(())


def test_norms_and_units_are_safe_at_any_scale():
    x = jnp.array([[3.0, 0.0, 5.0], [4.0, 0.0, 12.0]])
    for s in (1e-36, 1e-22, 1.0, 1e20, 1e36):
        np.testing.assert_allclose(tree.norms(x * s) / s, [5, 0, 13], rtol=1e-6)
        unit = tree.unit(x * s)
        assert 0.3 < 12 * s / unit < 3
        assert np.frexp(unit)[0] == 0.5
    np.testing.assert_array_equal(tree.norms(x.at[0, 1].set(jnp.nan).at[0, 2].set(jnp.inf)), [5, np.nan, np.inf])
    for none in (0.0, jnp.inf, jnp.nan):
        assert tree.unit(jnp.array([none, 0.0])) == 1


def test_leaves_of_16_bits_are_summed_in_32_and_rounded_once():
    x = {"a": jnp.full(3000, 1.01, jnp.float16), "b": jnp.full(3000, 1.01, jnp.bfloat16)}
    exact = np.concatenate([np.float64(x["a"]), np.float64(x["b"].astype(jnp.float32))])
    assert tree.dtype(x) == tree.vdot(x, x).dtype == tree.norm(x).dtype == jnp.float32
    assert tree.eps(x) == tree.eps(layout.pack(x)) == 2.0**-7
    np.testing.assert_allclose(tree.vdot(x, x), exact @ exact, rtol=1e-6)
    np.testing.assert_allclose(tree.norm(x), np.linalg.norm(exact), rtol=1e-6)
    np.testing.assert_allclose(tree.norm(tree.scale(1e-6, x)), 1e-6 * np.linalg.norm(exact), rtol=2e-2)
    halved = tree.scale(jnp.float32(1e-5), tree.scale(jnp.float32(6e4), x))["a"]
    np.testing.assert_allclose(np.float64(halved), 0.6 * 1.01, rtol=1e-2)
    scattered = tree.scattered_like(3, x)
    assert tree.all_finite(scattered)
    assert 0.5 < np.std(np.float64(scattered["a"])) < 0.65


def test_a_number_of_a_weak_type_keeps_its_dtype(x64):
    x = jnp.array(0.3)
    assert x.dtype == jnp.float64
    assert tree.dtype({"x": x}) == jnp.float64
    assert tree.axpy(2.0, {"x": x}, {"x": x})["x"].dtype == jnp.float64
