"""Figures a referee can read: in colour, in greyscale and at the width of a column."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from landscape_jax.record import clock

STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.2,
    "figure.constrained_layout.use": True,
}
# colours of monotone lightness, and another dash for each, so that greyscale keeps them apart
DASHES = ("-", (0, (5, 1.5)), (0, (3, 1, 1, 1)), (0, (1.2, 1)), (0, (6, 1, 1, 1, 1, 1)))


def colours(n: int) -> list:
    """n colours from dark to light, none too pale for white paper."""
    return [matplotlib.colormaps["viridis"](x) for x in np.linspace(0.0, 0.82, n)]


def sharpness(
    record: Mapping, threshold: float | Sequence[float] | None = None, labels: Sequence[str] | None = None
) -> Figure:
    """Loss and sharpness against step, with the threshold dashed.

    Args:
      record: with "step", "loss" and "sharpness", leaves [T] for one run, [g, T] for g groups of one run, or [g, s, T]:
        one colour per group, a bold line for its median over s and a thin one for each run.
      threshold: e.g. 2/η; one number, or one per group.
      labels: one per group, for the legend.
    Returns: a matplotlib Figure of two panels; show it or `savefig` it.
    """
    step = clock(record)
    loss, sharp = (_grouped(record[name], name) for name in ("loss", "sharpness"))
    groups = loss.shape[0]
    limits = [] if threshold is None else np.broadcast_to(np.asarray(threshold, float), (groups,))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.3, 5.0), dpi=200)
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 3))
        for axes, values, name in ((above, loss, "training loss"), (below, sharp, "sharpness  λ₁")):
            _lines(axes, step, values, labels)
            axes.set_ylabel(name)
        above.set_yscale("log")
        drawn = []
        for limit, colour in zip(limits, colours(groups), strict=False):
            if np.isfinite(sharp).any() and limit > 1.6 * np.nanmax(sharp):
                below.annotate(f"2/η = {limit:.3g} lies above the figure", (0.99, 0.97), xycoords="axes fraction",
                               ha="right", va="top", fontsize=7.5, color=colour)
                continue
            below.axhline(limit, color=colour if groups > 1 else "black", ls=(0, (4, 3)), lw=0.9, zorder=1)
            drawn.append(limit)
        if drawn:
            below.plot([], [], color="black", ls=(0, (4, 3)), lw=0.9, label="threshold 2/η")
        below.set_ylim(0, 1.12 * np.nanmax([np.nanmax(sharp), *drawn]) if np.isfinite(sharp).any() else None)
        below.set_xlabel("step")
        below.set_xlim(step[0], step[-1])
        if labels is not None or drawn:
            below.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0))
        return figure


def _grouped(values, name: str) -> np.ndarray:
    """[g, s, T] from [T], [g, T] or [g, s, T]."""
    values = np.asarray(values, float)
    if not 1 <= values.ndim <= 3:
        raise ValueError(f"{name} has shape {values.shape}: plot [T], [groups, T] or [groups, runs, T]")
    return values[None, None] if values.ndim == 1 else values[:, None] if values.ndim == 2 else values


def _lines(axes: Axes, step: np.ndarray, values: np.ndarray, labels: Sequence[str] | None) -> None:
    for i, (group, colour, dash) in enumerate(zip(values, colours(len(values)), itertools.cycle(DASHES), strict=False)):
        label = None if labels is None else labels[i]
        if len(group) > 1:
            axes.plot(step, group.T, color=colour, lw=0.4, alpha=0.45, zorder=2)
            alive = np.isfinite(group).any(axis=0)
            middle = np.full(group.shape[1], np.nan)
            middle[alive] = np.nanmedian(group[:, alive], axis=0)
        else:
            middle = group[0]
        axes.plot(step, middle, color=colour, ls=dash, label=label, zorder=3)
