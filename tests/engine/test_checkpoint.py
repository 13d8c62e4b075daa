"""A run saved is a run that goes on with the same bits; what is damaged, foreign or full is told of."""

import contextlib
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import clean_environment
from jax.sharding import Mesh
from lasting_run import CHUNK, EVERY, begun, drive, parts, plain

import landscape_jax as lj
from landscape_jax import programs
from landscape_jax.engine import driver
from landscape_jax.engine.checkpoint.saving import open_checkpoints
from landscape_jax.engine.core import as_pytree_functions

STEPS = 6 * CHUNK


def same(a, b):
    a, b = plain(*a), plain(*b)
    assert set(a) == set(b)
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A finished run's folder and what it gave."""
    folder = tmp_path_factory.mktemp("kept") / "run"
    return folder, drive(folder, False, STEPS)


@pytest.fixture
def copy(kept, tmp_path):
    return shutil.copytree(kept[0], tmp_path / "copy")


def test_a_checkpointed_run_is_the_run(kept):
    run, sgd, watch = begun(False)
    run, record = lj.drive(run, sgd, watch, num_steps=STEPS, every=EVERY, chunk=CHUNK, progress=False)
    same(kept[1], (run, record))
    assert isinstance(kept[1][1], lj.Record)
    assert sorted(p.name for p in kept[0].iterdir()) == ["160", "200", "240", "config.json", "record"]
    assert np.load(kept[0] / "record" / "loss.npy").shape == (STEPS // EVERY,)


def test_a_finished_run_is_read_not_run(kept, copy, monkeypatch):
    after_each_chunk = contextlib.nullcontext(lambda *_: pytest.fail("it ran"))
    monkeypatch.setattr(driver, "show_progress", lambda *_: after_each_chunk)
    same(drive(copy, False, STEPS), kept[1])
    steps, run, record = lj.checkpoint.load(copy, begun(False)[0])
    assert steps == STEPS
    same((run, record), kept[1])
    with pytest.raises(ValueError, match="holds 240 steps, more than num_steps=120"):
        drive(copy, False, STEPS // 2)


def test_asked_for_more_steps_it_goes_on(kept, tmp_path):
    drive(tmp_path / "run", False, STEPS // 2)
    same(drive(tmp_path / "run", False, STEPS), kept[1])


def test_between_checkpoints_there_is_a_pause_but_none_before_the_last(kept, tmp_path):
    same(drive(tmp_path / "run", False, STEPS, pause=3600), kept[1])
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["240", "config.json", "record"]
    assert np.load(tmp_path / "run" / "record" / "loss.npy").shape == (STEPS // EVERY,)


def test_driven_again_nothing_is_compiled_again(kept):
    run, sgd, watch = begun(False)
    go = lambda: lj.drive(run, sgd, watch, num_steps=STEPS, every=EVERY, chunk=CHUNK, progress=False)  # noqa: E731
    go()
    compiled, _ = programs.program(driver._drive_programs, (as_pytree_functions(sgd), as_pytree_functions(watch)))
    before = compiled.advance._cache_size()
    go()
    assert before > 0
    assert compiled.advance._cache_size() == before


@pytest.mark.slow
def test_a_batch_goes_on_with_two_axes_and_names(tmp_path):
    axes = {"seed": None, "learning_rate": [0.02, 0.05, 1e6]}
    straight = drive(None, True, STEPS, axes=axes)
    drive(tmp_path / "run", True, STEPS // 2)
    resumed = drive(tmp_path / "run", True, STEPS, axes=axes)
    same(straight, resumed)
    assert resumed[0].status.tolist() == [[0, 0, 1]] * 2
    assert list(resumed[1].axes) == ["seed", "learning_rate", "step"]


def cut(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def flip(path):
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(bytes(content))


def largest(folder):
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "240" / "manifest.json").unlink(),
        lambda folder: cut(folder / "240" / "manifest.json"),
        lambda folder: shutil.rmtree(folder / "240" / "run"),
        lambda folder: cut(largest(folder / "240" / "run")),
        lambda folder: flip(largest(folder / "240" / "run")),
        lambda folder: shutil.copy(folder / "200" / "manifest.json", folder / "240" / "manifest.json"),
        lambda folder: flip(folder / "record" / "loss.npy"),
        lambda folder: (folder / "record" / "sharpness.npy").write_bytes(
            (folder / "record" / "sharpness.npy").read_bytes()[:-40]
        ),
    ],
    ids=["unsealed", "seal cut", "emptied", "cut", "a bit flipped", "seal of another", "record: a bit flipped", "record cut"],
)
def test_a_damaged_checkpoint_falls_back_to_the_one_before_and_says_so(damage, kept, copy):
    damage(copy)
    with pytest.warns(UserWarning, match=r"240 is incomplete or damaged .* going back to the one before"):
        again = drive(copy, False, STEPS)
    same(again, kept[1])


def test_without_any_whole_one_it_starts_anew_and_says_so(kept, copy):
    for at in ("160", "200", "240"):
        cut(copy / at / "manifest.json")
    with pytest.warns(UserWarning, match="160 is incomplete"):
        same(drive(copy, False, STEPS), kept[1])


def replaced(run, sgd, watch, **fields):
    return run._replace(**fields), sgd, watch


@pytest.mark.parametrize(
    ("change", "options", "said"),
    [
        (lambda r, s, w: replaced(r, s, w, key=jax.random.key(100_000_001)), {}, r"start\['key'\]"),
        (lambda r, s, w: replaced(r, s, w, params=lj.tree.scale(1.01, r.params)), {}, r"start\['params'\].*there.*here"),
        (
            lambda r, s, w: replaced(
                r, s, w, state=r.state._replace(hyperparams={**r.state.hyperparams, "learning_rate": jnp.float32(0.07)})
            ),
            {},
            r"learning_rate.*first 0.05 there.*first 0.07 here",
        ),
        (lambda *a: a, {"every": 2}, "every: 4 there, 2 here"),
        (lambda *a: a, {"ceiling": 10.0}, "ceiling: inf there, 10.0 here"),
        (lambda *a: a, {"identity": {"widths": (8, 8)}}, r"identity.widths: nothing there, \[8, 8\] here"),
        (lambda r, s, w: (r, lj.dynamics.gradient(*other_loss()), w), {}, "program.* a learning rate"),
    ],
    ids=["key", "params", "rate in the state", "every", "ceiling", "identity", "program"],
)
def test_another_run_is_refused_with_what_differs(change, options, said, copy):
    run, sgd, watch = change(*begun(False))
    saving, options = lj.Saving(copy, identity=options.get("identity")), {k: v for k, v in options.items() if k != "identity"}
    with pytest.raises(ValueError, match=rf"(?s)another run\. It differs in .*{said}.*delete this one"):
        lj.drive(run, sgd, watch, **({"num_steps": STEPS, "every": EVERY, "saving": saving, "progress": False} | options))


def other_loss():
    """The same but for a factor within the loss: nothing but the program shows it."""
    train, model, _, _ = parts()
    loss = lj.losses.mean(model.apply, lj.losses.square)
    optimizer = optax.inject_hyperparams(optax.sgd)(0.05, momentum=0.9)
    return lambda p, b: 1.5 * loss(p, b), optimizer, lj.data.minibatch(train, 16)


def test_empty_and_foreign_folders(tmp_path):
    (tmp_path / "empty").mkdir()
    drive(tmp_path / "empty", False, CHUNK)
    with pytest.raises(FileNotFoundError, match="holds no checkpoints"):
        lj.checkpoint.load(tmp_path / "none", begun(False)[0])
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.tex").write_text("")
    with pytest.raises(ValueError, match=r"is not empty .*thesis\.tex.*new folder"):
        drive(tmp_path / "foreign", False, CHUNK)
    (tmp_path / "result").mkdir()
    (tmp_path / "result" / "config.json").write_text('{"seed": 3}')
    with pytest.raises(ValueError, match="not the configuration of a run's checkpoints"):
        drive(tmp_path / "result", False, CHUNK)
    (tmp_path / "result" / "config.json").write_text('{"format": 1, "fields": {}}')
    with pytest.raises(ValueError, match=r"format 1, written by another version.*has format 3: finish that run with"):
        drive(tmp_path / "result", False, CHUNK)


def test_a_folder_has_one_writer(tmp_path):
    holding = (
        "import sys, landscape_jax as lj\n"
        "with lj.record.held(sys.argv[1]):\n    print('held', flush=True)\n    sys.stdin.read()\n"
    )
    env = clean_environment()
    other = subprocess.Popen(
        [sys.executable, "-c", holding, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
    )
    try:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(lj.record.Unwritable, match=f"being written by process {other.pid} on .*choose another folder"):
            drive(tmp_path, False, CHUNK)
    finally:
        other.communicate("")
    drive(tmp_path, False, CHUNK)  # the lock went with the process


FULL = """
import resource, sys
from lasting_run import drive
drive(sys.argv[1], False, 80)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), -1))
drive(sys.argv[1], False, 400)
"""


@pytest.mark.slow
@pytest.mark.parametrize("limit", [340, 1000], ids=["the record does not fit", "the run does not fit"])
def test_a_full_disk_stops_with_an_error_and_the_earlier_checkpoint_intact(limit, kept, tmp_path):
    env = clean_environment()
    command = [sys.executable, "-c", FULL, str(tmp_path / "run"), str(limit)]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 1
    assert "could not be written" in done.stderr
    assert "the checkpoint after 80 steps is intact" in done.stderr
    assert "Make room" in done.stderr
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of what is left of the one that did not fit
        steps, run, record = lj.checkpoint.load(tmp_path / "run", begun(False)[0])
    assert steps == run.step == 80
    for name in record:
        np.testing.assert_array_equal(record[name], kept[1][1][name][: 80 // EVERY])


@pytest.mark.slow
def test_a_sweep_goes_on_on_another_number_of_devices(tmp_path):
    """Saved by one device, gone on with by eight, and the other way round."""
    run, sgd, watch = begun(False)
    watch = {"loss": watch["loss"]}
    run = run._replace(memory={"loss": run.memory["loss"]})
    runs = lj.sweep.zipped(lambda key: run._replace(key=key))(jax.random.split(jax.random.key(0), 8))
    eight = Mesh(np.array(jax.devices()), ("runs",))

    def go(folder, mesh, num_steps):
        saving = None if folder is None else lj.Saving(folder)
        return lj.drive(runs, sgd, watch, num_steps=num_steps, every=EVERY, saving=saving, mesh=mesh, progress=False)

    straight = go(None, None, STEPS)
    saved, _ = go(tmp_path / "a", None, STEPS // 2)
    steps, loaded, _ = lj.checkpoint.load(tmp_path / "a", jax.device_put(runs, lj.devices.run_sharding(eight)))
    assert len(loaded.step.sharding.device_set) == 8
    same((saved, {}), (loaded, {}))
    for folder, first, then in (("a", None, eight), ("b", eight, None)):
        go(tmp_path / folder, first, STEPS // 2)
        with pytest.warns(UserWarning, match=r"was begun with \d cpus?, now \d cpus?: the last bits may differ"):
            end, record = go(tmp_path / folder, then, STEPS)
        np.testing.assert_allclose(record["loss"], straight[1]["loss"], rtol=1e-5)


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_every_kind_of_leaf_comes_back(impl, tmp_path):
    key = jax.random.key(1, impl=impl)
    params = {"w": jnp.arange(6.0).reshape(2, 3), "half": jnp.ones(3, jnp.bfloat16), "none": None}
    state = optax.chain(optax.adam(1e-3), optax.add_decayed_weights(0.1), optax.scale_by_schedule(lambda n: 1.0)).init(params)
    run = lj.Run(key, jnp.int32(7), jnp.int32(0), params, state, {"count": jnp.int32(3), "empty": jnp.zeros((0, 4))})
    with open_checkpoints(lj.Saving(tmp_path / "run"), {}) as saved:
        saved.save(7, run, lj.Record({"step": np.arange(7)}))
    _, again, _ = lj.checkpoint.load(tmp_path / "run", jax.tree.map(lambda x: x, run))
    assert jax.tree.structure(again) == jax.tree.structure(run)
    same((run, {}), (again, {}))
    assert again.key.dtype == key.dtype
    assert again.params["half"].dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("place", "runs"), [("-", 1), pytest.param("run", 40, marks=pytest.mark.slow)], ids=["in memory", "122 MiB to disk"]
)
def test_memory_stays_flat_over_two_hundred_thousand_observed_steps(place, runs, tmp_path):
    script = Path(__file__).parents[1] / "memory_of_drive.py"
    folder = place if place == "-" else str(tmp_path / place)
    command = [sys.executable, str(script), folder, str(runs)]
    told = subprocess.run(command, env=clean_environment(), capture_output=True, text=True, check=True).stdout
    first, last, recorded = map(float, told.split())
    assert recorded > (3 if place == "-" else 100)
    assert last - first < 50
