"""The host's loop against the pure one."""

import gc
import signal
import threading
import weakref

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.tree_util import Partial

import landscape_jax as lj
from landscape_jax import Status, programs

SCALES = {"a": jnp.array([1.0, 3.0]), "b": [jnp.array([[0.5]])]}
THETA = {"a": jnp.array([1.0, -2.0]), "b": [jnp.array([[4.0]])]}


def bowl(params, batch):
    return 0.5 * lj.tree.vdot(SCALES, jax.tree.map(jnp.square, params)) + 0.1 * jnp.mean(batch) * params["a"][0]


GD = lj.dynamics.gradient(bowl, optax.sgd(0.1, momentum=0.5), lj.data.minibatch(jnp.arange(6.0), 2))
WATCH = {"loss": lj.observe.loss, "distance": lj.observe.distance}


def begin(scale=1.0, seed=0, watch=WATCH):
    return lj.start(jax.random.key(seed), lj.tree.scale(scale, THETA), GD, watch)


def plain(run):
    return run._replace(key=jax.random.key_data(run.key))


@pytest.fixture(scope="module")
def straight():
    return lj.run(jax.random.key(0), THETA, GD, WATCH, num_steps=24, every=2)


@pytest.mark.parametrize("chunk", [None, 4, 10, 24, 100])
def test_drive_equals_run(straight, chunk):
    """Chunks of any length, also where the last is shorter."""
    run, record = lj.drive(begin(), GD, WATCH, num_steps=24, every=2, chunk=chunk, progress=False)
    chex.assert_trees_all_equal(plain(run), plain(straight[0]))
    chex.assert_trees_all_equal(record, straight[1])
    assert all(isinstance(x, np.ndarray) for x in jax.tree.leaves(record))
    assert record["step"].tolist() == list(range(0, 24, 2))


def test_drive_leaves_the_callers_run_alone(straight):
    run = begin()
    for _ in range(2):
        after, _ = lj.drive(run, GD, WATCH, num_steps=24, every=2, chunk=4, progress=False)
    chex.assert_trees_all_equal(run.params, THETA)
    chex.assert_trees_all_equal(after.params, straight[0].params)


def test_drive_shows_its_progress(straight, capfd):
    run, record = lj.drive(begin(), GD, WATCH, num_steps=24, every=2, chunk=4)
    chex.assert_trees_all_equal(record, straight[1])
    assert "24/24" in capfd.readouterr().err


def test_drive_takes_a_batch_of_runs(straight):
    keys = jax.random.wrap_key_data(jnp.stack([jax.random.key_data(jax.random.key(seed)) for seed in (0, 5)]))
    thetas = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), THETA)
    runs = jax.vmap(lambda key, theta: lj.start(key, theta, GD, WATCH))(keys, thetas)
    run, record = lj.drive(runs, GD, WATCH, num_steps=24, every=2, chunk=8, progress=False)
    assert record["loss"].shape == (2, 12)
    assert run.step.tolist() == [24, 24]
    chex.assert_trees_all_close(jax.tree.map(lambda x: x[0], record), straight[1], rtol=1e-5, atol=1e-6)
    assert not np.allclose(record["loss"][1], record["loss"][0])


def test_drive_works_off_the_main_thread(straight):
    out = []
    thread = threading.Thread(
        target=lambda: out.append(lj.drive(begin(), GD, WATCH, num_steps=24, every=2, chunk=4, progress=False))
    )
    thread.start()
    thread.join()
    chex.assert_trees_all_equal(out[0][1], straight[1])


def test_an_interrupted_drive_keeps_everything_and_goes_on(straight):
    """Ctrl-C comes at step 6, from within the compiled program; the chunk that it falls into is finished."""

    def press(step):
        if step == 6:
            signal.raise_signal(signal.SIGINT)
        return np.int32(step)

    pressing = lj.observe.stateless(
        lambda m: jax.pure_callback(press, jax.ShapeDtypeStruct((), jnp.int32), m.step, vmap_method="sequential")
    )
    watch = WATCH | {"pressed": pressing}
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(lj.Interrupted, match="after 8 of 24 steps") as caught:
        lj.drive(begin(watch=watch), GD, watch, num_steps=24, every=2, chunk=4, progress=False)
    assert signal.getsignal(signal.SIGINT) is before
    assert isinstance(caught.value, KeyboardInterrupt)
    assert caught.value.run.step == 8
    assert caught.value.record["step"].tolist() == [0, 2, 4, 6]
    end, rest = lj.drive(caught.value.run, GD, watch, num_steps=16, every=2, chunk=4, progress=False)
    chex.assert_trees_all_equal(end.params, straight[0].params)
    for name in straight[1]:
        np.testing.assert_array_equal(np.concatenate([caught.value.record[name], rest[name]]), straight[1][name])


