"""Claims from records made by hand, both verdicts; their figures, when asked for; settings that are refused."""

import copy
import io

import numpy as np
import pytest

import landscape_jax as lj
from experiments import __main__ as cli
from experiments import _fort2019_goldilocks as goldilocks
from experiments import _fort2019_model as random_model
from experiments import fort2019_local_geometry as experiment
from landscape_jax.theory import logits

NAME = "fort2019_local_geometry"
CONFIG = experiment.SMALL
LOOKS = 6


def spectrum(place, ratio=3.0, size=20):
    """Descending, with its widest gap after `place`."""
    return np.concatenate([np.linspace(3.0, 2.0, place) * ratio, np.linspace(2.0, 1.0, size - place)])


def model():
    repeats = np.ones((3, 1))
    outliers = {
        name: {f"{c}": repeats * spectrum(c + more, size=c + random_model.BEYOND) for c in random_model.CLASSES}
        for name, more in (("equal", -1), ("unequal", -1), ("square", 0))
    }
    outliers["residual"] = {f"{c}": np.full((3, 3), 1e-3) for c in random_model.CLASSES}
    outliers["rank"] = {f"{c}": np.full(3, c - 1) for c in random_model.CLASSES}
    sigma = (np.array(random_model.FACTORS) * logits.threshold(10, 400, 1600)) ** 0.5
    position, overlap = (f(sigma, 1.0, 10, 400, 1600) for f in (logits.outlier, logits.overlap))
    at = np.array(random_model.FROZEN_AT)
    frozen = np.broadcast_to(np.maximum(0.01, 1.05 - 1 / at)[None, :, None], (3, len(at), 2)).copy()
    sizes = np.array(random_model.SIGMA_Z)
    return {
        "outliers": outliers,
        "transition": {
            "position": np.stack([position] * 2, axis=1),
            "overlap": np.stack([overlap] * 2, axis=1),
            "predicted_position": position,
            "predicted_overlap": overlap,
            "largest": np.stack([position] * 2, axis=1),
            "edge": np.array(logits.bulk_edge(1.0, 10, 400, 1600)),
            "residual": np.full((len(sigma), 2), 1e-3),
        },
        "freezing": {"participation": frozen},
        "confinement": {name: np.array([0.8, 0.5, 0.2, 0.1, 0.05, 0.02])[:, None] for name in ("energy", "one_less")},
        "transient": {"fixed": 1 / (1 + sizes**2 / 9) ** 0.45, "margin": 1 / (1 + sizes), "freedom": 1 / (1 + sizes)},
        "example": {"values": spectrum(9, size=30), "same_class": 0.5, "same_logit": 0.5, "other_logit": 0.0, "length": 1.0},
    }


def network():
    top = np.array([2.0, 2.5, 4.0, 3.0, 1.5, 0.5])
    length, one = np.geomspace(1, 30, LOOKS), np.ones(LOOKS)
    return {
        "p": np.array(1482),
        "step": np.arange(LOOKS) * 100,
        "norm": np.linspace(7, 12, LOOKS),
        "hessian": {"eigenvalues": top[:, None] * np.linspace(1, 0.1, 20), "cosines": np.full((LOOKS, 20), 0.2)},
        "clusters": {"same_class": 0.5 * one, "same_logit": 0.3 * one, "other_logit": 0.01 * one, "length": length},
        "ggn": top[:, None] * np.linspace(1, 0.1, 20),
        "ratio": {"value": 4 * one, "error": 0.1 * one},
        **{
            name: {"nodes": np.tile(np.linspace(3, -1, 8), (LOOKS, 2, 1)), "weights": np.full((LOOKS, 2, 8), 1 / 8)}
            for name in ("density", "h_term")
        },
        "softmax": {"variance": np.geomspace(0.5, 50, LOOKS), "freedom": top / length / 5},
        "spectra": {
            "look": np.array([0, 2, 5]),
            **{name: np.stack([spectrum(10, size=40)] * 3) for name in ("hessian", "ggn", "h_term")},
        },
    }


def condition(place, shares, rates=3):
    """[noise, η, look]; `shares` of the gradient's energy in the top ten, one an η."""
    shape = (2, rates, LOOKS)
    cosines = np.zeros((*shape, 20))
    cosines[..., :10] = np.sqrt(np.array(shares) / 10)[None, :, None, None]
    return {
        "step": np.broadcast_to(np.arange(LOOKS) * 100, shape),
        "hessian": {"eigenvalues": np.broadcast_to(spectrum(place) / 3, (*shape, 20)).copy(), "cosines": cosines},
        "train": {"loss": np.ones(shape), "accuracy": np.ones(shape)},
        "test": {"loss": np.ones(shape), "accuracy": np.broadcast_to(np.linspace(0.1, 1, LOOKS), shape).copy()},
    }


