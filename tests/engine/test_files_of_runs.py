"""What becomes of a run's files on disk: damaged, unreadable, looked at, linked, locked; nothing whole is ever given up."""

import builtins
import errno
import io
import os
import shutil
import threading
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import landscape_jax as lj
from landscape_jax.engine import driver
from landscape_jax.engine.checkpoint.saving import open_checkpoints
from landscape_jax.record import Unreadable, Unwritable, folder, growing

STEPS, CHUNK = 600, 200
GD = lj.dynamics.gradient(
    lambda theta, batch: jnp.mean((batch @ theta - 1) ** 2), optax.sgd(0.01), lj.data.minibatch(jnp.ones((8, 3)), 2)
)
WATCH = {"loss": lj.observe.loss, "theta": lj.observe.stateless(lambda m: {"all": m.params, "fell": m.grads[0] < 0})}
RUN = lj.start(jax.random.key(0), jnp.arange(3.0), GD, WATCH)


def drive(place, num_steps=STEPS, chunk=CHUNK, **saving):
    saving = None if place is None else lj.Saving(place, **{"pause": 0} | saving)
    return lj.drive(RUN, GD, WATCH, num_steps=num_steps, chunk=chunk, saving=saving, progress=False)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    place = tmp_path_factory.mktemp("kept") / "run"
    return place, drive(place, keep=2)


@pytest.fixture
def copy(kept, tmp_path):
    return shutil.copytree(kept[0], tmp_path / "copy")


def same(a, b):
    np.testing.assert_array_equal(a[0].params, b[0].params)
    for x, y in zip(jax.tree.leaves(a[1]), jax.tree.leaves(b[1]), strict=True):
        np.testing.assert_array_equal(x, y)


def contents(place):
    return {str(p): (p.stat().st_mtime_ns, p.read_bytes() if p.is_file() else None) for p in place.rglob("*")}


def flip(path, at, bit=1):
    content = bytearray(path.read_bytes())
    content[at] ^= bit
    path.write_bytes(bytes(content))


@pytest.fixture
def no_steps(monkeypatch):
    def driving(rebuild):
        return driving_as_ever(rebuild)._replace(advance=lambda *_: pytest.fail("a finished run was run again"))

    driving_as_ever = driver._drive_programs
    monkeypatch.setattr(driver, "_drive_programs", driving)


# ── looking ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "spoil",
    [
        lambda place: None,
        lambda place: (place / "600" / "manifest.json").unlink(),
        lambda place: flip(place / "600" / "run" / "0.npz", 300),
        lambda place: flip(place / "record" / "loss.npy", 400),
        lambda place: flip(place / "record" / "loss.npy", 20),
        lambda place: (place / "config.json").write_bytes(b""),
        lambda place: shutil.copytree(place / "600", place / "800.lj-partial"),
    ],
    ids=["whole", "unsealed", "damaged", "record damaged", "header damaged", "config empty", "unfinished"],
)
def test_a_look_changes_nothing(spoil, kept, copy):
    spoil(copy)
    before = contents(copy)
    steps, run, record = lj.checkpoint.load(copy, RUN)
    assert contents(copy) == before
    assert steps == run.step == len(record["loss"])


def test_a_look_beside_the_writer(kept, tmp_path):
    place, looks = tmp_path / "run", 0
    writer = threading.Thread(target=drive, args=(place,), kwargs={"chunk": 5, "keep": 1})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        writer.start()
        while writer.is_alive():
            try:
                steps, run, record = lj.checkpoint.load(place, RUN)
            except FileNotFoundError:
                assert looks == 0  # before the first checkpoint
                continue
            np.testing.assert_array_equal(record["loss"], kept[1][1]["loss"][:steps])
            looks += 1
        writer.join()
    assert looks > 0
    same(lj.checkpoint.load(place, RUN)[1:], kept[1])


def test_another_structure_is_told_by_name(copy):
    with pytest.raises(ValueError, match=r"another structure \(\.params: float32\[3\] there, float32\[4\] here.*started as"):
        lj.checkpoint.load(copy, RUN._replace(params=jnp.zeros(4)))


