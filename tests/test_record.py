"""What is written is what is read."""

import copy
import dataclasses
import datetime
import enum
import functools
import json
import pickle
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import landscape_jax as lj
from landscape_jax import record
from landscape_jax.record import Claim


def claim(passed):
    return Claim("id", "It rises.", "Author 2021", "at least 2", {"ratio": np.float32(2.5), "bad": float("nan")}, passed)


def test_round_trip(tmp_path):
    written = {"step": np.arange(4), "top": {"values": np.ones((4, 3)), "flags": np.array([True, False, True, True])}}
    record.write(tmp_path / "a" / "b", written, [claim(True)], seed=3, config={"rates": (0.1, 0.2)})
    config, read, claims = record.read(tmp_path / "a" / "b")
    assert config == {"seed": 3, "config": {"rates": [0.1, 0.2]}}
    assert set(read) == {"step", "top"}
    for name in ("values", "flags"):
        np.testing.assert_array_equal(read["top"][name], written["top"][name])
        assert read["top"][name].dtype == written["top"][name].dtype
    assert claims[0]["measured"] == {"ratio": 2.5, "bad": None}
    assert sorted(p.name for p in (tmp_path / "a" / "b").iterdir()) == ["claims.json", "config.json", "record.npz"]


def test_claims_file_has_the_public_fields(tmp_path):
    record.write(tmp_path, claims=[claim(True), claim(False), claim(None)])
    rows = json.loads((tmp_path / "claims.json").read_text())
    assert [set(row) for row in rows] == 3 * [{"id", "statement", "source", "criterion", "measured", "verdict"}]
    assert [row["verdict"] for row in rows] == ["reproduced", "not reproduced", "not tested"]


def test_a_folder_without_a_result_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="not a result folder"):
        record.read(tmp_path)


def test_a_folder_that_cannot_be_written_is_found_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(record.Unwritable, match="choose another folder"):
        record.prepare(tmp_path / "file" / "below")


def test_a_name_that_would_not_come_back_is_refused(tmp_path):
    with pytest.raises(ValueError, match="rename it"):
        record.write(tmp_path, {"a/b": np.zeros(2)})


@pytest.mark.parametrize("name", ["train/loss", "", ".", "..", "a\0b", 3])
def test_a_name_that_cannot_be_a_file_is_refused_where_it_is_given(name):
    gd = lj.dynamics.gradient(lambda theta, batch: jnp.sum(theta**2), optax.sgd(0.1), lj.data.full_batch(jnp.ones(2)))
    key, theta = jax.random.key(0), jnp.ones(2)
    nested = {"deep": lj.observe.stateless(lambda moment: {"below": {name: moment.loss}})}
    for watch, place in (({name: lj.observe.loss}, "observe"), (nested, r"observe\['deep'\]\['below'\]")):
        with pytest.raises(ValueError, match=rf"{place}: the name .* can't be that of an entry.*rename it"):
            lj.run(key, theta, gd, watch, num_steps=1)
    with pytest.raises(ValueError, match="can't be that of an entry"):
        lj.start(key, theta, gd, {name: lj.observe.loss})


def test_dots_in_names_come_back(tmp_path):
    odd = record.Record({"step": np.arange(2), "lr 0.1": np.ones(2), "a.b": np.ones(2), "c": {"d": np.zeros(2)}})
    record.write(tmp_path, odd, seed=0)
    assert set(record.read(tmp_path)[1]) == set(odd)
    assert set(odd.to_xarray()) == {"lr 0.1", "a.b", "c.d"}
    growing = record.Growing(tmp_path / "growing")
    growing.append(odd)
    assert set(growing.read()) == set(odd)
    with pytest.raises(ValueError, match=r"two entries of a record are called 'a\.b'"):
        record.Record({"step": np.arange(2), "a": {"b": np.ones(2)}, "a.b": np.ones(2)}).to_xarray()


@dataclasses.dataclass
class Shape:
    width: int
    act: object


