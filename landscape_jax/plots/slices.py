"""The loss around a point: on lines, and on planes as contours and reliefs."""

from collections.abc import Sequence
from typing import Any, cast

import matplotlib
import matplotlib.colors
import matplotlib.ticker
import numpy as np
from matplotlib.axes import Axes

from landscape_jax.plots.style import PLAIN, STYLE, Figure, draw_curve, number_labels, styles, tick_labels


def section(
    xs, values, labels: Sequence[str] | None = None, *, log: bool = False, xlabel: str = "distance", axes: Axes | None = None
) -> Figure:
    """The loss along one line, or several: `landscape.line`, `landscape.interpolation`.

    Args:
      xs: [n].
      values: [n], or [g, n] for g lines. A curve has a gap where the loss isn't finite.
      labels: one per line.
      log: a logarithmic axis of losses, where all finite ones are positive and they differ by more than a factor of two.
      axes: where to draw; default: a figure of its own, with the legend beside it.
    Returns: the figure.

    >>> xs = np.linspace(-1, 1, 9)
    >>> lj.plots.section(xs, [xs**2, xs**4], ["square", "quartic"]).savefig("lines.png")
    """
    values = np.atleast_2d(np.asarray(values, float))
    xs = _places("section", "xs", xs, least=1)
    if values.ndim != 2 or values.shape[-1] != len(xs):
        raise ValueError(f"values have shape {values.shape}, which doesn't end in the {len(xs)} places xs: [n] or [lines, n]")
    if labels is not None and (isinstance(labels, str) or len(labels) != len(values)):
        raise ValueError(f"section: labels={labels!r} for {len(values)} lines: give a list of as many")
    log = _spans(_finite(values)) and log
    values = np.where(np.isfinite(values), values, np.nan)
    with matplotlib.rc_context(STYLE):
        own = axes is None
        axes = Figure(figsize=(4.2, 2.8), dpi=200).subplots() if axes is None else axes
        for i, (row, (colour, dash)) in enumerate(zip(values, styles(len(values)), strict=False)):
            draw_curve(axes, xs, row, color=colour, ls=dash, label=None if labels is None else labels[i])
        axes.set(xlabel=xlabel, ylabel="loss", yscale="log" if log else "linear")
        if len(xs) > 1:
            axes.set_xlim(xs.min(), xs.max())
        if labels is not None:
            above = {"loc": "lower left", "bbox_to_anchor": (0, 1), "ncols": 1 if max(map(len, labels)) > 24 else 2}
            beside = {"loc": "upper left", "bbox_to_anchor": (1.01, 1)}
            axes.legend(**({} if not own else above if len(labels) <= 4 else beside))
        return _figure(axes)