def test_a_run_sharded_over_eight_devices_equals_the_same_on_one(straight):
    assert jax.device_count() == 8
    mesh = Mesh(np.array(jax.devices()), ("runs",))
    thetas = jax.tree.map(lambda x: jnp.stack([x * (1 + i) for i in range(8)]), THETA)
    split = jax.device_put(thetas, NamedSharding(mesh, PartitionSpec("runs")))
    solo = lambda key, theta: lj.run(key, theta, GD, WATCH, num_steps=24, every=2)[1]["loss"]  # noqa: E731
    go = jax.jit(jax.vmap(solo, in_axes=(None, 0)))
    losses = go(jax.random.key(0), split)
    assert len(losses.sharding.device_set) == 8
    np.testing.assert_allclose(losses[0], straight[1]["loss"], rtol=1e-5)
    np.testing.assert_allclose(losses, go(jax.random.key(0), thetas), rtol=1e-5)


def test_the_ceiling_stops_a_run_that_passes_it():
    steep = lj.dynamics.gradient(bowl, optax.sgd(1.0), lj.data.full_batch(jnp.zeros(1)))
    unbounded, _ = lj.run(jax.random.key(0), THETA, steep, WATCH, num_steps=12)
    assert unbounded.status == Status.RUNNING
    bounded, record = lj.run(jax.random.key(0), THETA, steep, WATCH, num_steps=12, ceiling=1e4)
    assert bounded.status == Status.DIVERGED
    died = int(bounded.step)
    assert record["loss"][died - 1] <= 1e4
    assert bowl(bounded.params, jnp.zeros(1)) > 1e4  # where the next step would have started
    begun = lj.start(jax.random.key(0), THETA, steep, WATCH)
    driven, theirs = lj.drive(begun, steep, WATCH, num_steps=12, chunk=3, ceiling=1e4, progress=False)
    chex.assert_trees_all_equal(driven.params, bounded.params)
    np.testing.assert_array_equal(theirs["loss"], record["loss"])


def test_of_a_diverged_run_a_tracker_makes_one_product_and_keeps_its_memory(problem):
    gd = lj.dynamics.gradient(problem.loss, optax.sgd(2.0), lj.data.full_batch(problem.data))
    watch = {"sharpness": lj.observe.sharpness(lj.curvature.hessian(problem.loss), told=True)}
    final, record = lj.run(jax.random.key(0), problem.params, gd, watch, num_steps=40, ceiling=1e6)
    died = int(final.step)
    assert 2 < died < 40
    assert np.isfinite(record["sharpness"]["value"]).tolist() == [True] * died + [False] * (40 - died)
    assert record["sharpness"]["products"][died:].tolist() == [1] * (40 - died)  # what a run costs that has diverged
    before, _ = lj.run(jax.random.key(0), problem.params, gd, watch, num_steps=died, ceiling=1e6)
    chex.assert_trees_all_equal(final.memory, before.memory)
    assert final.memory["sharpness"].looks == died


def test_check_says_which_run_and_when():
    run = begin()
    lj.check(run)
    with pytest.raises(FloatingPointError, match=r"1 of 1 runs .* run DIVERGED at step 7\. .*lower the learning rate"):
        lj.check(run._replace(step=jnp.int32(7), status=jnp.int32(Status.DIVERGED)))
    batch = run._replace(step=jnp.array([[9, 9, 9], [9, 9, 4]]), status=jnp.array([[0, 0, 0], [0, 0, 1]]))
    with pytest.raises(FloatingPointError, match=r"1 of 6 runs .* run \(1, 2\) DIVERGED at step 4\b"):
        lj.check(batch)
    with pytest.raises(FloatingPointError, match=r"DIVERGED at step 0\. Those at step 0 are kept at θ₀, .*labels") as error:
        lj.check(run._replace(step=jnp.int32(0), status=jnp.int32(Status.DIVERGED)))
    assert "learning rate" not in str(error.value)
    both = run._replace(step=jnp.array([0, 5]), status=jnp.ones(2, jnp.int32))
    with pytest.raises(FloatingPointError, match=r"lower the learning rate, .*Those at step 0 are kept"):
        lj.check(both)
    many = run._replace(step=jnp.arange(8), status=jnp.ones(8, jnp.int32))
    with pytest.raises(FloatingPointError, match=r"8 of 8 runs .*run \(4,\) DIVERGED at step 4 and 3 more"):
        lj.check(many)


