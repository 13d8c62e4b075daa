"""Threshold neurons: the sweep is the descent it stands for, and its verdicts can fail."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import landscape_jax as lj
from experiments import __main__ as cli
from experiments import _ahn2023_figures as figures
from experiments import _ahn2023_mean as mean
from experiments import _ahn2023_network as networks
from experiments import _ahn2023_neuron as neurons
from experiments import _ahn2023_verdicts as verdicts
from experiments import ahn2023_threshold_neurons as ahn
from landscape_jax.theory import sparse_coding

NAME = "ahn2023_threshold_neurons"
TINY = dataclasses.replace(
    ahn.SMALL,
    dim=30,
    n_train=40,
    ratios=(0.5, 0.7, 0.8, 1.15, 1.3, 1.6, 5.0, 19.0),
    num_seeds=2,
    n_test=200,
    records=8,
    scaling=((30, 3.0), (20, 3.0), (30, 1.0)),
    scaling_ratios=(0.4, 0.5, 0.7, 0.8, 1.15, 1.2, 1.3, 1.6),
    scaling_steps=100,
    scaling_seeds=2,
    theory=False,
    whole_rates=(),
)


@pytest.fixture(scope="module")
def record():
    return ahn.run(TINY, jax.random.key(103))


@pytest.fixture(scope="module")
def theory():
    return {"neuron": neurons.simulate(jax.random.key(103)), "mean": mean.simulate(200)}


# ── the sweep ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_runs_of_different_lengths_are_each_their_own_descent(record):
    """Against a plain loop over autodiff of the network as it is defined, with its dense Hessian."""
    keys = jax.random.split(jax.random.split(jax.random.key(103), 3)[1], 4)  # as `run` splits them
    draws, runs = ahn.drawn(TINY, keys[0], keys[1], keys[3])
    loss = lj.losses.mean(sparse_coding.apply, lj.losses.logistic)
    look = jax.jit(lambda p, b: (loss(p, b), jax.grad(loss)(p, b), jax.hessian(loss)(p, b)))
    seen = {name: np.asarray(record["network"][name]) for name in ("time", "loss", "sharpness", "bias")}
    for at, steps in (((0, 7), 19), ((1, 6), 72), ((1, 3), 311)):  # (draw, ratio)
        i = at[0] * len(TINY.ratios) + at[1]
        assert runs.num_steps[i] == steps
        params = jax.tree.map(lambda x, i=i: jnp.asarray(x[i]), runs.params)
        looked = np.rint(seen["time"][at] / runs.rate[i]).astype(int).tolist()
        assert looked[0] == 0
        for t in range(steps):
            value, grads, hessian = look(params, draws[at[0]])
            if t in looked:
                place = (*at, looked.index(t))
                dense = np.array([[hessian[a][b] for a in params] for b in params])
                np.testing.assert_allclose(seen["loss"][place], value, rtol=1e-3)
                np.testing.assert_allclose(seen["sharpness"][place], np.linalg.eigvalsh(dense)[-1], rtol=5e-3)
                np.testing.assert_allclose(seen["bias"][place], params["bias"], rtol=1e-2, atol=1e-5)
            params = lj.tree.axpy(-runs.rate[i], grads, params)
        np.testing.assert_allclose(record["network"]["final_bias"][at], params["bias"], rtol=1e-2)


@pytest.mark.parametrize("hands", [1, 2, 3, 8])
def test_runs_are_dealt_evenly(hands):
    steps = networks.steps_within(10, np.repeat(np.array(ahn.SMALL.ratios) * sparse_coding.critical_rate(200), 5))
    order = networks.dealt(steps, hands)
    parts = steps[order].reshape(hands, -1).sum(axis=1)
    assert set(order) == set(range(len(steps)))
    assert len(order) < len(steps) + hands
    assert parts.max() < 1.05 * steps.sum() / hands
    runs, times = np.unique(order, return_counts=True)
    assert (steps[runs[times > 1]] == steps.min()).all()  # only the cheapest is repeated


def test_tables_say_why_their_loss_is_not_taken_apart():
    with pytest.raises(ValueError, match="all examples in each piece"):
        lj.curvature.chunked(lj.curvature.hessian(networks.loss), 2)


# ── the theory parts ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("judge", [neurons.law, neurons.edge_deficit, neurons.flow, neurons.exponents, neurons.one_curve])
def test_orbits_agree_with_theory(judge, theory):
    assert judge(theory["neuron"])[1] is True


@pytest.mark.parametrize("judge", [mean.small_steps, mean.large_steps, mean.next_order])
def test_the_mean_model_agrees_with_theory(judge, theory):
    assert judge(theory["mean"])[1] is True


@pytest.mark.parametrize(
    ("judge", "part", "change"),
    [
        (neurons.law, "grid", {"error": np.array([2e-12])}),
        (neurons.edge_deficit, "smooth", {"end": 2 / neurons.RATES[:, None] * np.ones((2, 1, 3))}),
        (neurons.flow, "below", {"end": 0.5 * 2 / neurons.RATES + np.zeros((2, 1)) - 0.12}),
        (neurons.exponents, "family", {"end": 2 / neurons.RATES[:, None] - 0.1 * neurons.RATES[:, None] * np.ones((5, 1, 3))}),
        (neurons.one_curve, "plane", {"x": np.full((6, 40), 0.1), "y": np.linspace(7, 3, 40) * np.ones((6, 1))}),
    ],
)
def test_orbits_that_do_not_agree_are_told_apart(judge, part, change, theory):
    found = theory["neuron"]
    assert judge(found | {part: found[part] | change})[1] is False


def test_mean_models_that_do_not_agree_are_told_apart(theory):
    found = theory["mean"]
    assert mean.small_steps(found | {"bias": found["bias"] - 0.008})[1] is False
    assert mean.large_steps(found | {"bias": found["bias"] - 0.008})[1] is False
    assert mean.large_steps(found | {"a": found["a"] + 1e-3})[1] is False
    assert mean.next_order(found | {"edge": found["edge"] - 1e-3})[1] is False
    assert mean.next_order(found | {"bias": found["bias"] - 2e-4})[1] is False


# ── the verdicts ──────────────────────────────────────────────────────────────────────────────────────────────────────

RATIOS, SEEDS = np.array(ahn.SMALL.ratios), 4


def made(change=lambda record: None):
    """A record like the paper's, with a knee at 1.02 η_c, and changed."""
    bent = -np.maximum(RATIOS / 1.02 - 1, 0)
    drawn = 1 + 0.02 * np.arange(SEEDS)[:, None]
    bias = (-0.25 + bent) * drawn
    clock = np.linspace(0, 10, 100, endpoint=False)
    path = bias[..., None] * clock / 10
    bent = -np.maximum(np.array(ahn.SMALL.scaling_ratios) / 1.02 - 1, 0)
    record = {
        "network": {
            "final_bias": bias,
            "accuracy": 58.5 - 0.6 * bent.min() * (bias < -2) + 10.0 * (bias < -2),
            "bias": path,
            "time": np.broadcast_to(clock, path.shape),
            "mean_label": np.zeros(SEEDS),
        },
        "scaling": {"final_bias": -0.01 + np.tile(bent, (5, 3, 1))},
    }
    change(record)
    return {claim.id: claim for claim in ahn.claims(record, ahn.SMALL)}


