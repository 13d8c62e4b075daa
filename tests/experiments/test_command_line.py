"""`python -m experiments`, as its user meets it."""

import contextlib
import itertools
import json
import shutil
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
TINY = [
    "--n-train",
    "40",
    "--widths",
    "4",
    "--init-scale",
    "0.3",
    "0.1",
    "--learning-rates",
    "0.2",
    "--num-seeds",
    "2",
    "--num-steps",
    "60",
    "--every",
    "2",
]


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
        ([NAME, "--learning-rates", "0.1", "nan"], ["learning_rates=(0.1, nan) must be finite"]),
        ([NAME, "--control-rate", "inf"], ["control_rate=inf must be finite"]),
        ([NAME, "--num-steps", "1099511627776"], ["num_steps=1099511627776 is too large"]),
        ([NAME, "--seed", "1099511627776"], ["--seed 1099511627776 must lie between 0 and 4294967295"]),
        ([NAME, "--seed", "-1"], ["--seed -1 must lie between 0 and 4294967295"]),
        ([NAME, "--seed", "1" + 30 * "0"], ["must lie between 0 and 4294967295"]),
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


def test_a_finished_result_is_replaced_by_another_configuration_only_if_asked(done, tmp_path, capfd):
    shutil.copytree(done, tmp_path, dirs_exist_ok=True)
    folder = tmp_path / NAME / "small-seed3"
    asked = [NAME, "--seed", "3", "--out", str(tmp_path), *TINY, "--control-rate", "0.04"]
    assert cli.main(asked) == 2
    told = " ".join(capfd.readouterr().err.split())
    assert "finished result of another configuration (control_rate: 0.05 there, 0.04 here)" in told
    assert "--overwrite" in told
    assert json.loads((folder / "config.json").read_text())["config"]["control_rate"] == 0.05
    assert cli.main([*asked, "--overwrite"]) == 0
    assert json.loads((folder / "config.json").read_text())["config"]["control_rate"] == 0.04
    assert cli.main(asked) == 0