def test_what_json_has_no_word_for_has_a_name_or_is_told_of(tmp_path):
    class Colour(enum.Enum):
        RED = 1

    given = {
        "dtypes": [jnp.float32, np.float32, np.dtype("int8"), jnp.dtype("bfloat16")],
        "function": jnp.tanh,
        "own": chunks,
        "partial": functools.partial(chunks, count=3),
        "enum": Colour.RED,
        "set": {3, 1, 2},
        "date": datetime.date(2026, 1, 2),
        "key": jax.random.key(3),
        "array": jnp.ones(2, jnp.bfloat16),
        "path": Path("a/b"),
        "nested": Shape(3, jnp.sin),
        "complex": 1 + 2j,
        "inf": float("inf"),
        "none": None,
    }
    record.write(tmp_path, config=given)
    read = record.read(tmp_path)[0]["config"]
    assert read["dtypes"] == ["float32", "float32", "int8", "bfloat16"]
    assert read["function"].endswith("tanh")
    assert read["own"].endswith("chunks")
    assert read["partial"]["keywords"] == {"count": 3}
    assert (read["enum"], read["set"], read["date"], read["path"]) == ("Colour.RED", [1, 2, 3], "2026-01-02", "a/b")
    assert read["key"] == {"key<fry>": [0, 3]}
    assert read["array"] == [1.0, 1.0]
    assert read["nested"]["width"] == 3
    assert (read["complex"], read["inf"], read["none"]) == ("(1+2j)", None, None)
    with pytest.raises(TypeError, match=r"config\.layers\[1\]\.what is a builtins\.object, which JSON has no form for: give"):
        record.write(tmp_path, config={"layers": [1, {"what": object()}]})


@pytest.mark.parametrize("content", [b"", b'{"seed": ', b"\xef\xbb\xbf{}", b"[1]"], ids=["empty", "cut", "BOM", "list"])
def test_a_bad_file_of_a_result_is_named(content, tmp_path):
    for name in ("config.json", "claims.json"):
        record.write(tmp_path, claims=[claim(True)], seed=1)
        (tmp_path / name).write_bytes(content if name == "config.json" or content != b"[1]" else b"{}")
        with pytest.raises(ValueError, match=rf"{name} (is damaged or not JSON.*delete it|holds a )"):
            record.read(tmp_path)
        (tmp_path / name).unlink()


def test_axes_come_back(tmp_path):
    entries = {"step": np.zeros((2, 3, 4), int) + np.arange(4), "loss": np.ones((2, 3, 4))}
    runs = record.Record(entries, {"seed": None, "rate": [1, 2, 5]})
    record.write(tmp_path, {"sgd": runs, "theory": {"edge": np.ones(3)}}, seed=0)
    _, read, _ = record.read(tmp_path)
    assert isinstance(read["sgd"], record.Record)
    assert {n: x.tolist() for n, x in read["sgd"].axes.items()} == {"seed": [0, 1], "rate": [1, 2, 5], "step": [0, 1, 2, 3]}
    assert read["theory"].named == {}
    np.testing.assert_array_equal(read["sgd"]["loss"], runs["loss"])
    assert read["sgd"].to_xarray().equals(runs.to_xarray())


def test_axes_nobody_named_are_numbered_and_a_map_forgets_names():
    runs = record.Record({"step": np.array([[0, 10, 20], [0, 7, 7]]), "loss": np.ones((2, 3))}, {"seed": [4, 5]})
    assert runs.axes["step"].tolist() == [0, 10, 20]  # the clock of the one that goes on
    first = jax.tree.map(lambda x: x[0], runs)
    assert isinstance(first, record.Record)
    assert list(first.axes) == ["step"]
    assert list(jax.tree.map(np.asarray, runs).axes) == ["axis_0", "step"]
    assert list(jax.tree.map(np.asarray, record.Record({"step": np.int32(3)})).axes) == []


