import jax.numpy as jnp
import numpy as np
import pytest

import landscape_jax as lj


@pytest.fixture(scope="module")
def reference():
    """scikit-learn's copy of the set, processed as the docstring says: images and labels in our order."""
    raw = pytest.importorskip("sklearn.datasets").load_digits()
    images = raw.data - raw.data.mean(axis=1, keepdims=True)
    images /= raw.data.std(axis=1, keepdims=True)
    order = np.random.RandomState(0).permutation(1797)  # noqa: NPY002
    return images[order], raw.target[order]


@pytest.fixture(scope="module")
def whole():
    return lj.data.digits()


def test_equals_scikit_learns_bit_for_bit(reference, whole):
    images, labels = reference
    for (x, y), part in zip(whole, (slice(0, 1000), slice(1000, 1797)), strict=True):
        assert x.dtype == y.dtype == jnp.float32
        np.testing.assert_array_equal(x, images[part].astype(np.float32))
        np.testing.assert_array_equal(np.argmax(y, axis=1), labels[part])
        np.testing.assert_array_equal(np.sort(y, axis=1), [[0] * 9 + [1]] * len(y))


def test_each_image_is_standardised(whole):
    x = np.concatenate([np.asarray(part[0], np.float64) for part in whole])
    assert x.shape == (1797, 64)
    np.testing.assert_allclose(x.mean(axis=1), 0, atol=1e-6)
    np.testing.assert_allclose(x.std(axis=1), 1, atol=1e-6)


def test_the_split_is_stable(whole):
    (x, y), (x_test, y_test) = lj.data.digits(100, 50)
    np.testing.assert_array_equal(x, whole[0][0][:100])
    np.testing.assert_array_equal(y, whole[0][1][:100])
    np.testing.assert_array_equal(x_test, whole[1][0][-50:])
    np.testing.assert_array_equal(y_test, whole[1][1][-50:])
    (x, _), (x_test, _) = lj.data.digits(5, 0)
    assert (x.shape, x_test.shape) == ((5, 64), (0, 64))


def test_the_split_is_disjoint_and_mixed(whole):
    train, test = ({row.tobytes() for row in np.asarray(x)} for x, _ in whole)
    assert len(train | test) == 1797  # no two digits of the set are equal
    assert not train & test
    for _, y in whole:
        counts = np.asarray(y).sum(axis=0) / len(y)
        assert counts.min() > 0.07
        assert counts.max() < 0.13


def test_float64_where_jax_is_set_to_it(x64, reference):
    (x, _), _ = lj.data.digits(20, 0)
    assert x.dtype == jnp.float64
    np.testing.assert_array_equal(x, reference[0][:20])