# ── what can't be read is not damaged ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.EMFILE, errno.ESTALE], ids=lambda n: errno.errorcode[n])
@pytest.mark.parametrize("name", ["manifest.json", "0.npz", "loss.npy", "config.json"])
def test_a_file_that_cannot_be_read_stops_and_changes_nothing(name, number, copy, monkeypatch):
    before, real = contents(copy), builtins.open

    def refusing(path, *args, **kwargs):
        if str(path).endswith(name):
            raise OSError(number, os.strerror(number))
        return real(path, *args, **kwargs)

    monkeypatch.setattr(builtins, "open", refusing)
    monkeypatch.setattr(io, "open", refusing)
    for act in (drive, lambda place: lj.checkpoint.load(place, RUN)):
        if act is drive or name != "config.json":  # of which a look needs nothing
            with pytest.raises(Unreadable, match=r"can't be read \(.*\)\. Nothing was changed: make it readable"):
                act(copy)
    monkeypatch.undo()
    assert contents(copy) == before


# ── one byte ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_swapped_checkpoints_are_found(kept, copy):
    os.rename(copy / "400", copy / "z")
    os.rename(copy / "600", copy / "400")
    os.rename(copy / "z", copy / "600")
    with pytest.warns(UserWarning, match="its manifest is that of the checkpoint after 400 steps.*kept as 600.damaged"):
        same(drive(copy), kept[1])
    assert {"400.damaged", "600.damaged"} < {p.name for p in copy.iterdir()}


def test_a_byte_of_the_configuration_costs_nothing(kept, copy, no_steps):
    whole = (copy / "config.json").read_bytes()
    for at in range(0, len(whole), len(whole) // 12):
        flip(copy / "config.json", at, 4)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            same(drive(copy), kept[1])
        (copy / "config.json").write_bytes(whole)


@pytest.mark.parametrize("content", [b"", b'{"fie', b"\xef\xbb\xbf{}", b"[]"], ids=["empty", "cut", "BOM", "list"])
def test_a_bad_configuration_is_named_and_replaced_by_its_copy(content, kept, copy, no_steps):
    (copy / "config.json").write_bytes(content)
    with pytest.warns(UserWarning, match=r"config\.json is missing or damaged, and is written anew from its copy in 600"):
        same(drive(copy), kept[1])
    assert (copy / "config.json").read_bytes() == (kept[0] / "config.json").read_bytes()
    for steps in (400, 600):
        shutil.rmtree(copy / str(steps))
    (copy / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"config\.json.*(give a new|hoose another) folder"):
        drive(copy)


def test_a_byte_of_the_record_costs_a_block_of_one_entry(kept, copy, no_steps):
    path = copy / "record" / "loss.npy"
    whole, step = path.read_bytes(), (path.stat().st_size - growing.HEADER) // 16
    for at in range(growing.HEADER, len(whole) - 1000, step):
        flip(path, at, 64)
        with pytest.warns(UserWarning, match=r"damaged: loss\.npy, rows \d+ to \d+\. The run goes on after 600 steps.*NaN"):
            run, record = drive(copy)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            np.testing.assert_array_equal(lj.checkpoint.load(copy, RUN)[2]["loss"], record["loss"])
        lost, row = np.isnan(record["loss"]), (at - growing.HEADER) // 4
        assert lost[row]
        assert np.sum(lost) <= growing.BLOCK // 4
        np.testing.assert_array_equal(record["loss"][~lost], kept[1][1]["loss"][~lost])
        np.testing.assert_array_equal(run.params, kept[1][0].params)
        np.testing.assert_array_equal(record["theta"]["all"], kept[1][1]["theta"]["all"])
        path.write_bytes(whole)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("spoil", [lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes()[:900])])
