"""`python -m experiments`, as its user meets it."""

import contextlib
import itertools
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import clean_environment

import landscape_jax as lj
from experiments import __main__ as cli

ROOT = Path(__file__).parents[2]
NAME = "cohen2021_edge_of_stability"
TINY = ["--n-train", "40", "--widths", "4", "--init-scale", "0.3", "0.1", "--learning-rates", "0.2",
        "--num-seeds", "2", "--num-steps", "60", "--every", "2"]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def no_cache_but_ours(tmp_path_factory):
    """Compiled programs of these tests stay out of the user's cache."""
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("compiled")))
    yield
    jax.config.update("jax_compilation_cache_dir", before)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    out = tmp_path_factory.mktemp("results")
    assert cli.main([NAME, "--seed", "3", "--out", str(out), *TINY]) == 0
    return out


def test_lists_every_experiment_with_one_line(capsys):
    assert cli.main([]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in cli.names())
    assert NAME in cli.names()


def test_writes_the_result_folder(done):
    folder = done / NAME / "small-seed3"
    assert sorted(p.name for p in folder.iterdir()) == ["claims.json", "config.json", "figure.png", "record.npz"]
    config = json.loads((folder / "config.json").read_text())
    assert {"config", "seed", "versions", "device", "command", "commit"} <= set(config)
    assert config["seed"] == 3
    assert config["config"]["learning_rates"] == [0.2]
    with np.load(folder / "record.npz") as record:
        assert {name: record[name].shape for name in record} == dict.fromkeys(("step", "loss", "sharpness"), (2, 2, 30))
    verdicts = {c["verdict"] for c in json.loads((folder / "claims.json").read_text())}
    assert verdicts <= {"reproduced", "not reproduced", "not tested"}


def test_reports_claims_and_figures(done, capsys):
    assert cli.main(["report", str(done)]) == 0
    said = capsys.readouterr().out
    assert said.strip() == (done / "report.md").read_text().strip()
    claims = json.loads((done / NAME / "small-seed3" / "claims.json").read_text())
    assert all(f"| {c['verdict']} |" in said for c in claims)
    assert f"]({NAME}/small-seed3/figure.png)" in said


def test_strict_fails_when_a_claim_does(tmp_path):
    """Sixty steps of a tiny network do not reach the edge."""
    assert cli.main([NAME, "--out", str(tmp_path), "--strict", *TINY]) == 1


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["cohen2021_edge_of_stabilty"], [f"did you mean '{NAME}'"]),
        ([NAME, "--preset", "smal"], ["did you mean 'small'"]),
        ([NAME, "--preset=papr"], ["did you mean 'paper'"]),
        ([NAME, "--num-step", "5"], ["--num-step", "Perhaps you meant", "--num-steps"]),
        ([NAME, "--num-steps", "70", "--every", "20"], ["num_steps=70 must be a multiple of every=20"]),
        ([NAME, "--learning-rates", "0.1", "-0.1"], ["must be", "positive"]),
        ([NAME, "--n-train", "5000"], ["n_train=5000", "1797"]),
        ([NAME, "--widths", "0"], ["positive"]),
        ([NAME, "--init-scale", "1.0", "1.0"], ["init_scale has 2 numbers for 3 layers"]),
        ([NAME, "--out", "{file}/below"], ["can't write", "choose another folder"]),
        ([NAME, "--coordinator", "nowhere"], ["all three"]),
        ([NAME, "--coordinator", "nowhere", "--num-processes", "2", "--process-id", "1"], ["address:port"]),
        (["report", "{empty}"], ["holds no results"]),
        (["report"], ["one folder"]),
    ],
)
def test_bad_input_is_answered_before_anything_runs(args, said, tmp_path, capfd, monkeypatch):
    import landscape_jax

    monkeypatch.setattr(landscape_jax, "drive", lambda *_, **__: pytest.fail("it ran"))
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    args = [arg.format(file=tmp_path / "file", empty=tmp_path / "empty") for arg in args]
    assert cli.main(args if "--out" in args or args[0] == "report" else [*args, "--out", str(tmp_path / "out")]) == 2
    told = " ".join(capfd.readouterr().err.replace("│", " ").split())
    for part in said:
        assert part in told


def test_the_same_command_goes_on_where_a_stopped_one_was(done, tmp_path, monkeypatch, capfd):
    asked = [NAME, "--seed", "3", "--out", str(tmp_path), *TINY]
    folder = tmp_path / NAME / "small-seed3"

    @contextlib.contextmanager
    def pressed():
        """Once the first chunk is done."""
        answers = itertools.chain([False], itertools.repeat(True))
        yield lambda: next(answers)

    with monkeypatch.context() as patched:
        patched.setattr("landscape_jax.driver.held_interrupts", pressed)
        assert cli.main(asked) == 130
    assert "stopped by Ctrl-C after 4 of 60 steps" in capfd.readouterr().err
    assert (folder / "checkpoint" / "4" / "manifest.json").is_file()
    with lj.record.held(folder):
        assert cli.main(asked) == 2
    assert "being written by process" in capfd.readouterr().err
    assert cli.main([*asked, "--n-train", "50"]) == 2
    assert "config.n_train: 40 there, 50 here" in " ".join(capfd.readouterr().err.split())
    assert cli.main(asked) == 0
    again, straight = lj.record.read(folder), lj.record.read(done / NAME / "small-seed3")
    for name in straight[1]:
        np.testing.assert_array_equal(again[1][name], straight[1][name])
    assert list(again[1].axes) == ["learning_rate", "seed", "step"]
    assert again[2] == straight[2]
    assert not (folder / "checkpoint").exists()


def interrupted(out: Path, after: float):
    """Exit status, standard error and folder of a long run that gets SIGINT some seconds after its folder appears."""
    asked = [sys.executable, "-m", "experiments", NAME, "--out", str(out), *TINY, "--num-steps", "2000000"]
    environment = clean_environment(COLUMNS="200", XDG_CACHE_HOME=str(out / "cache"))
    process = subprocess.Popen(asked, cwd=ROOT, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        folder = out / NAME / "small-seed0"
        while not folder.exists():
            time.sleep(0.1)
            assert process.poll() is None
        time.sleep(after)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=100)
    finally:
        process.kill()
    return process.returncode, said, folder


def test_ctrl_c_keeps_what_was_recorded_and_says_where(tmp_path):
    code, said, folder = interrupted(tmp_path, after=15)  # into the run, on any machine not many times slower than mine
    assert code == 130
    assert f"in {folder}" in said
    config = json.loads((folder / "config.json").read_text())
    stopped = int(config["stopped"].split("after ")[1].split()[0])
    assert 0 < stopped < 2_000_000, said
    with np.load(folder / "record.npz") as record:
        assert record["loss"].shape == (2, 2, stopped // 2)
        assert np.isfinite(record["loss"]).all()
    assert not (folder / "claims.json").exists()
    assert "the same command goes on from there" in said
    assert any((tmp_path / "cache" / "landscape_jax" / "compiled").iterdir())  # the next start is sooner


def test_ctrl_c_while_it_compiles_stops_before_the_first_chunk_or_after_it(tmp_path):
    code, said, folder = interrupted(tmp_path, after=1)
    assert code == 130
    assert f"in {folder}" in said
    stopped = int(json.loads((folder / "config.json").read_text())["stopped"].split("after ")[1].split()[0])
    assert 0 <= stopped <= 1000  # a chunk of this run is 500 steps
