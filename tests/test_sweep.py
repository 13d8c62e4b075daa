import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import landscape_jax as lj


def test_grid_is_the_outer_product_of_its_arguments():
    calls = []

    def fn(x, y, z):
        calls.append(x)
        return {"sum": x["a"] + 10 * y + 100 * z, "vector": jnp.stack([x["b"][0], y])}

    xs = {"a": jnp.arange(2.0), "b": jnp.arange(4.0).reshape(2, 2)}
    ys, zs = jnp.arange(3.0), jnp.arange(5.0)
    out = lj.sweep.grid(fn)(xs, ys, zs)
    assert out["sum"].shape == (2, 3, 5)
    assert out["vector"].shape == (2, 3, 5, 2)
    for i, j, k in np.ndindex(2, 3, 5):
        assert out["sum"][i, j, k] == i + 10 * j + 100 * k
        assert out["vector"][i, j, k].tolist() == [2 * i, j]
    assert len(calls) == 1  # one program


def test_a_grid_of_runs_equals_the_runs(problem):
    """As in the README: the learning rate is traced, the key decides θ₀."""
    watch = {"loss": lj.observe.loss}

    def trained(key, rate):
        gd = lj.dynamics.gradient(problem.loss, optax.sgd(rate), lj.data.full_batch(problem.data))
        scale = jax.random.key_data(key)[-1].astype(jnp.float32) / 2.0**32
        final, record = lj.run(key, lj.tree.scale(scale, problem.params), gd, watch, num_steps=6, every=2)
        return record, final.status

    keys, rates = jax.random.split(jax.random.key(0), 2), jnp.array([0.01, 0.1, 1e9])
    record, status = lj.sweep.grid(trained)(keys, rates)
    assert record["loss"].shape == (2, 3, 3)
    assert status.tolist() == [[0, 0, 1]] * 2
    solo = jax.jit(trained)
    for i, key in enumerate(keys):
        for j, rate in enumerate(rates):
            np.testing.assert_allclose(record["loss"][i, j], solo(key, rate)[0]["loss"], rtol=1e-5)
    assert record["loss"][0, 0, 0] != record["loss"][1, 0, 0]


def power(x, y):
    return {"power": x**y, "key": jnp.stack([x, y])}


def test_zipped_goes_in_step():
    out = lj.sweep.zipped(power)(jnp.arange(4.0), jnp.array([0.0, 1.0, 2.0, 3.0]))
    assert out["power"].tolist() == [1, 1, 4, 27]
    with pytest.raises(ValueError, match=r"x: 4, y: 3; for all combinations use grid"):
        lj.sweep.zipped(power)(jnp.arange(4.0), jnp.arange(3.0))


@pytest.mark.parametrize("size", [None, 1, 4, 5, 100])
@pytest.mark.parametrize("devices", [1, 8, 3])
def test_chunks_and_devices_change_nothing(size, devices):
    """Twelve runs: chunks that do and don't divide them, devices that do and don't."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:devices]), ("runs",))
    xs, ys = jnp.arange(1.0, 5.0), jnp.arange(3.0)
    whole = lj.sweep.grid(power)(xs, ys)
    for sweep in (
        lj.sweep.sharded(lj.sweep.chunked(lj.sweep.grid(power), size), mesh),
        lj.sweep.chunked(lj.sweep.sharded(lj.sweep.grid(power), mesh), size),
    ):
        jax.tree.map(np.testing.assert_array_equal, sweep(xs, ys), whole)
    np.testing.assert_array_equal(lj.sweep.sharded(lambda x: x**2, mesh)(xs), xs**2)


def test_a_sweep_works_inside_jit_and_with_default_arguments():
    def fn(x, y=3.0):
        return x * y

    assert jax.jit(lambda xs: lj.sweep.zipped(fn)(xs))(jnp.arange(2.0)).tolist() == [0, 3]
    assert lj.sweep.grid(fn)(y=jnp.ones(2), x=jnp.arange(3.0)).shape == (3, 2)


def trained_on(problem, num_steps=20):
    watch = {"loss": lj.observe.loss, "sharpness": lj.observe.sharpness(lj.curvature.hessian(problem.loss))}

    def trained(seed, learning_rate):
        key = jax.random.fold_in(jax.random.key(0), seed)
        gd = lj.dynamics.gradient(problem.loss, optax.sgd(learning_rate), lj.data.minibatch(problem.data, 16))
        final, record = lj.run(key, problem.params, gd, watch, num_steps=num_steps, every=10)
        return record, final.status

    return trained


@pytest.fixture(scope="module")
def runs():
    return jnp.arange(4), jnp.array([0.05, 0.1])


def test_split_runs_need_no_communication_and_are_the_runs(problem, runs):
    """On eight devices, one run each, looped and side by side: the tracker's batched eigh must not deadlock between them."""
    trained = trained_on(problem)
    whole, _ = lj.sweep.grid(trained)(*runs)
    for size in (None, 2):
        sweep = lj.sweep.sharded(lj.sweep.chunked(lj.sweep.grid(trained), 2) if size else lj.sweep.grid(trained))
        text = sweep.lower(*runs).compile().as_text()
        assert not re.findall(r"all-reduce|all-gather|collective-permute|all-to-all|reduce-scatter", text)
        record, status = sweep(*runs)
        assert len(record["loss"].sharding.device_set) > 1
        assert not status.any()
        np.testing.assert_allclose(record["loss"], whole["loss"], rtol=1e-6)
        np.testing.assert_allclose(record["sharpness"], whole["sharpness"], rtol=1e-3)