@pytest.mark.parametrize(
    ("content", "told"), [(b"", "it is empty"), (b'{"config": {"n_t', "Unterminated"), (b"[1]", "it holds a list")]
)
def test_a_damaged_config_of_an_earlier_result_is_told_of_before_the_work(content, told, done, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(lj, "drive", lambda *_, **__: pytest.fail("it ran"))
    shutil.copytree(done, tmp_path, dirs_exist_ok=True)
    path = tmp_path / NAME / "small-seed3" / "config.json"
    path.write_bytes(content)
    assert cli.main([NAME, "--seed", "3", "--out", str(tmp_path), *TINY]) == 2
    said = capfd.readouterr().err
    assert f"{path} is damaged ({told}" in said
    assert "delete the folder" in said
    if content != b"[1]":
        assert cli.main(["report", str(tmp_path)]) == 2
        assert f"the result in {path.parent} can't be read" in capfd.readouterr().err


def test_an_experiment_in_parts_goes_on_with_the_bits_of_an_undisturbed_run(tmp_path, monkeypatch, capfd):
    name, few = "ma2022_multiscale", "--parts toys origin --num-seeds 1 --scales 1 1 1 1 10 100".split()
    asked = [name, "--out", str(tmp_path / "stopped"), *few]
    folder = tmp_path / "stopped" / name / "small-seed0"

    @contextlib.contextmanager
    def pressed():
        """Once the first part is kept."""
        yield (folder / "checkpoint" / "toys" / "record.npz").exists

    with monkeypatch.context() as patched:
        patched.setattr("experiments._parts.defer_interrupts", pressed)
        assert cli.main(asked) == 130
    told = capfd.readouterr().err
    assert "stopped by Ctrl-C with 1 of 2 parts finished (toys)" in told
    assert "the same command goes on from there" in told
    assert list(lj.record.read(folder)[1]) == ["toys"]
    with monkeypatch.context() as patched:
        patched.setattr("experiments._ma2022_toys.measured", lambda: pytest.fail("it was done again"))
        assert cli.main(asked) == 0
    assert cli.main([name, "--out", str(tmp_path / "straight"), *few]) == 0
    again, straight = lj.record.read(folder), lj.record.read(tmp_path / "straight" / name / "small-seed0")
    jax.tree.map(np.testing.assert_array_equal, dict(again[1]), dict(straight[1]))
    assert again[2] == straight[2]
    assert again[0]["stopped"] is None
    assert not (folder / "checkpoint").exists()


def test_the_same_command_goes_on_where_a_stopped_one_was(done, tmp_path, monkeypatch, capfd):
    asked = [NAME, "--seed", "3", "--out", str(tmp_path), *TINY]
    folder = tmp_path / NAME / "small-seed3"

    @contextlib.contextmanager
    def pressed():
        """Once the first chunk is done."""
        answers = itertools.chain([False], itertools.repeat(True))
        yield lambda: next(answers)

    with monkeypatch.context() as patched:
        patched.setattr("landscape_jax.engine.driver.defer_interrupts", pressed)
        assert cli.main(asked) == 130
    assert "stopped by Ctrl-C after 4 of 60 steps" in capfd.readouterr().err
    assert (folder / "checkpoint" / "4" / "manifest.json").is_file()
    with lj.record.held(folder):
        assert cli.main(asked) == 2
    assert "being written by process" in capfd.readouterr().err
    assert cli.main([*asked, "--n-train", "50"]) == 2
    assert "identity.n_train: 40 there, 50 here" in " ".join(capfd.readouterr().err.split())
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


def test_ctrl_c_stops_a_compiled_part_at_once(tmp_path):
    """A training of hours in one program: Ctrl-C comes while it is compiled or runs."""
    name = "ma2022_multiscale"
    asked = [sys.executable, "-m", "experiments", name, "--out", str(tmp_path), "--parts", "toys", "networks", "--num-steps"]
    environment = clean_environment(COLUMNS="200", XDG_CACHE_HOME=str(tmp_path / "cache"))
    process = subprocess.Popen([*asked, "30000000"], cwd=ROOT, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        folder = tmp_path / name / "small-seed0"
        while not (folder / "checkpoint" / "toys" / "record.npz").exists():
            time.sleep(0.1)
            assert process.poll() is None
        time.sleep(2)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Traceback" not in said
    assert f"with 1 of 2 parts finished (toys); what was recorded until then is in {folder}" in " ".join(said.split())
    assert list(lj.record.read(folder)[1]) == ["toys"]


def asked_in_a_process(*args, **environment):
    asked = [sys.executable, "-m", "experiments", *args]
    return subprocess.run(asked, cwd=ROOT, capture_output=True, env=clean_environment(**environment))


@pytest.mark.parametrize("platform", ["nonsense", "cuda"])
def test_a_platform_that_jax_has_not_is_one_line(platform, tmp_path):
    if platform == "cuda" and jax.default_backend() == "gpu":
        pytest.skip("there is one here")
    process = asked_in_a_process(NAME, "--out", str(tmp_path), JAX_PLATFORMS=platform)
    assert process.returncode == 2
    told = process.stderr.decode()
    assert "Traceback" not in told
    assert f"JAX_PLATFORMS={platform} asks for it: unset it, or set it to cpu" in told


def test_a_terminal_without_unicode_loses_characters_and_no_result(tmp_path):
    environment = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    out = str(tmp_path)
    process = asked_in_a_process(NAME, "--out", out, *TINY, XDG_CACHE_HOME=out + "/cache", **environment)
    assert process.returncode == 0, process.stderr.decode()
    assert b"2/?" in process.stdout
    assert (tmp_path / NAME / "small-seed0" / "claims.json").is_file()
    for args in ([], ["report", out]):
        process = asked_in_a_process(*args, **environment)
        assert process.returncode == 0, process.stderr.decode()
    assert b"settles at 2/?" in process.stdout
    assert "settles at 2/η" in (tmp_path / "report.md").read_text("utf-8")