def test_every_one_records_every_step_and_no_steps_record_nothing():
    run, record = lj.advance(begin(), GD, WATCH, num_steps=0)
    assert run.step == 0
    assert jax.tree.map(len, record) == {"step": 0, "loss": 0, "distance": 0}


def test_a_batch_of_none_is_a_batch():
    """A loss without data: `batches` may give None."""
    gd = lj.dynamics.gradient(lambda p, batch: jnp.sum(p["a"] ** 2), optax.sgd(0.1), lambda key, step: None)
    run, _ = lj.run(jax.random.key(0), {"a": jnp.ones(2)}, gd, {"loss": lj.observe.loss}, num_steps=3)
    np.testing.assert_allclose(run.params["a"], 0.8**3, rtol=1e-6)


def test_numpy_parameters_are_welcome(straight):
    run, record = lj.run(jax.random.key(0), jax.tree.map(np.asarray, THETA), GD, WATCH, num_steps=24, every=2)
    chex.assert_trees_all_equal(record, straight[1])


# ── a pace of its own ─────────────────────────────────────────────────────────────────────────────────────────────────


@jax.jit
def at_pace(run, gaps):
    return lj.advance(run, GD, WATCH, gaps=gaps)


def test_an_even_pace_is_a_cadence(straight):
    run, record = at_pace(begin(), jnp.full(12, 2))
    chex.assert_trees_all_close(plain(run), plain(straight[0]), rtol=1e-5, atol=1e-7)  # two programs: equal up to rounding
    chex.assert_trees_all_close(record, straight[1], rtol=1e-5, atol=1e-7)


def test_runs_of_different_lengths_in_one_program():
    lengths = jnp.array([7, 24, 12])
    runs = jax.vmap(begin)(jnp.array([1.0, 2.0, 3.0]))

    def one(run, length):
        return lj.advance(run, GD, WATCH, gaps=lj.pace(length, 5))

    side_by_side = jax.jit(jax.vmap(one))(runs, lengths)
    in_turn = jax.jit(lambda r, n: jax.lax.map(lambda x: one(*x), (r, n)))(runs, lengths)
    assert side_by_side[0].step.tolist() == lengths.tolist()
    assert side_by_side[1]["step"].tolist() == [[0, 1, 2, 4, 5], [0, 4, 9, 14, 19], [0, 2, 4, 7, 9]]
    for i, length in enumerate(lengths.tolist()):
        alone = lj.advance(begin(float(i + 1)), GD, WATCH, num_steps=length)[0]
        for batch in (side_by_side, in_turn):
            chex.assert_trees_all_close(jax.tree.map(lambda x, i=i: x[i], batch[0].params), alone.params, rtol=1e-5)


@pytest.mark.parametrize("growth", [1.0, 30.0, 0.1])
@pytest.mark.parametrize(("num_steps", "records"), [(7, 7), (8, 7), (1000, 7), (80_001, 100), (3, 1)])
def test_a_pace_has_all_steps(num_steps, records, growth):
    gaps = np.asarray(jax.jit(lambda n: lj.pace(n, records, growth))(num_steps))
    assert gaps.shape == (records,)
    assert gaps.sum() == num_steps
    assert gaps.min() >= 1
    if num_steps > 50 * records:
        np.testing.assert_allclose(gaps[1:] / gaps[:-1], growth ** (1 / records), rtol=0.1)


def test_gaps_that_are_no_gaps():
    for records, growth in ((0, 1.0), (3, 0.0)):
        with pytest.raises(ValueError, match="records=0 must be at least 1|growth=0.0 must be more than 0"):
            lj.pace(7, records, growth)
    for gaps in (jnp.ones(3), jnp.int32(3)):
        with pytest.raises(ValueError, match="gaps must be one row of integers"):
            lj.advance(begin(), GD, WATCH, gaps=gaps)


