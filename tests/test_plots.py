"""Figures hold the lines they should."""

import numpy as np
import pytest

import landscape_jax as lj
from landscape_jax import plots


def made(*shape):
    rng = np.random.default_rng(0)
    step = np.broadcast_to(np.arange(shape[-1]) * 10, shape)
    return {"step": step, "loss": rng.uniform(0.1, 1, shape), "sharpness": rng.uniform(5, 11, shape)}


def dashed(axes):
    return [line.get_ydata()[0] for line in axes.lines if len(line.get_ydata()) == 2]


def test_one_run_with_its_threshold(tmp_path):
    figure = plots.sharpness(made(20), threshold=10.0)
    above, below = figure.axes
    assert above.get_yscale() == "log"
    np.testing.assert_array_equal(below.lines[0].get_xdata(), np.arange(20) * 10)
    assert dashed(below) == [10.0]
    figure.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 5_000


def test_groups_of_runs_and_a_threshold_out_of_sight():
    record = made(3, 4, 20)
    record["loss"][1, 2, 5:] = record["sharpness"][1, 2, 5:] = np.nan  # one diverged
    figure = plots.sharpness(record, threshold=[40, 10, 8], labels=["a", "b", "c"])
    below = figure.axes[1]
    assert len([line for line in below.lines if len(line.get_xdata()) == 20]) == 3 * (4 + 1)
    assert dashed(below) == [10.0, 8.0]
    assert "40" in below.texts[0].get_text()


def test_the_time_axis_outlives_a_diverged_run():
    step = np.array([[0, 10, 20, 30], [0, 7, 7, 7]])
    np.testing.assert_array_equal(lj.record.clock({"step": step}), [0, 10, 20, 30])


def test_too_many_axes_are_refused():
    with pytest.raises(ValueError, match=r"\[groups, runs, T\]"):
        plots.sharpness(made(2, 2, 2, 20))


# ── slices ────────────────────────────────────────────────────────────────────────────────────────────────────────────

XS, YS = np.linspace(-2, 2, 21), np.linspace(-1, 3, 17)


def bowl():
    return 0.1 + XS[:, None] ** 2 + 3 * (YS[None] - 1) ** 2


def test_a_section_has_its_lines(tmp_path):
    figure = plots.section(XS, np.stack([XS**2, XS**4]), labels=["a", "b"])
    np.testing.assert_array_equal(figure.axes[0].lines[1].get_ydata(), XS**4)
    figure.savefig(tmp_path / "figure.png")
    with pytest.raises(ValueError, match="21 places"):
        plots.section(XS, np.zeros((2, 3)))


def test_a_plane_is_drawn_the_right_way_round(tmp_path):
    path = np.stack([np.linspace(-2, 0, 9), np.linspace(3, 1, 9)], axis=1)
    figure = plots.contour(XS, YS, bowl(), path)
    axes = figure.axes[0]
    lowest = axes.collections[0].get_paths()[0].vertices  # the innermost band is about (0, 1)
    np.testing.assert_allclose((lowest.max(axis=0) + lowest.min(axis=0)) / 2, [0, 1], atol=0.1)
    assert np.ptp(lowest[:, 0]) > np.ptp(lowest[:, 1])  # longer where it bends less
    np.testing.assert_array_equal(axes.lines[1].get_xydata(), path)
    figure.savefig(tmp_path / "figure.png")


@pytest.mark.parametrize("draw", [plots.contour, plots.relief])
def test_planes_with_holes_flat_ones_and_negative_ones(draw, tmp_path):
    holes = bowl()
    holes[:3], holes[5, 5] = np.nan, np.inf
    for i, values in enumerate((holes, np.ones((21, 17)), bowl() - 5)):
        draw(XS, YS, values).savefig(tmp_path / f"{i}.png")
    with pytest.raises(ValueError, match=r"xs and ys ask for \(21, 17\)"):
        draw(XS, YS, bowl().T)
    with pytest.raises(ValueError, match="none of the losses is finite"):
        draw(XS, YS, np.full((21, 17), np.nan))
