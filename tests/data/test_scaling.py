import functools

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import landscape_jax as lj

RANDOM = np.random.default_rng(0)
TRAIN = RANDOM.uniform(0, 1, (40, 5, 6, 3)) ** np.array([1, 2, 3])  # channels differ in mean and std
TEST = RANDOM.uniform(0, 1, (7, 5, 6, 3))
TRAIN[:, 0, 0, 0] = 0.25  # a pixel that never varies
FLOATS = pytest.mark.parametrize("dtype", [np.float32, np.float64])


@FLOATS
def test_statistics_are_the_training_sets(dtype):
    """Written out: the mean and std that each scale should use, for the training and for the test inputs."""
    channel = (0, 1, 2)
    std = TRAIN.std(0)
    std[0, 0, 0] = 1
    cases = {
        lj.data.unit: (0, 1),
        lj.data.centred: (TRAIN.mean(0), 1),
        lj.data.per_pixel: (TRAIN.mean(0), std),
        functools.partial(lj.data.per_pixel, floor=0.2): (TRAIN.mean(0), np.maximum(TRAIN.std(0), 0.2)),
        lj.data.per_channel: (TRAIN.mean(channel), TRAIN.std(channel)),
        lj.data.standardised((0.5, 0.3, 0.2), (0.1, 0.2, 0.3)): (np.array([0.5, 0.3, 0.2]), np.array([0.1, 0.2, 0.3])),
        lj.data.standardised(0.5, 0.25): (0.5, 0.25),
    }
    for scale, (mean, std) in cases.items():
        for x in (TRAIN, TEST):
            scaled = scale(TRAIN.astype(dtype), x.astype(dtype))
            assert scaled.dtype == dtype
            assert scaled.shape == x.shape
            assert_allclose(scaled, (x - mean) / std, rtol=1e-5, atol=2e-5)


@FLOATS
def test_per_sample_knows_no_other_example(dtype):
    scaled = lj.data.per_sample(TRAIN.astype(dtype), TEST.astype(dtype))
    assert scaled.dtype == dtype
    assert_allclose(scaled.mean((1, 2, 3)), 0, atol=1e-6)
    assert_allclose(scaled.std((1, 2, 3)), 1, rtol=1e-5)
    assert_allclose(scaled[3], (TEST[3] - TEST[3].mean()) / TEST[3].std(), rtol=1e-5, atol=1e-6)
    blank = np.full((2, 5, 6, 3), 0.5, dtype)
    assert_array_equal(lj.data.per_sample(blank, blank), 0)
    assert lj.data.per_sample(TRAIN, TEST[:0]).shape == (0, 5, 6, 3)


def test_large_sets_are_summed_exactly_enough():
    """In float32 sums a mean over 10⁶ numbers loses digits."""
    x = np.full((1000, 32, 32, 1), 0.1, np.float32)
    x[::2] += np.float32(1e-3)
    scaled = lj.data.per_channel(x, x)
    assert_allclose(scaled.mean(dtype=np.float64), 0, atol=1e-4)
    assert_allclose(scaled.std(dtype=np.float64), 1, rtol=1e-4)


@pytest.mark.parametrize("scale", [lj.data.unit, lj.data.centred, lj.data.per_pixel, lj.data.per_channel])
def test_digits_take_a_scale(scale):
    raw, _ = lj.data.digits(100, 50, scale=lj.data.unit)
    assert np.asarray(raw[0]).min() == 0
    assert np.asarray(raw[0]).max() == 1
    (x, _), (x_test, y_test) = lj.data.digits(100, 50, scale=scale, one_hot=False)
    whole, last = (np.asarray(part[0]) for part in lj.data.digits(100, 50, scale=lj.data.unit))
    assert_allclose(x, scale(whole, whole), atol=1e-6)
    assert_allclose(x_test, scale(whole, last), atol=1e-5)
    assert_array_equal(y_test, np.argmax(lj.data.digits(100, 50)[1][1], axis=1))


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ((0.5, 0.5), (1.0,), r"must be one number a channel each"),
        (0.5, 0.0, r"the latter positive"),
        ([[0.5]], [[1.0]], r"one number a channel"),
        ((0.5, 0.5), (1.0, 1.0), r"2 constants do not fit inputs \(7, 5, 6, 3\), channels last"),
    ],
)
def test_constants_that_do_not_fit(mean, std, message):
    with pytest.raises(ValueError, match=message):
        lj.data.standardised(mean, std)(TRAIN, TEST)
