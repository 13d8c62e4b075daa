"""Losses and curvatures taken apart along the batch: weighted means, and derivatives by the data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import landscape_jax as lj
from landscape_jax import curvature as cv
from landscape_jax import losses, tree

N = 10
X = jnp.asarray(np.random.default_rng(0).normal(size=(N, 5)), jnp.float32)
PARAMS = {"w": jnp.linspace(-1.0, 1.0, 5)}
MASKS = {
    "some": jnp.array([1, 1, 1, 1, 1, 0, 0, 0, 1, 0]),
    "whole chunks are empty": jnp.array([0, 0, 0, 0, 0, 0, 0, 1, 1, 0]),
    "weights": jnp.linspace(0.1, 3.0, N),
    "bool": jnp.arange(N) < 4,
}
MESH = jax.make_mesh((4,), ("examples",), devices=jax.devices()[:4])


def loss(params, batch):
    m = batch["m"].astype(batch["x"].dtype)
    return jnp.sum(m * jnp.tanh(batch["x"] @ params["w"]) ** 2) / jnp.sum(m)


def count(batch):
    return batch["m"].sum()


SPLIT = {
    "chunked": (lambda f: losses.chunked(f, 3, weight=count), lambda c: cv.chunked(c, 3, weight=count)),
    "one by one": (lambda f: losses.chunked(f, N, weight=count), lambda c: cv.chunked(c, N, weight=count)),
    "sharded": (lambda f: losses.sharded(f, MESH, weight=count), lambda c: cv.sharded(c, MESH, weight=count)),
    "sharded and chunked": (
        lambda f: losses.sharded(losses.chunked(f, 2, weight=count), MESH, weight=count),
        lambda c: cv.sharded(cv.chunked(c, 2, weight=count), MESH, weight=count),
    ),
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("way", SPLIT)
def test_a_weighted_mean_in_parts_is_the_whole(way, mask):
    of_loss, of_curvature = SPLIT[way]
    batch = {"x": X, "m": MASKS[mask]}
    (value, grads), (mine, my_grads) = (jax.jit(jax.value_and_grad(f))(PARAMS, batch) for f in (loss, of_loss(loss)))
    np.testing.assert_allclose(mine, value, rtol=1e-5)
    np.testing.assert_allclose(my_grads["w"], grads["w"], rtol=1e-4, atol=1e-6)
    hessian = cv.hessian(loss)
    expected = hessian(PARAMS, batch)(PARAMS)["w"]
    product = jax.jit(lambda v: of_curvature(hessian)(PARAMS, batch)(v))(PARAMS)["w"]
    np.testing.assert_allclose(product, expected, rtol=1e-4, atol=1e-6)


def test_eager_and_under_vmap():
    batch = {"x": X, "m": MASKS["some"]}
    thetas = jax.vmap(lambda a: tree.scale(a, PARAMS))(jnp.array([0.5, 1.0]))
    in_parts = losses.chunked(loss, 3, weight=count)
    np.testing.assert_allclose(in_parts(PARAMS, batch), loss(PARAMS, batch), rtol=1e-5)
    np.testing.assert_allclose(
        jax.vmap(in_parts, (0, None))(thetas, batch), jax.vmap(loss, (0, None))(thetas, batch), rtol=1e-5
    )


@pytest.mark.parametrize("way", SPLIT)
def test_nothing_counts(way):
    """0/0, as the whole has it, and not 0."""
    assert np.isnan(SPLIT[way][0](loss)(PARAMS, {"x": X, "m": jnp.zeros(N)}))


def test_a_weight_of_many_numbers_is_refused():
    with pytest.raises(ValueError, match=r"weight gives shape \(4,\) for a batch, not one number: sum"):
        losses.chunked(loss, 3, weight=lambda batch: batch["m"])(PARAMS, {"x": X, "m": MASKS["some"]})
    with pytest.raises(ValueError, match=r"weight gives shape \(2,\) for a batch, not one number: sum"):
        losses.sharded(loss, MESH, weight=lambda batch: batch["m"])(PARAMS, {"x": X, "m": MASKS["some"]})


# ── what can be seen to be no mean ────────────────────────────────────────────────────────────────────────────────────


def each(params, batch):
    return jnp.tanh(batch["x"] @ params["w"]) ** 2


def crossed(params, batch):
    outputs = jnp.outer(batch["x"] @ params["w"], jnp.arange(3.0))
    return jnp.mean(losses.cross_entropy(outputs, jnp.zeros(len(outputs), int)))


SEEN = {
    "a masked mean": loss,
    "jnp.mean(where=)": lambda p, b: jnp.mean(each(p, b), where=b["m"] > 1),
    "jnp.average": lambda p, b: jnp.average(each(p, b), weights=b["m"].astype(jnp.float32)),
    "by the reciprocal": lambda p, b: jnp.sum(each(p, b) * b["m"]) * (1 / jnp.sum(b["m"])),
    "with a penalty": lambda p, b: 0.5 * jax.jit(loss)(p, b) + 0.1 * jnp.sum(p["w"] ** 2),
    "in a checkpoint": jax.checkpoint(loss),
    "at least one": lambda p, b: jnp.sum(each(p, b) * b["m"]) / jnp.maximum(jnp.sum(b["m"]), 1.0),
}
MEANS = {
    "a mean": lambda p, b: jnp.mean(each(p, b)),
    "with a penalty": lambda p, b: jnp.mean(each(p, b)) + 0.1 * jnp.sum(p["w"] ** 2) / (1 + jnp.sum(p["w"] ** 2)),
    "a mask in each example": lambda p, b: jnp.mean(each(p, b) / jnp.sum(b["x"] ** 2, axis=1)),
    "over a length of θ": lambda p, b: jnp.mean(each(p, b)) / jnp.linalg.norm(p["w"]),
    "cross-entropy": crossed,
}


@pytest.mark.parametrize("name", SEEN)
def test_a_loss_that_divides_by_its_batch_is_refused_without_a_weight(name):
    batch = {"x": X, "m": MASKS["weights"]}
    hessian = cv.shifted(cv.hessian(SEEN[name]), 0.1)
    for make in (
        lambda: losses.chunked(SEEN[name], 2)(PARAMS, batch),
        lambda: losses.sharded(SEEN[name], MESH)(PARAMS, batch),
        lambda: cv.chunked(hessian, 2)(PARAMS, batch),
        lambda: cv.sharded(hessian, MESH)(PARAMS, batch),
        lambda: jax.jit(jax.grad(losses.chunked(SEEN[name], 2)))(PARAMS, batch),
    ):
        with pytest.raises(ValueError, match=r"(chunked|sharded): this loss divides by .* pass weight=lambda batch"):
            make()


@pytest.mark.parametrize("name", MEANS)
def test_a_plain_mean_is_not(name):
    batch = {"x": X, "m": MASKS["weights"]}
    whole = MEANS[name](PARAMS, batch)
    np.testing.assert_allclose(losses.chunked(MEANS[name], N)(PARAMS, batch), whole, rtol=1e-5)
    np.testing.assert_allclose(losses.sharded(MEANS[name], MESH)(PARAMS, batch), whole, rtol=1e-5)


def test_who_knows_better_says_so():
    batch = {"x": X, "m": jnp.ones(N)}
    np.testing.assert_allclose(losses.chunked(loss, 3, weight=tree.num_examples)(PARAMS, batch), loss(PARAMS, batch), rtol=1e-5)


# ── by the data ───────────────────────────────────────────────────────────────────────────────────────────────────────

LABELLED = X, jnp.arange(N) % 3


def classify(params, batch):
    outputs = jnp.tanh(batch[0]) @ jnp.outer(params["w"], jnp.array([1.0, -1.0, 0.5]))
    return jnp.mean(losses.cross_entropy(outputs, batch[1]))


@pytest.mark.parametrize("n", [8, 10, 3], ids=["even", "ragged", "fewer than devices"])
def test_the_gradient_by_the_data_of_a_sharded_loss(n):
    batch = tuple(x[:n] for x in LABELLED)
    mine = losses.sharded(classify, MESH)

    def by_inputs(f):
        return lambda x, y: jax.value_and_grad(lambda x: f(PARAMS, (x, y)))(x)

    for way in (by_inputs(mine), jax.jit(by_inputs(mine))):
        value, slope = way(*batch)
        expected, true = by_inputs(classify)(*batch)
        np.testing.assert_allclose(value, expected, rtol=1e-5)
        assert np.abs(true).max() > 1e-3
        np.testing.assert_allclose(slope, true, rtol=1e-4, atol=1e-7)


def test_by_parameters_and_data_at_once_and_twice():
    both = [jax.grad(f, argnums=(0, 1), allow_int=True)(PARAMS, LABELLED) for f in (losses.sharded(classify, MESH), classify)]
    np.testing.assert_allclose(both[0][0]["w"], both[1][0]["w"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(both[0][1][0], both[1][1][0], rtol=1e-4, atol=1e-7)

    def mixed(f):  # ∂/∂x of ‖∇_θ L‖²
        return jax.grad(lambda x: jnp.sum(jax.grad(f)(PARAMS, (x, LABELLED[1]))["w"] ** 2))(X)

    np.testing.assert_allclose(mixed(losses.sharded(classify, MESH)), mixed(classify), rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(mixed(losses.chunked(classify, 3)), mixed(classify), rtol=1e-3, atol=1e-6)


def test_a_gradient_by_parameters_still_takes_one_all_reduce():
    program = jax.jit(jax.grad(losses.sharded(classify, MESH))).lower(PARAMS, tuple(x[:8] for x in LABELLED)).compile()
    assert program.as_text().count(" all-reduce(") + program.as_text().count(" all-reduce-start(") == 1
    hvp = lj.curvature.hessian(losses.sharded(classify, MESH))(PARAMS, LABELLED)(PARAMS)["w"]
    np.testing.assert_allclose(hvp, cv.hessian(classify)(PARAMS, LABELLED)(PARAMS)["w"], rtol=1e-3, atol=1e-6)