def test_the_number_of_programs_does_not_grow_with_the_leaves(tmp_path):
    """Starting a batch, driving it with checkpoints and taking it apart: a program for each work, not one for each leaf."""
    compiled, listening = [], True  # a listener can't be taken away again in every JAX, but it can be deaf

    def listen(event, seconds, **_):
        if listening and event.endswith("backend_compile_duration"):
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    data = lj.data.minibatch(jnp.arange(6.0), 2)

    def programs(leaves: int) -> int:
        gd = lj.dynamics.gradient(lambda theta, batch: sum(jnp.sum(x**2) for x in theta), optax.sgd(0.1), data)
        watch = {"loss": lj.observe.loss}

        def started(scale, seed):
            theta = [scale * jnp.full(2 + i, 1.0 + leaves) for i in range(leaves)]
            return lj.start(jax.random.key(seed), theta, gd, watch)

        runs = lj.sweep.grid(started)(jnp.array([1.0, 2.0]), jnp.arange(3))
        before = len(compiled)
        lj.drive(runs, gd, watch, num_steps=4, saving=lj.Saving(tmp_path / str(leaves)), progress=False)
        return len(compiled) - before

    programs(3)  # what is compiled once for all
    few, many = programs(4), programs(24)
    listening = False
    assert 0 < many <= few + 2, (few, many)


def test_a_warmed_up_run_goes_on_as_if_nobody_had_looked_and_its_looks_are_not_cold_ones(problem):
    gd = lj.dynamics.gradient(problem.loss, optax.sgd(0.1), lj.data.full_batch(problem.data))

    def measure(key, eigs, moment):
        return {"value": eigs.values[0], "products": eigs.products}

    watch = {"loss": lj.observe.loss, "eigs": lj.observe.eigenpairs(lj.curvature.hessian(problem.loss), 1, measure)}
    cold = lj.start(jax.random.key(0), problem.params, gd, watch)
    warm = jax.jit(lambda run: lj.warm_up(run, gd, watch))(cold)
    chex.assert_trees_all_equal(plain(warm._replace(memory={})), plain(cold._replace(memory={})))
    goes_on = jax.jit(lambda run: lj.advance(run, gd, watch, num_steps=20, every=10))
    (after, record), (other, theirs) = goes_on(warm), goes_on(cold)
    chex.assert_trees_all_equal(after.params, other.params)
    np.testing.assert_array_equal(record["loss"], theirs["loss"])
    np.testing.assert_allclose(record["eigs"]["value"], theirs["eigs"]["value"], rtol=4e-3)
    assert record["eigs"]["products"][0] <= 3
    assert theirs["eigs"]["products"][0] >= 20
    twice = goes_on(jax.jit(lambda run: lj.warm_up(run, gd, watch, 2))(cold))[1]
    np.testing.assert_allclose(twice["eigs"]["value"], record["eigs"]["value"], rtol=4e-3)


# ── what is refused, what is kept, what is told ───────────────────────────────────────────────────────────────────────


def steep_run(scales, every=2, num_steps=40, ceiling=1e4, **options):
    """Runs that all diverge, at different steps; they record an integer and a vector beside the loss."""
    steep = lj.dynamics.gradient(bowl, optax.sgd(1.5), lj.data.minibatch(jnp.arange(6.0), 2))
    number = lj.observe.stateless(lambda m: jnp.round(100 * m.params["a"]).astype(jnp.int32))
    watch = WATCH | {"number": number, "step norm": lj.observe.stateless(lambda m: m.updates["a"])}
    runs = jax.vmap(lambda scale: lj.start(jax.random.key(0), lj.tree.scale(scale, THETA), steep, watch))(scales)
    straight = jax.jit(jax.vmap(lambda run: lj.advance(run, steep, watch, num_steps=num_steps, every=every, ceiling=ceiling)))(
        runs
    )
    driven = lj.drive(runs, steep, watch, num_steps=num_steps, every=every, ceiling=ceiling, size=len(scales), **options)
    return straight, driven


@pytest.mark.parametrize("stored", [False, True])
def test_a_drive_of_which_all_have_diverged_ends_early_with_the_bits_of_the_straight_run(stored, tmp_path, capfd):
    options = {"saving": lj.Saving(tmp_path / "run")} if stored else {}
    with pytest.warns(UserWarning, match=r"all runs have diverged; the last 28 of 40 steps are not computed"):
        straight, driven = steep_run(jnp.array([0.05, 100.0]), chunk=4, **options)
    assert straight[0].status.tolist() == [Status.DIVERGED] * 2
    assert straight[0].step.max() in range(4, 8)
    chex.assert_trees_all_equal(plain(driven[0]), plain(straight[0]))
    chex.assert_trees_all_equal(dict(driven[1]), dict(straight[1]))
    assert "40/40 steps" in capfd.readouterr().err