def test_claims_hold_on_a_record_that_bears_them_out():
    held = {"fig1-knee", "fig1-large-step-learns", "below-critical-drifts", "knee-scaling", "knee-without-signal"}
    found = made()
    assert {name for name, claim in found.items() if claim.passed is True} == held
    assert all(claim.passed is None for name, claim in found.items() if name not in held)
    middle, low, high = found["fig1-knee"].measured["mean, 95 % interval"]
    assert middle == pytest.approx(1.02, abs=0.01)
    assert low <= middle <= high
    assert found["knee-scaling"].measured["knee ∝ d to the power"] == pytest.approx([-2.0] * 3)
    learns = found["fig1-large-step-learns"].measured
    assert learns["all three"] == "4 of 4"
    assert learns["standard error of an accuracy, points"] == pytest.approx(100 * (0.585 * 0.415 / 5000) ** 0.5)


def moved(record, factor):
    """The knee elsewhere."""
    record["network"]["final_bias"][:] = -0.25 - np.maximum(RATIOS / factor - 1, 0)


@pytest.mark.parametrize(
    ("claim", "change"),
    [
        ("fig1-knee", lambda r: moved(r, 0.8)),
        ("fig1-knee", lambda r: r["network"]["final_bias"][2, :4].__imul__([1, 1, 1, 1.1])),
        ("fig1-large-step-learns", lambda r: r["network"]["final_bias"][1, -1:].__imul__(0.05)),
        ("fig1-large-step-learns", lambda r: r["network"]["accuracy"][1].__iadd__(5)),
        ("fig1-large-step-learns", lambda r: r["network"]["accuracy"][1, -1:].__isub__(5)),
        ("below-critical-drifts", lambda r: r["network"]["bias"][:, :4].__isub__(0.2)),
        ("knee-scaling", lambda r: r["scaling"]["final_bias"][2, 1].__iadd__(0.05 * np.arange(12))),
        ("knee-without-signal", lambda r: r["scaling"]["final_bias"][3, :, 7:].__isub__(0.2)),
    ],
)
def test_claims_fail_on_a_record_that_does_not(claim, change):
    assert made(change)[claim].passed is False


