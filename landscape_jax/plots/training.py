"""Curves of training: loss and sharpness against step."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import matplotlib.cm
import matplotlib.colors
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from landscape_jax.plots.runs import Curves, read_curves, read_thresholds
from landscape_jax.plots.style import STYLE, Figure, colours, draw_curve, styles, thinned
from landscape_jax.record import Record

DASHED: Any = (0, (4, 3))
DOTTED: Any = (0, (1, 1.5))
MOST_IN_LEGEND = 10


def sharpness(
    record: Mapping,
    threshold: ArrayLike | None = None,
    labels: Sequence[str] | None = None,
    *,
    by: str | None = None,
    threshold_label: str = "threshold",
) -> Figure:
    """Loss and sharpness against step, with the stability threshold dashed.

    One colour for each entry of the axis `by`. Where there is a second axis of runs, a thin line for each run and a bold one
    for the median over it. A cross marks the last finite value of a run that diverged; in the median the run counts as
    infinite from there on. Limits are those of the runs that didn't diverge, and of the first values of those that did. An
    axis is logarithmic where its values span decades (sharpness two, the loss a factor of two).

    Args:
      record: with "step", "loss" and "sharpness", numbers or what `observe.sharpness(..., told=True)` records: then the bracket
        is a band, which shows where it is wide. Leaves [T] for one run; with axes of runs before T as a sweep names them;
        without names [g, T] for g groups of one run, or [g, s, T] for g groups of s runs. Of k eigenvalues, sharpness
        [..., T, k], the first is drawn as above and the others as thin dotted medians. Of two cadences the coarser is drawn.
      threshold: what sharpness is held against, e.g. 2/η: a number; [g], one for each entry of `by`; [T], one for each
        record; [g, T]; or shaped like the loss. Where g = T, give [g, 1] or [1, T].
      labels: one for each entry of `by`; default: the coordinates of that axis.
      by: the name of an axis of runs; default: the learning rate where there is one, else the only axis with coordinates of
        its own, else the first.
      threshold_label: the threshold's name, e.g. "2/η", "38/η" or "2(1 + β)/η" (`theory.stability`).
    Returns: a figure of two panels: `savefig` it, or end a notebook's cell with it.

    >>> record = lj.Record({"step": np.arange(3), "loss": np.array([3.0, 2.0, 1.0]), "sharpness": np.array([1.0, 2.0, 2.1])})
    >>> lj.plots.sharpness(record, threshold=2.0).savefig("sharpness.png")
    """
    record, bracket = _value_and_bracket(_at_common_steps(record))
    curves = read_curves(record, by, labels)
    limits = read_thresholds(threshold, curves, np.shape(record["loss"]))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.3, 5.0), dpi=200)
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 3))
        _frame(above, curves, curves.loss, limits[:0], span=2.0, from_zero=False)
        seen = _frame(below, curves, curves.sharpness, limits, span=100.0, from_zero=True)
        _draw(above, curves, curves.loss)
        if bracket is not None:
            _draw_band(below, curves, *(read_curves(end, by, labels).sharpness for end in bracket))
        _draw(below, curves, curves.sharpness)
        _draw_further(below, curves)
        _draw_thresholds(below, curves, limits, seen, threshold_label)
        above.set_ylabel("training loss")
        below.set_ylabel("sharpness  λ₁")
        below.set_xlabel("step")
        first, last = curves.step[0], curves.step[-1]
        below.set_xlim((first, last) if last > first else (first - 1, first + 1))
        below.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 2.5, 5, 10], integer=True))
        _add_colour_key(figure, curves, titled=labels is None)
        _add_line_key(figure, curves, threshold_label if seen.any() else None)
        return figure


def _at_common_steps(record: Mapping) -> Mapping:
    """The record's "step", "loss" and "sharpness" at the steps at which both were recorded."""
    if not isinstance(record, Record) or max(record.cadence.get(name, 1) for name in ("loss", "sharpness")) == 1:
        return record
    cadence = {name: n for name, n in record.cadence.items() if name in ("step", "loss", "sharpness")}
    before, coarsest = (slice(None),) * (np.ndim(record["step"]) - 1), max(cadence.values())

    def at_common(name: str) -> Any:
        rows = (*before, slice(None, None, coarsest // cadence[name]))
        parts = record[name] if isinstance(record[name], Mapping) else {"": record[name]}
        parts = {part: np.asarray(x)[rows] for part, x in parts.items()}
        return parts if isinstance(record[name], Mapping) else parts[""]

    return Record({name: at_common(name) for name in cadence}, record.named)


def _value_and_bracket(record: Mapping) -> tuple[Mapping, tuple[Mapping, Mapping] | None]:
    """The record with sharpness as numbers; and where brackets were recorded, records of their ends."""
    told = record.get("sharpness") if isinstance(record, Mapping) else None
    if not isinstance(told, Mapping):
        return record, None
    axes = record.axes if isinstance(record, Record) else {}
    value, low, high = (Record({**record, "sharpness": told[name]}, dict(axes)) for name in ("value", "low", "high"))
    return value, (low, high)


# ── axes ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _frame(axes: Axes, curves: Curves, values: np.ndarray, limits: np.ndarray, span: float, from_zero: bool) -> np.ndarray:
    """Sets scale and limits of the y axis; returns which thresholds it shows, [g, s or 1]."""
    inside = _typical(curves, values)
    sizes = np.abs(inside[inside != 0])
    small, large = np.quantile(sizes, (0.05, 1)) if sizes.size else (0.0, np.inf)
    if inside.size == 0:
        axes.text(0.5, 0.5, "no finite values", transform=axes.transAxes, ha="center", va="center", color="0.4")
    elif inside.min() > 0 and large >= span * small:
        axes.set_yscale("log")
    elif sizes.size and large >= 100 * small:
        axes.set_yscale("symlog", linthresh=small)
    scale = axes.get_yscale()
    reach = float(large) * (1.6 if scale == "linear" else 10)
    seen = np.fmin.reduce(limits, axis=-1) <= reach
    lines = np.minimum(limits[seen], reach).ravel()
    inside = np.r_[inside, lines[np.isfinite(lines) & ((lines > 0) | (scale != "log"))]]
    if inside.size:
        axes.set_ylim(_padded(float(inside.min()), float(inside.max()), scale, from_zero))
    else:
        axes.set(ylim=(0, 1), yticks=[])
    return seen & np.isfinite(limits).any(axis=-1)


def _typical(curves: Curves, values: np.ndarray) -> np.ndarray:
    """The finite values that decide on limits: not the last ones of runs that diverged."""
    whole = curves.end == len(curves.step)
    inside = np.r_[values[whole].ravel(), values[..., 0].ravel()]
    if not np.isfinite(inside).any() or not whole.any():
        finite = values[np.isfinite(values)]
        inside = np.r_[inside, finite[finite <= np.quantile(finite, 0.9)]] if finite.size else finite
    return inside[np.isfinite(inside)]


def _padded(low: float, high: float, scale: str, from_zero: bool) -> tuple[float, float]:
    """Limits with some room."""
    if scale == "log":
        return low / 1.3, high * 1.3
    if scale == "symlog":
        return low * (1.5 if low < 0 else 0), high * (1.5 if high > 0 else 0.5)
    if from_zero:
        low, high = min(low, 0.0), max(high, 0.0)
        room = 0.12 * (high - low)
        return (low - room * (low < 0), high + room * (high > 0)) if high > low else (0.0, 1.0)
    room = 0.06 * (high - low) if high > low else 0.05 * abs(high) or 1.0
    return low - room, high + room


# ── lines ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _draw(axes: Axes, curves: Curves, values: np.ndarray) -> None:
    for group, end, (colour, dash) in zip(values, curves.end, styles(len(values)), strict=False):
        if len(group) > 1:
            for row in group:
                draw_curve(axes, curves.step, row, color=colour, lw=0.4, alpha=0.45, zorder=2)
        draw_curve(axes, curves.step, _median(group, end), color=colour, ls=dash, zorder=3)
        last = [_last_finite(curves.step, row, n, axes.get_ylim()) for row, n in zip(group, end, strict=True) if n < row.size]
        if last:
            axes.plot(*np.transpose(last), "x", color=colour, ms=5, mew=1.3, clip_on=False, zorder=5)


def _draw_band(axes: Axes, curves: Curves, low: np.ndarray, high: np.ndarray) -> None:
    for lows, highs, colour in zip(low, high, colours(len(low)), strict=True):
        for one, other in zip(lows, highs, strict=True):
            axes.fill_between(curves.step, one, other, color=colour, alpha=0.3, lw=0, zorder=1.5)


def _median(group: np.ndarray, end: np.ndarray) -> np.ndarray:
    """[T] from [s, T]; runs that have diverged count as infinite, other gaps don't count."""
    if len(group) == 1:
        return group[0]
    group = np.where(np.arange(group.shape[1])[None] >= end[:, None], np.inf, group)
    some = ~np.isnan(group).all(axis=0)
    middle = np.full(group.shape[1], np.nan)
    middle[some] = np.nanmedian(group[:, some], axis=0)
    return np.where(np.isfinite(middle), middle, np.nan)


def _last_finite(step: np.ndarray, row: np.ndarray, end: int, limits: tuple[float, float]) -> tuple[float, float]:
    """Where to mark the end of a run: within the figure, at its upper edge where there is no value."""
    places = np.flatnonzero(np.isfinite(row[:end]))
    at = places[-1] if places.size else 0
    return float(step[at]), float(np.clip(row[at], *limits)) if places.size else limits[1]


def _draw_further(axes: Axes, curves: Curves) -> None:
    for group, end, colour in zip(curves.further, curves.end, colours(len(curves.further)), strict=True):
        for values in np.moveaxis(group, -1, 0):
            draw_curve(axes, curves.step, _median(values, end), color=colour, lw=0.7, ls=DOTTED, zorder=2)


def _draw_thresholds(axes: Axes, curves: Curves, limits: np.ndarray, seen: np.ndarray, name: str) -> None:
    single = len(curves.loss) == 1
    for group, drawn, colour in zip(limits, seen, colours(len(curves.loss)), strict=False):
        for row in group[drawn]:
            style: Any = {"color": "black" if single else colour, "ls": DASHED, "lw": 0.9, "zorder": 1}
            axes.axhline(row[0], **style) if np.ptp(row) == 0 else axes.plot(*thinned(curves.step, row), **style)
    hidden = np.fmin.reduce(limits, axis=-1)[~seen]
    hidden = hidden[~np.isnan(hidden)]
    if hidden.size:
        low, high = hidden.min(), hidden.max()
        told = f"= {low:.4g} lies" if low == high else f"from {low:.4g} to {high:.4g} lie"
        axes.annotate(
            f"{name} {told} above the figure", (1.0, 1.01), xycoords="axes fraction", ha="right", va="bottom", fontsize=7.5
        )


# ── keys, outside of the axes ─────────────────────────────────────────────────────────────────────────────────────────


def _add_colour_key(figure: Figure, curves: Curves, titled: bool) -> None:
    """What the colours are: a legend, or a colour bar for many."""
    n = len(curves.labels)
    if not curves.by and titled:
        return
    title = curves.by if titled else ""
    if n <= (MOST_IN_LEGEND if titled else 2 * MOST_IN_LEGEND):
        lines = [Line2D([], [], color=colour, ls=dash) for colour, dash in styles(n)]
        beside = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.03)}
        figure.axes[0].legend(lines, curves.labels, title=title, title_fontsize=8, **beside)
        return
    norm = matplotlib.colors.BoundaryNorm(np.arange(n + 1) - 0.5, n)
    scale = matplotlib.cm.ScalarMappable(norm, matplotlib.colors.ListedColormap(colours(n)))
    ticks = np.unique(np.linspace(0, n - 1, 8).round().astype(int))
    bar = figure.colorbar(scale, ax=figure.axes, label=title, aspect=40)
    bar.set_ticks(ticks.tolist(), labels=[curves.labels[i] for i in ticks])
    bar.minorticks_off()


