"""The multiscale experiment: small runs of each part, and verdicts that can fail."""

import copy
import dataclasses

import jax
import numpy as np
import pytest

from experiments import __main__ as cli
from experiments import _ma2022_claims as judged
from experiments import _ma2022_networks as networks
from experiments import _ma2022_toys as toys
from experiments import ma2022_multiscale as ma
from experiments._float64 import float64

NAME = "ma2022_multiscale"
TINY = dataclasses.replace(ma.SMALL, num_seeds=2, n_train=40, widths=(6,), num_steps=30)


@pytest.fixture(scope="module")
def record():
    """Toys and origin at full size, and one kind of network, tiny."""
    with float64():
        tanh = networks.trained(networks.Task("tanh", "square", 1.0, TINY.rates[:2]), TINY, jax.random.key(104))
        origin = networks.teachers(TINY.scales, jax.random.key(103), TINY.num_seeds)
    return {"toys": toys.measured(), "origin": origin, "networks": {"tanh": tanh}}


def verdicts(record, config=TINY):
    return {claim.id: claim.passed for claim in ma.claims(record, config)}


@pytest.mark.slow
def test_toys_and_origin_are_as_derived(record):
    passed = verdicts({part: record[part] for part in ("toys", "origin")})
    assert all(passed[name] for name, *_ in judged.PARTS["toys"])
    assert passed["origin-needs-both"]


@pytest.mark.slow
def test_the_record_has_the_shapes_it_says(record):
    tanh = record["networks"]["tanh"]
    assert tanh["sharpness"].shape == (2, 2, networks.CHECKS)
    assert tanh["top"].shape == (2, 2, len(networks.RADII))
    assert tanh["dropped"].shape == tanh["kept"].shape == (2, 2, 2 * networks.DROP_STEPS + 1)
    assert record["networks"]["tanh"]["top"].dtype == np.float64
    assert record["origin"]["relu"]["top"].shape == (3, 2, len(networks.TEACHER_RADII))
    np.testing.assert_allclose(tanh["dropped"][..., 0], tanh["kept"][..., 0], rtol=1e-12)  # both begin where training ended
    assert (tanh["swing"] > 0).all()
    # growth is the Hessian's at small distances, and the sharpest direction's most
    r = networks.RADII[5]
    np.testing.assert_allclose(2 * tanh["rise"][..., 5] / r**2, tanh["curvature"], rtol=0.05)


@pytest.mark.slow
def test_verdicts_fail_where_they_should(record):
    spoilt = copy.deepcopy({part: record[part] for part in ("toys", "origin")})
    spoilt["toys"]["cycles"]["log_cosh"]["settled"] = spoilt["toys"]["cycles"]["log_cosh"]["settled"] * 1.001
    spoilt["toys"]["staircase"]["plateau"] = spoilt["toys"]["staircase"]["plateau"] * 1.01
    spoilt["toys"]["two_scale"]["loss"] = spoilt["toys"]["two_scale"]["loss"] + 1.0
    spoilt["toys"]["powers"]["plateau"] = spoilt["toys"]["powers"]["plateau"] ** 1.02
    spoilt["toys"]["continuum"]["tanh"] = spoilt["toys"]["continuum"]["tanh"] ** 1.2
    spoilt["origin"]["tanh"]["top"] = np.full_like(spoilt["origin"]["tanh"]["top"], 2.0)
    passed = verdicts(spoilt)
    names = {name for part in ("toys", "origin") for name, *_ in judged.PARTS[part]} - {"cycle-loses-stability"}
    for name in names:
        assert passed[name] is False, name


def made_networks(**changes):
    """Networks as the paper has them, but for `changes` in the tanh ones."""
    shape, radii = (3, 2), networks.RADII
    ratio, rate = np.array([0.3, 1.0, 1.01])[:, None, None], np.array([0.1, 0.3, 0.6])
    curvature = (2 / rate)[:, None] * np.array([0.3, 1.02, 1.02])[:, None] * np.ones(2)
    falls = np.concatenate([np.linspace(1, 0.5, 20), np.full(2 * networks.DROP_STEPS - 19, 0.5)])
    tanh = {
        "rate": rate, "sharpness": np.ones((*shape, networks.CHECKS)) * ratio * (2 / rate)[:, None, None],
        "top": np.broadcast_to(2 - 0.4 * np.minimum(radii, 4), (*shape, len(radii))),
        "random": np.full((*shape, len(radii)), 2.0),
        "gradient": np.full((*shape, len(radii)), 2.0), "gradient_after": np.full((*shape, len(radii)), 2.5),
        "kept": np.ones((*shape, len(falls))), "curvature": curvature,
        "secant": (2 / rate)[:, None] * np.ones(2), "swing": np.full(shape, 0.02),
        "dropped": np.broadcast_to(falls, (*shape, len(falls))),
    }  # fmt: skip
    other = {"rate": np.array([1.0]), "sharpness": np.full((1, 2, networks.CHECKS), 0.01),
             "top": np.full((1, 2, len(radii)), 2.5)}  # fmt: skip
    return {"networks": {"tanh": tanh | changes, "relu": other, "cross_entropy": other}}


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
        ("net-one-dimensional-cycle", {"secant": np.full((3, 2), 50.0)}),
    ],
)
def test_each_network_verdict_can_be_either(claim, changes):
    assert verdicts(made_networks())[claim] is True
    assert verdicts(made_networks(**changes))[claim] is False
    assert verdicts({})[claim] is None


@pytest.mark.slow
def test_the_figure_has_a_row_for_each_part(record, tmp_path):
    figure = ma.plot(record | made_networks(), ma.SMALL)
    figure.savefig(tmp_path / "figure.png")
    assert len(figure.axes) == 12
    assert len(ma.plot({"origin": record["origin"]}, TINY).axes) == 3


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
