"""The phase diagram of early training: its verdicts, and what its figures average, on records made by hand."""

import dataclasses

import numpy as np
import pytest

from experiments import _kalra2023_figures as figures
from experiments import kalra2023_phase_diagram as kalra

# ── the verdicts ──────────────────────────────────────────────────────────────────────────────────────────────────────


def made(change=lambda boundaries: None, zero=2.1, **fields):
    """A record of phases as the paper has them, changed."""
    config = dataclasses.replace(kalra.SMALL, saturation_at=(), regimes_c=(), uv_widths=(), **fields)
    boundaries = np.empty((3, 3, 12, 4))
    for i, d in enumerate(config.depths):
        for j, w in enumerate(config.widths):
            boundaries[i, j] = np.array([2, 2.5, 3, 6]) * (1 + 30 * d**0.5 / w) * np.linspace(0.97, 1.03, 12)[:, None]
    boundaries[0, 2, :, 0] = 2.3
    change(boundaries)
    record = {"phases": {"boundaries": boundaries}, "zero": {"boundaries": np.full((3, 3, 12, 4), zero)}}
    return {claim.id: claim for claim in kalra.claims(record, config)}


def test_claims_hold_on_a_record_that_bears_them_out():
    verdicts = {name: claim.passed for name, claim in made().items()}
    held = (
        "phase-order",
        "barrier-last",
        "closs-scales-depth-width",
        "csharp-scales-depth-width",
        "closs-shallow-wide",
        "zero-init-closs-two",
    )
    assert all(verdicts.pop(name) is True for name in held)
    assert set(verdicts.values()) == {None}  # the parts that were left out


@pytest.mark.parametrize(
    ("claim", "change"),
    [
        ("phase-order", lambda b: b[:2, :, :, 1].__imul__(0.1)),
        ("barrier-last", lambda b: b[..., 2].__imul__(0.5)),
        ("closs-scales-depth-width", lambda b: b[1, 1, :, 0].__imul__(3.0)),
        ("csharp-scales-depth-width", lambda b: b[1, 1, :, 1].__imul__(3.0)),
        ("closs-shallow-wide", lambda b: b[0, 2, :, 0].__iadd__(0.4)),
    ],
)
def test_claims_fail_on_a_record_that_does_not(claim, change):
    assert made(change)[claim].passed is False


def test_zero_outputs_off_two_fail():
    assert made(zero=2.4)["zero-init-closs-two"].passed is False
    assert made(zero=np.nan)["zero-init-closs-two"].passed is False


def printed(factor):
    """The authors' numbers times a factor, at their own scale."""

    def change(boundaries):
        boundaries[2, 2, :, [0, 1, 3]] = factor * np.array(kalra.verdicts.PRINTED[256][1:])[:, None]

    return made(change, data="cifar10", n_train=50_000, batch_size=512)["cifar-table"]


def test_the_printed_table_is_held_to_two_grid_steps():
    assert printed(1.1).passed is True
    assert printed(1.2).passed is False
    assert made()["cifar-table"].passed is None  # not at their scale


def test_a_sharpness_catapult_without_one_of_the_loss_is_out_of_order():
    def silent(boundaries):
        boundaries[2, 0, :5, 0] = np.nan

    told = made(silent)["phase-order"]
    assert told.passed is False
    assert told.measured["in order"] == "67 of 72"
    assert told.measured["c_sharp without c_loss"] == 5


def test_barriers_by_convention_are_counted():
    def last(boundaries):
        boundaries[1, 1, :3, 2] = boundaries[1, 1, :3, 3]

    assert made(last)["barrier-last"].measured["c_barrier = c_max"] == 3


