"""The figure of `ma2022_multiscale`: toys, origin, networks; a row or two for each part that was run."""

import itertools
import string
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes

from experiments import _ma2022_toys as toys
from experiments._ma2022_networks import CHECKS, RADII, TEACHER_RADII, edge
from landscape_jax import Record, plots
from landscape_jax.plots import Figure, finite_range


def whole(record: Record, config: Any) -> Figure:
    rows = [draw for part, draws in ROWS.items() if part in record for draw in draws]
    style: Any = plots.STYLE | {"font.size": 8, "axes.labelsize": 8, "legend.fontsize": 7, "axes.titlesize": 8}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(8.6, 2.5 * len(rows)), dpi=170)
        grid = figure.subplots(len(rows), 3, squeeze=False)
        for draw, axes in zip(rows, grid, strict=True):
            draw(axes, record, config)
        for axes, letter in zip(grid.flat, string.ascii_lowercase, strict=False):
            axes.set_title(f"{letter}   {axes.get_title()}", loc="left", pad=3)
            axes.set_title("")
        return figure


def _lines(axes: Axes, x, groups, labels) -> None:
    """Each group [seed, x]: thin runs, bold median."""
    styles = zip(plots.colours(len(labels)), itertools.cycle(plots.DASHES), strict=False)
    for group, label, (colour, dash) in zip(groups, labels, styles, strict=False):
        group = np.atleast_2d(np.asarray(group))
        if len(group) > 1:
            axes.plot(x, group.T, color=colour, lw=0.4, alpha=0.5)
        axes.plot(x, np.median(group, axis=0), color=colour, ls=dash, label=label)


def _toys(row, record: Record, config: Any) -> None:
    found = record["toys"]
    axes, part = row[0], found["two_scale"]
    _lines(axes, np.arange(600), np.asarray(part["loss"]), toys.SCHEDULES)
    axes.axhline(float(part["predicted"]), color="black", lw=0.8, ls=":", label="f(x*) at the big rate")
    axes.set(yscale="log", ylim=(1e-30, 100), xlabel="step", ylabel="loss")
    axes.set_title("two scales and a slow direction")
    axes.legend(loc="center right")

    axes, part = row[1], found["staircase"]
    dark, light = plots.colours(2)
    dense = np.argsort(part["rate"])
    axes.plot(np.asarray(part["rate"])[dense], np.asarray(part["predicted"])[dense], color=light, label="f'(w)/w = 2/η")
    axes.plot(part["rate"], part["plateau"], "o", ms=3.5, color=dark, label="settled")
    axes.set(xlabel="learning rate η", ylabel="loss")
    axes.set_xscale("log")
    axes.set_yscale("symlog", linthresh=1e-4)
    axes.set_ylim(-2e-5, None)
    axes.minorticks_off()
    axes.set_yticks([0, 1e-4, 1e-2, 1])
    axes.set_title("three scales: the plateau of each rate")
    axes.legend()

    axes = row[2]
    decays, plateaus = np.asarray(part["decays"]), np.asarray(part["decay_plateaus"])
    axes.plot(decays, color=dark, lw=0.9, label="loss")
    for i, (plateau, rate) in enumerate(zip(plateaus, toys.DECAYS, strict=True)):
        ends = np.array([i, i + 1]) * toys.DECAY_STEPS
        axes.plot(ends, [plateau] * 2, color=light, lw=3, alpha=0.6, label=None if i else "f(x*) at this rate")
        place = ends.mean(), max(plateau, 2e-10)
        axes.annotate(f"{rate:g}", place, (0, 5), textcoords="offset points", ha="center", fontsize=6.5)
    axes.set(yscale="log", ylim=(1e-10, 100), xlabel="step", ylabel="loss", xlim=(0, len(decays)))
    axes.set_title("three scales, rate after rate")
    axes.legend(loc="lower left")


def _magnitudes(row, record: Record, config: Any) -> None:
    """The growth of one unit's loss by the magnitudes of its data."""
    found = record["toys"]
    axes, part = row[0], found["continuum"]
    t = np.asarray(part["t"])
    exponents = {name: np.gradient(np.log(np.asarray(part[name])), np.log(t), axis=1) for name in ("tanh", "linear", "relu")}
    _lines(axes, t, exponents["tanh"], [f"q = {q:g}" for q in part["q"]])
    for q, colour in zip(part["predicted"], plots.colours(len(part["q"])), strict=True):
        axes.plot([3e-3, 3e-2], [q, q], color=colour, lw=3, alpha=0.35)
    axes.plot([], [], color="grey", lw=3, alpha=0.35, label="q − 1")
    middle = [list(part["q"]).index(2.0)]
    _lines(row[1], t, [exponents[name][middle] for name in exponents], ["tanh", "linear", "ReLU, kink at 1"])
    apart = found["separated"]
    _lines(row[2], np.asarray(apart["t"]), [apart["exponent"]], ["magnitudes 1, 10², 10⁴"])
    row[2].plot(toys.SEPARATED_AT, toys.SEPARATED_P, "o", ms=4, mfc="none", color="black", label="as derived")
    titles = "magnitudes of density $x^{-q}$, tanh", "q = 2, by the unit's activation", "separate magnitudes, tanh"
    for axes, title in zip(row, titles, strict=True):
        axes.set(xscale="log", xlabel="distance t", ylabel="d log L / d log t", ylim=(0, 2.2), title=title)
        axes.legend(loc="lower left" if axes is not row[2] else "upper right")


