"""A cadence for each observable."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import landscape_jax as lj
from landscape_jax.engine import core

THETA = {"a": jnp.array([1.0, -2.0]), "b": [jnp.array([[4.0]])]}


def bowl(params, batch):
    return 0.5 * lj.tree.vdot(params, params) + 0.1 * jnp.mean(batch) * params["a"][0]


def descent(rate):
    return lj.dynamics.gradient(bowl, optax.sgd(rate, momentum=0.5), lj.data.minibatch(jnp.arange(6.0), 2))


GD = descent(0.1)
LOOKS = lj.types.Observable(
    lambda key, params: jnp.int32(0), lambda key, looks, moment: (looks + 1, {"n": looks, "t": moment.step})
)
PARAMS = lj.observe.stateless(lambda m: {"a": m.params["a"], "t": m.step})
WATCH = {"loss": lj.observe.loss, "looks": LOOKS, "params": PARAMS, "rare": lj.observe.distance}
EVERY = {"loss": 2, "looks": 4, "params": 4, "rare": 12}
STEPS = 48


def begin(scale=1.0, dynamics=GD):
    return lj.start(jax.random.key(0), lj.tree.scale(scale, THETA), dynamics, WATCH)


def plain(run):
    return run._replace(key=jax.random.key_data(run.key))


@pytest.fixture(scope="module")
def dense():
    return lj.advance(begin(), GD, WATCH, num_steps=STEPS)


@pytest.fixture(scope="module")
def nested():
    return lj.advance(begin(), GD, WATCH, num_steps=STEPS, every=EVERY)


def test_each_entry_is_the_dense_record_at_its_own_steps(dense, nested):
    run, record = nested
    close = lambda a, b: chex.assert_trees_all_close(a, b, rtol=1e-5, atol=1e-6)  # noqa: E731  # two programs
    close((run.params, run.state), (dense[0].params, dense[0].state))
    assert run.step == dense[0].step == STEPS
    assert record["step"].tolist() == list(range(0, STEPS, 2))
    assert record["looks"]["t"].tolist() == list(range(0, STEPS, 4))
    assert record["looks"]["n"].tolist() == list(range(STEPS // 4))
    close(record["loss"], dense[1]["loss"][::2])
    close(record["params"], jax.tree.map(lambda x: x[::4], dense[1]["params"]))
    close(record["rare"], dense[1]["rare"][::12])
    assert run.memory["looks"] == STEPS // 4


def test_the_record_knows_the_steps_of_each_entry(nested):
    record = nested[1]
    assert record.cadence == {"step": 1, "loss": 1, "looks": 2, "params": 2, "rare": 6}
    for name, every in EVERY.items():
        assert record.steps(name).tolist() == list(range(0, STEPS, every))
    halved = jax.tree.map(lambda x: x / 2, record)
    assert halved.cadence == record.cadence


def test_a_cadence_for_all_by_name_is_the_program_of_that_number():
    core.programs._cache.clear()
    straight = lj.advance(begin(), GD, WATCH, num_steps=STEPS, every=4)
    go, _ = core.programs.program(core._advance_program, (GD, dict(WATCH)))
    named = lj.advance(begin(), GD, WATCH, num_steps=STEPS, every=dict.fromkeys(WATCH, 4))
    assert go._cache_size() == 1
    chex.assert_trees_all_equal(straight[1], named[1])


def test_dimensions_of_their_own_and_back_from_disk(tmp_path):
    start = lambda scale: lj.run(jax.random.key(0), lj.tree.scale(scale, THETA), GD, WATCH, num_steps=24, every=EVERY)[1]  # noqa: E731
    record = lj.sweep.grid(start)(jnp.array([1.0, 2.0]))
    lj.record.write(tmp_path, record, seed=0)
    for each in (record, lj.record.read(tmp_path)[1]):
        found = each.to_xarray()
        assert found["loss"].dims == ("scale", "step")
        assert found["looks.t"].dims == ("scale", "step_2")
        assert found["params.a"].dims == ("scale", "step_2", "params.a_0")
        assert found["rare"].dims == ("scale", "step_6")
        assert found["rare"].sel(step_6=12, scale=2.0) == record["rare"][1, 1]
        assert found["step_2"].values.tolist() == list(range(0, 24, 4))


@pytest.mark.parametrize("runs", [False, True], ids=["one run", "a batch"])
def test_driven_saved_and_resumed_it_is_the_same(nested, runs, tmp_path):
    run = jax.vmap(begin)(jnp.array([1.0, 2.0])) if runs else begin()

    def drive(saving=None, num_steps=STEPS):
        return lj.drive(run, GD, WATCH, num_steps=num_steps, every=EVERY, chunk=12, saving=saving, progress=False)

    straight, saving = drive(), lj.Saving(tmp_path / "run", pause=0)
    drive(saving, 24)
    resumed = drive(saving)
    assert resumed[1].cadence == straight[1].cadence == nested[1].cadence
    chex.assert_trees_all_equal(plain(resumed[0]), plain(straight[0]))
    chex.assert_trees_all_equal(jax.tree.map(np.asarray, resumed[1]), straight[1])
    if not runs:
        chex.assert_trees_all_equal(straight[1], jax.tree.map(np.asarray, nested[1]))
    with pytest.raises(ValueError, match=r"every: \{'looks': 4.* there, 4 here"):
        lj.drive(run, GD, WATCH, num_steps=STEPS, every=4, saving=saving, progress=False)


def test_what_diverged_runs_record_fills_each_entry():
    steep = descent(5.0)
    begun = begin(dynamics=steep)
    with pytest.warns(UserWarning, match="all runs have diverged"):
        driven = lj.drive(begun, steep, WATCH, num_steps=96, every=EVERY, chunk=12, ceiling=1e4, progress=False)[1]
    straight = lj.advance(begun, steep, WATCH, num_steps=96, every=EVERY, ceiling=1e4)[1]
    for name in ("step", "loss", "params", "rare"):
        chex.assert_trees_all_equal(driven[name], jax.tree.map(np.asarray, straight[name]))
    assert jax.tree.map(np.shape, driven) == jax.tree.map(np.shape, straight)


@pytest.mark.parametrize(
    ("every", "said"),
    [
        (EVERY | {"rare": 10}, "cadences must divide one another, but 10 is no multiple of 4: take for example 8 or 12"),
        ({"loss": 1}, "every lacks looks, params, rare: give a cadence for each"),
        (EVERY | {"sharpness": 1}, "every has sharpness besides: give"),
        (EVERY | {"loss": 0}, r"every\['loss'\]=0 must be at least 1"),
        (EVERY | {"rare": 36}, "num_steps=48 must be a multiple of every=36: take for example 72"),
    ],
    ids=["no chain", "one is missing", "one too many", "zero", "num_steps"],
)
def test_cadences_that_do_not_fit_are_refused(every, said):
    for go in (lj.advance, lj.drive):
        with pytest.raises(ValueError, match=said):
            go(begin(), GD, WATCH, num_steps=STEPS, every=every)


def test_chunks_hold_whole_intervals():
    with pytest.raises(ValueError, match="chunk=8 must be a multiple of every=12"):
        lj.drive(begin(), GD, WATCH, num_steps=STEPS, every=EVERY, chunk=8)


def test_gaps_stand_in_place_of_steps_and_cadence():
    gaps = jnp.array([1, 2])
    for other in ({"num_steps": 3}, {"every": 2}, {"every": EVERY}):
        with pytest.raises(ValueError, match="leave out num_steps and every"):
            lj.advance(begin(), GD, WATCH, gaps=gaps, **other)
    with pytest.raises(TypeError, match="num_steps is missing"):
        lj.advance(begin(), GD, WATCH)