def test_an_entry_that_is_gone_costs_itself_alone(spoil, kept, copy):
    spoil(copy / "record" / "loss.npy")
    for num_steps in (STEPS, STEPS + CHUNK, STEPS + CHUNK):
        run, record = drive(copy, num_steps)
        assert np.isnan(record["loss"][:STEPS][400])
        np.testing.assert_array_equal(record["theta"]["all"][:STEPS], kept[1][1]["theta"]["all"])
        assert np.all(np.isfinite(record["loss"][STEPS + growing.BLOCK // 4 :]))


@pytest.mark.filterwarnings("ignore")
def test_a_run_goes_on_beyond_a_damaged_record_which_stays_told_of(tmp_path):
    straight = drive(None, 2 * STEPS)
    drive(tmp_path / "run", keep=1)
    for name, at in (("loss", 4 * 590), ("theta/fell", 100)):
        flip(tmp_path / "run" / "record" / f"{name}.npy", growing.HEADER + at, 64)
    for _ in range(2):
        run, record = drive(tmp_path / "run", 2 * STEPS, keep=1)
        np.testing.assert_array_equal(run.params, straight[0].params)
        lost = np.isnan(record["loss"])
        assert lost[590]
        assert np.sum(lost) <= growing.BLOCK // 4
        np.testing.assert_array_equal(record["loss"][~lost], straight[1]["loss"][~lost])
        assert not np.any(record["theta"]["fell"][:100])  # False in the damaged block


def test_a_damaged_header_is_told_of_and_mended(kept, copy, no_steps):
    for name in ("loss.npy", "theta/all.npy"):
        path = copy / "record" / name
        whole = path.read_bytes()
        for at in (*range(0, 130, 13), whole.index(b"<f4"), 255):
            flip(path, at, 2)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                np.testing.assert_array_equal(lj.checkpoint.load(copy, RUN)[2]["loss"], kept[1][1]["loss"])
            with pytest.warns(UserWarning, match=r"the header of .*npy was damaged and is written anew"):
                same(drive(copy), kept[1])
            assert path.read_bytes() == whole


# ── whose folder it is ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("link", [".lock", "config.json", "record", "record/loss.npy", "600"])
def test_nothing_is_written_through_a_link(link, tmp_path):
    place, outside = tmp_path / "run", tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("mine")
    (place / link).parent.mkdir(parents=True)
    (place / link).symlink_to(outside if link in ("record", "600") else outside / "file")
    with pytest.raises((Unwritable, ValueError), match="symbolic link"):
        drive(place)
    assert [p.name for p in outside.iterdir()] == ["file"]
    assert (outside / "file").read_text() == "mine"


def test_anothers_lock_file_stays(tmp_path):
    (tmp_path / ".lock").write_text("yours")
    with pytest.raises(Unwritable, match="not a lock of ours"):
        drive(tmp_path)
    assert (tmp_path / ".lock").read_text() == "yours"


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP], ids=lambda n: errno.errorcode[n])
def test_without_locks_it_goes_on_and_says_so(number, kept, tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(folder.fcntl, "flock", flock)
    with pytest.warns(UserWarning, match=r"can't be locked \(.*\): see that nothing else writes there"):
        same(drive(tmp_path / "run"), kept[1])


def test_two_threads(kept, tmp_path):
    """In two folders both go through; in one folder one is refused."""

    def both(*places):
        found = {}

        def go(i, place):
            try:
                found[i] = drive(place, chunk=20)
            except Unwritable as error:
                found[i] = error

        threads = [threading.Thread(target=go, args=(i, place)) for i, place in enumerate(places)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(100)
        return list(found.values())

    for result in both(tmp_path / "a", tmp_path / "b"):
        same(result, kept[1])
    with lj.record.held(tmp_path / "c"):
        refused, again = both(tmp_path / "c", tmp_path / "c")
    for error in (refused, again):
        assert "is being written by process" in str(error)
    results = both(tmp_path / "d", tmp_path / "d")
    assert any(isinstance(result, tuple) for result in results)
    for result in results:
        assert isinstance(result, Unwritable) or same(result, kept[1]) is None


def test_the_home_folder(kept, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    drive("~/runs")
    assert [p.name for p in tmp_path.iterdir()] == ["runs"]
    same(lj.checkpoint.load("~/runs", RUN)[1:], kept[1])
    lj.record.write("~/result", seed=1)
    assert lj.record.read("~/result")[0] == {"seed": 1}
    assert not (tmp_path / "~").exists()


def test_a_full_disk_at_the_start_is_one_line(tmp_path, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Unwritable, match=r"^.*can't be written \(.*No space left.*\): make room, or choose another folder$"):
        drive(tmp_path / "run")
    monkeypatch.undo()
    drive(tmp_path / "run", CHUNK)


def test_a_second_interrupt_leaves_no_writer_behind(tmp_path):
    """The folder is given up once the file that was being written is closed."""

    def interrupted():
        with open_checkpoints(lj.Saving(tmp_path / "run"), {}) as saved:
            saved.save(1, RUN, lj.Record({"step": np.arange(1)}))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("checkpoint")]
