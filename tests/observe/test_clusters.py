"""Clustering of logit gradients against all pairs, one by one; the softmax's own numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import landscape_jax as lj
from landscape_jax import observe
from landscape_jax.theory import logits

draw = jax.jit(logits.draw, static_argnums=(1, 2, 3))


def pair_by_pair(gradients, labels):
    unit = np.asarray(gradients, np.float64)
    unit = unit / np.linalg.norm(unit, axis=2, keepdims=True)
    n, classes, _ = unit.shape
    cos = np.einsum("mkp,nlp->kmln", unit, unit)
    off = ~np.eye(n, dtype=bool)
    pairs = [(a, b) for a in range(n) for b in range(n) if a != b and labels[a] == labels[b]]
    same = [[cos[k, a, k, b] for a, b in pairs if labels[a] == k] for k in range(classes)]
    return {
        "same_class": np.mean([np.mean(s) for s in same if s]),
        "same_logit": np.mean([cos[k, :, k][off].mean() for k in range(classes)]),
        "other_logit": np.mean([cos[k, :, l][off].mean() for k in range(classes) for l in range(classes) if k != l]),
    }


def test_clustering_is_what_pairs_give():
    made = draw(jax.random.key(3), 4, 30, 11, sigma_c=1.5)
    labels = made.labels.at[:].set(jnp.array([0, 0, 1, 1, 1, 2, 0, 2, 1, 3, 0]))  # one class has a single example
    found = jax.jit(lambda made, labels: observe.mean_cosines(lambda j: j, made, labels))(made.gradients, labels)
    assert found["length"] == pytest.approx(np.mean(np.sum(np.asarray(made.gradients) ** 2, axis=2)), rel=1e-5)
    for name, value in pair_by_pair(made.gradients, labels.tolist()).items():
        np.testing.assert_allclose(found[name], value, atol=1e-5, err_msg=name)


def test_clustering_of_clusters():
    """cos within a cluster is σ_c²/(σ_c² + σ_E²) in many dimensions, and 0 between."""
    made = draw(jax.random.key(4), 5, 3000, 20, sigma_c=2.0, sigma_e=1.0)
    found = jax.jit(lambda made: observe.mean_cosines(lambda j: j, made.gradients, made.labels))(made)
    np.testing.assert_allclose((found["same_class"], found["same_logit"]), 0.8, atol=0.01)
    assert abs(found["other_logit"]) < 0.03


def test_one_example_has_no_pairs():
    with pytest.raises(ValueError, match="n=1 examples have no pairs"):
        observe.mean_cosines(lambda j: j, jnp.ones((1, 3, 5)), jnp.zeros(1, int))


def test_on_a_network(problem):
    """The Jacobian written out, at two steps; targets as classes too."""
    x, y = problem.data
    some = x[:12], jnp.argmax(y[:12], axis=1)
    clusters = observe.clustering(problem.apply, (x[:12], y[:12]))
    watch = {"clusters": clusters, "softmax": observe.confidence(problem.apply, some)}
    gd = lj.dynamics.gradient(problem.loss, optax.sgd(0.1), lj.data.full_batch(problem.data))
    _, record = lj.run(jax.random.key(0), problem.params, gd, watch, num_steps=2)
    jacobian = jax.jit(jax.jacrev(problem.apply))(problem.params, some[0])
    flat = np.concatenate([np.reshape(leaf, (12, 10, -1)) for leaf in jax.tree.leaves(jacobian)], axis=2)
    for name, value in pair_by_pair(flat, some[1].tolist()).items():
        np.testing.assert_allclose(record["clusters"][name][0], value, atol=1e-5, err_msg=name)
    np.testing.assert_allclose(record["clusters"]["length"][0], np.mean(np.sum(flat**2, axis=2)), rtol=1e-5)
    assert record["clusters"]["length"][1] != record["clusters"]["length"][0]

    z = np.asarray(problem.apply(problem.params, some[0]), np.float64)
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    right = z[np.arange(12), some[1]]
    others = np.where(np.eye(10, dtype=bool)[np.asarray(some[1])], -np.inf, z).max(1)
    found = {name: value[0] for name, value in record["softmax"].items()}
    expected = {
        "variance": z.var(),
        "freedom": np.mean(1 - (p**2).sum(1)),
        "margin": np.mean(right - others),
        "margin_spread": np.std(right - others),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, err_msg=name)


def quiet(observable):
    gd = lj.dynamics.gradient(lambda w, batch: jnp.sum(w**2), optax.sgd(0.1), lambda key, step: None)
    record = lj.run(jax.random.key(0), jnp.ones(3), gd, {"a": observable}, num_steps=1)[1]["a"]
    return jax.tree.map(lambda value: float(value[0]), record)


Z = jnp.array([[3.0, 1.0, 0.0], [0.5, 0.0, 2.5]])


def test_confidence_of_smoothed_and_mixed_labels():
    """The right logit is that of the largest target."""
    hard = jnp.eye(3)[jnp.array([0, 2])]
    wanted = quiet(observe.confidence(lambda w, x: x, (Z, hard)))
    assert wanted["margin"] == pytest.approx(2)
    assert wanted["margin_spread"] == pytest.approx(0, abs=1e-6)
    mixed = 0.7 * hard + 0.3 * hard[::-1]
    for soft in (optax.smooth_labels(hard, 0.1), mixed, jnp.array([0, 2])):
        assert quiet(observe.confidence(lambda w, x: x, (Z, soft))) == wanted
    swapped = 0.3 * hard + 0.7 * hard[::-1]
    assert quiet(observe.confidence(lambda w, x: x, (Z, swapped)))["margin"] == pytest.approx((-3 - 2) / 2)


def test_confidence_of_tokens_is_over_examples_and_positions():
    z = jnp.stack([Z, 2 * Z, 3 * Z])  # [3, 2, 3]
    y = jnp.array([[0, 2], [0, 2], [1, 1]])
    flat = quiet(observe.confidence(lambda w, x: x, (z.reshape(6, 3), y.reshape(6))))
    tokens = quiet(observe.confidence(lambda w, x: x, (z, y)))
    assert tokens == pytest.approx(flat)


def test_targets_that_do_not_fit():
    with pytest.raises(ValueError, match=r"clustering: outputs \(3, 2, 3\) are not one row of at least two logits"):
        quiet(observe.clustering(lambda w, x: x, (jnp.stack([Z] * 3), jnp.zeros((3, 2), int))))
    with pytest.raises(ValueError, match=r"clustering: outputs \(2, 1\) are not one row"):
        quiet(observe.clustering(lambda w, x: (x @ w)[:, None], (Z, jnp.array([1, -1]))))
    with pytest.raises(ValueError, match=r"confidence: outputs \(2, 1\) are one logit"):
        quiet(observe.confidence(lambda w, x: (x @ w)[:, None], (Z, jnp.array([1, -1]))))
    with pytest.raises(ValueError, match=r"mean_cosines: targets\[1\] = 3 is not one of the classes 0 … 2"):
        observe.mean_cosines(lambda j: j, jnp.ones((2, 3, 4)), jnp.array([0, 3]))
    found = jax.jit(lambda y: observe.mean_cosines(lambda j: j, jnp.ones((3, 3, 4)), y))(jnp.array([0, -1, 0]))
    assert np.isnan(found["same_class"])
    assert found["same_logit"] == pytest.approx(1)


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_cosines_of_gradients_of_any_scale_are_the_same(scale):
    made = draw(jax.random.key(3), 4, 30, 11, sigma_c=1.5)
    cosines = jax.jit(lambda g: observe.mean_cosines(lambda j: j, g, made.labels)["same_logit"])
    np.testing.assert_allclose(cosines(scale * made.gradients), cosines(made.gradients), rtol=1e-5)