def test_what_sets_draws_apart_is_told_where_there_are_enough():
    rng = np.random.default_rng(0)
    imbalance, bias = rng.uniform(0, 0.2, 25), rng.uniform(-2, -1.3, 25)
    told = verdicts._apart(60 - 5 * imbalance, 60 - 5 * imbalance - 6 * bias, bias, imbalance, 5000)
    assert told["correlation of accuracy(.5) and |mean label|"] == pytest.approx(-1)
    assert told["correlation of gain and b(19 η_c)"] == pytest.approx(-1)
    assert len(verdicts._apart(np.full(5, 58.0), np.full(5, 68.0), bias[:5], imbalance[:5], 5000)) == 1


def test_one_bad_draw_is_enough():
    def one(record):
        record["network"]["final_bias"][3] = -0.25 - np.maximum(RATIOS / 0.8 - 1, 0)

    assert made(one)["fig1-knee"].passed is False


def test_knees_are_where_the_line_meets_the_plateau():
    ratios = (0.5, 0.7, 1.0, 1.15, 1.3, 1.6)
    bias = -0.3 - 2 * np.maximum(np.array(ratios) - np.array([[1.1], [0.9]]), 0)
    np.testing.assert_allclose(verdicts.knees(ratios, bias), [1.1, 0.9])
    assert verdicts.knees((0.5, 0.7, 2.0), bias[:, :3]) is None


def test_intervals_are_student_s():
    middle, low, high = verdicts.interval(np.array([1.0, 2.0, 3.0]))
    assert (middle, high - middle, middle - low) == pytest.approx((2.0, *[4.302653 / 3**0.5] * 2))
    assert verdicts.interval(np.array([1.0])) is None


def test_steps_that_were_not_run_are_not_judged():
    config, whole, path = dataclasses.replace(ahn.SMALL, ratios=(0.5, 2.0)), np.zeros((2, 2)), np.zeros((2, 2, 3))
    network = {"final_bias": whole, "accuracy": whole, "bias": path, "time": path, "mean_label": np.zeros(2)}
    assert {c.passed for c in ahn.claims(lj.Record({"network": network}), config)} == {None}


