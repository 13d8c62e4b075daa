"""What targets mean, by dtype and shape, and what becomes of values that are no class."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import landscape_jax as lj
from landscape_jax import labels, losses
from landscape_jax.labels import Kind

SEVERAL, ONE, FLAT, TOKENS = jnp.zeros((4, 3)), jnp.zeros((4, 1)), jnp.zeros(4), jnp.zeros((4, 5, 3))


@pytest.mark.parametrize(
    ("outputs", "shape", "dtype", "meaning"),
    [
        (SEVERAL, (4,), "int32", Kind.CLASSES),
        (SEVERAL, (4,), "uint8", Kind.CLASSES),
        (SEVERAL, (4,), "bool", Kind.CLASSES),
        (SEVERAL, (4, 3), "float32", Kind.ROWS),
        (SEVERAL, (4, 3), "int32", Kind.ROWS),
        (TOKENS, (4, 5), "int32", Kind.CLASSES),
        (TOKENS, (4, 5, 3), "float16", Kind.ROWS),
        (ONE, (4,), "int8", Kind.SIGNS),
        (ONE, (4, 1), "float32", Kind.SIGNS),
        (ONE, (4,), "bool", Kind.SIGNS),
        (FLAT, (4,), "float32", Kind.SIGNS),
        (FLAT, (4, 1), "int32", Kind.SIGNS),
        (jnp.zeros((4, 4)), (4, 4), "int32", Kind.ROWS),  # as many examples as classes
        (jnp.zeros((4, 4, 4)), (4, 4), "int32", Kind.CLASSES),
    ],
)
def test_dtype_and_shape_tell_what_targets_mean(outputs, shape, dtype, meaning):
    assert labels.kind("f", outputs, jnp.zeros(shape, dtype)) is meaning


@pytest.mark.parametrize(
    ("outputs", "shape", "dtype", "said"),
    [
        (SEVERAL, (4,), "float32", r"f: outputs \(4, 3\) and targets \(4,\) differ .*float32 .*shape \(4,\): write targets"),
        (SEVERAL, (4, 1), "int32", r"integer targets \(4, 1\) do not fit outputs \(4, 3\): pass one class .*\(4,\)"),
        (SEVERAL, (3,), "int32", r"integer targets \(3,\) do not fit"),
        (TOKENS, (4,), "int32", r"do not fit outputs \(4, 5, 3\).*shape \(4, 5\)"),
        (TOKENS, (4, 3), "float32", r"differ in shape"),
        (ONE, (4, 2), "float32", r"float32 targets \(4, 2\) do not fit outputs \(4, 1\), one logit.*pass signs"),
        (FLAT, (4, 3), "int32", r"one logit for each example"),
        (SEVERAL, (4, 3), "complex64", r"complex64"),
    ],
)
def test_what_fits_no_meaning_is_refused(outputs, shape, dtype, said):
    with pytest.raises(ValueError, match=said):
        labels.kind("f", outputs, jnp.zeros(shape, dtype))


def test_classes_of_each_kind():
    rows = jnp.array([[0.1, 0.7, 0.2], [0.9, 0.05, 0.05]])
    assert labels.classes("f", rows, rows).tolist() == [1, 0]
    assert labels.classes("f", jnp.zeros((3, 1)), jnp.array([-1, 1, -1])).tolist() == [0, 1, 0]
    assert labels.classes("f", jnp.zeros(3), jnp.array([[0.0], [1.0], [1.0]])).tolist() == [0, 1, 1]
    assert labels.classes("f", jnp.zeros(2), np.array([False, True])).tolist() == [0, 1]
    assert labels.classes("f", jnp.zeros((2, 200)), np.array([127, 3], np.int8)).tolist() == [127, 3]
    traced = jax.jit(lambda f, y: labels.classes("f", f, y))
    assert traced(jnp.zeros((4, 200)), jnp.array([127, -1, -128, 3], jnp.int8)).tolist() == [127, -1, -1, 3]
    assert traced(jnp.zeros((4, 3)), jnp.array([255, 3, 2, 0], jnp.uint8)).tolist() == [-1, -1, 2, 0]
    assert traced(jnp.zeros((4, 1)), jnp.array([2.0, jnp.nan, 0.0, -1.0])).tolist() == [-1, -1, 0, 0]
    assert traced(rows, jnp.array([[0.0, 0.0, 0.0], [0.0, jnp.nan, 1.0]])).tolist() == [-1, -1]


CRITERIA = {"cross_entropy": (losses.cross_entropy, jnp.zeros((3, 3))), "logistic": (losses.logistic, jnp.zeros((3, 1)))}


@pytest.mark.parametrize("bad", [-1, -100, 3, 255])
def test_a_class_out_of_range_is_named_where_it_is_concrete_and_nan_where_it_is_traced(bad):
    f, y = jnp.array([[0.0, 1.0, 2.0]] * 3), jnp.array([0, bad, 2])
    with pytest.raises(ValueError, match=rf"cross_entropy: targets\[1\] = {bad} is not one of the classes 0 … 2: count"):
        losses.cross_entropy(f, y)
    with pytest.raises(ValueError, match=rf"targets\[1\] = {bad} "):  # a constant of the program
        jax.jit(lambda f: losses.cross_entropy(f, y))(f)
    value, slope = jax.jit(jax.vmap(jax.value_and_grad(lambda f, y: losses.cross_entropy(f[None], y[None])[0])))(f, y)
    assert jnp.isnan(value).tolist() == [False, True, False]
    assert jnp.isnan(slope).all(axis=1).tolist() == jnp.isnan(slope).any(axis=1).tolist() == [False, True, False]
    assert_allclose(value[2], np.log(1 + np.exp(-1) + np.exp(-2)), rtol=1e-6)
    bends = jax.jit(jax.vmap(jax.hessian(lambda f, y: losses.cross_entropy(f[None], y[None])[0])))(f, y)
    assert jnp.isnan(bends[1]).all()
    p = jax.nn.softmax(f[2])
    assert_allclose(bends[2], jnp.diag(p) - jnp.outer(p, p), atol=1e-6)


def test_a_token_out_of_range_is_named_by_example_and_position():
    with pytest.raises(ValueError, match=r"targets\[2, 4\] = 3 is not"):
        losses.cross_entropy(TOKENS, jnp.zeros((4, 5), int).at[2, 4].set(3))


def test_signs_and_labels_of_one_logit():
    f = jnp.array([[1.0], [2.0], [-3.0]])
    plus = losses.logistic(f, jnp.array([1, -1, 1]))
    for y in (jnp.array([1.0, 0.0, 1.0]), jnp.array([[1], [0], [1]]), jnp.array([True, False, True])):
        assert_array_equal(losses.logistic(f, y), plus)
        assert_array_equal(jax.jit(losses.logistic)(f, y), jax.jit(losses.logistic)(f, jnp.array([1, -1, 1])))
    with pytest.raises(ValueError, match=r"logistic: targets\[1\] = 2.0 is neither a sign ±1 nor a label 0 or 1"):
        losses.logistic(f, jnp.array([1.0, 2.0, 1.0]))
    with pytest.raises(ValueError, match=r"targets\[0, 0\] = -1 stands beside labels 0"):
        losses.logistic(f, jnp.array([[-1], [0], [1]]))
    assert jnp.isnan(jax.jit(losses.logistic)(f, jnp.array([1.0, 0.3, -1.0]))).tolist() == [False, True, False]
    with pytest.raises(ValueError, match=r"the softmax of one logit is always 1, outputs \(3, 1\): use logistic"):
        losses.cross_entropy(f, jnp.array([0, 1, 0]))


def test_a_label_is_named_before_the_first_step():
    """The data stand in the dynamics: `start` looks at all of them, `mean` at what it is given."""
    x, y = jnp.ones((20, 2)), jnp.zeros(20, int).at[13].set(7)
    loss = losses.mean(lambda w, x: x @ w, losses.cross_entropy)
    w, said = jnp.zeros((2, 3)), r"targets\[13\] = 7 is not one of the classes 0 … 2"
    with pytest.raises(ValueError, match=said):
        loss(w, (x, y))
    for curvature in (lj.curvature.hessian(loss), lj.curvature.ggn(lambda w, x: x @ w, losses.cross_entropy)):
        with pytest.raises(ValueError, match=said):
            curvature(w, (x, y))(w)
    shifted = lj.data.augmented(lj.data.independent((x, y), 4), lambda key, x: x + 1)
    for batches in (lj.data.full_batch((x, y)), lj.data.minibatch((x, y), 5), lj.data.epochs((x, y), 6), shifted):
        gd = lj.dynamics.gradient(loss, optax.sgd(0.1), batches)
        with pytest.raises(ValueError, match=said):
            lj.start(jax.random.key(0), w, gd, {})
    gd = lj.dynamics.gradient(loss, optax.sgd(0.1), lj.data.full_batch((x, jnp.zeros(20, int))))
    for watch in (lj.observe.accuracy, lj.observe.confidence, lj.observe.clustering):
        with pytest.raises(ValueError, match=said):
            lj.start(jax.random.key(0), w, gd, {"a": watch(lambda w, x: x @ w, (x, y))})
    gd = lj.dynamics.gradient(loss, optax.sgd(0.1), lj.data.full_batch((x, y)))
    final, _ = lj.run(jax.random.key(0), w, gd, {}, num_steps=2)
    with pytest.raises(FloatingPointError, match=r"at step 0\. Those at step 0 .*labels") as error:
        lj.check(final)
    assert "learning rate" not in str(error.value)
    assert "last finite" not in str(error.value)


def test_a_loss_for_batches_of_one_size_is_not_refused():
    def loss(w, batch):
        x, y = batch
        return jnp.mean(losses.cross_entropy(x.reshape(5, 2) @ w, y))

    data = jnp.ones((20, 2)), jnp.zeros(20, int)
    gd = lj.dynamics.gradient(loss, optax.sgd(0.1), lj.data.minibatch(data, 5))
    lj.start(jax.random.key(0), jnp.zeros((2, 3)), gd, {})


def test_one_hot_of_what_is_no_class():
    assert_array_equal(labels.one_hot("f", jnp.array([0, 2]), 3, "float32"), [[1, 0, 0], [0, 0, 1]])
    with pytest.raises(ValueError, match=r"f: targets\[1\] = 3 is not"):
        labels.one_hot("f", jnp.array([0, 3]), 3, "float32")
    rows = jax.jit(lambda y: labels.one_hot("f", y, 3, "float32"))(jnp.array([0, -1]))
    assert jnp.isnan(rows).all(axis=1).tolist() == [False, True]
