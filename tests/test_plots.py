"""Figures hold the lines they should."""

import subprocess
import sys
import warnings

import jax.numpy as jnp
import numpy as np
import pytest
from conftest import clean_environment

import landscape_jax as lj
from landscape_jax import plots
from landscape_jax.plots import style


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


@pytest.mark.parametrize("told", [False, True], ids=["numbers", "brackets"])
def test_of_two_cadences_the_coarser_is_drawn(told):
    dense, n = made(3, 20), 5
    sharp = dense["sharpness"][:, ::n]
    sharp = {"value": sharp, "low": sharp - 1, "high": sharp + 1, "converged": sharp > 0} if told else sharp
    record = lj.Record(dense | {"sharpness": sharp}, {"seed": None}, cadence={"sharpness": n})
    above, below = plots.sharpness(record).axes[:2]
    for i, (axes, name) in enumerate(((above, "loss"), (below, "sharpness"))):
        lines = [line for line in axes.lines if len(line.get_xdata()) == 4]
        assert len(lines) >= 3, i
        np.testing.assert_array_equal(lines[0].get_xdata(), [0, 50, 100, 150])
        assert any(np.array_equal(line.get_ydata(), dense[name][0, ::n]) for line in lines)


def test_too_many_axes_are_refused():
    with pytest.raises(ValueError, match=r"\[groups, runs, T\]"):
        plots.sharpness(made(2, 2, 2, 20))


def swept(seeds=4, rates=(0.05, 0.1, 0.2), times=20):
    """A record [seed, learning_rate, T] in which sharpness is 2/η."""
    record = made(seeds, len(rates), times)
    record["sharpness"] = np.broadcast_to(2 / np.array(rates)[:, None], record["loss"].shape).copy()
    return lj.Record(record, {"seed": None, "learning_rate": np.array(rates)})


def bold(axes):
    return [line for line in axes.lines if line.get_linewidth() == plots.STYLE["lines.linewidth"] and len(line.get_xdata()) > 2]


def key_of(figure):
    """The words of a figure's keys outside of its axes."""
    legends = [*figure.legends, *(axes.get_legend() for axes in figure.axes)]
    return [text.get_text() for legend in legends if legend for text in (*legend.get_texts(), legend.get_title())]