def _exponents(axes: Axes, radii: np.ndarray, title: str, highest: float = 2.4) -> None:
    axes.axhline(2, color="black", lw=0.7, ls=":")
    axes.set(xscale="log", xlabel="distance r", ylabel="p(r)", ylim=(0, highest), xlim=(radii[0], radii[-1]))
    axes.set_title(title)
    axes.legend(loc="lower left")


def _origin(row, record: Record, config: Any) -> None:
    found, labels = record["origin"], [", ".join(f"{x:g}" for x in s) for s in config.scales]
    shown = (("tanh", "top", "tanh, sharpest direction"), ("tanh", "random", "tanh, random directions"))
    for axes, (name, direction, title) in zip(row, shown, strict=False):
        _lines(axes, TEACHER_RADII, np.asarray(found[name][direction]), labels)
        _exponents(axes, TEACHER_RADII, title, highest=max(2.4, 1.05 * finite_range(found[name][direction])[1]))
    groups = [found["relu"]["top"][-1], found["linear"]["top"][-1], found["tanh"]["top"][0]]
    _lines(row[2], TEACHER_RADII, groups, ["ReLU, spread data", "linear, spread data", "tanh, uniform data"])
    _exponents(row[2], TEACHER_RADII, "one cause alone: sharpest direction")


def _edge(row, record: Record, config: Any) -> None:
    found = record["networks"]
    labels = [f"tanh, η = {rate:g}" for rate in found["tanh"]["rate"]]
    labels += [f"{name}, η = {found[key]['rate'][0]:g}" for key, name in (("relu", "ReLU"), ("cross_entropy", "cross-entropy"))]
    step = np.arange(CHECKS) * (config.num_steps // CHECKS)
    ratio = [
        s * r / 2
        for key in ("tanh", "relu", "cross_entropy")
        for s, r in zip(np.asarray(found[key]["sharpness"]), found[key]["rate"], strict=True)
    ]
    axes = row[0]
    _lines(axes, step, ratio, labels)
    axes.axhline(1, color="black", lw=0.8, ls=(0, (4, 3)))
    axes.set(xlabel="step", ylabel="λ₁ η/2", ylim=(0, 2), xlim=(0, step[-1]))
    axes.set_title("sharpness against the edge")
    axes.legend(fontsize=6)

    at_edge = edge(record)  # without the control
    _lines(row[1], RADII, np.asarray(at_edge["top"]), labels[1:])
    _exponents(row[1], RADII, "square loss, tanh: sharpest direction")

    axes = row[2]
    runs = zip(np.asarray(at_edge["dropped"]), np.asarray(at_edge["kept"]), config.rates[1:], plots.colours(2), strict=True)
    for values, kept, rate, colour in runs:
        axes.plot(values.T / values[:, :1].T, color=colour, lw=0.9)
        axes.plot(kept.T / values[:, :1].T, color=colour, lw=0.6, ls=":")
        axes.plot([], [], color=colour, label=f"η = {rate:g}, then η/4, η/16")
    axes.plot([], [], color="black", lw=0.6, ls=":", label="η kept")
    axes.axvline(values.shape[1] // 2, color="black", lw=0.6)
    axes.set(xlabel="step after the drop", ylabel="loss, relative", xlim=(0, None))
    axes.set_ylim(0, 1.5 * axes.get_ylim()[1])  # room for the legend
    axes.set_title("dividing the rate by 4, twice")
    axes.legend(loc="upper right")


def _limits(row, record: Record, config: Any) -> None:
    found = record["networks"]
    tanh = edge(record)
    groups = [tanh[name].reshape(-1, len(RADII)) for name in ("random", "gradient", "gradient_after")]
    _lines(row[0], RADII, groups, ["random", "gradient", "gradient after the drop"])
    _exponents(row[0], RADII, "square loss, tanh: other directions", highest=max(4, 1.05 * finite_range(groups)[1]))
    others = [np.asarray(found[name]["top"])[0] for name in ("relu", "cross_entropy")]
    _lines(row[1], RADII, others, ["ReLU, square loss", "tanh, cross-entropy"])
    _exponents(row[1], RADII, "other networks: sharpest direction", highest=max(4, 1.05 * finite_range(others)[1]))
    axes = row[2]
    for i, (rate, colour) in enumerate(zip(config.rates[1:], plots.colours(2), strict=True)):
        ratio, secant = tanh["curvature"][i] * rate / 2, tanh["secant"][i] * rate / 2
        axes.plot(ratio, secant, "os"[i], color=colour, ms=4, label=f"η = {rate:g}")
    both = axes.get_xlim()
    axes.axline((1, 1), slope=1, color="black", lw=0.7, ls=":", label="no growth below 2")
    axes.axhline(1, color="black", lw=0.8, ls=(0, (4, 3)), label="a one-dimensional cycle")
    axes.set(xlabel="λ₁ η/2", ylabel="secant over the swing · η/2", xlim=both)
    axes.set_title("does the 1-D cycle explain the edge?")
    axes.legend(loc="upper left")


ROWS = {"toys": [_toys, _magnitudes], "origin": [_origin], "networks": [_edge, _limits]}
