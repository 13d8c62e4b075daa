"""Alignment against what is known: eigenvectors themselves, chance, and NumPy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

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