def drawn(figure, tmp_path):
    """The figure as a file, made without a word of warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.savefig(tmp_path / "figure.png", dpi=40)
    return figure


# ── runs in groups ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_colours_and_thresholds_follow_the_axis_of_learning_rates(tmp_path):
    """Of a record [seed, learning_rate, T], as the grid over (seed, rate) gives it."""
    rates = np.array([0.05, 0.1, 0.2])
    figure = drawn(plots.sharpness(swept(), threshold=2 / rates, threshold_label="2/η"), tmp_path)
    lines = bold(figure.axes[1])
    assert [line.get_ydata()[0] for line in lines] == [40, 20, 10]
    assert dashed(figure.axes[1]) == [40, 20, 10]
    by_colour = {line.get_color(): line.get_ydata()[0] for line in figure.axes[1].lines if len(line.get_ydata()) == 2}
    assert all(by_colour[line.get_color()] == line.get_ydata()[0] for line in lines)
    assert {"learning_rate", "0.05", "0.1", "0.2", "median over seed (4 runs)", "2/η"} <= set(key_of(figure))
    assert len(bold(plots.sharpness(swept(), by="seed").axes[1])) == 4
    with pytest.raises(ValueError, match="by='width' is no axis of runs of this record: it has seed, learning_rate"):
        plots.sharpness(swept(), by="width")


@pytest.mark.parametrize(
    ("named", "by"),
    [
        ({"key": None, "rate": np.ones(3)}, "rate"),
        ({"lr": np.ones(4), "width": np.ones(3)}, "lr"),
        ({"seed": None, "width": np.ones(3)}, "width"),
        ({"width": np.ones(4), "seed": np.arange(3)}, "width"),
        ({}, "axis_0"),
    ],
)
def test_the_axis_that_is_coloured_by_default(named, by):
    assert by in key_of(plots.sharpness(lj.Record(made(4, 3, 20), named)))


def test_many_groups_have_a_colour_bar_and_few_a_legend(tmp_path):
    rates = np.geomspace(0.05, 50, 16)
    figure = drawn(plots.sharpness(swept(8, rates), threshold=2 / rates), tmp_path)
    bar = figure.axes[2]
    assert bar.get_ylabel() == "learning_rate"
    told = [float(text.get_text()) for text in bar.get_yticklabels()]
    assert told == pytest.approx(rates[[0, 2, 4, 6, 9, 11, 13, 15]], rel=0.1)
    assert len(bold(figure.axes[1])) == 16
    labels = [f"η = {rate:.2g}" for rate in rates]
    assert set(labels) <= set(key_of(plots.sharpness(swept(8, rates), labels=labels)))
    with pytest.raises(ValueError, match="there are 16 groups"):
        plots.sharpness(swept(8, rates), labels=["a", "b"])


def test_thresholds_of_each_step_group_and_run():
    record, rates, decay = swept(), np.array([0.05, 0.1, 0.2]), np.linspace(1, 0.5, 20)
    below = plots.sharpness(record, threshold=20 / decay).axes[1]
    assert [line.get_ydata().tolist() for line in below.lines if line.get_linestyle() == "--"][-1] == (20 / decay).tolist()
    whole = np.broadcast_to(2 / rates[:, None] / decay, record["loss"].shape).copy()
    whole[0, 2, 10:] = np.nan  # not recorded after a divergence
    for given in (whole, whole[1]):
        lines = [line.get_ydata() for line in plots.sharpness(record, threshold=given).axes[1].lines[-3:]]
        np.testing.assert_allclose(lines, whole[1])
    whole[0] *= 1.2  # runs of a group with thresholds of their own
    assert len([x for x in plots.sharpness(record, threshold=whole).axes[1].lines if x.get_linewidth() == 0.9]) == 12
    with pytest.raises(ValueError, match=r"shape \(7,\): give one number, one for each of the 3 groups, .* 20 records"):
        plots.sharpness(record, threshold=np.ones(7))
    with pytest.raises(ValueError, match=r"20 thresholds .* threshold\[:, None\]"):
        plots.sharpness(made(20, 20), threshold=np.ones(20))


def test_thresholds_out_of_sight_are_told_once():
    figure = plots.sharpness(swept(), threshold=[2000, 300, 10], threshold_label="2/η")
    assert [text.get_text() for text in figure.axes[1].texts] == ["2/η from 300 to 2000 lie above the figure"]


def test_a_cross_marks_where_a_run_diverged(tmp_path):
    record = swept()
    for name in ("loss", "sharpness"):
        record[name][1, 2, 5:] = record[name][2, 2] = np.nan
        record[name][1, 2, 4] = 1e30  # on its way
    figure = drawn(plots.sharpness(record), tmp_path)
    for axes in figure.axes[:2]:
        (marks,) = [line for line in axes.lines if line.get_marker() == "x"]
        assert marks.get_xdata().tolist() == [40, 0]
        assert marks.get_color() == bold(axes)[2].get_color()
        assert axes.get_ylim()[1] < 100  # that of the runs that live
        assert set(marks.get_ydata()) == {axes.get_ylim()[1]}
    assert "diverged (2 of 12 runs)" in key_of(figure)
    middle = bold(figure.axes[1])[2].get_ydata()
    assert np.isnan(middle[5:]).all()  # half of the runs count as infinite
    assert "diverged" not in " ".join(key_of(plots.sharpness(swept())))


def test_further_eigenvalues_are_dotted():
    record = made(20)
    record["sharpness"] = record["sharpness"][:, None] * np.array([1, 0.5, 0.2])
    figure = plots.sharpness(record)
    np.testing.assert_array_equal([x.get_ydata() for x in figure.axes[1].lines], record["sharpness"].T)
    assert key_of(figure)[0] == "λ₂ to λ₃"
    with pytest.raises(ValueError, match="neither that of the loss"):
        plots.sharpness(made(20) | {"sharpness": np.ones(7)})


# ── scales and limits ─────────────────────────────────────────────────────────────────────────────────────────────────


def changed(name, change):
    record = made(20)
    record[name] = change(record[name])
    return record


def put(values, where, value):
    return np.where(np.arange(len(values)) == where, value, values)


ODD = {
    "infinite": (changed("sharpness", lambda x: put(x, 7, np.inf)), (0, 13)),
    "minus infinite": (changed("sharpness", lambda x: put(x, 7, -np.inf)), (0, 13)),
    "infinite loss": (changed("loss", lambda x: put(x, 7, np.inf)), (0, 13)),
    "all NaN": (made(20) | dict.fromkeys(("loss", "sharpness"), np.full(20, np.nan)), (0, 1)),
    "negative": (changed("sharpness", lambda x: -x), (-13, 0)),
    "zero": (made(20) | dict.fromkeys(("loss", "sharpness"), np.zeros(20)), (0, 1)),
    "integers": (made(20) | {"sharpness": np.arange(20), "loss": np.arange(20)}, (0, 22)),
    "bfloat16": (lj.Record(made(20) | {"sharpness": jnp.arange(20, dtype=jnp.bfloat16)}), (0, 22)),
    "one record": ({"step": np.array([0]), "loss": np.array([1.0]), "sharpness": np.array([10.0])}, (0, 12)),
    "nearly constant": (made(20) | {"loss": 2.3 + 1e-7 * np.arange(20), "sharpness": np.full(20, 10.0)}, (0, 12)),
}


@pytest.mark.parametrize("name", ODD)
def test_limits_come_from_finite_values(name, tmp_path):
    record, (low, high) = ODD[name]
    axes = drawn(plots.sharpness(record), tmp_path).axes[1]
    assert axes.get_yscale() == "linear"
    bottom, top = axes.get_ylim()
    assert low <= bottom < top <= high
    values = np.asarray(record["sharpness"], float)
    inside = values[np.isfinite(values)]
    assert inside.size == 0 or bottom <= inside.min() <= inside.max() <= top


def test_an_axis_is_logarithmic_where_values_span_decades(tmp_path):
    decades = np.geomspace(1, 1e4, 20)
    figure = drawn(plots.sharpness(made(20) | {"sharpness": decades}, threshold=1000), tmp_path)
    assert figure.axes[1].get_yscale() == "log"
    assert dashed(figure.axes[1]) == [1000]
    both = decades * np.where(np.arange(20) % 2, 1, -1)
    falls = np.r_[np.geomspace(1, 1e-9, 19), 0]
    figure = drawn(plots.sharpness(made(20) | {"sharpness": both, "loss": falls}), tmp_path)
    assert [axes.get_yscale() for axes in figure.axes] == ["symlog", "symlog"]


def test_a_point_without_neighbours_is_a_dot_and_a_long_curve_keeps_its_peaks():
    record = changed("sharpness", lambda x: np.where(np.isin(np.arange(20), (3, 5)), np.nan, x))
    (dot,) = [line for line in plots.sharpness(record).axes[1].lines if line.get_marker() == "o"]
    assert dot.get_xydata().tolist() == [[40, record["sharpness"][4]]]
    long = made(50_001)
    long["sharpness"][[7, 40_000]] = 100, -50
    (line,) = plots.sharpness(long).axes[1].lines
    assert len(line.get_xdata()) < 5000
    assert {(70, 100), (400_000, -50)} <= set(map(tuple, line.get_xydata()))


def test_records_that_are_no_curves():
    with pytest.raises(ValueError, match="the record has loss, step, but no 'sharpness'"):
        plots.sharpness({name: made(20)[name] for name in ("step", "loss")})
    with pytest.raises(ValueError, match="T at least 1"):
        plots.sharpness(dict.fromkeys(("step", "loss", "sharpness"), np.empty(0)))
    with pytest.raises(ValueError, match=r"step \(\): plot \[T\]"):
        plots.sharpness(made(20) | {"step": 0})


# ── what a notebook and a script see ──────────────────────────────────────────────────────────────────────────────────


def test_figures_show_in_a_notebook():
    slices = plots.section(XS, XS**2), plots.contour(XS, YS, bowl()), plots.relief(XS, YS, bowl())
    for figure in (plots.sharpness(made(20)), *slices):
        assert figure._repr_png_().startswith(b"\x89PNG")


def test_matplotlib_is_imported_when_something_is_drawn():
    code = (
        "import sys; from landscape_jax import plots; import landscape_jax as lj; assert 'matplotlib' not in sys.modules; "
        "assert lj.plots is plots and 'contour' in dir(plots); plots.colours(2); assert 'matplotlib' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=clean_environment())
    with pytest.raises(AttributeError, match="no attribute 'countour'"):
        plots.countour  # noqa: B018


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
    with pytest.raises(ValueError, match="none of the losses is finite"):
        draw(XS, YS, np.full((21, 17), np.inf), log=False)


@pytest.mark.parametrize(
    ("values", "name"),
    [
        (2.302585 + 1e-6 * bowl(), r"(loss − 2.302588) / $10^{-5}$"),
        (-2.302585 - 1e-6 * bowl(), r"(loss + 2.3026) / $10^{-5}$"),
        (2.3 + 1e-3 * bowl(), "loss"),
        (bowl(), "loss"),
        (1e7 * bowl(), "loss"),
        (1e-4 * (2 + 0.02 * bowl()), r"loss / $10^{-4}$"),
        (np.full((21, 17), 2.302585), "loss"),
    ],
)
def test_ticks_of_losses_tell_them_apart(values, name, tmp_path):
    bar = drawn(plots.contour(XS, YS, values), tmp_path).axes[1]
    surface = drawn(plots.relief(XS, YS, values, log=False), tmp_path).axes[0]
    assert bar.get_ylabel() == name
    for axis, low in ((bar.yaxis, values.min()), (surface.zaxis, -np.inf)):
        told = [text.get_text().replace("−", "-") for text in axis.get_ticklabels()]
        assert len(set(told)) == len(told)
        ticks = axis.get_ticklocs()
        assert (low <= ticks).all()
        assert np.corrcoef(ticks - ticks[0], np.array(told, float))[0, 1] > 0.999 if len(ticks) > 2 else told


@pytest.mark.parametrize("draw", [plots.contour, plots.relief])
def test_planes_that_are_none(draw):
    with pytest.raises(ValueError, match="a line and not a plane: draw it with plots.section"):
        draw([0.0], YS, np.ones((1, 17)))
    with pytest.raises(ValueError, match="a line and not a plane"):
        draw(XS, [0.0], np.ones((21, 1)))
    with pytest.raises(ValueError, match="xs must increase, or decrease"):
        draw(np.abs(XS), YS, bowl())
    with pytest.raises(ValueError, match="ys has shape .* finite numbers"):
        draw(XS, np.where(YS > 2, np.inf, YS), bowl())
    draw(XS[::-1], YS, bowl())
    draw([0, 1], [0, 1], [[1, 2], [3, 4]])


def test_paths_and_levels_of_contours():
    with pytest.raises(ValueError, match=r"path has shape \(3,\): give \[T, 2\]"):
        plots.contour(XS, YS, bowl(), [0.0, 1.0, 2.0])
    with pytest.raises(ValueError, match="levels=1 must be at least 2"):
        plots.contour(XS, YS, bowl(), levels=1)
    path = np.array([[0.0, 0.0], [1.0, 1.0], [np.nan, np.inf]])
    star = plots.contour(XS, YS, bowl(), [path, path]).axes[0].lines[-1]
    assert star.get_xydata().tolist() == [[1, 1]]


def test_sections_of_odd_losses(tmp_path):
    values = np.stack([XS**2, XS**4])
    values[0, 5], values[1, :4], values[1, 2] = np.inf, np.nan, 9.0
    figure = drawn(plots.section(XS, values, ["a", "b"], log=True), tmp_path)
    assert figure.axes[0].get_yscale() == "linear"  # a loss of zero
    assert drawn(plots.section(XS, 1 + XS**2, log=True), tmp_path).axes[0].get_yscale() == "log"
    drawn(plots.section([0.0], [1.0]), tmp_path)
    drawn(plots.section(XS, np.arange(12)[:, None] * XS**2, [f"line {i}" for i in range(12)]), tmp_path)
    for bad, told in (
        (lambda: plots.section(XS, values, ["a"]), "labels=.* for 2 lines"),
        (lambda: plots.section(XS, np.full(21, np.inf)), "none of the losses is finite"),
        (lambda: plots.section(np.abs(XS), XS), "xs must increase"),
    ):
        with pytest.raises(ValueError, match=told):
            bad()


@pytest.mark.parametrize("figure", ["legend above", "legend beside", "runs"])
def test_keys_lie_outside_of_the_axes(figure):
    rows = XS**2 * np.arange(1, 13)[:, None]
    figure = {
        "legend above": lambda: plots.section(XS, rows[:2], ["along e₁", "along a random direction"]),
        "legend beside": lambda: plots.section(XS, rows, [f"line {i}" for i in range(12)]),
        "runs": lambda: plots.sharpness(swept(), threshold=20),
    }[figure]()
    figure.draw_without_rendering()
    panels = [axes.get_window_extent() for axes in figure.axes]
    legends = [*figure.legends, *(axes.get_legend() for axes in figure.axes)]
    boxes = [legend.get_window_extent() for legend in legends if legend]
    assert boxes
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in panels + boxes[i + 1 :])
        assert figure.bbox.x0 <= box.x0 <= box.x1 <= figure.bbox.x1


def test_finite_range():
    assert plots.finite_range([[1, np.nan], [np.inf, -3]]) == (-3, 1)
    assert plots.finite_range([np.nan], otherwise=(0.1, 1.0)) == (0.1, 1)


def test_number_labels():
    assert style.number_labels([200, 300, 1000]) == ["200", "300", "1000"]
    assert style.number_labels([0.1, 0.1001]) == ["0.1", "0.1001"]
    assert style.number_labels(np.geomspace(0.05, 50, 4)) == ["0.05", "0.5", "5", "50"]
    assert style.number_labels(np.array([-2.7e-301, 8.4e-201, 8.3e7])) == ["−2.7e−301", "8.4e−201", "8.3e+07"]
    assert style.number_labels([2.302583]) == style.number_labels([2.302583, 2.302583])[:1] == ["2.30258"]
    assert style.number_labels([]) == []


def test_brackets_are_a_band(tmp_path):
    steps, value = np.arange(20), np.linspace(5.0, 7.0, 20)
    told = {"value": value, "low": value - 0.1, "high": value + 1.0, "converged": value < 6, "products": steps}
    record = {"step": steps, "loss": np.exp(-steps / 9.0), "sharpness": told}
    figure = plots.sharpness(record, 6.5)
    (band,) = figure.axes[1].collections
    ends = band.get_paths()[0].vertices[:, 1]
    assert ends.min() == pytest.approx(4.9)
    assert ends.max() == pytest.approx(8.0)
    plain = plots.sharpness({**record, "sharpness": value}, 6.5)
    assert not plain.axes[1].collections