def contour(
    xs,
    ys,
    values,
    path=None,
    *,
    log: bool = True,
    levels: int = 24,
    names: Sequence[str] = ("x", "y"),
    axes: Axes | None = None,
) -> Figure:
    """The loss over a plane, and a path on it: `landscape.plane`, with `landscape.principal(...).coordinates`.

    Args:
      xs, ys: the grid, [a] and [b], each increasing or decreasing, at least two numbers.
      values: [a, b], values[i, j] at (xs[i], ys[j]). What is not finite is left white and hatched.
      path: [T, 2], from a ring to a star; more of them as [g, T, 2].
      log: levels evenly spaced in the logarithm, where all finite losses are positive and differ by more than a factor of two.
      names: what the axes are.
      axes: where to draw, a colour bar beside it; default: a figure of its own.
    Returns: the figure.

    >>> xs = ys = np.linspace(-1, 1, 5)
    >>> figure = lj.plots.contour(xs, ys, xs[:, None] ** 2 + ys**2 + 0.1)
    >>> figure.savefig("plane.png")
    """
    xs, ys, values = _plane("contour", xs, ys, values)
    if levels < 2:
        raise ValueError(f"contour: levels={levels} must be at least 2")
    shown, log = np.ma.masked_invalid(values), _spans(_finite(values)) and log
    low, high = float(shown.min()), float(shown.max())
    flat = high - low <= 1e-12 * max(abs(low), abs(high))
    room = max(abs(low), 1) * 1e-6
    steps = np.array([low - room, high + room]) if flat else (np.geomspace if log else np.linspace)(low, high, levels)
    norm = (matplotlib.colors.LogNorm if log else matplotlib.colors.Normalize)(steps[0], steps[-1])
    with matplotlib.rc_context(PLAIN):
        axes = Figure(figsize=(4.6, 3.7), dpi=200).subplots() if axes is None else axes
        axes.set_facecolor("white")
        axes.grid(False)
        if shown.mask.any():
            axes.patch.set(hatch="////", edgecolor="0.75")
        filled = axes.contourf(xs, ys, shown.T, steps, norm=norm, cmap="viridis")
        if not flat:
            axes.contour(xs, ys, shown.T, steps[::3], colors="white", linewidths=0.4, alpha=0.6)
        ticks = [low] if flat else steps[:: max(1, levels // 6)] if log else _nice(low, high)
        labels, name = (number_labels(ticks), "loss") if log else tick_labels(ticks, "loss")
        bar = axes.figure.colorbar(filled, ax=axes, label=name)
        bar.set_ticks(list(ticks), labels=labels)
        bar.minorticks_off()
        if path is not None:
            _draw_paths(axes, path)
        axes.set(xlabel=names[0], ylabel=names[1], xlim=(xs.min(), xs.max()), ylim=(ys.min(), ys.max()))
        return _figure(axes)


def relief(
    xs,
    ys,
    values,
    *,
    log: bool = True,
    names: Sequence[str] = ("x", "y"),
    view: tuple[float, float] = (38, -55),
    axes: Any = None,
) -> Figure:
    """The loss over a plane as a surface in three dimensions, lit from one side, its contours on the floor.

    Args:
      xs, ys, values, log, names: as for `contour`; on a logarithmic scale heights are log₁₀ of the loss.
      view: elevation and azimuth in degrees.
      axes: where to draw, made with `projection="3d", computed_zorder=False`; default: a figure of its own.
    Returns: the figure.

    >>> xs = ys = np.linspace(-1, 1, 5)
    >>> lj.plots.relief(xs, ys, xs[:, None] ** 2 + ys**2 + 0.1).savefig("relief.png")
    """
    xs, ys, values = _plane("relief", xs, ys, values)
    log = _spans(_finite(values)) and log
    heights = np.where(np.isfinite(values), np.log10(np.where(values > 0, values, 1)) if log else values, np.nan)
    low, high = np.nanmin(heights), np.nanmax(heights)
    flat = high - low <= 1e-12 * max(abs(low), abs(high))
    height = max(abs(low), 1) if flat else high - low
    floor = low - 0.35 * height
    with matplotlib.rc_context(STYLE):
        if axes is None:
            axes = Figure(figsize=(5.0, 4.2), dpi=200).add_subplot(projection="3d", computed_zorder=False)
        x, y = np.meshgrid(xs, ys, indexing="ij")
        light = matplotlib.colors.LightSource(azdeg=315, altdeg=50)
        colour = matplotlib.colormaps["viridis"]((heights - low) / height)
        shade = light.hillshade(np.nan_to_num(heights, nan=high), vert_exag=0.6 * len(xs) / height / 4)
        colour[..., :3] *= (0.55 + 0.45 * shade)[..., None]
        colour[np.isnan(heights)] = 0  # nothing where nothing is finite
        if not flat:
            axes.contour(x, y, heights, 12, offset=floor, cmap="viridis", linewidths=0.7, zorder=0)
        axes.plot_surface(
            x, y, heights, facecolors=colour, rstride=1, cstride=1, linewidth=0, antialiased=False, shade=False, zorder=1
        )
        axes.set(xlabel=names[0], ylabel=names[1], zlim=(floor, high + 0.35 * height * flat))
        for axis in (axes.xaxis, axes.yaxis, axes.zaxis):
            axis.set_pane_color((1, 1, 1, 0))
            axis.set_major_locator(matplotlib.ticker.MaxNLocator(4))
        ticks = [z for z in axes.get_zticks() if floor <= z <= high]
        labels, name = tick_labels(ticks, "log₁₀ loss" if log else "loss")
        axes.set_zticks(ticks, labels)
        axes.zaxis.set_rotate_label(False)
        axes.set_zlabel(name, rotation=90)
        axes.view_init(*view)
        axes.set_box_aspect((1, 1, 0.75), zoom=0.92)
        return _figure(axes)


def _draw_paths(axes: Axes, path) -> None:
    ways = np.asarray(path, float)
    if ways.ndim not in (2, 3) or ways.shape[-1] != 2 or ways.size == 0:
        raise ValueError(f"contour: path has shape {ways.shape}: give [T, 2], or [g, T, 2] for g paths")
    for way in ways.reshape(-1, *ways.shape[-2:]):
        way = way[np.isfinite(way).all(axis=1)]
        axes.plot(*way.T, color="white", lw=2.4)
        axes.plot(*way.T, color="crimson", lw=1.2)
        axes.plot(*way[:1].T, "o", mfc="white", mec="crimson", ms=5)
        axes.plot(*way[-1:].T, "*", color="crimson", mec="white", ms=10)


def _figure(axes: Axes) -> Figure:
    return cast(Figure, axes.get_figure(root=True))


def _places(figure: str, name: str, values, least: int = 2) -> np.ndarray:
    values = np.asarray(values, float)
    if values.ndim != 1 or len(values) < least or not np.isfinite(values).all():
        raise ValueError(f"{figure}: {name} has shape {values.shape}: give at least {least} finite numbers in a row")
    steps = np.diff(values)
    if not ((steps > 0).all() or (steps < 0).all()):
        raise ValueError(f"{figure}: {name} must increase, or decrease, from each number to the next: sort it with its losses")
    return values


def _plane(figure: str, xs, ys, values) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    values = np.asarray(values, float)
    if values.shape != (np.size(xs), np.size(ys)):
        asked = (np.size(xs), np.size(ys))
        raise ValueError(f"values have shape {values.shape}, but xs and ys ask for {asked}: values[i, j] is at (xs[i], ys[j])")
    if min(values.shape) < 2:
        raise ValueError(f"{figure}: values have shape {values.shape}, a line and not a plane: draw it with plots.section")
    return _places(figure, "xs", xs), _places(figure, "ys", ys), values


def _finite(values: np.ndarray) -> np.ndarray:
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        raise ValueError("none of the losses is finite: there is nothing to draw; cut closer to the point")
    return finite


def _spans(finite: np.ndarray) -> bool:
    """Whether a logarithmic scale serves: all positive, and more than a factor of two between the least and the largest."""
    return bool(finite.min() > 0 and finite.max() > 2 * finite.min())


def _nice(low: float, high: float) -> np.ndarray:
    """Round numbers between these."""
    ticks = np.asarray(matplotlib.ticker.MaxNLocator(6).tick_values(low, high))
    return ticks[(ticks >= low) & (ticks <= high)]
