import importlib
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import landscape_jax as lj

key = jax.random.key
MEANS = lj.data.simplex_means(3, 5, 4.0)
MATRIX = jnp.asarray(np.random.default_rng(0).normal(size=(2, 6)), jnp.float32)


def drawn(draw, seed=0):
    """NumPy arrays of one compiled draw."""
    return jax.tree.map(np.asarray, jax.jit(draw)(key(seed)))


def test_simplex_means_are_equally_far_apart():
    means = np.asarray(MEANS)
    assert_allclose(np.linalg.norm(means[:, None] - means[None], axis=-1), 4 * (1 - np.eye(3)), atol=1e-6)
    assert_allclose(means.mean(0), 0, atol=1e-6)


def test_gaussian_mixture_has_its_moments():
    x, y = drawn(lambda k: lj.data.gaussian_mixture(k, 30_000, MEANS, sd=0.5))
    assert_allclose(y.sum(0), 10_000, rtol=0.05)
    for c in range(3):
        own = x[y[:, c] == 1]
        assert_allclose(own.mean(0), MEANS[c], atol=0.03)
        assert_allclose(np.cov(own.T), 0.25 * np.eye(5), atol=0.02)


def test_gaussian_mixture_has_the_error_it_should():
    means = lj.data.simplex_means(2, 4, 2.0)
    x, y = drawn(lambda k: lj.data.gaussian_mixture(k, 40_000, means))
    nearest = np.linalg.norm(x[:, None] - np.asarray(means)[None], axis=-1).argmin(1)
    assert_allclose(np.mean(nearest != y.argmax(1)), 0.5 * math.erfc(1 / math.sqrt(2)), atol=0.006)  # Φ(−1)


def test_teacher_is_right_but_for_the_noise():
    inputs = np.random.default_rng(1).normal(size=(5000, 6)).astype(np.float32)
    want = np.tanh(inputs @ np.asarray(MATRIX).T)

    def apply(w, x):
        return jnp.tanh(x @ w.T)

    x, exact = drawn(lambda k: lj.data.teacher(k, jnp.asarray(inputs), apply, MATRIX))
    assert_array_equal(x, inputs)
    assert_allclose(exact, want, rtol=1e-4, atol=1e-5)
    _, noisy = drawn(lambda k: lj.data.teacher(k, jnp.asarray(inputs), apply, MATRIX, noise=0.3))
    assert_allclose(np.std(noisy - want, axis=0), 0.3, rtol=0.05)


def test_magnitudes_have_their_lengths_and_no_direction():
    x = drawn(lambda k: lj.data.magnitudes(k, 4000, 3, scales=(1, 30, 1000)))
    assert_allclose(np.linalg.norm(x, axis=1), np.repeat([1, 30, 1000], 4000), rtol=1e-5)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    assert_allclose(unit.T @ unit / len(unit), np.eye(3) / 3, atol=0.02)


@pytest.mark.parametrize(("degree", "polynomial"), [(3, [4, 0, -3, 0]), (4, [8, 0, -8, 0, 1]), (5, [16, 0, -20, 0, 5, 0])])
def test_chebyshev_written_out(degree, polynomial):
    x, y = map(np.asarray, lj.data.chebyshev(degree))
    assert x.shape == y.shape == (20, 1)
    assert_allclose(x[:, 0], np.linspace(-1, 1, 20), atol=1e-7)
    assert_allclose(y[:, 0], np.polyval(polynomial, np.linspace(-1, 1, 20)), atol=1e-6)
    assert_allclose(y[:, 0], np.cos(degree * np.arccos(np.linspace(-1, 1, 20))), atol=1e-6)


def test_sparse_coding_has_one_signed_place():
    x, y = drawn(lambda k: lj.data.sparse_coding(k, 3000, 8, 3.0, noise=0.0))
    assert x.shape == (3000, 8)
    assert y.shape == (3000, 1)
    assert set(np.unique(y)) == {-1, 1}
    assert abs(y.mean()) < 0.1
    assert_array_equal(np.count_nonzero(x, axis=1), 1)
    assert_array_equal(x.sum(1), 3 * y[:, 0])
    assert_allclose(np.count_nonzero(x, axis=0), 3000 / 8, rtol=0.25)
    noisy, same = drawn(lambda k: lj.data.sparse_coding(k, 3000, 8, 3.0, noise=0.5))
    assert_array_equal(same, y)
    assert_allclose(np.std(noisy - x), 0.5, rtol=0.03)


def test_whitened_inputs_are_white_and_the_loss_is_a_distance():
    x, y = drawn(lambda k: lj.data.whitened(k, 50, MATRIX))
    assert_allclose(x.T @ x / 50, np.eye(6), atol=2e-6)
    assert_allclose(y, x @ np.asarray(MATRIX).T, rtol=1e-5, atol=1e-5)
    loss = lj.losses.mean(lambda w, x: x @ w.T, lj.losses.square)
    value, product = jax.jit(lambda w: (loss(w + 1, (x, y)), lj.curvature.hessian(loss)(w, (x, y))(w)))(MATRIX)
    assert_allclose(value, 0.5 * MATRIX.size, rtol=1e-5)
    assert_allclose(product, MATRIX, atol=1e-5)  # the Hessian is the identity