def test_records_of_a_sweep_know_their_axes(problem, runs):
    watch = {"loss": lj.observe.loss, "norms": lj.observe.stateless(lambda m: {"params": m.params["out"][0]})}

    def trained(seed, learning_rate):
        gd = lj.dynamics.gradient(problem.loss, optax.sgd(learning_rate), lj.data.full_batch(problem.data))
        return lj.run(jax.random.key(0), problem.params, gd, watch, num_steps=20, every=10)[1]

    record = lj.sweep.grid(trained)(*runs)
    assert {name: x.tolist() for name, x in record.axes.items()} == {
        "seed": [0, 1, 2, 3],
        "learning_rate": [np.float32(0.05), np.float32(0.1)],
        "step": [0, 10],
    }
    table = record.to_xarray()
    assert table.loss.dims == ("seed", "learning_rate", "step")
    assert table["norms.params"].dims == ("seed", "learning_rate", "step", "norms.params_0")
    assert table.loss.sel(seed=2, step=10).isel(learning_rate=1) == record["loss"][2, 1, 1]
    np.testing.assert_array_equal(table.clock[0, 0], [0, 10])


def test_survivors_of_a_sweep_in_which_nine_of_ten_diverge_are_their_solo_runs(problem):
    """Through drive, with learning rates in the state; the fraction is told by check."""
    watch = {"loss": lj.observe.loss}
    gd = lj.dynamics.gradient(problem.loss, optax.inject_hyperparams(optax.sgd)(0.1), lj.data.minibatch(problem.data, 16))

    def begin(seed, rate):
        run = lj.start(jax.random.fold_in(jax.random.key(0), seed), problem.params, gd, watch)
        return run._replace(state=run.state._replace(hyperparams={"learning_rate": rate}))

    rates = jnp.concatenate([jnp.array([0.1]), jnp.geomspace(1e3, 1e30, 9)])
    begun = lj.sweep.grid(begin)(jnp.arange(3), rates)
    runs, record = lj.drive(begun, gd, watch, num_steps=40, every=4, progress=False, axes={"seed": None, "rate": rates})
    assert runs.status.tolist() == [[0] + [1] * 9] * 3
    with pytest.raises(FloatingPointError, match="27 of 30 runs did not go through"):
        lj.check(runs)
    assert np.isnan(record["loss"][:, 1:, -1]).all()
    assert record.axes["step"].tolist() == list(range(0, 40, 4))
    for seed in range(3):
        solo, theirs = lj.drive(
            jax.tree.map(lambda x, seed=seed: x[seed, 0], begun), gd, watch, num_steps=40, every=4, progress=False
        )
        np.testing.assert_array_equal(record["loss"][seed, 0], theirs["loss"])
        jax.tree.map(lambda x, y, seed=seed: np.testing.assert_array_equal(x[seed, 0], y), runs.params, solo.params)


# ── arguments ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def ten_and_hundred(a, b=1.0, c=2.0):
    return a + 10 * b + 100 * c


def by_keyword(a, *, c):
    return a + 10.0 + 100 * c


def gathered(a, **others):
    return a + 10.0 + 100 * others["c"]


KEYWORDS = {
    "defaults": ten_and_hundred,
    "keyword only": by_keyword,
    "gathered": gathered,
    "fixed by keyword": functools.partial(ten_and_hundred, b=1.0),
    "fixed by a pytree": jax.tree_util.Partial(ten_and_hundred, b=1.0),
    "fixed by position": functools.partial(lambda b, a, c: ten_and_hundred(a, b, c), 1.0),
    "compiled": jax.jit(ten_and_hundred),
    "an object": type("Own", (), {"__call__": lambda self, a, c: ten_and_hundred(a, 1.0, c)})(),
}


BY_THREE = functools.partial(lj.sweep.chunked, size=3)
HOW = {"looped": lambda sweep: sweep, "by three": BY_THREE, "fitted": lj.sweep.chunked, "split": lj.sweep.sharded}


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", KEYWORDS)
def test_keywords_reach_the_function_by_keyword(name, how):
    how = HOW[how]
    a, c = jnp.arange(2.0), jnp.array([3.0, 4.0])
    grid, zipped = how(lj.sweep.grid(KEYWORDS[name])), how(lj.sweep.zipped(KEYWORDS[name]))
    assert grid(a, c=c).tolist() == [[310, 410], [311, 411]]
    assert zipped(c=c, a=a).tolist() == [310, 411]
    assert grid.lower(a, c=c).out_info.shape[0] >= 4