def zone():
    radii = np.array(CONFIG.radii)
    ratio = 4.9 * np.exp(-(np.log(radii / 1.4) ** 2) / 1.2)
    plane = np.stack([logits.plane_ratio(ratio, d, 1482) for d in CONFIG.plane_dims])
    positive = np.stack([logits.positive_fraction(ratio, d) for d in CONFIG.plane_dims])
    return {
        "whole": ratio,
        "weights": ratio,
        "plane": plane,
        "predicted": plane.copy(),
        "positive": positive,
        "predicted_positive": positive.copy(),
    }


def accuracies():
    """Planes fail outside, spheres on both sides; [radius, dimension, draw]."""
    radii, full = np.array(CONFIG.map_radii), np.array([0.3, 0.5, 0.8, 0.95, 1.0])
    outside = np.where(radii > 2, 0.6, 1.0)
    inside = np.where(radii < 0.7, 0.2, 1.0)
    each = [(shape[:, None] * full[None])[..., None] * np.ones(2) for shape in (outside, outside * inside)]
    return {name: {"accuracy": a, "loss": 1 - a} for name, a in zip(("plane", "sphere"), each, strict=True)}


def record():
    """Everything that is said holds, but for exactly C outliers (the narrow network has C − 1) and confinement at every η."""
    return copy.deepcopy(
        {
            "model": model(),
            "network": network(),
            "conditions": {"cross_entropy": condition(9, (0.2, 0.4, 0.7)), "square": condition(9, (0.2, 0.4, 0.7))},
            "wide": {"cross_entropy": condition(9, (0.8, 0.8), rates=2), "square": condition(10, (0.8, 0.8), rates=2)},
            "zone": {"relu": zone(), "tanh": zone()},
            "maps": {"relu": accuracies(), "tanh": accuracies(), "p": np.array(1482)},
        }
    )


def rising(made):
    made["wide"]["cross_entropy"]["hessian"]["cosines"][:, :, 0] *= 0.5
    return made


def verdicts(made):
    return {claim.id: claim.verdict for claim in experiment.claims(lj.Record(made), CONFIG)}


def test_a_record_as_it_should_be():
    found = verdicts(rising(record()))
    failing = {name for name, verdict in found.items() if verdict != "reproduced"}
    assert failing == {"net-exactly-c-outliers", "net-gradient-mostly-confined"}
    everywhere = rising(record())
    everywhere["conditions"] = {name: condition(10, (0.55, 0.6, 0.7)) for name in ("cross_entropy", "square")}
    found = verdicts(everywhere)
    assert found["net-exactly-c-outliers"] == found["net-gradient-mostly-confined"] == "reproduced"
    assert found["net-confinement-follows-the-step"] == "not reproduced"


def change(*path, to):
    """A record with one entry multiplied, or replaced by what a function makes of it."""

    def go(made):
        *outer, last = path
        for name in outer:
            made = made[name]
        made[last] = to(made[last]) if callable(to) else made[last] * to

    return go


def at(index, value):
    def go(x):
        x = np.array(x)
        x[index] = value
        return x

    return go


@pytest.mark.parametrize(
    ("spoil", "fails"),
    [
        (change("model", "outliers", "unequal", "10", to=at(1, spectrum(10, size=15))), "model-outliers-c-minus-1"),
        (change("model", "outliers", "rank", "5", to=at(2, 5)), "model-outliers-c-minus-1"),
        (change("model", "outliers", "square", "3", to=at(0, spectrum(2, size=8))), "model-square-loss-c"),
        (change("model", "transition", "position", to=1.015), "model-bbp"),
        (change("model", "transition", "overlap", to=lambda x: x + 0.04), "model-bbp"),
        (change("model", "freezing", "participation", to=at((2, 5, 1), 0.7)), "model-rem-freezing"),
        (change("model", "freezing", "participation", to=at((2, 1, 0), 0.06)), "model-rem-freezing"),
        (change("model", "confinement", "energy", to=0.8), "model-gradient-confinement"),
        (change("model", "transient", "fixed", to=lambda x: np.ones_like(x)), "model-transient"),
        (change("network", "hessian", "eigenvalues", to=at(slice(4, 6), 3.0)), "net-transient"),
        (change("network", "softmax", "freedom", to=at(5, 1.0)), "net-transient-law"),
        (change("network", "clusters", "same_logit", to=0.4), "net-clustering"),
        (change("network", "clusters", "other_logit", to=-6), "net-clustering"),
        (change("network", "softmax", "variance", to=at(0, 20.0)), "net-logit-growth"),
        (change("wide", "square", "hessian", "eigenvalues", to=at((1, 0, 3), spectrum(9))), "net-c-with-square-loss"),
        (change("wide", "cross_entropy", "hessian", "eigenvalues", to=at(1, spectrum(10))), "net-c-minus-1-with-noise"),
        (change("wide", "cross_entropy", "hessian", "eigenvalues", to=at(1, spectrum(8))), "net-c-minus-1-with-noise"),
        (change("conditions", "square", "hessian", "cosines", to=at((0, 1, -1, 0), 0.9)), "net-confinement-follows-the-step"),
        (change("conditions", "square", "hessian", "cosines", to=lambda x: x[:, ::-1]), "net-confinement-follows-the-step"),
        (change("wide", "cross_entropy", "hessian", "cosines", to=0.9), "net-gradient-confinement"),
        (change("wide", "cross_entropy", "hessian", "cosines", to=at((1, 0, 0, 0), 1.0)), "net-gradient-confinement-grows"),
        (change("model", "transition", "largest", to=1.03), "model-bbp"),
        (change("model", "transition", "residual", to=20), "model-bbp"),
        (change("model", "outliers", "residual", "10", to=20), "model-outliers-c-minus-1"),
        (change("maps", "relu", "plane", "accuracy", to=at((1, 2), 0.69)), "intrinsic-dimension-depends-on-init"),
        (change("zone", "relu", "weights", to=0.8), "goldilocks-window"),
        (change("zone", "relu", "weights", to=lambda x: x[::-1]), "goldilocks-window"),
        (change("zone", "tanh", "weights", to=-1), "goldilocks-window-tanh"),
        (change("zone", "relu", "plane", to=1.13), "hyperplane-r-formula"),
        (change("zone", "relu", "positive", to=lambda x: x - 0.07), "hyperplane-r-formula"),
        (change("maps", "relu", "plane", "accuracy", to=at(0, 0.5)), "plane-one-sided"),
        (change("maps", "relu", "plane", "accuracy", to=at(slice(None), 0.8)), "plane-one-sided"),
        (change("maps", "relu", "sphere", "accuracy", to=at(0, 0.8)), "sphere-two-sided"),
        (change("maps", "relu", "plane", "accuracy", to=at((5, 3), 0.75)), "intrinsic-dimension-depends-on-init"),
    ],
)
def test_each_claim_can_fail(spoil, fails):
    assert verdicts(rising(record()))[fails] == "reproduced"
    made = rising(record())
    spoil(made)
    assert verdicts(made)[fails] == "not reproduced"


