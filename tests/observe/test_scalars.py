"""Accuracy for one logit, for tokens, and for targets that don't fit."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import landscape_jax as lj

QUIET = lj.dynamics.gradient(lambda w, batch: jnp.sum(w**2), optax.sgd(0.1), lambda key, step: None)


def first(observable, params=None):
    params = jnp.ones(1) if params is None else params
    return lj.run(jax.random.key(0), params, QUIET, {"a": observable}, num_steps=1)[1]["a"][0]


SIGNS = jnp.array([1.0, 1.0, -1.0, -1.0, -1.0])


@pytest.mark.parametrize("coded", [SIGNS, (SIGNS > 0).astype(float), SIGNS.astype(jnp.int8), SIGNS > 0], ids=str)
@pytest.mark.parametrize("column", [True, False])
def test_accuracy_of_one_logit_is_its_sign(coded, column):
    x = jnp.array([[1.0], [2.0], [-1.0], [-2.0], [3.0]])
    y = coded[:, None] if column else coded
    for apply in (lambda w, x: x * w[None], lambda w, x: (x * w[None])[:, 0]):
        assert first(lj.observe.accuracy(apply, (x, y)), jnp.ones(1)) == pytest.approx(0.8)
        assert first(lj.observe.accuracy(apply, (x, y)), -jnp.ones(1)) == pytest.approx(0.2)


def test_accuracy_of_our_own_data_with_one_logit():
    x, y = lj.data.sparse_coding(jax.random.key(0), 200, 5, 4.0)
    model = lj.models.mlp((4,), 1)
    params = model.init(jax.random.key(1), x)
    gd = lj.dynamics.gradient(lj.losses.mean(model.apply, lj.losses.logistic), optax.sgd(0.3), lj.data.full_batch((x, y)))
    final, record = lj.run(jax.random.key(0), params, gd, {"a": lj.observe.accuracy(model.apply)}, num_steps=50)
    assert record["a"][0] == pytest.approx(np.mean(np.asarray(model.apply(params, x) * y) > 0))
    assert record["a"][-1] > 0.9


@pytest.mark.parametrize("n", [2, 3])
def test_accuracy_of_tokens_is_the_mean_over_positions(n):
    tokens = jnp.arange(2 * n).reshape(n, 2) % 3  # as many examples as positions where n = 2
    outputs = 9.0 * jax.nn.one_hot(tokens, 3)
    assert first(lj.observe.accuracy(lambda w, x: outputs, (tokens, tokens))) == 1
    wrong = tokens.at[0, 1].set((tokens[0, 1] + 1) % 3)
    right = first(lj.observe.accuracy(lambda w, x: outputs, (tokens, wrong)))
    assert right == pytest.approx(1 - 1 / (2 * n))
    assert right == first(lj.observe.accuracy(lambda w, x: outputs, (tokens, jax.nn.one_hot(wrong, 3))))


def test_accuracy_of_a_class_out_of_range_is_nan():
    z = jnp.array([[3.0, 1.0, 0.0], [0.0, 1.0, 0.0]])
    for bad in (-1, 3):
        assert jnp.isnan(first(lj.observe.accuracy(lambda w, x: x, (z, jnp.array([0, bad])))))


@pytest.mark.parametrize(
    ("outputs", "targets", "said"),
    [
        ((4, 3), jnp.zeros(4), "accuracy: outputs .* classes are integers"),
        ((4, 5, 3), jnp.zeros(4, int), "integer targets"),
        ((4, 1), jnp.zeros((4, 2)), "one logit"),
    ],
)
def test_accuracy_of_targets_that_do_not_fit(outputs, targets, said):
    with pytest.raises(ValueError, match=said):
        first(lj.observe.accuracy(lambda w, x: jnp.zeros(outputs), (jnp.zeros(4), targets)))
