"""A kill or a full disk at any operation on files: the same command afterwards goes on, to the same bits."""

import collections
import contextlib
import os
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


class Unneeded(Exception):
    """The operation that failed was one that may."""


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Nobody cuts the power here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


GD = lj.dynamics.gradient(
    lambda theta, batch: jnp.mean((batch @ theta - 1) ** 2), optax.sgd(0.1), lj.data.minibatch(jnp.ones((8, 3)), 2)
)
WATCH = {"loss": lj.observe.loss, "theta": lj.observe.stateless(lambda m: {"all": m.params, "first": m.params[0]})}
RUN = lj.start(jax.random.key(0), jnp.arange(3.0), GD, WATCH)


def drive(folder):
    saving = None if folder is None else lj.Saving(folder, keep=2, pause=0)
    return plain(*lj.drive(RUN, GD, WATCH, num_steps=STEPS, chunk=CHUNK, saving=saving, progress=False))


@pytest.fixture(scope="module")
def straight():
    return drive(None)


def fresh(folder):
    """Begin, write, make checkpoints, remove old ones, finish."""


def damaged(folder):
    """The same after half of a run, with a damaged checkpoint to set aside."""
    lj.drive(RUN, GD, WATCH, num_steps=6, chunk=CHUNK, saving=lj.Saving(folder, pause=0), progress=False)
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


def then_fail(act, *args):
    act(*args)
    raise Unneeded


def dies_and_goes_on(begin, folder, at, full, straight):
    begin(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with dying(folder, at, full) as happened, pytest.raises((lj.record.Unwritable, Unneeded) if full else Death) as stop:
            then_fail(drive, folder)
        assert full or f"operation {at}" in str(stop.value)
        assert len(happened) > at
        assert not full or "\n" not in str(stop.value)
        again = drive(folder)
    assert set(again) == set(straight)
    for name in again:
        np.testing.assert_array_equal(again[name], straight[name], err_msg=f"{name} after {stop.value}")
    assert not list(folder.glob(f"*{disk.PARTIAL}"))
    assert not (folder / ".lock").exists()
    shutil.rmtree(folder)


@pytest.mark.parametrize("full", [False, True], ids=["killed", "full"])
@pytest.mark.parametrize("begin", [fresh, damaged])
def test_a_sample_of_operations(begin, full, counts, straight, tmp_path):
    for at in range(3, len(counts[begin]), 13):
        dies_and_goes_on(begin, tmp_path / str(at), at, full, straight)


@pytest.mark.slow
@pytest.mark.parametrize("full", [False, True], ids=["killed", "full"])
@pytest.mark.parametrize("begin", [fresh, damaged])
def test_each_operation(begin, full, counts, straight, tmp_path):
    for at in range(len(counts[begin])):
        dies_and_goes_on(begin, tmp_path / str(at), at, full, straight)
    print("\n", begin.__name__, len(counts[begin]), dict(collections.Counter(counts[begin])))


def result(folder, value):
    claims = [Claim("id", "It rises.", "Author 2021", "at least 2", value, True)]
    lj.record.write(folder, lj.record.Record({"step": np.arange(3), "x": np.full(3, value)}), claims, seed=value)


@pytest.mark.parametrize("full", [False, True], ids=["killed", "full"])
@pytest.mark.parametrize("earlier", [False, True], ids=["new", "over an earlier one"])
def test_a_result_is_whole_or_none(earlier, full, tmp_path):
    with lj.record.held(tmp_path / "counted") as folder, dying(folder, None) as happened:
        result(folder, 2)
    for at in range(len(happened)):
        folder = tmp_path / str(at)
        if earlier:
            result(folder, 1)
        with lj.record.held(folder):
            with dying(folder, at, full), pytest.raises((lj.record.Unwritable, Unneeded) if full else Death):
                then_fail(result, folder, 2)
        with pytest.raises(FileNotFoundError) if not (folder / "config.json").exists() else contextlib.nullcontext():
            config, record, claims = lj.record.read(folder)
            seen = {config["seed"], *([] if record is None else record["x"]), *(c["measured"] for c in claims or [])}
            assert claims is None or seen in ({1}, {2})
            assert not (full and earlier) or claims is not None
        with lj.record.held(folder):
            result(folder, 3)
        assert sorted(p.name for p in folder.iterdir()) == ["claims.json", "config.json", "record.npz"]
        assert lj.record.read(folder)[0]["seed"] == 3


def test_a_folder_is_removed_whole_or_not_at_all(straight, tmp_path):
    """As checkpoints are once an experiment's result is written: the same command then starts or goes on."""
    for at in range(30):
        folder = tmp_path / str(at)
        drive(folder / "checkpoint")
        with dying(tmp_path, at) as happened, pytest.raises((Death, Unneeded)):
            then_fail(disk.discard, folder / "checkpoint")
        with lj.record.held(folder):
            again = drive(folder / "checkpoint")
            assert [p.name for p in folder.iterdir() if p.name != ".lock"] == ["checkpoint"]
        for name in again:
            np.testing.assert_array_equal(again[name], straight[name])
        if len(happened) <= at:
            return
