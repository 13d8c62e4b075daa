"""Many steps as one go where those steps go, however many they are."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import landscape_jax as lj

WATCH = {"loss": lj.observe.loss, "updates": lj.observe.stateless(lambda m: m.updates["shift"])}


@pytest.fixture(scope="module")
def sgd(problem):
    return lj.dynamics.gradient(problem.loss, optax.sgd(0.05, momentum=0.9), lj.data.minibatch(problem.data, 16))


@pytest.fixture(scope="module")
def straight(problem, sgd):
    return lj.run(jax.random.key(0), problem.params, sgd, WATCH, num_steps=12, every=1)


def test_goes_where_its_steps_go_and_sees_the_first_of_each(problem, sgd, straight):
    """Several lengths in one program, each against the same run step by step."""
    lengths = (1, 3, 4)
    runs = lj.sweep.grid(
        lambda times: lj.run(jax.random.key(0), problem.params, lj.dynamics.repeated(sgd, times), WATCH, num_steps=3)
    )(jnp.array(lengths))
    params = lj.observe.stateless(lambda m: m.params)
    _, path = lj.run(jax.random.key(0), problem.params, sgd, {"params": params}, num_steps=12)
    for i, times in enumerate(lengths):
        record = jax.tree.map(lambda x, i=i: x[i], dict(runs[1]))
        assert record["step"].tolist() == [0, 1, 2]
        places = np.arange(3) * times
        np.testing.assert_allclose(record["loss"], np.asarray(straight[1]["loss"])[places], rtol=1e-6)
        shift = np.append(path["params"]["shift"], straight[0].params["shift"][None], axis=0)  # [13, 10]
        np.testing.assert_allclose(record["updates"], shift[places + times] - shift[places], atol=1e-6)
    last = jax.tree.map(lambda x: x[-1], (runs[0].params, runs[0].state))
    chex.assert_trees_all_close(last, (straight[0].params, straight[0].state), rtol=1e-6, atol=1e-7)


def test_a_run_that_diverges_within_is_kept_where_it_was(problem):
    wild = lj.dynamics.gradient(problem.loss, optax.sgd(1e3), lj.data.full_batch(problem.data))
    final, record = lj.run(jax.random.key(0), problem.params, lj.dynamics.repeated(wild, 500), WATCH, num_steps=2)
    assert final.status == lj.Status.DIVERGED
    chex.assert_trees_all_equal(final.params, problem.params)
    assert np.isnan(record["loss"]).all()


def test_no_step_at_all_is_refused(sgd):
    with pytest.raises(ValueError, match="times=0 must be at least 1"):
        lj.dynamics.repeated(sgd, 0)
