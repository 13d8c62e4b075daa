"""Parts of an experiment: kept as they are finished, taken up again, given up at Ctrl-C."""

import contextlib
import dataclasses
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import landscape_jax as lj
from experiments import _parts
from experiments import ahn2023_threshold_neurons as ahn
from experiments import cohen2021_edge_of_stability as cohen
from experiments import fort2019_local_geometry as fort
from experiments import jastrzebski2019_sharpest_directions as jastrzebski
from experiments import kalra2023_phase_diagram as kalra
from experiments import ma2022_multiscale as ma

KEY = jax.random.key(0)


@dataclasses.dataclass(frozen=True)
class Config:
    rates: tuple[float, ...] = (0.1, 0.2)
    num_steps: int = 3


def one(x=1.0):
    return {"loss": jnp.full(3, x), "deep": {"count": np.int64(7)}, "named": lj.Record({"step": np.arange(2)}, {})}


def test_parts_are_done_in_turn_and_assembled():
    order = []

    def part(name):
        return lambda given="": order.append(name) or {"x": np.array([len(name + given)])}

    work = {name: part(name) for name in ("a", "bb", "ccc")}
    record = _parts.in_parts(work, Config(), KEY, ahead={"bb": lambda: "ahead"}, assemble=lambda f: lj.Record(f) | {"more": 1})
    assert order == list(work)
    assert {name: int(x["x"][0]) for name, x in record.items() if name != "more"} == {"a": 1, "bb": 7, "ccc": 3}
    assert record["more"] == 1


def test_what_is_finished_is_not_done_again(tmp_path):
    """The second part fails at first: the first is kept."""
    done = []

    def fails():
        done.append("fails")
        if len(done) < 3:
            raise MemoryError("no room")
        return one(2.0)

    work = {"first": lambda: done.append("first") or one(), "second": fails}
    with pytest.raises(MemoryError, match="no room"):
        _parts.in_parts(work, Config(), KEY, tmp_path / "kept")
    assert done == ["first", "fails"]
    record = _parts.in_parts(work, Config(), KEY, tmp_path / "kept")
    assert done == ["first", "fails", "fails"]
    straight = _parts.in_parts({"first": one, "second": lambda: one(2.0)}, Config(), KEY, tmp_path / "straight")
    assert jax.tree.structure(dict(record)) == jax.tree.structure(dict(straight))
    jax.tree.map(np.testing.assert_array_equal, dict(record), dict(straight))
    assert list(record) == ["first", "second"]


@pytest.mark.parametrize("threads", [1, 2])
def test_ctrl_c_gives_up_what_is_under_way_at_once(threads, tmp_path, monkeypatch):
    started, released = threading.Event(), threading.Event()

    @contextlib.contextmanager
    def pressed():
        yield started.is_set

    def long():
        time.sleep(0.5)  # the other, where two are done at a time, is finished
        started.set()
        released.wait(60)
        return one()

    def never():
        pytest.fail("it was begun")

    monkeypatch.setattr(_parts, "defer_interrupts", pressed)
    work = {"first": one, "long": long} | ({} if threads == 2 else {"never": never})
    begun = time.monotonic()
    with pytest.raises(lj.Interrupted, match=rf"with 1 of {len(work)} parts finished \(first\)") as stop:
        _parts.in_parts(work, Config(), KEY, tmp_path / "kept", threads=threads)
    assert time.monotonic() - begun < 20
    assert _parts.abandoned()
    assert list(stop.value.record) == ["first"]
    released.set()
    monkeypatch.undo()
    record = _parts.in_parts({"first": never, "long": one}, Config(), KEY, tmp_path / "kept")
    assert list(record) == ["first", "long"]


def test_parts_of_another_run_are_refused_by_name(tmp_path):
    _parts.in_parts({"first": one}, Config(), KEY, tmp_path)
    for config, key, told in (
        (Config(num_steps=4), KEY, r"differs in config\.num_steps: 3 there, 4 here\. Delete it"),
        (Config(rates=(0.1, 0.3)), KEY, r"config\.rates: \[0\.1 0\.2\] there, \[0\.1 0\.3\] here"),
        (Config(), jax.random.key(1), r"differs in key: \[0 0\] there, \[0 1\] here"),
    ):
        with pytest.raises(ValueError, match=told):
            _parts.in_parts({"first": one}, config, key, tmp_path)


def test_parts_made_by_other_code_are_refused(tmp_path, monkeypatch):
    _parts.in_parts({"first": one}, Config(), KEY, tmp_path)
    monkeypatch.setattr(_parts, "_source", lambda: "other")
    with pytest.raises(ValueError, match="source: .* there, other here"):
        _parts.in_parts({"first": one}, Config(), KEY, tmp_path)


@pytest.mark.parametrize("name", ["config.json", "first/config.json", "first/record.npz"])
def test_a_damaged_part_is_told_of_by_name(name, tmp_path):
    _parts.in_parts({"first": one}, Config(), KEY, tmp_path)
    content = (tmp_path / name).read_bytes()
    for damaged in (b"", content[: len(content) // 2]):
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(ValueError, match=rf"{tmp_path / name.split('/')[0]}.* is damaged.*delete"):
            _parts.in_parts({"first": one}, Config(), KEY, tmp_path)


@pytest.mark.parametrize("experiment", [ahn, cohen, fort, jastrzebski, kalra, ma], ids=lambda module: module.__name__[12:])
def test_every_experiment_refuses_numbers_that_are_none(experiment):
    numbers = {f.name: getattr(experiment.SMALL, f.name) for f in dataclasses.fields(experiment.Config)}
    numbers = {n: x for n, x in numbers.items() if isinstance(x, float) or (isinstance(x, tuple) and x and type(x[0]) is float)}
    numbers |= {"learning_rates": (0.1,)} if experiment is cohen else {}
    assert numbers
    for name, value in numbers.items():
        for bad in (float("nan"), float("inf"), -float("inf")):
            wrong = (*value[:-1], bad) if isinstance(value, tuple) else bad
            with pytest.raises(ValueError, match=rf"^{name}=.* must be finite"):
                dataclasses.replace(experiment.SMALL, **{name: wrong})
    whole = next(f.name for f in dataclasses.fields(experiment.Config) if f.type in (int, int | None))
    with pytest.raises(ValueError, match=rf"^{whole}=1099511627776 is too large"):
        dataclasses.replace(experiment.SMALL, **{whole: 2**40})