def swept():
    """[seed 2, learning_rate 3, step 4]; the last run diverges after its second record."""
    step = np.broadcast_to(np.array([0, 10, 20, 30], np.int32), (2, 3, 4)).copy()
    step[1, 2] = [0, 10, 12, 12]
    values = np.arange(24.0).reshape(2, 3, 4)
    nested = {"values": np.stack([values, -values], -1), "deep": {"products": values.astype(int)}}
    entries = {"step": step, "loss": values, "top": nested, "eigs": lj.types.Estimate(jnp.asarray(values), jnp.asarray(values))}
    return record.Record(entries, {"seed": [3, 5], "learning_rate": np.array([0.1, 0.2, 0.5], np.float32)})


def told(runs):
    return {name: x.tolist() for name, x in runs.axes.items()}


def test_sel_takes_coordinates_and_isel_positions():
    runs = swept()
    one = runs.sel(seed=3, learning_rate=0.2)
    assert isinstance(one, record.Record)
    assert told(one) == {"step": [0, 10, 20, 30]}
    assert one["loss"].tolist() == [4, 5, 6, 7]
    assert one["top"]["values"].tolist() == [[4, -4], [5, -5], [6, -6], [7, -7]]  # a trailing axis stays
    assert one["top"]["deep"]["products"].tolist() == [4, 5, 6, 7]
    assert isinstance(one["eigs"], lj.types.Estimate)
    assert one["eigs"].error.tolist() == [4, 5, 6, 7]
    assert runs.isel(seed=-2, learning_rate=1)["loss"].tolist() == one["loss"].tolist()
    some = runs.sel(learning_rate=[0.5, 0.1])
    assert told(some)["seed"] == [3, 5]
    assert told(some)["learning_rate"] == [0.5, np.float32(0.1)]
    assert some["loss"][:, :, 0].tolist() == [[8, 0], [20, 12]]
    assert told(runs.isel(learning_rate=slice(1, None)))["learning_rate"] == [np.float32(0.2), 0.5]
    assert told(runs.isel(seed=[1]))["seed"] == [5]
    np.testing.assert_array_equal(runs.sel(seed=5).to_xarray()["loss"], runs.to_xarray()["loss"].sel(seed=5))


def test_sel_along_time_and_what_becomes_of_step():
    runs = swept()
    moment = runs.sel(step=20)
    assert "step" not in moment  # an axis that is gone
    assert list(moment.axes) == ["seed", "learning_rate"]
    assert moment["loss"].tolist() == [[2, 6, 10], [14, 18, 22]]
    assert moment["top"]["values"].shape == (2, 3, 2)
    assert moment.sel(seed=5)["loss"].tolist() == [14, 18, 22]
    late = runs.isel(step=slice(-2, None))
    assert told(late)["step"] == [20, 30]
    assert late["step"][1, 2].tolist() == [12, 12]  # the run's own clock
    diverged = late.sel(seed=5, learning_rate=0.5)
    assert told(diverged) == {"step": [20, 30]}  # the common clock goes on
    assert diverged["step"].tolist() == [12, 12]
    assert diverged.to_xarray()["clock"].to_series().to_dict() == {20: 12, 30: 12}
    assert diverged.sel(step=30)["loss"] == 23
    assert told(runs.isel(step=slice(0, 3)).sel(seed=5, learning_rate=0.5)) == {"step": [0, 10, 20]}
    paced = record.Record({"step": np.array([[0, 1, 2], [0, 10, 20]]), "loss": np.ones((2, 3))}, {"rate": [1, 2]})
    assert told(paced.sel(rate=1)) == {"step": [0, 1, 2]}  # each run has a clock of its own
    assert runs.isel(step=slice(0, 0)).axes["step"].tolist() == []
    assert runs.isel(seed=0, learning_rate=0, step=0).axes == {}


