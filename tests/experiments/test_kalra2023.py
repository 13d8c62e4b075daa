"""The phase diagram of early training: one training, the search along c, the uv models, whole runs, what is refused."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import landscape_jax as lj
from experiments import __main__ as cli
from experiments import _kalra2023_first_steps as early
from experiments import _kalra2023_uv as orbits
from experiments import kalra2023_phase_diagram as kalra

NAME = "kalra2023_phase_diagram"
TINY = dataclasses.replace(
    kalra.SMALL,
    n_train=40,
    depths=(2,),
    widths=(8, 16),
    zero_depths=(2,),
    num_inits=3,
    num_zero=3,
    num_sharp=2,
    num_steps=4,
    log_c=3.0,
    log_step=1.0,
    halvings=1,
    num_between=5,
    saturation_at=((2, 8),),
    saturation_inits=2,
    saturation_time=8.0,
    long_examples=40,
    regimes_examples=40,
    regimes_at=(2, 8),
    regimes_c=(1.0,),
    regimes_steps=100,
    uv_widths=(),
)
OPTIONS = dict(num_steps=4, ceiling=1e5, num_between=5)
YES, NO = jnp.array(True), jnp.array(False)
TRENDS = ("closs-scales-depth-width", "csharp-scales-depth-width", "barrier-last")


@pytest.fixture(scope="module")
def small():
    train, _ = lj.data.digits(40)
    task = kalra.task(TINY, train, 2, 6)
    return task, early.started(task, jax.random.key(3))


@pytest.fixture(scope="module")
def record():
    return kalra.run(TINY, jax.random.key(5))


# ── one training ──────────────────────────────────────────────────────────────────────────────────────────────────────


def dense_sharpness(task, params):
    return float(np.linalg.eigvalsh(jax.hessian(lambda x: task.loss(x, task.train))(params))[-1])


def test_first_steps_are_gradient_descent_with_its_sharpness(small):
    task, start = small
    first = jax.jit(functools.partial(early.first_steps, task, **OPTIONS))(start, jnp.array(2.5), YES, YES)
    assert float(start.sharpness) == pytest.approx(dense_sharpness(task, start.params), rel=2e-3)
    params, rate = start.params, 2.5 / start.sharpness
    grad = jax.jit(jax.grad(task.loss))
    for t in range(5):
        np.testing.assert_allclose(first["loss"][t], task.loss(params, task.train), rtol=1e-4)
        np.testing.assert_allclose(first["sharpness"][t], dense_sharpness(task, params), rtol=0.02)
        last, params = params, lj.tree.axpy(-rate, grad(params, task.train), params)
    assert first["barrier"] == first["loss"][0] >= highest(task, start, last)
    assert not first["diverged"]


def highest(task, start, last):
    """On the line from the start to `last`."""
    change = lj.tree.sub(last, start.params)
    return max(float(task.loss(lj.tree.axpy(x, change, start.params), task.train)) for x in np.linspace(0, 1, 5)[1:])


def test_a_barrier_is_seen_and_only_where_there_is_one():
    """The line of a single step, which past c_loss ends above its start."""
    train, _ = lj.data.digits(40)
    task = kalra.task(TINY, train, 2, 32)
    start = early.started(task, jax.random.key(3))
    first = jax.jit(functools.partial(early.first_steps, task, num_steps=1, ceiling=1e5, num_between=5))
    grad, seen = jax.grad(task.loss)(start.params, train), []
    for c in (2.0, 5.0):
        there = first(start, jnp.array(c), NO, YES)
        seen.append(bool(there["barrier"] > there["loss"][0]))
        assert seen[-1] == (highest(task, start, lj.tree.axpy(-c / start.sharpness, grad, start.params)) > there["loss"][0])
    assert seen == [False, True]


def test_without_sharpness_the_same_training(small):
    task, start = small
    train = jax.jit(functools.partial(early.first_steps, task, **OPTIONS))
    with_, without = (train(start, jnp.array(3.0), wanted, wanted) for wanted in (YES, NO))
    np.testing.assert_array_equal(with_["loss"], without["loss"])
    assert np.isnan(without["sharpness"]).all()
    assert np.isfinite(with_["sharpness"]).all()


def test_divergence_is_seen_and_is_an_event_of_every_kind(small):
    task, start = small
    train = jax.jit(functools.partial(early.first_steps, task, num_steps=4, num_between=5))

    def events(c: float, ceiling: float):
        first = train(start, jnp.array(c), YES, YES, ceiling=jnp.array(ceiling))
        return early.events(jax.device_get(first)).tolist()

    assert events(0.1, 1e5) == [False] * 4
    assert events(0.1, 1e-3) == [True] * 4  # a ceiling below the initial loss


def test_the_loss_is_the_mean_over_outputs_too():
    f, y = jnp.array([[1.0, 3.0]]), jnp.array([[0.0, 1.0]])
    assert kalra.mean_square(f, y).tolist() == [0.5 * (1 + 4) / 2]


def test_a_zero_last_layer_starts_at_zero_outputs():
    train, _ = lj.data.digits(10)
    zero, whole = (kalra.task(TINY, train, 3, 8, last).model for last in (jnp.array(0.0), 1.0))
    params, others = (jax.jit(model.init)(jax.random.key(0), train[0]) for model in (zero, whole))
    assert not zero.apply(params, train[0]).any()
    assert np.count_nonzero(params) == np.count_nonzero(others) - 8 * 10
    np.testing.assert_array_equal(params[params != 0], others[params != 0])


# ── the search ────────────────────────────────────────────────────────────────────────────────────────────────────────

ALL = np.array([True] * 4)
TRUTH = np.array([[2.2, 3.3, 4.4, 9.9], [5.0, 4.0, 100.0, 12.0], [1.5, 100.0, 100.0, 100.0], [0.5, 7.0, 8.0, 20.0]])


def pretended(shapes, asked=None):
    """Trainings whose events begin exactly at TRUTH [s, 4]."""

    def train(cs, sharp, line):
        shapes.append(cs.shape)
        if asked is not None:
            asked.append((cs, sharp, line))
        past = cs[..., None] >= TRUTH[:, None]  # [s, m, 4]
        loss = np.stack([np.ones(cs.shape), np.where(past[..., 0], 2.0, 0.5)], axis=-1)
        sharpness = np.stack([np.ones(cs.shape), np.where(past[..., 1], 2.0, 0.5)], axis=-1)
        return {
            "loss": loss,
            "sharpness": np.where(sharp[..., None], sharpness, np.nan),
            "diverged": past[..., 3],
            "barrier": np.where(past[..., 2] & line, 1.5, 1.0),
        }

    return train


def test_bisection_closes_in_on_every_boundary():
    shapes = []
    cs = 2.0 ** np.arange(0, 5.01, 0.5)
    found = early.phases(pretended(shapes), cs, ALL, ALL, halvings=6, together=4)
    expected = TRUTH.copy()
    expected[1, 2] = 12.0  # no barrier below c_max: c_max itself
    expected[3, 0] = 1.0  # seen at the first c: there
    expected[TRUTH == 100.0] = np.nan
    expected[1, 2] = 12.0
    np.testing.assert_allclose(found["boundaries"], expected, rtol=2 ** (0.5 / 2**6) - 1 + 1e-6)
    assert set(shapes) == {(4, 4)}  # one program
    assert found["loss"].shape == (4, 11, 2)
    finite = np.isfinite(expected[:, :3]) & (TRUTH[:, :3] < 100) & (TRUTH[:, :3] >= 1)
    assert (found["boundaries"][:, :3] >= TRUTH[:, :3])[finite].all()  # an event was seen there
    assert found["boundaries"][0, 3] < TRUTH[0, 3]  # and no divergence at c_max


def test_what_is_not_measured_has_no_boundary():
    wanted = np.array([True, False, True, False])
    found = early.phases(pretended([]), 2.0 ** np.arange(6), wanted, ~wanted, halvings=2, together=4)
    assert np.isnan(found["boundaries"][:, 1]).tolist() == [False, True, True, True]
    assert np.isnan(found["boundaries"][:, 2]).tolist() == [True, False, True, False]
    assert np.isfinite(found["boundaries"][:, 0]).all()


def test_what_no_boundary_needs_is_not_measured_and_changes_none():
    cs = 2.0 ** np.arange(0, 5.01, 0.25)
    asked, search = [], functools.partial(early.phases, cs=cs, sharp=ALL, line=ALL, halvings=3, together=4)
    sparing, whole = (search(pretended([], asked), sharp_beyond=beyond) for beyond in (False, True))
    np.testing.assert_array_equal(sparing["boundaries"], whole["boundaries"])
    np.testing.assert_array_equal(sparing["loss"], whole["loss"])
    grid = asked[: len(asked) // 2 - 3]
    for s, risen in enumerate(TRUTH[:, 1]):  # up to the call that saw it, and in no later one
        calls = [bool(sharp[s].any()) for _, sharp, _ in grid]
        assert calls == [risen > given[s, 0] / 2**0.25 for given, *_ in grid]
    for _, sharp, line in asked[len(grid) : len(grid) + 3]:  # each bisection only what its own boundary needs
        assert sharp.tolist() == [[False, True, False, False]] * 4
        assert line.tolist() == [[False, False, True, False]] * 4


# ── the uv models ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def simulated():
    return orbits.thresholds((8, 64), jax.random.key(1)), orbits.bifurcation()


@pytest.mark.parametrize("judge", [orbits.exactness, orbits.agreement, orbits.opening, orbits.doubling])
def test_simulations_agree_with_theory(judge, simulated):
    assert judge(*simulated)[1] is True
    assert judge(None, None) == ({}, None)


def test_simulations_that_do_not_agree_are_told_apart(simulated):
    found, target = simulated
    assert orbits.exactness(found | {"error": 1e-11}, target)[1] is False
    assert orbits.agreement(found | {"grid_trace": found["grid_trace"] + 0.004}, target)[1] is False
    assert orbits.agreement(found | {"grid_loss": found["grid_loss"] * np.nan}, target)[1] is False
    assert orbits.opening(found | {"grid_loss": found["grid_loss"][::-1]}, target)[1] is False
    assert orbits.doubling(found, target | {"distinct": target["distinct"] + 1})[1] is False
    for late in (1e-3, np.nan, np.inf):  # of orbits that count as one value: not at rest, or gone
        losses = np.where(target["r"] < 1.85, late, target["late_loss"])
        assert orbits.doubling(found, target | {"late_loss": losses})[1] is False


# ── the whole ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_tiny_run_has_every_part(record):
    assert isinstance(record, lj.Record)
    first = record["phases"]
    assert first["loss"].shape == (1, 2, 3, 4, 5)
    assert first["boundaries"].shape == (1, 2, 3, 4)
    assert np.isfinite(first["sharpness"][:, :, :2, 0]).all()
    assert np.isnan(first["sharpness"][:, :, 2]).all()  # not asked for
    assert record["zero"]["boundaries"].shape == (1, 2, 3, 4)
    np.testing.assert_allclose(record["zero"]["loss"][..., 0], 0.05, rtol=1e-5)  # ½ mean of one-hot rows, f = 0
    assert record["saturation"]["ratio"].shape == (1, 2, kalra.SATURATION_CS.size)
    assert record["regimes"]["sharpness"].shape == (1, 20)
    np.testing.assert_allclose(record["regimes"]["sharpness"][:, 0], 1.0, rtol=0.01)


def test_a_tiny_run_is_judged_and_drawn(record, tmp_path, simulated):
    whole = record | dict(zip(("uv", "uv_target"), simulated, strict=True))
    lj.record.write(tmp_path, whole, kalra.claims(whole, TINY), config=TINY.n_train)
    for name, figure in kalra.plot(whole, TINY).items():
        figure.savefig(tmp_path / f"{name}.png")
    assert {path.stem for path in tmp_path.glob("*.png")} == {"figure", "saturation", "regimes", "uv"}
    _, read, claims = lj.record.read(tmp_path)
    assert len({claim["id"] for claim in claims}) == len(claims) == 14
    np.testing.assert_array_equal(read["phases"]["boundaries"], record["phases"]["boundaries"])


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"criterion": "cross_entropy"},
        {"network": "myrtle", "depths": (5, 7, 10), "zero_depths": (), "saturation_at": ((5, 256),), "regimes_at": (5, 256)},
        {"network": "resnet18", "depths": (18,), "zero_depths": (18,), "saturation_at": (), "regimes_at": (18, 64)},
    ],
    ids=["fcn", "cross-entropy", "myrtle", "resnet18"],
)
def test_the_paper_preset_builds(changed):
    """Traced at its own sizes, but for the data; nothing is computed."""
    config = dataclasses.replace(kalra.PAPER, **changed)
    assert config.cs[0] == 1
    assert config.cs[-1] == pytest.approx(64)
    images = jax.ShapeDtypeStruct((50_000, 32, 32, 3), jnp.float32), jax.ShapeDtypeStruct((50_000, 10), jnp.float32)
    keys, factors = jax.eval_shape(lambda: (jax.random.split(jax.random.key(0), 2), jnp.ones(2)))
    depth, width = config.depths[0], config.widths[0]
    starts = jax.eval_shape(functools.partial(kalra.begin, config, depth, width), images, keys, factors)
    cs, sharp = jax.ShapeDtypeStruct((2, 4), jnp.float32), jax.ShapeDtypeStruct((2, 4), jnp.bool_)
    first = jax.eval_shape(functools.partial(kalra.train_all, config, depth, width), images, starts, cs, sharp, sharp)
    assert first["loss"].shape == first["sharpness"].shape == (2, 4, 11)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--n-train", "0"], "n_train=0 must lie between 1 and 1797"),
        (["--data", "mnist", "--n-train", "70000"], "between 1 and 60000"),
        (["--depths", "1"], "depths=(1,) must ascend, from 2"),
        (["--widths", "128", "64"], "must ascend"),
        (["--network", "myrtle"], "comes in depths (5, 7, 10)"),
        (["--network", "myrtle", "--depths", "5", "--zero-depths"], "but --saturation-at has (2, 4, 8)"),
        (["--network", "myrtle", "--depths", "5", "--zero-depths", "--saturation-at", "5", "32"], "but --regimes-at has"),
        (["--network", "resnet18", "--depths", "18", "--zero-depths", "--saturation-at", "--regimes-c"], "needs images of 28"),
        (["--depths", "2", "4"], "zero_depths=(2, 4, 8) must be among depths=(2, 4)"),
        (["--num-sharp", "13"], "num_sharp=13 at most that"),
        (["--log-step", "0"], "log_step=0.0 must be positive"),
        (["--num-steps", "0"], "num_steps=0 must be at least 1"),
        (["--halvings", "-1"], "halvings=-1 must be at least 0"),
        (["--batch-size", "129"], "batch_size=129 must lie between 1 and n_train=128"),
        (["--regimes-steps", "12"], "a multiple of 5"),
        (["--regimes-c", "-1"], "must be positive"),
        (["--saturation-time", "0"], "saturation_time=0.0 must be positive"),
        (["--uv-widths", "1"], "uv_widths=(1,) must hold numbers from 2 on"),
        (["--saturation-at", "1", "64"], "saturation_at=((1, 64),) must hold"),
        (["--regimes-at", "1", "64"], "regimes_at=(1, 64) must hold"),
        (["--network", "fnc"], "fnc"),
    ],
)
def test_wrong_configurations_are_answered(args, said, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(kalra, "run", lambda *_: pytest.fail("it ran"))
    assert cli.main([NAME, *args, "--out", str(tmp_path / "out")]) == 2
    assert said in " ".join(capfd.readouterr().err.replace("│", " ").split())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("data", "n_train", "held"),
    [("digits", 128, (*TRENDS, "phase-order")), ("mnist", 256, TRENDS)],  # on MNIST the order holds in 30 of 32
)
def test_real_images_have_the_same_phases(data, n_train, held):
    config = dataclasses.replace(
        kalra.SMALL,
        data=data,
        n_train=n_train,
        depths=(2, 4),
        widths=(64, 128),
        zero_depths=(2, 4),
        num_inits=10,
        num_sharp=8,
        saturation_at=(),
        regimes_c=(),
        uv_widths=(),
    )
    try:
        record = kalra.run(config, jax.random.key(1))
    except FileNotFoundError as missing:
        pytest.skip(str(missing))
    passed = {claim.id: claim.passed for claim in kalra.claims(record, config)}
    assert all(passed[name] for name in held)