def _add_line_key(figure: Figure, curves: Curves, threshold: str | None) -> None:
    """What bold and thin, dashed and dotted lines and crosses are, above the panels."""
    groups, runs, times = curves.loss.shape
    colour = "black" if groups == 1 else "0.35"
    key = []
    if runs > 1:
        key += [
            (Line2D([], [], color=colour), f"median over {curves.over} ({runs} runs)"),
            (Line2D([], [], color=colour, lw=0.4), "single runs"),
        ]
    if curves.further.shape[-1]:
        k = 1 + curves.further.shape[-1]
        key.append((Line2D([], [], color=colour, lw=0.7, ls=DOTTED), "λ₂" if k == 2 else f"λ₂ to λ{_subscript(k)}"))
    if threshold is not None:
        key.append((Line2D([], [], color=colour, ls=DASHED, lw=0.9), threshold))
    dead = int((curves.end < times).sum())
    if dead:
        count = f" ({dead} of {groups * runs} runs)" if groups * runs > 1 else ""
        key.append((Line2D([], [], color=colour, marker="x", ms=5, mew=1.3, ls="none"), f"diverged{count}"))
    if key:
        figure.legend(*zip(*key, strict=True), loc="outside upper center", ncols=len(key) if len(key) < 5 else 3)


def _subscript(n: int) -> str:
    return str(n).translate(str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉"))