def test_axes_without_names_and_coordinates_can_be_selected():
    runs = record.Record({"step": np.array([[0, 1], [0, 1], [0, 1]]), "loss": np.arange(6).reshape(3, 2)})
    assert runs.sel(axis_0=2)["loss"].tolist() == [4, 5]
    later = record.Record(dict(runs), {"seed": None}).isel(seed=slice(1, None))
    assert told(later) == {"seed": [1, 2], "step": [0, 1]}
    timeless = record.Record({"loss": np.arange(6).reshape(3, 2)}, {"seed": None, "rate": [1, 2]})
    assert told(timeless) == {"seed": [0, 1, 2], "rate": [1, 2]}
    assert timeless.sel(rate=2)["loss"].tolist() == [1, 3, 5]
    words = record.Record({"step": np.zeros((2, 1), int), "x": np.ones((2, 1))}, {"network": ["mlp", "cnn"]})
    assert words.sel(network="cnn")["x"].tolist() == [1]


def test_what_is_not_there_is_told():
    runs = swept()
    with pytest.raises(ValueError, match=r"no axis 'rate'; its axes are seed, learning_rate, step"):
        runs.sel(rate=0.1)
    with pytest.raises(ValueError, match=r"no axis 'rate'; its axes are seed, learning_rate, step"):
        runs.isel(rate=0)
    with pytest.raises(ValueError, match=r"'learning_rate' has no coordinate 0\.3; it has 0\.1, 0\.2, 0\.5"):
        runs.sel(learning_rate=0.3)
    with pytest.raises(ValueError, match="no coordinate 0.10001"):
        runs.sel(learning_rate=0.10001)
    assert runs.sel(learning_rate=0.1 * (1 + 1e-8))["loss"].shape == (2, 4)
    with pytest.raises(ValueError, match=r"'seed' has no coordinate 4; it has 3, 5"):
        runs.sel(seed=4)
    with pytest.raises(IndexError, match=r"seed=2 is beyond the 2 places"):
        runs.isel(seed=2)
    with pytest.raises(TypeError, match=r"must be an integer, a slice or a list of integers; for coordinates use sel"):
        runs.isel(learning_rate=0.1)
    twice = record.Record({"step": np.array([0, 7, 7])})
    with pytest.raises(ValueError, match=r"step=7 is the coordinate of several places: 1, 2"):
        twice.sel(step=7)
    with pytest.raises(ValueError, match=r"the entry 'x', of shape \(2,\), has no axis 'learning_rate'"):
        (runs | {"x": np.ones(2)}).isel(learning_rate=0)


def test_copies_and_unions_keep_the_axes():
    runs = swept()
    more = {"loss": np.zeros((2, 3, 4)), "extra": np.ones((2, 3, 4))}
    into = runs.copy()
    into |= more
    copies = [runs.copy(), copy.copy(runs), copy.deepcopy(runs), pickle.loads(pickle.dumps(runs))]
    for result in (*copies, runs | more, more | runs, into):
        assert isinstance(result, record.Record)
        assert told(result) == told(runs)
    assert (runs | more)["loss"].sum() == 0
    assert (more | runs)["loss"] is runs["loss"]
    assert "extra" not in runs
    copied = runs.copy()
    copied.named["seed"] = [8, 9]
    assert runs.named["seed"] == [3, 5]
    nobody = record.Record({"step": runs["step"]})
    assert told(nobody | runs) == told(runs)
    nobody |= runs
    assert told(nobody) == told(runs)


def test_a_part_of_a_record_comes_back_with_its_axes(tmp_path):
    parts = {"moment": swept().sel(step=20), "late": swept().isel(step=slice(2, None)).sel(seed=5, learning_rate=0.5)}
    record.write(tmp_path, parts, seed=0)
    _, read, _ = record.read(tmp_path)
    for name, part in parts.items():
        assert told(read[name]) == told(part)


