"""What all figures share: style, colours, dashes, numbers beside ticks."""

import io
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import matplotlib
import matplotlib.figure
import numpy as np
from matplotlib.axes import Axes

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
SHOWN_DPI = 120  # on a screen; `savefig` uses the figure's own
MOST_POINTS = 4000  # of a curve: far more than there are pixels


class Figure(matplotlib.figure.Figure):
    """A Matplotlib figure that a notebook shows at the end of a cell; pyplot is not involved."""

    def _repr_png_(self) -> bytes:
        png = io.BytesIO()
        self.savefig(png, format="png", dpi=SHOWN_DPI)
        return png.getvalue()


def colours(n: int) -> list:
    """n colours from dark to light, none too pale for white paper.

    >>> len(lj.plots.colours(3))
    3
    """
    return [matplotlib.colormaps["viridis"](x) for x in np.linspace(0.0, 0.82, n)]


def styles(n: int) -> Iterator[tuple[Any, Any]]:
    """A colour and a dash for each of n curves."""
    return zip(colours(n), itertools.cycle(DASHES), strict=False)


def draw_curve(axes: Axes, x: np.ndarray, y: np.ndarray, **style) -> None:
    """A curve with gaps where y is NaN, and dots for points that have a gap on both sides."""
    axes.plot(*thinned(x, y), **style)
    finite = np.pad(np.isfinite(y), 1)
    alone = finite[1:-1] & ~finite[:-2] & ~finite[2:]
    if alone.any():
        axes.plot(x[alone], y[alone], "o", ms=2.5, **(style | {"ls": "none", "label": None}))


def thinned(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The lowest and the highest point of each of many short stretches of a long curve: to the eye the same."""
    if len(y) <= MOST_POINTS:
        return x, y
    size = -(-2 * len(y) // MOST_POINTS)
    parts = np.pad(y, (0, -len(y) % size), constant_values=np.nan).reshape(-1, size)
    low = np.where(np.isnan(parts), np.inf, parts).argmin(axis=1)
    high = np.where(np.isnan(parts), -np.inf, parts).argmax(axis=1)
    index = (np.arange(len(parts))[:, None] * size + np.sort(np.stack([low, high], axis=1), axis=1)).ravel()
    return x[index], y[index]


def finite_range(values, otherwise: tuple[float, float] = (0.0, 1.0)) -> tuple[float, float]:
    """The least and the largest of the finite values, for limits of an axis; `otherwise` where there are none.

    >>> lj.plots.finite_range([1.0, np.nan, 3.0])
    (1.0, 3.0)
    """
    values = np.asarray(values, float)
    finite = values[np.isfinite(values)]
    return (float(finite.min()), float(finite.max())) if finite.size else otherwise


def number_labels(values: Sequence[float] | np.ndarray) -> list[str]:
    """Numbers in the fewest digits that place each within a tenth of the distance to its neighbours.

    >>> number_labels([2.0, 2.004, 2.008])
    ['2', '2.004', '2.008']
    """
    values = np.asarray(values, float)
    gaps = np.abs(np.diff(values))
    gaps = np.where(gaps > 0, gaps, np.inf)
    near = np.minimum(np.r_[np.inf, gaps], np.r_[gaps, np.inf])[: len(values)]  # to the nearer neighbour
    alone = np.isinf(near)
    digits = 6 if alone.all() else 2
    while True:
        rounded = np.array([float(f"{x:.{digits}g}") for x in values])
        if digits == 17 or (np.abs(rounded - values)[~alone] <= 0.1 * near[~alone]).all():
            return [f"{x:.{max(digits, 5)}g}".replace("-", "−") for x in rounded]
        digits += 1


def tick_labels(ticks: Sequence[float] | np.ndarray, name: str, most: int = 7) -> tuple[list[str], str]:
    """Labels of even ticks, and the name of their axis, which takes an offset and a power of ten where labels would be long."""
    labels = number_labels(ticks)
    ticks = np.asarray(ticks, float)
    if max(map(len, labels), default=0) <= most:
        return labels, name
    if np.abs(ticks).max() > 100 * np.ptp(ticks):
        offset = labels[0]
        ticks = ticks - float(offset.replace("−", "-"))
        name = f"({name} + {offset[1:]})" if offset.startswith("−") else f"({name} − {offset})"
    power = int(np.floor(np.log10(np.abs(ticks).max())))
    return number_labels(np.round(ticks / 10.0**power, 9)), f"{name} / $10^{{{power}}}$"
