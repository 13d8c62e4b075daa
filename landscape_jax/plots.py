"""Figures a referee can read: in colour, in greyscale and at the width of a column."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, cast

import matplotlib
import matplotlib.colors
import matplotlib.ticker
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
PLAIN: dict[Any, Any] = STYLE | {"axes.grid": False}
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


def section(
    xs, values, labels: Sequence[str] | None = None, *, log: bool = False, xlabel: str = "distance", axes: Axes | None = None
) -> Figure:  # fmt: skip
    """The loss along one line, or several: `landscape.line`, `landscape.interpolation`.

    Args:
      xs: [n].
      values: [n], or [g, n] for g lines.
      labels: one per line.
      log: a logarithmic axis of losses.
      axes: where to draw; default: a figure of its own.
    Returns: the figure.
    """
    values = np.atleast_2d(np.asarray(values, float))
    if values.shape[-1] != len(xs):
        raise ValueError(f"values have shape {values.shape}, which doesn't end in the {len(xs)} places xs")
    with matplotlib.rc_context(STYLE):
        axes = Figure(figsize=(4.2, 2.8), dpi=200).subplots() if axes is None else axes
        styles = zip(values, colours(len(values)), itertools.cycle(DASHES), strict=False)
        for i, (row, colour, dash) in enumerate(styles):
            axes.plot(xs, row, color=colour, ls=dash, label=None if labels is None else labels[i])
        axes.set(xlabel=xlabel, ylabel="loss", xlim=(np.min(xs), np.max(xs)), yscale="log" if log else "linear")
        if labels is not None:
            axes.legend()
        return _figure(axes)


def contour(
    xs, ys, values, path=None, *, log: bool = True, levels: int = 24, names: Sequence[str] = ("x", "y"),
    axes: Axes | None = None,
) -> Figure:  # fmt: skip
    """The loss over a plane, and a path on it: `landscape.plane`, with `landscape.principal(...).coordinates`.

    Args:
      xs, ys: the grid, [a] and [b].
      values: [a, b], values[i, j] at (xs[i], ys[j]). What is not finite is left white and hatched.
      path: [T, 2], from a ring to a star; more of them as [g, T, 2].
      log: levels evenly spaced in the logarithm, where all finite losses are positive.
      names: what the axes are.
      axes: where to draw, a colour bar beside it; default: a figure of its own.
    Returns: the figure.
    """
    values = _plane(xs, ys, values)
    shown, log = np.ma.masked_invalid(values), log and bool(np.nanmin(_finite(values)) > 0)
    low, high = float(shown.min()), float(shown.max())
    high = high if high > low else low + max(abs(low), 1) * 1e-6  # a flat plane
    steps = np.geomspace(low, high, levels) if log else np.linspace(low, high, levels)
    norm = matplotlib.colors.LogNorm(low, high) if log else matplotlib.colors.Normalize(low, high)
    with matplotlib.rc_context(PLAIN):
        axes = Figure(figsize=(4.6, 3.7), dpi=200).subplots() if axes is None else axes
        axes.set_facecolor("white")
        axes.grid(False)
        if shown.mask.any():
            axes.patch.set(hatch="////", edgecolor="0.75")
        filled = axes.contourf(xs, ys, shown.T, steps, norm=norm, cmap="viridis")
        axes.contour(xs, ys, shown.T, steps[::3], colors="white", linewidths=0.4, alpha=0.6)
        bar = axes.figure.colorbar(filled, ax=axes, label="loss")
        ticks = steps[:: max(1, levels // 6)].tolist()
        bar.set_ticks(ticks, labels=[f"{x:.2g}" for x in ticks])
        bar.minorticks_off()
        if path is not None:
            for way in np.asarray(path, float).reshape(-1, *np.shape(path)[-2:]):
                axes.plot(*way.T, color="white", lw=2.4)
                axes.plot(*way.T, color="crimson", lw=1.2)
                axes.plot(*way[0], "o", mfc="white", mec="crimson", ms=5)
                axes.plot(*way[-1], "*", color="crimson", mec="white", ms=10)
        axes.set(xlabel=names[0], ylabel=names[1], xlim=(np.min(xs), np.max(xs)), ylim=(np.min(ys), np.max(ys)))
        return _figure(axes)


def relief(
    xs, ys, values, *, log: bool = True, names: Sequence[str] = ("x", "y"), view: tuple[float, float] = (38, -55),
    axes: Any = None,
) -> Figure:  # fmt: skip
    """The loss over a plane as a surface in three dimensions, lit from one side, its contours on the floor.

    Args:
      xs, ys, values, log, names: as for `contour`; on a logarithmic scale heights are log₁₀ of the loss.
      view: elevation and azimuth in degrees.
      axes: where to draw, made with `projection="3d", computed_zorder=False`; default: a figure of its own.
    Returns: the figure.
    """
    values = _plane(xs, ys, values)
    log = log and bool(np.nanmin(_finite(values)) > 0)
    heights = np.where(np.isfinite(values), np.log10(np.where(values > 0, values, 1)) if log else values, np.nan)
    low, high = np.nanmin(heights), np.nanmax(heights)
    floor = low - 0.35 * max(high - low, 1e-6)
    with matplotlib.rc_context(STYLE):
        if axes is None:
            axes = Figure(figsize=(5.0, 4.2), dpi=200).add_subplot(projection="3d", computed_zorder=False)
        x, y = np.meshgrid(xs, ys, indexing="ij")
        light = matplotlib.colors.LightSource(azdeg=315, altdeg=50)
        colour = matplotlib.colormaps["viridis"]((heights - low) / max(high - low, 1e-12))
        shade = light.hillshade(np.nan_to_num(heights, nan=high), vert_exag=0.6 * len(xs) / max(high - low, 1e-6) / 4)
        colour[..., :3] *= (0.55 + 0.45 * shade)[..., None]
        colour[np.isnan(heights)] = 0  # nothing where nothing is finite
        axes.contour(x, y, heights, 12, offset=floor, cmap="viridis", linewidths=0.7, zorder=0)
        axes.plot_surface(x, y, heights, facecolors=colour, rstride=1, cstride=1, linewidth=0, antialiased=False, shade=False,
                          zorder=1)  # fmt: skip
        axes.set(xlabel=names[0], ylabel=names[1], zlim=(floor, high))
        axes.set_zlabel("log₁₀ loss" if log else "loss")
        for axis in (axes.xaxis, axes.yaxis, axes.zaxis):
            axis.set_pane_color((1, 1, 1, 0))
            axis.set_major_locator(matplotlib.ticker.MaxNLocator(4))
        axes.view_init(*view)
        axes.set_box_aspect((1, 1, 0.75), zoom=0.92)
        return _figure(axes)


def _figure(axes: Axes) -> Figure:
    return cast(Figure, axes.get_figure(root=True))


def _plane(xs, ys, values) -> np.ndarray:
    values = np.asarray(values, float)
    if values.shape != (len(xs), len(ys)):
        asked = (len(xs), len(ys))
        raise ValueError(f"values have shape {values.shape}, but xs and ys ask for {asked}: values[i, j] is at (xs[i], ys[j])")
    return values


def _finite(values: np.ndarray) -> np.ndarray:
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        raise ValueError("none of the losses is finite: there is nothing to draw; cut closer to the point")
    return finite


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
