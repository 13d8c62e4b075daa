"""Alignment against what is known: eigenvectors themselves, chance, and NumPy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import landscape_jax as lj
from landscape_jax import tree
from landscape_jax.types import Moment

SCALES = jnp.array([5.0, 3.0, 2.0] + [0.5] * 37)  # λ, and e_i are the axes


def bowl(params, batch):
    return 0.5 * jnp.sum(SCALES * params["x"].reshape(-1) ** 2)


THETA = {"x": jnp.zeros((20, 2))}
HESSIAN = lj.curvature.hessian(bowl)


def measured(vectors, k=3):
    watch = lj.observe.alignment(HESSIAN, k, vectors=lambda key, m: {"x": vectors.reshape(-1, 20, 2)})
    moment = Moment(jnp.int32(0), THETA, jnp.zeros(1), jnp.zeros(()), THETA, THETA, ())
    return jax.jit(lambda key: watch.measure(key, watch.init(key, THETA), moment)[1])(jax.random.key(0))


def test_a_vector_along_the_sharpest_directions_and_one_off_them():
    along = jnp.zeros((2, 40)).at[0, 0].set(-3.0).at[0, 2].set(4.0).at[1, 30].set(1.0)
    value = measured(along)
    np.testing.assert_allclose(value["eigenvalues"], [5.0, 3.0, 2.0], rtol=1e-3)
    np.testing.assert_allclose(value["cosines"], [0.3, 0.0, 0.4], atol=1e-4)  # the mean over two, the second has none
    np.testing.assert_allclose(value["energy"], 0.5, atol=1e-4)


def test_random_vectors_have_the_cosine_of_chance():
    value = measured(jax.random.normal(jax.random.key(3), (4000, 40)))
    np.testing.assert_allclose(value["cosines"], lj.observe.random_cosine(40), rtol=0.05)
    np.testing.assert_allclose(value["energy"], 3 / 40, rtol=0.05)


@pytest.mark.parametrize("p", [350_000, 40, 7])
def test_random_cosine_against_its_gamma_functions(p):
    """E|cos| = Γ(p/2) / (√π Γ((p+1)/2)), more than √(2/(πp)) by a part 1/(4p)."""
    exact = math.exp(math.lgamma(p / 2) - math.lgamma((p + 1) / 2)) / math.pi**0.5
    assert lj.observe.random_cosine(p) * (1 + 1 / (4 * p)) == pytest.approx(exact, rel=0.1 / p**1.5 + 1e-8)


def test_zero_vectors_are_no_nan():
    value = measured(jnp.zeros((1, 40)))
    assert not value["cosines"].any()
    assert value["energy"] == 0


def test_redrawn_steps_are_those_of_sgd_on_other_minibatches(problem):
    """Their mean over many is −η times the full gradient; the rate may come from the optimizer's state."""
    optimizer = optax.inject_hyperparams(optax.sgd)(learning_rate=0.05)
    batches = lj.data.independent(problem.data, 16)
    gd = lj.dynamics.gradient(problem.loss, optimizer, batches)
    steps = lj.observe.redrawn(problem.loss, batches, 600, rate=lambda s: s.hyperparams["learning_rate"])
    watch = {
        "drawn": lj.observe.stateless(lambda m: steps(jax.random.key(5), m)),
        "u": lj.observe.stateless(lambda m: m.updates),
    }
    record = lj.run(jax.random.key(0), problem.params, gd, watch, num_steps=1)[1]
    drawn = jax.tree.map(lambda x: x[0], record["drawn"])
    whole = tree.scale(-0.05, jax.grad(problem.loss)(problem.params, problem.data))
    mean = jax.tree.map(lambda x: jnp.mean(x, axis=0), drawn)
    assert tree.norm(tree.sub(mean, whole)) < 0.06 * tree.norm(whole)
    spread = jax.vmap(lambda u: tree.norm(tree.sub(u, whole)))(drawn)
    assert jnp.min(spread) > 0.2 * tree.norm(whole)
    assert tree.norm(tree.sub(tree.row(drawn, 0), tree.row(record["u"], 0))) > 0.1 * tree.norm(whole)


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["step", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("alignment", "cross_sections"))]
)
def test_works_on_a_network_of_nnx_through_vmap_over_seeds(kind):
    """And leaves its trajectory alone."""
    train, _ = lj.data.digits(40)
    net = nnx.Linear(64, 10, rngs=nnx.Rngs(0))
    graph, theta = nnx.split(net)

    def loss(params, batch):
        return jnp.mean(lj.losses.cross_entropy(nnx.merge(graph, params)(batch[0]), batch[1]))

    hessian, batches = lj.curvature.hessian(loss), lj.data.minibatch(train, 8)
    gd = lj.dynamics.gradient(loss, optax.sgd(0.1), batches)
    drawn = lj.observe.redrawn(loss, batches, 2, rate=0.1)
    watch = {
        "alignment": lambda: lj.observe.alignment(hessian, 2, vectors=drawn, batch=train),
        "step": lambda: lj.observe.step_effect(loss, hessian, 2, multiples=(1.0, 2.0), steps=drawn, batch=train),
        "cross_sections": lambda: lj.observe.cross_sections(loss, hessian, 2, places=(0.0, 1.0), steps=drawn, batch=train),
    }[kind]()
    shapes = {
        "alignment": {"eigenvalues": (2,), "cosines": (2,), "energy": ()},
        "step": {"loss": (), "sharpest": (2, 2), "subspace": (2,), "random": (2,), "whole": (2,)}
        | dict.fromkeys(("eigenvalues", "slope", "first", "second"), (2,)),
        "cross_sections": {"unit": (2,), "loss": (2, 2)},
    }[kind]

    def trained(key, watch):
        return lj.run(key, theta, gd, watch, num_steps=4, every=2)

    keys = jax.random.split(jax.random.key(0), 3)
    watched, record = jax.jit(jax.vmap(lambda key: trained(key, {"seen": watch})))(keys)
    alone, _ = jax.jit(jax.vmap(lambda key: trained(key, {})))(keys)
    assert all(np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (watched.params, alone.params)), strict=True))
    assert jax.tree.map(lambda x: x.shape, record["seen"]) == {name: (3, 2, *shape) for name, shape in shapes.items()}
    assert all(np.isfinite(x).all() and np.ptp(x) > 0 for x in jax.tree.leaves(record["seen"]))
    if kind == "step":
        solo = trained(keys[1], {"seen": watch})[1]
        for name in shapes:
            np.testing.assert_allclose(record["seen"][name][1], solo["seen"][name], rtol=5e-3, atol=2e-6, err_msg=name)
