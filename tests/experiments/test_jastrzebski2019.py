"""Claims from records made by hand, both verdicts; a tiny run end to end; the large presets at least have shapes."""

import contextlib
import copy
import dataclasses
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import landscape_jax as lj
from experiments import __main__ as cli
from experiments import _jastrzebski2019_claims as judged
from experiments import jastrzebski2019_sharpest_directions as experiment
from landscape_jax.theory import noisy_step

NAME = "jastrzebski2019_sharpest_directions"
CONFIG = experiment.Config(num_seeds=2, num_pairs=4, ablation=(), gammas=(0.01, 0.1, 1.0, 5.0))
ALPHAS = np.array(CONFIG.multiples)
CELLS = {(0.3, 32): 4.0, (0.1, 32): 7.0, (0.03, 32): 8.0, (0.1, 8): 3.5, (0.1, 128): 8.0, (0.1, 512): 9.0}
P = 8970


def rise_and_fall(peak, checks=25):
    return np.interp(np.arange(checks), [0, 8, checks - 1], [2.0, peak, 0.4 * peak])


def changes(late):
    """ΔL over 21 checks of 2 seeds, K = 5, that α* explains: second moments twice the squared mean, L = 1."""
    rng = np.random.default_rng(0)
    slope = rng.uniform(0.5, 1.0, (2, 21, 5))
    values = np.linspace(2, late, 21)[None, :, None] * np.ones((2, 21, 5))
    rate = 0.1
    first, second = -rate * slope, 2 * (rate * slope) ** 2
    change = 1e-2 * noisy_step.expected_change(ALPHAS, *(x[..., None] for x in (slope, first, second, values)))
    small = np.full((2, 21, len(ALPHAS)), -2e-5)
    return {
        "loss": np.ones((2, 21)),
        "eigenvalues": values,
        "slope": slope,
        "first": first,
        "second": second,
        "sharpest": change,
        "subspace": change.sum(axis=2),
        "random": small,
        "whole": change.sum(axis=2),
    }


def record():
    """Everything the paper says holds."""
    grid = {
        judged.cell(rate, size): {
            "step": np.tile(np.arange(25) * 40, (2, 1)),
            "eigenvalues": np.stack([rise_and_fall(peak * f) for f in (1.0, 1.05)])[..., None] * np.linspace(1, 0.5, 5),
        }
        for (rate, size), peak in CELLS.items()
    }
    chance = lj.observe.random_cosine(P)
    step = {
        name: {
            "step": np.tile(np.arange(21) * 80, (2, 1)),
            "accuracy": np.full((2, 21), 0.5),
            "alignment": {"cosines": np.full((2, 21, 5), 15 * chance), "energy": np.full((2, 21), 0.1)},
            "change": changes(12.0),
            "sections": {"loss": np.ones((2, 21, 5, 15)), "unit": np.ones((2, 21, 5))},
        }
        for name in ("rate0.1", "rate0.01")
    }
    gammas = np.array(CONFIG.gammas)[:, None, None]
    epochs, pairs = np.arange(51), 1 + 0.01 * np.arange(4)[None, :, None]
    top = np.array([9.0, 6.0, 3.3, 2.0])[:, None, None] * pairs * np.minimum(1, 0.2 + epochs / 20)
    nudged = {
        "step": np.tile(epochs * 32, (4, 4, 1)),
        "eigenvalues": top[..., None] * np.ones(5),
        "frobenius": 2.5 * top**0.9,
        "loss": 2.3 * np.exp(-epochs / 20) * (1 + 0.02 * np.log10(gammas / 0.01)) * pairs,
        "test": np.broadcast_to(0.9 + 0.001 * pairs, top.shape) * np.minimum(1, 0.5 + epochs / 20),
        "distance": 0.2 * epochs * pairs * np.ones_like(gammas),
    }
    nudged = lj.Record(nudged, {"gamma": CONFIG.gammas, "pair": None})
    tracked = copy.deepcopy(nudged.isel(gamma=[0]))
    return {"p": np.array(P), "grid": grid, "step": step, "nudged": {"k5": nudged, "tracked": tracked}}


def verdicts(made, config=CONFIG):
    return {claim.id: claim.verdict for claim in experiment.claims(made, config)}


HELD = (
    "lambda1-rise-and-fall",
    "peak-falls-with-lr",
    "peak-falls-with-small-batch",
    "step-overshoots-e1",
    "step-criterion-sign",
    "gradient-aligned-with-sharp",
    "nsgd-controls-sharpness",
    "nsgd-ends-much-sharper",
    "nsgd-followed-ends-much-sharper",
)