def test_axes_have_the_names_of_their_arguments_whatever_way_they_came():
    def fn(a, /, b=1.0, *more, c=2.0, **others):
        return lj.Record({"step": jnp.arange(2), "value": jnp.stack([a + 10 * more[0] + 100 * c + 1000 * others["d"] + b] * 2)})

    values = {"a": [1.0], "b": [0.0], "more_0": [1.0, 2.0], "c": [1.0, 2.0, 3.0], "d": [1.0, 2.0]}
    record = lj.sweep.grid(fn)(*(values[n] for n in ("a", "b", "more_0")), d=values["d"], c=values["c"])
    assert {name: x.tolist() for name, x in record.axes.items()} == values | {"step": [0, 1]}
    assert record["value"][0, 0, 1, 2, 0].tolist() == [1321, 1321]
    with pytest.raises(ValueError, match="two arguments are called 'more_0'"):
        lj.sweep.grid(fn)(jnp.ones(1), jnp.ones(1), jnp.ones(1), more_0=jnp.ones(1))
    with pytest.raises(ValueError, match="'step' is its time: rename"):
        lj.sweep.grid(lambda step: fn(step, step, step, d=step))(jnp.ones(1))


def test_lists_are_arrays():
    """Of numbers, of keys, and within a pytree; what is a pytree of arrays stays one."""
    double = lj.sweep.grid(lambda x: jax.tree.map(lambda leaf: 2 * leaf, x))
    for numbers in ([1, 2], (1, 2), range(1, 3), np.array([1, 2]), [jnp.int32(1), np.int32(2)]):
        assert double(numbers).tolist() == [2, 4]
    assert double([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]).tolist() == [[2, 4], [6, 8], [10, 12]]
    assert jax.tree.map(np.ndarray.tolist, jax.device_get(double({"a": [1, 2], "b": ()}))) == {"a": [2, 4], "b": ()}
    assert [x.shape for x in double([jnp.ones((2, 3)), jnp.ones((2, 4))])] == [(2, 3), (2, 4)]  # two layers of two runs
    keys = jax.random.split(jax.random.key(0), 2)
    draw = lj.sweep.grid(lambda key: jax.random.normal(key))
    np.testing.assert_array_equal(draw(list(keys)), draw(keys))
    assert jax.jit(lambda x: double([x, 2 * x]))(1.0).tolist() == [2, 4]


@pytest.mark.parametrize(
    ("argument", "error", "told"),
    [
        (3.0, ValueError, "'x' need one leading axis .* single number; a list of one makes one run"),
        (jax.random.key(0), ValueError, r"a single key; jax.random.split\(key, n\)"),
        ([], ValueError, "'x' holds no runs"),
        (None, ValueError, "'x' holds no runs"),
        (jnp.ones(0), ValueError, "'x' holds no runs"),
        ([[1, 2], [3]], ValueError, "'x' is no array .*inhomogeneous.* one row a run"),
        (["sgd", "adam"], TypeError, "'x' holds data of type <U3.* an index into it"),
        ((i for i in range(3)), TypeError, "'x' holds data of type object"),
        ([{"a": 1.0}, {"a": 2.0}], ValueError, "lengths none: stack"),
        ({"a": [1.0, 2.0], "b": jnp.ones(3)}, ValueError, "'x' need one leading axis .* lengths 2, 3: stack"),
        ([2**40], ValueError, "out of bounds for int32"),
        (np.array([2**40]), ValueError, "integers beyond int32: set jax_enable_x64"),
    ],
)
def test_what_is_no_axis_of_runs(argument, error, told):
    with pytest.raises(error, match=told):
        lj.sweep.grid(lambda x: x)(argument)


def test_bad_calls_of_sweeps():
    for call, error, told in (
        (lambda: lj.sweep.grid(by_keyword)(c=[1.0]), TypeError, r"sweep of by_keyword\(a, \*, c\): missing .*'a'"),
        (lambda: lj.sweep.zipped(by_keyword)([1.0], [2.0]), TypeError, "too many positional"),
        (lambda: lj.sweep.grid(0.1), TypeError, "grid: fn must be a function, but is 0.1"),
        (lambda: lj.sweep.sharded(by_keyword, 8), TypeError, "mesh must be a mesh of devices, but is 8: write"),
        (lambda: lj.sweep.chunked(by_keyword, 2.5), TypeError, "chunked: size must be an integer, but is 2.5"),
    ):
        with pytest.raises(error, match=told):
            call()


def test_bad_sweeps():
    double = lj.sweep.grid(lambda x: 2 * x)
    with pytest.raises(ValueError, match="at least one array"):
        double()
    with pytest.raises(ValueError, match="'x' need one leading axis"):
        double(3.0)
    with pytest.raises(ValueError, match="'x' need one leading axis .* lengths 2, 3: stack"):
        double({"a": jnp.ones(2), "b": jnp.ones(3)})
    with pytest.raises(ValueError, match="'x' holds no runs"):
        double(jnp.ones(0))
    with pytest.raises(ValueError, match="size=0 must be at least 1"):
        lj.sweep.chunked(double, 0)
