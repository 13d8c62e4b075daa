"""Slips that gave a wrong number without a word: each is refused, with the remedy, or is NaN where it is traced."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import landscape_jax as lj
from landscape_jax import curvature as cv
from landscape_jax import losses

X = jnp.asarray(np.random.default_rng(0).normal(size=(12, 3)), jnp.float32)
Y = jnp.asarray(np.random.default_rng(1).normal(size=(12, 2)), jnp.float32)
THETA = jnp.full((3, 2), 0.3)
MASK = jnp.array([1, 1, 1, 0, 1, 0, 0, 1, 0, 0, 0, 1.0])


def apply(theta, x):
    return x @ theta


def masked(theta, batch):
    return jnp.sum(batch["m"] * jnp.sum((batch["x"] @ theta - batch["y"]) ** 2, axis=1)) / jnp.sum(batch["m"])


@pytest.mark.parametrize(
    "criterion",
    [optax.squared_error, optax.sigmoid_binary_cross_entropy, lambda f, y: jnp.mean(jnp.sum((f - y) ** 2, axis=1))],
    ids=["one loss an output", "of each class", "their mean"],
)
def test_a_criterion_gives_one_loss_an_example(criterion):
    """Else the mean of all is the loss, and the sum over outputs its Gauss-Newton matrix: 2 times the Hessian here."""
    with pytest.raises(ValueError, match=r"the criterion gives shape .* not one loss each, \[12\]: write "):
        losses.mean(apply, criterion)(THETA, (X, Y))
    for curvature in (cv.ggn, cv.h_term, cv.fisher, cv.gradient_covariance):
        with pytest.raises(ValueError, match="not one loss each"):
            curvature(apply, criterion)(THETA, (X, Y))(THETA)


def test_a_loss_in_weighted_parts_is_not_cut_again_without_weights():
    batch = {"x": X, "y": Y, "m": MASK}
    inner = losses.chunked(masked, 2, weight=lambda batch: batch["m"].sum())
    np.testing.assert_allclose(inner(THETA, batch), masked(THETA, batch), rtol=1e-6)
    for cut in (lambda: losses.chunked(inner, 3)(THETA, batch), lambda: cv.chunked(cv.hessian(inner), 3)(THETA, batch)):
        with pytest.raises(ValueError, match="chunked: this loss divides by a number that depends on the batch"):
            cut()


@pytest.mark.parametrize(
    "loss",
    [
        lambda theta, batch: jnp.sum((batch[0] @ theta - batch[1]) ** 2),
        lambda theta, batch: jnp.log(jnp.mean((batch[0] @ theta - batch[1]) ** 2)),
        lambda theta, batch: jnp.mean(((batch[0] @ theta) - jnp.mean(batch[0] @ theta, axis=0)[None]) ** 2),
    ],
    ids=["a sum", "a logarithm", "batch statistics"],
)
def test_what_is_no_mean_over_examples_is_not_cut(loss):
    for cut in (lambda: losses.chunked(loss, 3)(THETA, (X, Y)), lambda: cv.chunked(cv.hessian(loss), 3)(THETA, (X, Y))):
        with pytest.raises(ValueError, match="this loss is no mean over its examples: of a few it is"):
            cut()


def test_rows_that_are_no_probabilities_are_refused():
    rows = jax.nn.one_hot(jnp.arange(12) % 2, 2)
    for bad in (2 * rows - 1, 2 * rows):
        with pytest.raises(losses.labels.NoClass, match=r"cross_entropy: targets\[0\] = .* are no probabilities"):
            losses.cross_entropy(X @ THETA, bad)
        descent = lj.dynamics.gradient(losses.mean(apply, losses.cross_entropy), optax.sgd(0.1), lj.data.full_batch((X, bad)))
        with pytest.raises(losses.labels.NoClass):
            lj.start(jax.random.key(0), THETA, descent, {})
    losses.cross_entropy(X @ THETA, 0.9 * rows + 0.05)


def test_unsigned_labels_have_classes():
    loss = losses.mean(apply, losses.cross_entropy)
    labels = np.arange(12, dtype="uint8") % 2
    one, two = cv.per_class(cv.hessian(loss))(THETA, (X, labels))
    whole = cv.hessian(loss)(THETA, (X, labels))(THETA)
    np.testing.assert_allclose((one(THETA) + two(THETA)) / 2, whole, rtol=1e-5, atol=1e-6)


def test_a_token_below_zero_is_none():
    model = lj.models.transformer(11, length=4, width=8, depth=1, heads=2)
    tokens = jnp.zeros((1, 4), jnp.int32)
    params = model.init(jax.random.key(0), tokens)
    assert np.isfinite(model.apply(params, tokens)).all()
    assert np.isnan(model.apply(params, tokens.at[0, 0].set(-1))).any()


def test_the_number_of_products_that_gives_the_exact_trace_does():
    diagonal = jnp.array([5.0, 3, 1, 0.5, 0.1, 0, -1, -4])
    for estimate, num_products in ((lj.spectrum.xtrace, 16), (lj.spectrum.hutch_plus_plus, 24)):
        with pytest.raises(ValueError, match=f"num_products={num_products} give the exact trace"):
            estimate(lambda v: diagonal * v, jax.random.key(0), diagonal)
        found = estimate(lambda v: diagonal * v, jax.random.key(0), diagonal, num_products=num_products)
        assert found.value == pytest.approx(4.6, abs=1e-2)


def test_a_product_takes_a_vector_like_theta():
    product = cv.hessian(losses.mean(apply, losses.square))(THETA, (X, Y))
    for wrong in (jnp.ones(6), THETA.T, jnp.ones((3, 2), jnp.float16), {"w": THETA}):
        with pytest.raises(ValueError, match=r"hessian: a product takes a vector shaped like θ, float32\[3, 2\], not"):
            product(wrong)


def test_functions_made_by_functions_are_no_configuration():
    with pytest.raises(TypeError, match="config.f is a .*function"):
        lj.record.folder.plain({"f": lambda x: x}, "config")
