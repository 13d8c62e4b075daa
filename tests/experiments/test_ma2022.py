"""The multiscale experiment: small runs of each part, and verdicts that can fail."""

import copy
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import landscape_jax as lj
from experiments import __main__ as cli
from experiments import _ma2022_claims as judged
from experiments import _ma2022_landscape as landscape
from experiments import _ma2022_networks as networks
from experiments import _ma2022_toys as toys
from experiments import ma2022_multiscale as ma
from experiments._float64 import float64

NAME = "ma2022_multiscale"
TINY = dataclasses.replace(ma.SMALL, num_seeds=2, n_train=40, widths=(6,), num_steps=30, relu_rate=0.02)


@pytest.fixture(scope="module")
def record():
    """Toys and origin at full size."""
    with float64():
        origin = networks.teachers(TINY.scales, jax.random.key(103), TINY.num_seeds)
    return {"toys": toys.measured(), "origin": origin}


@pytest.fixture(scope="module")
def trained():
    """All networks, tiny, as a run has them."""
    return ma.run(dataclasses.replace(TINY, parts=("networks",)), jax.random.key(104))


def verdicts(record, config=TINY):
    return {claim.id: claim.passed for claim in ma.claims(record, config)}


@pytest.mark.slow
def test_toys_and_origin_are_as_derived(record):
    passed = verdicts(record)
    assert all(passed[name] for name, *_ in judged.PARTS["toys"])
    assert passed["origin-needs-both"]
    assert passed["origin-relu-has-none"]
    assert record["origin"]["relu"]["top"].shape == (3, 2, len(networks.TEACHER_RADII))
    # the core's bend is that of single units: within its bounds, but for differences on a grid, and gone as r²
    bend, r = record["origin"]["tanh"]["core"][-1] - 2, networks.CORE_RADII
    assert (bend <= 1.05 * 14 / 3 * (1000 * r) ** 2 + 1e-6).all()
    assert (bend >= -1.05 * 4 / 3 * (1000 * r) ** 2 - 1e-6).all()
    np.testing.assert_allclose(bend[:, 15] / bend[:, 25], (r[15] / r[25]) ** 2, rtol=0.05)


QS = toys.QS[:, None]


def _changed(record, path, change):
    """A copy of the record with the array at this path changed."""
    record = at = copy.deepcopy(record)
    *way, last = path
    for name in way:
        at = at[name]
    at[last] = change(np.array(at[last]))
    return record


@pytest.mark.slow
@pytest.mark.parametrize(
    ("claim", "path", "change"),
    [
        ("subquadratic-2-cycle", ("toys", "cycles", "log_cosh", "settled"), lambda x: x * 1.001),
        ("subquadratic-2-cycle", ("toys", "cycles", "quartic_diverges_at"), lambda _: -1),
        ("cycle-loses-stability", ("toys", "cycles", "cauchy", "settled"), lambda x: x * [1, 1.001, 1, 1, 1]),
        ("cycle-loses-stability", ("toys", "cycles", "cauchy", "settled"), lambda x: np.append(x[:-1], 2**0.5)),
        ("power-law-plateau", ("toys", "powers", "plateau"), lambda x: x**1.02),
        ("lr-decay-two-scales", ("toys", "two_scale", "loss"), lambda x: x + 1),
        ("lr-staircase", ("toys", "staircase", "plateau"), lambda x: x * 1.01),
        ("lr-staircase-decays", ("toys", "staircase", "decays"), lambda x: x * 1.01),
        ("lr-staircase-decays", ("toys", "staircase", "decay_plateaus"), lambda x: x[::-1]),
        ("origin-continuum-exponent", ("toys", "continuum", "tanh"), lambda x: x**1.2),
        ("origin-relu-continuum", ("toys", "continuum", "relu"), lambda x: x**1.001),
        ("origin-relu-continuum", ("toys", "continuum", "relu"), lambda x: x * np.where(np.arange(141) > 130, QS - 0.5, 1)),
        ("origin-separated-scales", ("toys", "separated", "exponent"), lambda x: 0 * x + 2),
        ("origin-separated-scales", ("toys", "separated", "exponent"), lambda x: x + 0.1),
        ("origin-two-layer-scales", ("origin", "tanh", "top"), lambda x: 0 * x + 2),
        ("origin-needs-both", ("origin", "linear", "top"), lambda x: x - 0.05),
        ("origin-needs-both", ("origin", "tanh", "top"), lambda x: x[[0, 0, 0]]),
        ("origin-needs-both", ("origin", "tanh", "top"), lambda x: x[[2, 2, 2]]),
        ("origin-relu-has-none", ("origin", "relu", "top"), lambda x: x + np.sin(np.arange(x.shape[-1]) / 3)),
    ],
)
def test_each_verdict_on_toys_and_origin_can_fail(claim, path, change, record):
    assert verdicts(_changed(record, path, change))[claim] is False