def test_a_drive_goes_on_while_one_run_is_alive(recwarn):
    _, driven = steep_run(jnp.array([100.0, 1e-6]), num_steps=12, chunk=2, progress=False)
    assert driven[0].status.tolist() == [Status.DIVERGED, Status.RUNNING]
    assert not [w for w in recwarn if "diverged" in str(w.message)]


def test_progress_without_a_terminal_is_a_line_now_and_then(capfd, monkeypatch):
    drive = lambda: lj.drive(begin(), GD, WATCH, num_steps=24, every=2, chunk=4)  # noqa: E731
    drive()
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("24/24 steps, loss ")
    assert "steps/s" in lines[0]
    monkeypatch.setattr("landscape_jax.engine.progress.SECONDS_BETWEEN_LINES", 0.0)
    drive()
    assert [line.split()[0] for line in capfd.readouterr().err.splitlines()] == [f"{n}/24" for n in range(4, 25, 4)]
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    drive()
    assert "24/24 steps" in capfd.readouterr().err


def test_advance_in_a_python_loop_compiles_once():
    traced = []

    def counted(params, batch):
        traced.append(1)
        return bowl(params, batch)

    gd = lj.dynamics.gradient(counted, optax.sgd(0.1), lj.data.full_batch(jnp.arange(6.0)))
    run = lj.start(jax.random.key(0), THETA, gd, WATCH)
    run, _ = lj.advance(run, gd, WATCH, num_steps=2)
    once = len(traced)
    for _ in range(3):
        run, _ = lj.advance(run, gd, WATCH, num_steps=2)
        lj.advance(run, gd, WATCH, gaps=jnp.array([1, 2]))
    assert run.step == 8
    assert len(traced) <= 3 * once  # one program with a cadence, one with gaps; the loss is traced once or twice for each


def test_programs_go_with_the_functions_that_they_were_made_of():
    """Each of these compiles for closures of its own: none may stay behind them."""

    def each(i):
        def loss(params, batch):
            return (1.0 + i) * bowl(params, batch)

        gd = lj.dynamics.gradient(loss, optax.sgd(0.1), lj.data.full_batch(jnp.arange(6.0)))
        run, _ = lj.run(jax.random.key(0), THETA, gd, WATCH, num_steps=2)
        run, _ = lj.advance(run, gd, WATCH, num_steps=2)
        lj.advance(lj.warm_up(run, gd, WATCH), gd, WATCH, gaps=jnp.array([1, 1]))
        lj.drive(run, gd, WATCH, num_steps=2, progress=False)
        assert len(programs._cache) > before
        return weakref.ref(loss)

    gc.collect()
    before = len(programs._cache)
    losses = [each(i) for i in range(3)]
    gc.collect()
    assert [loss() for loss in losses] == [None] * 3
    assert len(programs._cache) == before


def test_programs_are_told_apart_by_functions_and_not_by_the_arrays_that_these_hold():
    def step(data, x):
        return x

    class Model:
        def loss(self, x):
            return x

    make = lambda rebuild: rebuild  # noqa: E731
    model, plus = Model(), np.add
    for fn in (step, model.loss, plus):
        rebuild, arrays = programs.program(make, {"fn": Partial(fn, jnp.ones(3)), "bare": step})
        again, others = programs.program(make, {"fn": Partial(fn, jnp.zeros(3)), "bare": step})
        assert again is rebuild
        np.testing.assert_array_equal(rebuild(others)["fn"].args[0], 0)
        assert rebuild(arrays)["fn"].func == fn
        assert rebuild(arrays)["bare"] is step
        assert programs.program(make, {"fn": Partial(fn, jnp.ones(3)), "bare": plus})[0] is not rebuild


def test_no_more_programs_are_kept_than_memory_has_room_for(monkeypatch):
    monkeypatch.setattr(programs, "MOST", len(programs._cache) + 2)
    fns = [lambda x, i=i: i for i in range(5)]
    made = [programs.program(lambda rebuild: object(), fn)[0] for fn in fns]
    assert len(set(map(id, made))) == 5
    assert len(programs._cache) == programs.MOST