def test_parts_that_were_not_run_are_not_tested():
    assert set(verdicts({}).values()) == {"not tested"}


def test_needed_dimension_is_read_between_those_that_were_run():
    dims = np.array([10.0, 100.0, 1000.0])
    accuracy = np.array([[0.1, 0.5, 1.0], [0.95, 0.9, 1.0], [0.1, 0.9, 1.0], [0.1, 0.2, 0.4]])
    np.testing.assert_allclose(goldilocks.needed(accuracy, dims), [100 * 10**0.8, 10, 100, np.nan])


@pytest.mark.slow
def test_figures_of_a_record():
    untrained = record()
    for part in untrained["maps"].values():
        if isinstance(part, dict):
            part["sphere"]["accuracy"] *= 0.1
            part["plane"]["accuracy"] *= 0.1
    for made in (record(), untrained):
        for figure in experiment.plot(lj.Record(made), CONFIG).values():
            figure.savefig(io.BytesIO(), dpi=40)
    drawn = experiment.plot(lj.Record(record()), CONFIG)
    assert set(drawn) == {"figure", "parts", "conditions", "conditions-wide", "goldilocks"}
    assert len(drawn["figure"].axes) == 10
    large = record()
    del large["network"]["spectra"]  # too many parameters to write H down: densities instead
    drawn = experiment.plot(lj.Record(large), CONFIG)
    assert all(axis.lines for name in ("figure", "parts") for axis in drawn[name].axes if axis.get_xlabel() == "eigenvalue")
    assert "goldilocks" not in experiment.plot(lj.Record({"model": model()}), CONFIG)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--n-train", "1500"], "n_train=1500 and n_test=500 must sum to at most 1797"),
        (["--n-zone", "1001"], "n_zone=1001 must lie between 2 and n_train=1000"),
        (["--k", "10"], "k=10 must be at least 15"),
        (["--model-repeats", "1"], "model_repeats=1 must be at least 2"),
        (["--noises", "0.1", "0.3"], "must begin with 0"),
        (["--rates", "0.1", "0.01"], "rates=(0.1, 0.01) must be positive and ascend"),
        (["--radii", "0.1", "1.4"], "radii=(0.1, 1.4) must hold (0.1, 1.4, 30)"),
        (["--map-dims", "10", "100"], "map_dims=(10, 100) must hold (100, 300)"),
        (["--segments", "0", "5"], "must hold pairs (looks, steps between them) from 1 on"),
        (["--batch-size", "2000"], "batches between 1 and n_train"),
        (["--plane-draws", "19"], "plane_draws=19 must be at least 20"),
        (["--widths", "3"], "map_dims=(10, 30, 100, 300) must lie below p=235"),
    ],
)
def test_bad_settings_are_answered_before_anything_runs(args, said, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(experiment, "run", lambda *_, **__: pytest.fail("it ran"))
    assert cli.main([NAME, *args, "--out", str(tmp_path)]) == 2
    assert said in " ".join(capfd.readouterr().err.replace("│", " ").split())
