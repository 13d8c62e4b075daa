import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from landscape_jax import losses

rng = np.random.default_rng(0)
OUTPUTS = rng.normal(size=(5, 3)).astype(np.float32)
CLASSES = np.array([0, 2, 1, 1, 0])


def test_square_is_half_the_sum_over_outputs():
    outputs, targets = jnp.array([[1.0, 2.0], [0.0, 0.0]]), jnp.array([[0.0, 0.0], [3.0, 4.0]])
    assert losses.square(outputs, targets).tolist() == [2.5, 12.5]
    assert losses.square(jnp.array([3.0]), jnp.array([1.0])).tolist() == [2.0]


def test_cross_entropy_is_in_nats():
    logits = np.float64(OUTPUTS)
    expected = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(5), CLASSES]
    assert_allclose(losses.cross_entropy(jnp.asarray(OUTPUTS), jnp.asarray(CLASSES)), expected, rtol=1e-5)
    one_hot = jnp.eye(3)[CLASSES]
    assert_allclose(losses.cross_entropy(jnp.asarray(OUTPUTS), one_hot), expected, rtol=1e-5)
    assert_allclose(losses.cross_entropy(jnp.zeros((1, 8)), jnp.array([3])), [np.log(8)], rtol=1e-6)
    assert_allclose(losses.cross_entropy(jnp.array([[1e4, 0.0]]), jnp.array([1])), [1e4], rtol=1e-6)


def test_logistic_is_the_two_class_cross_entropy_and_does_not_overflow():
    outputs, signs = jnp.array([0.0, 2.0, -2.0, 1e4, -1e4]), jnp.array([1, 1, 1, 1, 1])
    expected = [np.log(2), np.log1p(np.exp(-2)), np.log1p(np.exp(2)), 0, 1e4]
    assert_allclose(losses.logistic(outputs, signs), expected, rtol=1e-5)
    assert_allclose(losses.logistic(outputs[:, None], -signs[:, None])[1], np.log1p(np.exp(2)), rtol=1e-6)
    two = jnp.stack([jnp.zeros(5), outputs], axis=1)
    assert_allclose(losses.logistic(outputs, signs), losses.cross_entropy(two, signs), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("criterion", [losses.square, losses.cross_entropy])
def test_mean_averages_over_the_examples(criterion):
    loss = losses.mean(lambda theta, x: x @ theta["w"], criterion)
    x = jnp.asarray(rng.normal(size=(5, 4)), jnp.float32)
    w, targets = jnp.asarray(rng.normal(size=(4, 3)), jnp.float32), jnp.eye(3)[CLASSES]
    value = loss({"w": w}, (x, targets))
    each = [float(criterion((x @ w)[i : i + 1], targets[i : i + 1])[0]) for i in range(5)]
    assert value.shape == ()
    assert_allclose(value, np.mean(each), rtol=1e-5)


def test_check_lets_a_real_number_through():
    losses.check(lambda theta, batch: jnp.sum(theta), jax.ShapeDtypeStruct((3,), jnp.float32), None)
