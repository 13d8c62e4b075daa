"""A kill or a full disk at any operation on files: the same command afterwards goes on, to the same bits."""

import collections
import shutil
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from dying import Death, dying
from lasting_run import plain

import landscape_jax as lj
from landscape_jax.record import Claim, disk

STEPS, CHUNK = 12, 3
GD = lj.dynamics.gradient(
    lambda theta, batch: jnp.mean((batch @ theta - 1) ** 2), optax.sgd(0.1), lj.data.minibatch(jnp.ones((8, 3)), 2)
)
WATCH = {"loss": lj.observe.loss, "theta": lj.observe.stateless(lambda m: {"all": m.params, "first": m.params[0]})}
RUN = lj.start(jax.random.key(0), jnp.arange(3.0), GD, WATCH)


def drive(folder):
    return plain(*lj.drive(RUN, GD, WATCH, num_steps=STEPS, chunk=CHUNK, checkpoint=folder, keep=2, pause=0, progress=False))


@pytest.fixture(scope="module")
def straight():
    return drive(None)


def fresh(folder):
    """Begin, write, make checkpoints, remove old ones, finish."""


def damaged(folder):
    """The same after half of a run, with a damaged checkpoint to set aside."""
    lj.drive(RUN, GD, WATCH, num_steps=6, chunk=CHUNK, checkpoint=folder, pause=0, progress=False)
    (folder / "6" / "manifest.json").write_text("")


def operations(begin, folder):
    begin(folder)
    with warnings.catch_warnings(), dying(folder, None) as happened:
        warnings.simplefilter("ignore")
        drive(folder)
    return happened


@pytest.fixture(scope="module")
def counts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("counted")
    return {begin: operations(begin, folder / begin.__name__) for begin in (fresh, damaged)}


def dies_and_goes_on(begin, folder, at, full, straight):
    begin(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with dying(folder, at, full), pytest.raises(lj.record.Unwritable if full else Death) as stop:
            drive(folder)
            raise Death("it was not needed")  # such as removing the lock
        assert not full or "\n" not in str(stop.value)
        again = drive(folder)
    assert set(again) == set(straight)
    for name in again:
        np.testing.assert_array_equal(again[name], straight[name], err_msg=f"{name} after {stop.value}")
    assert not list(folder.glob(f"*{disk.PARTIAL}"))
    assert not (folder / ".lock").exists()


@pytest.mark.parametrize("begin", [fresh, damaged])
def test_a_sample_of_kills(begin, counts, straight, tmp_path):
    for at in range(0, len(counts[begin]), 11):
        dies_and_goes_on(begin, tmp_path / str(at), at, False, straight)


@pytest.mark.slow
@pytest.mark.parametrize("begin", [fresh, damaged])
def test_a_kill_at_each_operation(begin, counts, straight, tmp_path):
    for at in range(len(counts[begin])):
        dies_and_goes_on(begin, tmp_path / str(at), at, False, straight)
        shutil.rmtree(tmp_path / str(at))
    print(begin.__name__, len(counts[begin]), dict(collections.Counter(counts[begin])))
