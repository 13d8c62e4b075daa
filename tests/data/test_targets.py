import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import landscape_jax as lj

N, C = 2000, 5
LABELS = np.random.default_rng(0).integers(0, C, N)
ONE_HOT = jnp.asarray(np.eye(C)[LABELS], jnp.float32)


@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.12345, 1.0])
def test_exactly_so_many_are_wrong_and_uniformly(fraction):
    noisy = np.asarray(lj.data.with_label_noise(jax.random.key(0), jnp.asarray(LABELS), fraction))
    wrong = noisy != LABELS
    assert wrong.sum() == round(fraction * N)
    if fraction == 1:
        counts = np.zeros((C, C))
        np.add.at(counts, (LABELS, noisy), 1)
        assert_array_equal(np.diag(counts), 0)
        others = counts[~np.eye(C, dtype=bool)]  # about N / (C (C − 1)) = 100 each: five standard errors
        assert_allclose(others, 100, atol=50)
    if fraction == 0.3:
        assert_allclose(wrong[: N // 2].mean(), 0.3, atol=0.05)  # anywhere in the set


def test_one_hot_rows_and_integers_move_alike():
    key = jax.random.key
    integer = lj.data.with_label_noise(key(3), jnp.asarray(LABELS), 0.4, num_classes=C)
    rows = lj.data.with_label_noise(key(3), ONE_HOT, 0.4)
    assert rows.dtype == ONE_HOT.dtype
    assert_array_equal(rows, np.eye(C)[integer])
    coded = lj.data.with_label_noise(key(3), 2 * ONE_HOT - 1, 0.4)  # ±1 rows are classes too
    assert_array_equal(coded, 2 * rows - 1)


def test_bytes_do_not_overflow():
    y = jnp.full(100, 199, jnp.uint8)
    noisy = lj.data.with_label_noise(jax.random.key(0), y, 1.0, num_classes=200)
    assert noisy.dtype == jnp.uint8
    assert 0 <= int(noisy.min()) <= int(noisy.max()) < 199


def test_signed_bytes_do_not_overflow():
    y = jnp.asarray(np.arange(10_000) % 100, jnp.int8)
    noisy = lj.data.with_label_noise(jax.random.key(0), y, 1.0)
    assert noisy.dtype == jnp.int8
    assert 0 <= int(noisy.min()) <= int(noisy.max()) == 99
    assert int((noisy == y).sum()) == 0
    assert_array_equal(noisy, lj.data.with_label_noise(jax.random.key(0), y.astype(int), 1.0))


def test_a_traced_label_that_is_no_class_stays():
    y = jnp.array([0, -1, 2, 5, 1])
    noisy = jax.jit(lambda y: lj.data.with_label_noise(jax.random.key(0), y, 1.0, num_classes=3))(y)
    assert noisy[jnp.array([1, 3])].tolist() == [-1, 5]
    assert (noisy != y).tolist() == [True, False, True, False, True]


def test_jit_and_vmap_over_keys():
    def keys():
        return jax.random.split(jax.random.key(1), 2)

    batched = jax.jit(jax.vmap(lambda key: lj.data.with_label_noise(key, ONE_HOT, 0.2)))(keys())
    assert_array_equal(batched[1], lj.data.with_label_noise(keys()[1], ONE_HOT, 0.2))
    assert not np.array_equal(*batched)


def jitted(y):
    return jax.jit(lambda y: lj.data.with_label_noise(jax.random.key(0), y, 0.5))(y)


BAD = {
    "a fraction above one": (lambda: lj.data.with_label_noise(jax.random.key(0), ONE_HOT, 1.5), r"fraction=1.5 must lie in"),
    "a negative fraction": (lambda: lj.data.with_label_noise(jax.random.key(0), ONE_HOT, -0.1), r"fraction=-0.1"),
    "numbers in place of classes": (
        lambda: lj.data.with_label_noise(jax.random.key(0), jnp.ones(5), 0.1),
        r"float32 targets \(5,\) are neither integers \[n\] nor one-hot",
    ),
    "integer rows": (
        lambda: lj.data.with_label_noise(jax.random.key(0), jnp.ones((5, 2), int), 0.1),
        r"int32 targets \(5, 2\)",
    ),
    "one class": (lambda: lj.data.with_label_noise(jax.random.key(0), jnp.zeros(5, int), 0.1), r"with 1 class no label"),
    "a label below 0": (
        lambda: lj.data.with_label_noise(jax.random.key(0), jnp.array([0, 1, -1]), 0.1),
        r"with_label_noise: targets\[2\] = -1 is not one of the classes 0 … 1",
    ),
    "a label beyond the last": (
        lambda: lj.data.with_label_noise(jax.random.key(0), jnp.array([0, 3, 1]), 0.1, num_classes=3),
        r"targets\[1\] = 3 is not one of the classes 0 … 2",
    ),
    "one logit": (
        lambda: lj.data.with_label_noise(jax.random.key(0), jnp.ones((5, 1)), 0.1),
        r"float32 targets \(5, 1\) are neither .*for one logit pass \(y > 0\)",
    ),
    "more classes than a byte holds": (
        lambda: lj.data.with_label_noise(jax.random.key(0), jnp.zeros(5, jnp.int8), 0.1, num_classes=200),
        r"int8 targets cannot hold num_classes=200",
    ),
    "two counts of classes": (
        lambda: lj.data.with_label_noise(jax.random.key(0), ONE_HOT, 0.1, num_classes=7),
        r"num_classes=7, but the one-hot rows have 5",
    ),
    "traced classes": (lambda: jitted(jnp.asarray(LABELS)), r"traced classes have no largest one; pass num_classes"),
}


@pytest.mark.parametrize("case", BAD)
def test_noise_that_will_not_do(case):
    call, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        call()