def test_a_record_as_the_paper_has_it():
    found = verdicts(record())
    assert {found[name] for name in HELD} == {"reproduced"}
    assert found["nsgd-generalises-better"] == "not reproduced"  # no difference was put in
    assert found["nsgd-trains-faster"] == "reproduced"  # 4 % was


def spoilt(change):
    made = copy.deepcopy(record())
    change(made)
    return made


def without_a_rise(made):
    made["grid"]["rate0.1-batch8"]["eigenvalues"][1] = 3.0


def diverged(made):
    made["grid"]["rate0.1-batch8"]["eigenvalues"][0, 5:] = np.nan


def alike_in_rate(made):
    made["grid"]["rate0.3-batch32"]["eigenvalues"][1] *= 1.6


def alike_in_size(made):
    made["grid"]["rate0.1-batch8"]["eigenvalues"][0] *= 1.7


def never_up(made):
    made["step"]["rate0.1"]["change"] = changes(4.0)


def up_from_the_start(made):
    made["step"]["rate0.1"]["change"]["sharpest"][0, 0, 0] *= -1


def noise_along_random(made):
    made["step"]["rate0.1"]["change"]["random"][1, 3, 2] = 2e-4


def signs_at_random(made):
    made["step"]["rate0.1"]["change"]["sharpest"] *= -1


def unaligned(made):
    made["step"]["rate0.01"]["alignment"]["cosines"][1] *= 0.6


def norms_out_of_order(made):
    made["nudged"]["k5"]["frobenius"][1] *= 0.5


def too_alike(made):
    made["nudged"]["k5"]["eigenvalues"][3, 2] *= 2


def norms_too_alike(made):
    made["nudged"]["k5"]["frobenius"][3, 2] *= 2


def no_slower_above(made):
    made["nudged"]["k5"]["loss"][3] = made["nudged"]["k5"]["loss"][2]


def worse_below(made):
    made["nudged"]["k5"]["test"] = made["nudged"]["k5"]["test"].copy()
    made["nudged"]["k5"]["test"][0] -= 0.016


def one_no_sharper(made):
    made["nudged"]["k5"]["eigenvalues"][0, 1] *= 0.8


def no_sharper_when_followed(made):
    made["nudged"]["tracked"]["eigenvalues"][0, 3] *= 0.8


def as_fast(made):
    made["nudged"]["k5"]["loss"][:] = made["nudged"]["k5"]["loss"][:1]


@pytest.mark.parametrize(
    ("change", "fails"),
    [
        (without_a_rise, "lambda1-rise-and-fall"),
        (diverged, "lambda1-rise-and-fall"),
        (alike_in_rate, "peak-falls-with-lr"),
        (alike_in_size, "peak-falls-with-small-batch"),
        (never_up, "step-overshoots-e1"),
        (up_from_the_start, "step-overshoots-e1"),
        (noise_along_random, "step-overshoots-e1"),
        (signs_at_random, "step-criterion-sign"),
        (unaligned, "gradient-aligned-with-sharp"),
        (norms_out_of_order, "nsgd-controls-sharpness"),
        (too_alike, "nsgd-controls-sharpness"),
        (norms_too_alike, "nsgd-controls-sharpness"),
        (no_slower_above, "nsgd-controls-sharpness"),
        (worse_below, "nsgd-controls-sharpness"),
        (one_no_sharper, "nsgd-ends-much-sharper"),
        (no_sharper_when_followed, "nsgd-followed-ends-much-sharper"),
        (as_fast, "nsgd-trains-faster"),
    ],
    ids=lambda x: getattr(x, "__name__", None),
)
def test_each_claim_can_fail(change, fails):
    assert verdicts(record())[fails] == "reproduced"
    assert verdicts(spoilt(change))[fails] == "not reproduced"


def test_better_generalisation_would_be_seen_and_worse_is_not_taken_for_it():
    def gain(made, gamma, points):
        made["nudged"]["k5"]["test"] = made["nudged"]["k5"]["test"].copy()
        made["nudged"]["k5"]["test"][gamma] += points * np.array([0.9, 1.0, 1.1, 1.2])[:, None]

    assert verdicts(spoilt(lambda made: gain(made, 0, 0.01)))["nsgd-generalises-better"] == "reproduced"
    assert verdicts(spoilt(lambda made: gain(made, 0, -0.01)))["nsgd-generalises-better"] == "not reproduced"