def test_networks_that_differ_are_one_program_and_each_its_own_descent(trained):
    """Against a plain loop over autodiff of the network with its own activation, criterion, rate and initialisation."""
    cells = (
        (1, "tanh", 1, jnp.tanh, lj.losses.square, 1.0),
        (3, "relu", 0, jax.nn.relu, lj.losses.square, 2.0),
        (4, "cross_entropy", 0, jnp.tanh, lj.losses.cross_entropy, 1.0),
    )
    with float64():
        train, _ = lj.data.digits(TINY.n_train, 0, scale=lj.data.per_pixel)
        keys = jax.random.split(jax.random.split(jax.random.key(104), 3)[1], (5, TINY.num_seeds))  # as `run` splits them
        for i, name, place, activation, criterion, init_scale in cells:
            part, losses = trained["networks"][name], []
            model = lj.models.mlp(TINY.widths, 10, activation=activation, init_scale=init_scale)
            look = jax.jit(jax.value_and_grad(lj.losses.mean(model.apply, criterion)))
            params = model.init(jax.random.split(keys[i, 1])[0], train[0])
            for _ in range(TINY.num_steps + 1):
                loss, grads = look(params, train)
                losses.append(loss)
                params = lj.tree.axpy(-part["rate"][place], grads, params)
            np.testing.assert_allclose(part["loss"][place, 1], losses[: -1 : TINY.num_steps // networks.CHECKS])
            np.testing.assert_allclose(part["kept"][place, 1, 0], losses[-1])


def test_a_tiny_run_of_networks_is_judged_and_drawn(trained, tmp_path):
    for part in trained["networks"].values():
        runs = len(part["rate"]), TINY.num_seeds
        assert part["sharpness"].shape == (*runs, networks.CHECKS)
        assert part["top"].shape == (*runs, len(networks.RADII))
        assert part["dropped"].shape == part["kept"].shape == (*runs, 2 * networks.DROP_STEPS + 1)
        assert part["top"].dtype == np.float64
        np.testing.assert_allclose(part["dropped"][..., 0], part["kept"][..., 0], rtol=1e-12)  # both begin where training ended
    tanh, r = trained["networks"]["tanh"], networks.RADII[5]
    assert (tanh["swing"] > 0).all()
    # growth is the Hessian's at small distances, and the sharpest direction's most
    np.testing.assert_allclose(2 * tanh["rise"][..., 5] / r**2, tanh["curvature"], rtol=0.05)
    passed = verdicts(trained)
    assert all((passed[name] is None) == (part != "networks") for part, judges in judged.PARTS.items() for name, *_ in judges)
    (figure,) = ma.plot(trained, TINY).values()
    figure.savefig(tmp_path / "figure.png", dpi=60)
    assert len(figure.axes) == 6


def test_a_landscape_goes_from_training_to_its_figure(tmp_path, monkeypatch):
    monkeypatch.setattr(landscape, "POINTS", 9)
    monkeypatch.setattr(landscape, "SWINGS", 6)
    config = dataclasses.replace(TINY, parts=("landscape",))
    record = ma.run(config, jax.random.key(106))
    found = record["landscape"]
    way, plane = found["path"], found["principal"]
    assert way["coordinates"].shape == (4, 2)  # steps 0, 10, 20 and the end
    np.testing.assert_allclose(way["coordinates"][-1], 0, atol=1e-12)
    assert plane["loss"].shape == found["sharpest"]["loss"].shape == (9, 9)
    assert plane["xs"].min() < way["coordinates"][:, 0].min() < way["coordinates"][:, 0].max() < plane["xs"].max()
    middle = found["random"]["loss"][4, 4]  # all slices pass through the end
    np.testing.assert_allclose(found["sharpest"]["loss"][4, 4], middle)
    np.testing.assert_allclose(found["lines"]["loss"][:, 8], middle)
    np.testing.assert_allclose(found["sharpest"]["swing"][0], 0, atol=1e-12)
    assert found["sharpest"]["values"][0] >= found["sharpest"]["values"][1]
    ((name, figure),) = ma.plot(record, config).items()
    figure.savefig(tmp_path / f"{name}.png", dpi=60)
    np.testing.assert_array_equal(figure.axes[0].lines[1].get_xydata(), way["coordinates"])
    assert set(verdicts(record, config).values()) == {None}


def made_networks(of: str = "tanh", **changes):
    """Networks as the paper has them, but for `changes` in these."""
    shape, radii = (3, 2), networks.RADII
    ratio, rate = np.array([0.3, 1.0, 1.01])[:, None, None], np.array([0.1, 0.3, 0.6])
    curvature = (2 / rate)[:, None] * np.array([0.3, 1.02, 1.02])[:, None] * np.ones(2)
    falls = np.concatenate([np.linspace(1, 0.5, 20), np.full(2 * networks.DROP_STEPS - 19, 0.5)])
    tanh = {
        "rate": rate,
        "sharpness": np.ones((*shape, networks.CHECKS)) * ratio * (2 / rate)[:, None, None],
        "top": np.broadcast_to(2 - 0.4 * np.minimum(radii, 4), (*shape, len(radii))),
        "random": np.full((*shape, len(radii)), 2.0),
        "gradient": np.full((*shape, len(radii)), 2.0),
        "gradient_after": np.full((*shape, len(radii)), 2.5),
        "kept": np.ones((*shape, len(falls))),
        "curvature": curvature,
        "secant": (2 / rate)[:, None] * np.ones(2),
        "swing": np.full(shape, 0.02),
        "dropped": np.broadcast_to(falls, (*shape, len(falls))),
    }
    tanh["slope"] = 2 * tanh["dropped"][..., 0] / rate[:, None]
    other = {
        "rate": np.array([1.0]),
        "sharpness": np.full((1, 2, networks.CHECKS), 0.01),
        "top": np.full((1, 2, len(radii)), 2.5),
    }
    made = {"tanh": tanh, "relu": other, "cross_entropy": other}
    made = {name: lj.Record(part, {"rate": None, "seed": None}) for name, part in made.items()}
    return {"networks": made | {of: made[of] | changes}}


@pytest.mark.parametrize(
    ("claim", "changes"),
    [
        ("net-reaches-eos", {"sharpness": np.full((3, 2, networks.CHECKS), 20.0)}),
        ("net-control-below", {"sharpness": np.full((3, 2, networks.CHECKS), 20.0)}),
        ("net-subquadratic-top-direction", {"top": np.full((3, 2, len(networks.RADII)), 2.0)}),
        ("net-lr-drop", {"dropped": np.ones((3, 2, 2 * networks.DROP_STEPS + 1))}),
        ("net-second-drop-idle", {"dropped": np.broadcast_to(0.99 ** np.arange(401.0), (3, 2, 401))}),
        ("net-random-quadratic", {"random": np.full((3, 2, len(networks.RADII)), 1.8)}),
        ("net-gradient-superquadratic", {"gradient_after": np.full((3, 2, len(networks.RADII)), 2.0)}),
        ("net-drop-removes-swing", {"slope": np.full((3, 2), 9.0)}),
        ("net-one-dimensional-cycle", {"secant": np.full((3, 2), 50.0)}),
        ("net-one-dimensional-cycle", {"curvature": np.ones((3, 2))}),
        ("net-cross-entropy-differs", {"of": "cross_entropy", "sharpness": np.full((1, 2, networks.CHECKS), 1.5)}),
        ("net-cross-entropy-differs", {"of": "cross_entropy", "top": np.full((1, 2, len(networks.RADII)), 2.0)}),
        ("net-relu-differs", {"of": "relu", "top": np.full((1, 2, len(networks.RADII)), 2.0)}),
    ],
)
def test_each_network_verdict_can_be_either(claim, changes):
    assert verdicts(made_networks())[claim] is True
    assert verdicts(made_networks(**changes))[claim] is False
    assert verdicts({})[claim] is None


@pytest.mark.slow
def test_the_figure_has_a_row_for_each_part(record, tmp_path):
    (figure,) = ma.plot(record | made_networks(), ma.SMALL).values()
    figure.savefig(tmp_path / "figure.png")
    assert len(figure.axes) == 15
    assert len(ma.plot({"origin": record["origin"]}, TINY)["figure"].axes) == 3


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--num-seeds", "0"], "num_seeds=0 must be at least 1"),
        (["--num-steps", "100"], "multiple of the 15 looks"),
        (["--rates", "0.3", "0.1", "0.6"], "must be positive and increase"),
        (["--scales", "1", "2", "3", "4", "5", "6"], "the first of equal magnitudes"),
        (["--parts", "toy"], "toy"),
    ],
)
def test_wrong_configurations_are_answered(args, said, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(ma, "run", lambda *_: pytest.fail("it ran"))
    assert cli.main([NAME, *args, "--out", str(tmp_path / "out")]) == 2
    assert said in " ".join(capfd.readouterr().err.replace("│", " ").split())


@pytest.mark.slow
def test_the_whole_small_preset():
    record = ma.run(dataclasses.replace(ma.SMALL, num_seeds=1), jax.random.key(105))
    passed = verdicts(record, ma.SMALL)
    assert None not in passed.values()
    assert passed["net-reaches-eos"]
    assert passed["net-subquadratic-top-direction"]
    assert not passed["net-one-dimensional-cycle"]