DRAWS = {
    "gaussian_mixture": lambda k: lj.data.gaussian_mixture(k, 12, lj.data.simplex_means(3, 5, 4.0)),
    "teacher": lambda k: lj.data.teacher(k, jnp.ones((12, 6)), lambda w, x: x @ w.T, jnp.ones((2, 6)), noise=1.0)[1],
    "magnitudes": lambda k: lj.data.magnitudes(k, 4, 6),
    "sparse_coding": lambda k: lj.data.sparse_coding(k, 12, 5, 3.0),
    "whitened": lambda k: lj.data.whitened(k, 12, jnp.ones((2, 6))),
    "signals": lambda k: lj.data.signals(k, 12),
}


def all_draws(k):
    return {name: draw(jax.random.fold_in(k, i)) for i, (name, draw) in enumerate(DRAWS.items())}


def test_pure_functions_of_a_key():
    """vmap over keys draws what each key draws by itself; keys differ."""
    batched = jax.jit(jax.vmap(all_draws))(jax.random.split(key(5), 2))
    alone = jax.jit(all_draws)(jax.random.split(key(5), 2)[1])
    for one, both in zip(jax.tree.leaves(alone), jax.tree.leaves(batched), strict=True):
        assert one.dtype == jnp.float32
        assert len(one) == 12
        assert_allclose(np.asarray(both)[1], one, rtol=1e-4, atol=1e-4)
        assert not np.array_equal(*np.asarray(both))


def test_float64_where_jax_is_set_to_it(x64):
    shapes = jax.eval_shape(all_draws, key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float64")}
    assert lj.data.chebyshev(3)[1].dtype == jnp.float64


def test_signals_tell_their_class_by_shape():
    def draw(k):
        return lj.data.signals(k, 4000)

    (x, y), (x_test, y_test) = drawn(draw), drawn(draw, 1)
    x_test, classes = x_test[:500], y_test[:500].argmax(1)
    assert x.shape == (4000, 40)
    assert_allclose(y.sum(0), 400, rtol=0.25)
    squares = (x**2).sum(1)[None] - 2 * x_test @ x.T
    neighbour = np.mean(y.argmax(1)[squares.argmin(1)] == classes)
    linear = np.linalg.lstsq(np.c_[x, np.ones(4000)], y, rcond=None)[0]
    straight = np.mean((np.c_[x_test, np.ones(500)] @ linear).argmax(1) == classes)
    assert neighbour > 0.75  # the classes are there to be told
    assert 0.2 < straight < 0.55  # and not by a linear rule


def test_signals_without_changes_are_the_templates():
    x, y = drawn(lambda k: lj.data.signals(k, 200, 41, shift=0.0, stretch=0.0, tilt=0.0, noise=0.0))
    unit = x / np.abs(x).max(1, keepdims=True)
    assert len(np.unique(unit.round(4), axis=0)) == 10
    templates = importlib.import_module("landscape_jax.data.signals").TEMPLATES  # lj.data.signals is the function
    peaks = unit[:, 12 + 4 * np.arange(5)]  # bumps at t − ½ = −0.2, −0.1, …, 0.2 are at points 12, 16, …, 28
    assert_array_equal(np.where(np.abs(peaks) > 0.5, np.sign(peaks), 0), templates[y.argmax(1)])


BAD = {
    "more means than dimensions": (lambda: lj.data.simplex_means(5, 4, 1.0), r"5 means at equal distances need dim=4"),
    "no example": (lambda: lj.data.gaussian_mixture(key(0), 0, MEANS), r"gaussian_mixture: n=0 must be at least 1"),
    "means in a line": (lambda: lj.data.gaussian_mixture(key(0), 5, MEANS[0]), r"means \(5,\) must be one row a class"),
    "no magnitude": (lambda: lj.data.magnitudes(key(0), 0, 3), r"magnitudes: n=0"),
    "no code": (lambda: lj.data.sparse_coding(key(0), 0, 3, 1.0), r"sparse_coding: n=0"),
    "a negative degree": (lambda: lj.data.chebyshev(-1), r"chebyshev: degree=-1 must be at least 0"),
    "one point": (lambda: lj.data.chebyshev(3, 1), r"n=1 must be at least"),
    "too few to be white": (
        lambda: lj.data.whitened(key(0), 5, MATRIX),
        r"n=5 examples must be at least the d columns.*\(2, 6\)",
    ),
    "no signal": (lambda: lj.data.signals(key(0), 0), r"signals: n=0 must be at least 1"),
    "a signal turned over": (lambda: lj.data.signals(key(0), 3, stretch=1.0), r"stretch=1.0 must lie in \[0, 1\)"),
}


@pytest.mark.parametrize("case", BAD)
def test_models_that_can_not_be(case):
    call, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        call()