def test_parts_that_were_not_run_are_not_tested():
    assert set(verdicts({"p": np.array(P)}).values()) == {"not tested"}
    two = record()
    two["nudged"] = {"k5": two["nudged"]["k5"].isel(pair=slice(2))}
    found = verdicts(two)
    assert found["nsgd-generalises-better"] == found["nsgd-trains-faster"] == "not tested"  # no interval from two
    assert found["nsgd-controls-sharpness"] == "reproduced"
    assert found["nsgd-followed-ends-much-sharper"] == "not tested"


def test_with_gammas_up_to_one_what_is_there_is_judged():
    """No flatter end is told of, the sharper one is."""
    config = dataclasses.replace(CONFIG, gammas=(0.01, 1.0))
    two = record()
    two["nudged"]["k5"] = two["nudged"]["k5"].sel(gamma=config.gammas)
    found = verdicts(two, config)
    assert found["nsgd-controls-sharpness"] == "not tested"
    assert found["nsgd-ends-much-sharper"] == "reproduced"
    one_no_sharper(two)
    assert verdicts(two, config)["nsgd-ends-much-sharper"] == "not reproduced"


def test_interval_is_students():
    """Against SciPy's quantiles, which the experiment does not need."""
    from scipy import stats

    for n in (4, 5, 12, 40):
        x = np.random.default_rng(n).standard_normal(n)
        low, high = stats.t.interval(0.95, n - 1, loc=x.mean(), scale=stats.sem(x))
        np.testing.assert_allclose(judged.paired(x)["95 % interval"], (low, high), rtol=0, atol=0.01 * (high - low))


def test_best_epoch_is_chosen_by_validation_where_there_is_one():
    test, validation = np.array([[[0.5, 0.9, 0.7]]]), np.array([[[0.1, 0.2, np.nan]]])
    assert judged.best({"test": test}).tolist() == [[0.9]]
    assert judged.best({"test": test, "validation": validation[..., [1, 0, 2]]}).tolist() == [[0.5]]


TINY = dataclasses.replace(
    CONFIG,
    n_train=64,
    n_test=40,
    n_curvature=32,
    widths=(6,),
    k=2,
    num_seeds=1,
    num_pairs=1,
    grid=((0.1, 8, 12, 4),),
    growth=4.0,
    step_runs=((0.1, 6, 4),),
    num_draws=2,
    multiples=(1.0, 2.0),
    gammas=(0.1, 1.0),
    nudged_batch=16,
    nudged_epochs=2,
    early=(1, 2),
    num_probes=2,
)


def test_a_tiny_run_from_end_to_end():
    made = experiment.run(TINY, jax.random.key(0))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(made))
    assert made["grid"]["rate0.1-batch8"]["eigenvalues"].shape == (1, 4, 2)
    first, *_, last = np.diff(made["grid"]["rate0.1-batch8"]["step"][0])
    assert first < last
    assert made["grid"]["rate0.1-batch8"]["step"][0, [0, -1]].tolist() == [0, 12]
    assert made["step"]["rate0.1"]["step"].tolist() == [[0, 2, 4, 6]]
    assert made["step"]["rate0.1"]["change"]["sharpest"].shape == (1, 4, 2, 2)
    nudged = made["nudged"]["k2"]
    assert nudged["eigenvalues"].shape == (2, 1, 3, 2)
    assert nudged["step"][0, 0].tolist() == [0, 4, 8]
    np.testing.assert_array_equal(nudged["loss"][0, :, 0], nudged["loss"][1, :, 0])  # pairs begin alike
    assert np.all(nudged["loss"][0, :, -1] != nudged["loss"][1, :, -1])
    assert {claim.passed for claim in experiment.claims(made, TINY)} <= {True, False, None}
    assert made["nudged"]["tracked"]["eigenvalues"].shape == (1, 1, 3, 2)
    np.testing.assert_allclose(made["nudged"]["tracked"]["eigenvalues"][0, :, 0], nudged["eigenvalues"][0, :, 0], rtol=1e-2)
    assert len(experiment.plot(made, TINY).axes) == 21


def test_labels_are_drawn_anew_from_all_classes():
    """A share q(1 − 1/c) is then wrong, within chance, and wrong ones are uniform."""
    y = jax.nn.one_hot(jnp.zeros(20_000, jnp.int32), 10)
    drawn = experiment.drawn_anew(jax.random.key(0), y, 0.3)
    np.testing.assert_array_equal(drawn.sum(axis=1), 1)
    np.testing.assert_allclose(drawn.mean(axis=0), [0.73, *[0.03] * 9], atol=0.01)
    np.testing.assert_array_equal(experiment.drawn_anew(jax.random.key(0), y, 0.0), y)


