"""Runs killed by SIGKILL at random moments, resumed each time, end with the bits of a run that nobody disturbed."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import clean_environment
from lasting_run import EVERY, STEPS

SCRIPT = Path(__file__).parents[1] / "lasting_run.py"


def started(cache, folder, out, *rest):
    env = clean_environment(
        JAX_COMPILATION_CACHE_DIR=str(cache),  # the same program, restarted sooner
        JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0.1",
    )
    command = [sys.executable, str(SCRIPT), str(folder), str(out), *rest]
    return subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def killed_again_and_again(tmp_path, kills, *rest):
    """How many kills hit a running process, and how many of those left a checkpoint half written."""
    dice = random.Random(kills)
    folder, hits, halves = tmp_path / "killed", 0, 0
    whole = lambda: {p.parent.name for p in folder.glob("*/manifest.json")}  # noqa: E731
    while True:
        before = whole()
        process = started(tmp_path / "cache", folder, tmp_path / "killed.npz", *rest)
        try:
            while hits < kills and process.poll() is None and whole() == before:
                time.sleep(0.002)  # until it has got as far as its first checkpoint of its own
            if hits < kills and process.poll() is None:
                time.sleep(dice.uniform(0, 0.15))
                process.send_signal(signal.SIGKILL)
            _, err = process.communicate(timeout=300)
        finally:
            process.kill()
        if process.returncode == 0:
            return hits, halves
        assert process.returncode == -signal.SIGKILL, err
        hits += 1
        halves += any(p.is_dir() and p.name.isdigit() and p.name not in whole() for p in folder.iterdir())


def same_as_undisturbed(tmp_path, kills, *rest):
    process = started(tmp_path / "cache", tmp_path / "straight", tmp_path / "straight.npz", *rest)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    hits, halves = killed_again_and_again(tmp_path, kills, *rest)
    print(f"\n{hits} kills, {halves} of them in the middle of a checkpoint")
    assert hits == kills
    with np.load(tmp_path / "straight.npz") as straight, np.load(tmp_path / "killed.npz") as resumed:
        assert set(straight) == set(resumed)
        for name in straight:
            np.testing.assert_array_equal(straight[name], resumed[name], err_msg=name)
        return {name: straight[name] for name in straight}


@pytest.mark.slow
def test_killed_twice(tmp_path):
    end = same_as_undisturbed(tmp_path, 2)
    assert end["[1]['sharpness']"].shape == (STEPS // EVERY,)
    assert len(np.unique(end["[1]['sharpness']"])) > 500


@pytest.mark.slow
@pytest.mark.parametrize("rest", [(), ("batch",)], ids=["one run", "a sweep, a third of it diverged"])
def test_killed_twenty_times(tmp_path, rest):
    end = same_as_undisturbed(tmp_path, 20, *rest)
    assert end["[1]['loss']"].shape == ((2, 3, STEPS // EVERY) if rest else (STEPS // EVERY,))