def chunks(runs=(), count=5, length=4):
    for i in range(count):
        step = np.broadcast_to(np.arange(i * length, (i + 1) * length, dtype=np.int32), (*runs, length))
        yield record.Record({"step": step, "top": {"values": np.stack([step, step + 0.5], -1), "sharp": step > 6}})


@pytest.mark.parametrize("runs", [(), (3,)])
def test_a_record_grows_on_disk_as_in_memory(runs, tmp_path):
    growing, gathered = record.Growing(tmp_path / "record", len(runs)), record.Gathered(len(runs))
    for chunk in chunks(runs):
        growing.append(chunk)
        gathered.append(chunk)
        jax.tree.map(np.testing.assert_array_equal, growing.read(), gathered.read())
    read = growing.read()
    assert read["top"]["values"].shape == (*runs, 20, 2)
    assert read["top"]["sharp"].dtype == bool
    assert np.load(tmp_path / "record" / "top" / "values.npy", mmap_mode="r").shape == (20, *runs, 2)


def test_a_growing_record_goes_on_from_any_length_and_finds_damage(tmp_path):
    growing = record.Growing(tmp_path)
    sums = []
    for chunk in chunks():
        growing.append(chunk)
        sums.append((growing.length, dict(growing.checksums)))
    again = record.Growing(tmp_path)
    again.resumed(*sums[2])
    assert again.read()["step"].tolist() == list(range(12))
    for chunk in list(chunks())[3:]:
        again.append(chunk)
    assert again.checksums == growing.checksums
    path = tmp_path / "step.npy"
    content = bytearray(path.read_bytes())
    content[256 + 4 * 13] ^= 4  # row 13
    path.write_bytes(bytes(content))
    record.Growing(tmp_path).resumed(*sums[2])
    with pytest.raises(ValueError, match=r"step\.npy is damaged: its first 16 rows"):
        record.Growing(tmp_path).resumed(*sums[3])
    path.unlink()
    with pytest.raises(FileNotFoundError):
        record.Growing(tmp_path).resumed(*sums[0])


def coarse():
    step = np.broadcast_to(np.arange(0, 60, 10), (2, 6))
    entries = {"step": step, "loss": step + 0.5, "sharpness": step[:, ::2] + 0.25}
    return lj.Record(entries, {"seed": [3, 5]}, cadence={"sharpness": 2})


def test_entries_with_a_cadence_are_selected_along_time():
    runs = coarse()
    one = runs.sel(seed=5)
    assert one.cadence["sharpness"] == 2
    assert one.steps("sharpness").tolist() == [0, 20, 40]
    assert one["sharpness"].tolist() == [0.25, 20.25, 40.25]
    assert runs.sel(step=20)["sharpness"].tolist() == [20.25, 20.25]
    assert set(runs.sel(step=30)) == {"loss"}  # no row there
    assert set(runs.isel(step=-2)) == {"loss", "sharpness"}
    late = runs.isel(step=slice(2, None))
    assert (late.cadence["sharpness"], late["sharpness"].tolist()) == (2, [[20.25, 40.25]] * 2)
    assert late.steps("sharpness").tolist() == [20, 40]
    thin = runs.isel(step=slice(None, None, 2))
    assert (thin.cadence["sharpness"], thin["sharpness"].shape) == (1, (2, 3))
    with pytest.raises(ValueError, match=r"'sharpness' has a row at every 2-th position of 'step'.*begin with a multiple of 2"):
        runs.isel(step=slice(1, None))
    assert runs.isel(step=slice(0, 0))["sharpness"].shape == (2, 0)


def test_copies_and_unions_keep_cadences():
    runs = coarse()
    into = runs.copy()
    into |= {"extra": np.zeros((2, 6))}
    copies = [runs.copy(), copy.copy(runs), copy.deepcopy(runs)]
    for result in (*copies, runs | {"extra": np.ones((2, 6))}, {"extra": 1} | runs, into):
        assert result.cadence["sharpness"] == 2
    assert (runs | {"sharpness": np.ones((2, 6))}).cadence["sharpness"] == 1