def test_ctrl_c_keeps_the_programs_that_are_done(monkeypatch):
    """It comes while the third of eight runs."""
    made, released = [], threading.Event()

    @contextlib.contextmanager
    def noted():
        yield lambda: len(made) >= 3

    def run(axes):
        made.append(0)
        if len(made) == 3:
            released.wait(20)
        return lj.Record({"step": np.zeros((1, 1, 1))}, axes)

    monkeypatch.setattr("experiments._parts.defer_interrupts", noted)
    monkeypatch.setattr(experiment, "_program", lambda _config, _given, _run, _num, _key, axes, *_: lambda: lambda: run(axes))
    config = dataclasses.replace(TINY, parts=("grid",), grid=tuple((0.1, size, 8, 4) for size in range(1, 9)))
    with pytest.raises(lj.Interrupted, match="stopped by Ctrl-C with 2 of 8 parts finished") as stop:
        experiment.run(config, jax.random.key(0))
    released.set()
    assert list(stop.value.record["grid"]) == ["rate0.1-batch1", "rate0.1-batch2"]


@pytest.mark.parametrize("name", ["CIFAR", "PAPER", pytest.param("PAPER_RESNET", marks=pytest.mark.slow)])
def test_large_presets_have_shapes(name):
    """Network, nudged step and every observable, without arithmetic."""
    preset = getattr(experiment, name)
    model, n = experiment.network(preset), 4
    loss = lj.losses.mean(model.apply, lj.losses.cross_entropy)
    train = jax.ShapeDtypeStruct((n, 32, 32, 3), jnp.float32), jax.ShapeDtypeStruct((n, 10), jnp.float32)

    def checked(key, train):
        hessian, changes = lj.curvature.hessian(loss), (lj.data.shifted, lj.data.flipped)
        batches = lj.data.augmented(lj.data.independent(train, preset.nudged_batch), *changes)
        given = experiment.Problem(train, {"test": train}, train, model, loss, hessian, lambda train, size: batches)
        sgd = experiment._sgd(given, preset.nudged_rate, preset.nudged_batch)
        rule = lj.dynamics.nudged(sgd, hessian, 0.1, preset.k, refresh=preset.epoch, batch=train)
        drawn = lj.observe.redrawn(loss, batches, preset.num_draws, 0.1)
        seen = dict(multiples=preset.multiples, steps=drawn, batch=train)
        watch = {"change": lj.observe.step_effect(loss, hessian, preset.k, **seen)}
        params = model.init(key, train[0])
        return params, lj.advance(lj.start(key, params, rule, watch), rule, watch, num_steps=2)[1]

    params, made = jax.eval_shape(checked, jax.random.key(0), train)
    size = lj.tree.size(params)
    assert size == {"simple_cnn": 361_898 if preset.widths[0] == 32 else 23_090, "resnet32": 465_674}[preset.model]
    assert made["change"]["sharpest"].shape == (2, preset.k, len(preset.multiples))


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--n-train", "0"], "n_train=0 must be at least 1"),
        (["--n-curvature", "2000"], "n_curvature=2000 must be at most n_train=1024"),
        (["--model", "resnet32"], "widths=(64, 64) has 2 numbers, but resnet32 takes 1"),
        (["--data", "cifar10"], "model=mlp does not fit data=cifar10"),
        (["--gammas", "0.01", "5"], "gammas=(0.01, 5.0) must be ascending"),
        (["--multiples", "1", "4"], "must hold 1 and 2"),
        (["--grid", "0.1", "32", "4", "5"], "checks 3 at least, steps as many"),
        (["--grid", "0.1", "32", "40", "5", "0.1", "32", "80", "5"], "may stand there once"),
        (["--growth", "0"], "growth=0.0 must be positive"),
        (["--early", "3", "60"], "early=(3, 60) must lie between"),
        (["--refresh", "0"], "refresh at least 1"),
        (["--label-noise", "2"], "label_noise=2.0 must lie in [0, 1]"),
        (["--augment"], "augment=True needs images"),
        (["--n-train", "1500"], "n_train=1500 and n_test=360"),
        (["--num-probes", "1"], "num_probes must be at least 2"),
    ],
)
def test_bad_settings_are_answered_before_anything_runs(args, said, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(lj, "run", lambda *_, **__: pytest.fail("it ran"))
    assert cli.main([NAME, *args, "--out", str(tmp_path)]) == 2
    assert said in " ".join(capfd.readouterr().err.replace("│", " ").split())