# ── the whole ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_tiny_run_has_every_part(record):
    assert isinstance(record, lj.Record)
    network = record["network"]
    assert network["final_bias"].shape == network["accuracy"].shape == (2, 8)
    assert network["loss"].shape == network["sharpness"].shape == (2, 8, 8)
    assert (network["time"][:, :, 0] == 0).all()
    np.testing.assert_allclose(network["loss"][:, 1:, 0], network["loss"][:, :1, 0].repeat(7, axis=1))  # the same start
    assert (network["final_bias"][:, -1] < network["final_bias"][:, 0] - 0.2).all()
    assert record["scaling"]["final_bias"].shape == (3, 2, 8)


def test_a_tiny_run_is_judged_and_drawn(record, theory, tmp_path):
    whole = record | theory
    lj.record.write(tmp_path, whole, ahn.claims(whole, TINY), config=TINY.dim)
    for name, figure in ahn.plot(whole, dataclasses.replace(TINY, dim=200)).items():
        figure.savefig(tmp_path / f"{name}.png", dpi=60)
    drawn = {"figure", "knee", "scaling", "neuron", "mean"}
    assert {path.stem for path in tmp_path.glob("*.png")} == drawn
    _, read, claims = lj.record.read(tmp_path)
    assert len({claim["id"] for claim in claims}) == len(claims) == 13
    np.testing.assert_array_equal(read["network"]["final_bias"], record["network"]["final_bias"])


def test_the_same_again_for_the_same_key(record):
    again = ahn.three_parameters(TINY, jax.random.split(jax.random.key(103), 3)[1])  # as `run` splits it
    np.testing.assert_array_equal(again["network"]["final_bias"], record["network"]["final_bias"])
    np.testing.assert_array_equal(again["network"]["accuracy"], record["network"]["accuracy"])
    draws = record["network"]["final_bias"]
    assert np.abs(draws[0] - draws[1]).min() > 1e-4


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--dim", "0"], "dim=0 must be at least 1"),
        (["--ratios"], "ratios=() must ascend, from above 0; give at least one"),
        (["--ratios", "2", "1"], "ratios=(2.0, 1.0) must ascend"),
        (["--scaling-ratios", "0", "1"], "scaling_ratios=(0.0, 1.0) must ascend"),
        (["--time", "0.1"], "time=0.1 leaves the largest step 8 steps, fewer than records=100"),
        (["--scaling-steps", "150"], "scaling_steps=150 leaves the largest step 75 steps"),
        (["--whole-time", "10"], "whole_time=10.0 must be at least 6 steps"),
        (["--scaling-ratios"], "and scaling_ratios steps"),
        (["--num-sed", "3"], "num-sed"),
    ],
)
def test_wrong_configurations_are_answered(args, said, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(ahn, "run", lambda *_: pytest.fail("it ran"))
    assert cli.main([NAME, *args, "--out", str(tmp_path / "out")]) == 2
    assert said in " ".join(capfd.readouterr().err.replace("│", " ").split())


@pytest.mark.slow
def test_all_weights_of_a_two_layer_network(tmp_path):
    config = dataclasses.replace(TINY, whole_rates=(0.5, 8.0), whole_seeds=2)
    found = ahn.all_weights(config, jax.random.key(5))
    assert found["sharpness"].shape == (2, 2, verdicts.WHOLE_RECORDS)
    np.testing.assert_allclose(found["time"][:, :, 0], 0)
    assert (found["time"][..., -1] < 60).all()
    assert (found["min_bias"] <= found["mean_bias"]).all()
    figures.whole(found, config).savefig(tmp_path / "whole.png")


@pytest.mark.slow
def test_the_paper_s_claims_on_another_seed():
    config = dataclasses.replace(ahn.SMALL, num_seeds=2, scaling_seeds=1, whole_rates=())
    record = ahn.run(config, jax.random.key(104))
    found = {claim.id: claim for claim in ahn.claims(record, config)}
    learns = found.pop("fig1-large-step-learns").measured  # its 57 to 60 % for small steps do not hold for every draw
    assert {name: claim.passed for name, claim in found.items()} == dict.fromkeys(found, True)
    assert min(learns["gain, points"]) >= 8
    assert max(learns["b(19 η_c)"]) < -1.2