@pytest.mark.parametrize(("claim", "event"), [("closs-scales-depth-width", 0), ("csharp-scales-depth-width", 1)])
def test_a_network_that_never_shows_it_leaves_a_trend_open_unless_the_others_break_it(claim, event):
    def never(boundaries):
        boundaries[2, 0, :, event] = np.nan

    def broken(boundaries):
        never(boundaries)
        boundaries[0, 1, :, event] *= 3

    told = made(never)[claim]
    assert told.passed is None
    assert "1 of 9 networks" in told.measured["not tested"]
    assert made(broken)[claim].passed is False
    assert made(num_inits=7, num_sharp=7)[claim].passed is None


def test_undefined_initialisations_are_counted_and_not_dropped():
    def never(boundaries):
        boundaries[2, 0, :5, :2] = np.nan
        boundaries[0, :, :, 2:] = np.nan

    told = made(never)["phase-order"].measured
    assert told["inits without"]["c_loss"]["d=8"] == [5, 0, 0]
    assert told["inits without"]["c_max"]["d=2"] == [12, 12, 12]
    assert told["in order"] == "67 of 67"  # 72 with sharpness, 5 that raise neither


def plateau(ratio, at=((2, 256), (8, 64))):
    config = dataclasses.replace(
        kalra.SMALL, saturation_at=at, regimes_c=(), uv_widths=(), widths=(256,), depths=(2,), zero_depths=()
    )
    record = {"phases": {"boundaries": np.full((1, 1, 12, 4), 3.0)}, "saturation": {"ratio": np.stack(ratio)[:, None]}}
    return {claim.id: claim for claim in kalra.claims(record, config)}


def test_the_plateau_is_judged_by_its_second_derivative():
    cs = kalra.SATURATION_CS
    sharp, smeared = 1 / (1 + (cs / 2.6) ** 12), 0.3 / (1 + (cs / 3) ** 2)
    good = plateau([sharp, smeared])
    assert good["saturation-flat-then-falls"].passed is True
    assert good["saturation-flat-then-falls"].measured["d=2, w=256"]["c_crit"] == pytest.approx(2.0)
    assert good["saturation-smears"].passed is True
    bad = plateau([smeared, sharp])
    assert bad["saturation-flat-then-falls"].passed is False
    assert bad["saturation-smears"].passed is False
    risen = plateau([sharp * (1 + 0.2 * (cs > 0.6) * (cs < 2)), smeared])["saturation-flat-then-falls"]
    assert risen.passed is False  # a plateau may rise as little as it may fall
    assert risen.measured["d=2, w=256"]["and rises by"] == pytest.approx(0.2, abs=0.01)


def test_derivatives_know_the_uneven_grid():
    cs = kalra.SATURATION_CS
    chi, slope = figures.derivatives(-(cs**2), cs)
    np.testing.assert_allclose(chi[1:-1], 2 * cs[1:-1])
    np.testing.assert_allclose(slope[2:-2], 2.0)


def test_means_leave_out_what_is_undefined_and_count_it():
    mean, error, missing = figures.means(np.array([[1.0, 3.0, np.nan], [np.nan] * 3, [2.0, np.nan, np.nan]]))
    np.testing.assert_allclose(mean, [2.0, np.nan, 2.0])
    np.testing.assert_allclose(error, [1.0, 0.0, 0.0])
    assert missing.tolist() == [1, 3, 2]


def regimes(late, dip=0.31):
    sharp = np.full(400, 0.3)
    sharp[0], sharp[120:] = 1.0, late
    sharp[1:3] = dip
    config = dataclasses.replace(kalra.SMALL, saturation_at=(), regimes_c=(4.0,), uv_widths=())
    record = {"phases": {"boundaries": np.full((3, 3, 12, 4), 3.0)}, "regimes": {"sharpness": sharp[None]}}
    return next(claim for claim in kalra.claims(record, config) if claim.id == "four-regimes").passed


def test_four_regimes_need_all_four():
    assert regimes(0.5) is True
    assert regimes(0.4) is False  # no edge
    assert regimes(0.5, dip=1.0) is False  # no transient
