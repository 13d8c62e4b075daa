"""The figures of `kalra2023_phase_diagram`: from its record alone."""

import itertools

import matplotlib
import numpy as np
from matplotlib import patches, ticker
from matplotlib.axes import Axes

from experiments import _kalra2023_first_steps as early
from experiments import _kalra2023_uv as orbits
from landscape_jax.plots import DASHES, STYLE, Figure, colours, finite_range
from landscape_jax.theory import uv

# the four phases and what is left of c ≤ 2, of monotone lightness
PHASES = {
    "c ≤ 2": "#f7f7f7",
    "sharpness reduction": "#cfe3f2",
    "loss catapult": "#8fbfdd",
    "loss and sharpness catapult": "#4a86b8",
    "divergence": "#5b5b6b",
}
MARKS = ("o", "^", "s", "D")
PLATEAU = (40, 200)  # c · step


def phase_diagram(record, depths, widths, cs, num_sharp: int) -> Figure:
    """c against 1/w, a panel a depth: the phases between lines fitted to the means, and means with standard errors.

    Below each width stands how many initialisations never saw each event on the grid, and in the means they are not.
    """
    boundaries = np.array(record["phases"]["boundaries"])  # [d, w, s, 4]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(2.3 * max(len(depths), 2) + 0.6, 4.4), dpi=200)
        panels = np.atleast_1d(figure.subplots(1, len(depths), sharey=True))
        for axes, depth, values in zip(panels, depths, boundaries, strict=True):
            each = [values[:, : num_sharp if name == "sharp" else None, j] for j, name in enumerate(early.BOUNDARIES)]
            _phases(axes, each, np.asarray(widths), cs)
            axes.set_title(f"depth {depth}", fontsize=9)
            axes.set_xlabel("1/width")
        panels[0].set_ylabel("c = η λ₀")
        marks = panels[0].get_legend_handles_labels()
        areas = [patches.Patch(facecolor=colour, edgecolor="0.4", lw=0.4) for colour in PHASES.values()]
        figure.legend(areas + marks[0], [*PHASES, *marks[1]], loc="outside lower center", ncols=3, fontsize=7.5)
        total = boundaries.shape[2]
        figure.suptitle(
            f"below the widths: how many of {total} inits have no c_loss · c_sharp (of {num_sharp}) · c_barrier · c_max",
            fontsize=7,
        )
        return figure


def _phases(axes: Axes, boundaries: list[np.ndarray], widths: np.ndarray, cs: np.ndarray) -> None:
    top, inverse = cs[-1], 1 / widths
    x = np.linspace(0.8 * inverse.min(), 1.08 * inverse.max(), 60) if len(widths) > 1 else inverse * np.array([0.8, 1.2])
    lines = [np.full_like(x, 2.0)]
    for j in (0, 1, 3):  # c_loss, c_sharp, c_max
        mean = means(boundaries[j])[0]
        known = np.isfinite(mean)
        line = np.full_like(x, top)
        if known.any():
            line = np.polyval(np.polyfit(inverse[known], mean[known], min(1, known.sum() - 1)), x)
        lines.append(np.clip(np.maximum(line, lines[-1]), None, top))
    edges = [np.full_like(x, cs[0]), *lines, np.full_like(x, top)]
    for below, above, colour in zip(edges, edges[1:], PHASES.values(), strict=False):
        axes.fill_between(x, below, above, color=colour, lw=0, zorder=0)
    missing = []
    for values, name, mark in zip(boundaries, early.BOUNDARIES, MARKS, strict=True):
        mean, error, undefined = means(values)
        missing.append(undefined)
        axes.errorbar(
            inverse,
            mean,
            error,
            fmt=mark,
            ms=6 if name == "barrier" else 4.5,
            color="black",
            mfc="white",
            mew=0.9,
            elinewidth=0.9,
            capsize=2,
            label=f"c_{name}",
            zorder=3,  # c_barrier is often c_max: seen around its mark
        )
    axes.set_yscale("log", base=2)
    axes.set_ylim(cs[0], top)
    axes.set_xlim(x[0], x[-1])
    ticks = [f"1/{w}\n" + "·".join(map(str, counts)) for w, counts in zip(widths, np.transpose(missing), strict=True)]
    axes.set_xticks(inverse, ticks, fontsize=7)
    axes.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    axes.grid(False)


def means(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Over the defined entries along the last axis: their mean, its standard error, and how many entries are undefined."""
    known = np.isfinite(values)
    count = known.sum(axis=-1)
    total = np.where(known, values, 0).sum(axis=-1)
    mean = np.divide(total, count, out=np.full(count.shape, np.nan), where=count > 0)
    square = np.where(known, (values - mean[..., None]) ** 2, 0).sum(axis=-1)
    error = np.sqrt(np.divide(square, count * (count - 1), out=np.zeros(count.shape), where=count > 1))
    return mean, error, (~known).sum(axis=-1)


def regimes(record, network, cs, every: int, time: float) -> Figure:
    """Loss and sharpness over a long run against c times the steps, with the edge of stability of each c dotted."""
    long = record["regimes"]
    sharp, loss = np.asarray(long["sharpness"]), np.asarray(long["loss"])
    low, high = finite_range(sharp[sharp > 0], otherwise=(0.1, 1.0))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.3, 5.0), dpi=200)
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 3))
        step = 1 + every * np.arange(sharp.shape[1])
        for c, values, losses, colour, dash in zip(cs, sharp, loss, colours(len(cs)), itertools.cycle(DASHES), strict=False):
            above.plot(c * step, losses, color=colour, ls=dash, label=f"c = {c:g}")
            below.plot(c * step, values, color=colour, ls=dash)
            below.axhline(2 / c, color=colour, ls=(0, (1, 2)), lw=0.9)
            if 2 / c < 1.15 * high:
                below.annotate(
                    f"2/η, c = {c:g}",
                    (1.0, 2 / c),
                    xycoords=("axes fraction", "data"),
                    fontsize=7,
                    color=colour,
                    ha="left",
                    va="center",
                    xytext=(3, 0),
                    textcoords="offset points",
                )
        for axes in (above, below):
            axes.axvline(time, color="0.3", lw=0.7)
            axes.axvspan(*PLATEAU, color="0.92", lw=0, zorder=0)
        above.annotate(
            "plateau",
            (PLATEAU[0], 1.0),
            xycoords=("data", "axes fraction"),
            fontsize=7,
            xytext=(2, -9),
            textcoords="offset points",
        )
        above.set_title(f"depth {network[0]}, width {network[1]}; line: c · step = {time:g}", fontsize=9)
        above.set(xscale="log", yscale="log", ylabel="training loss")
        below.set(xlabel="c · (step + 1)", ylabel="sharpness  λ/λ₀", yscale="log")
        below.set_ylim(0.8 * low, 1.25 * high)
        above.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0))
        return figure


def saturation(record, networks, cs, time: float) -> Figure:
    """λ_τ/λ₀ against c at c τ = K, its slope χ and the slope of χ, with the step of steepest onset marked."""
    ratio = np.asarray(record["saturation"]["ratio"])  # [network, init, c]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.3, 2.9), dpi=200)
        panels = figure.subplots(1, 3)
        for (depth, width), each, colour, dash in zip(
            networks, ratio, colours(len(networks)), itertools.cycle(DASHES), strict=False
        ):
            mean = each.mean(axis=0)
            chi, slope = derivatives(mean, cs)
            label = f"d = {depth}, w = {width}"
            panels[0].plot(cs, each.T, color=colour, lw=0.4, alpha=0.5)
            for axes, values in zip(panels, (mean, chi, slope), strict=True):
                axes.plot(cs, values, color=colour, ls=dash, marker=".", ms=3, label=label)
            if np.isfinite(slope).any():
                panels[2].plot(cs[np.nanargmax(slope)], np.nanmax(slope), "o", ms=6, mfc="none", color=colour)
        for axes, name in zip(panels, (f"λ_τ/λ₀ at cτ = {time:g}", "χ = −d(λ_τ/λ₀)/dc", "χ′  (○: c_crit)"), strict=True):
            axes.set_xscale("log", base=2)
            axes.set_title(name, fontsize=8.5)
            axes.set_xlabel("c")
            axes.axvline(2, color="0.4", lw=0.7, ls=(0, (4, 3)))
            axes.xaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
        return figure


def derivatives(ratio: np.ndarray, cs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """χ = −d ratio/dc and χ′, central differences on the uneven grid of c, along the last axis."""
    chi = -np.gradient(ratio, cs, axis=-1)
    return chi, np.gradient(chi, cs, axis=-1)


def uv_models(record) -> Figure:
    """The uv model's phase diagram, theory as lines and simulation as marks; and the orbits of the model with a target."""
    found, target = record["uv"], record["uv_target"]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.3, 3.2), dpi=200)
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.15))
        a = np.geomspace(5e-4, 0.125, 200)
        k = uv.loss_threshold(a)
        for below, above, colour in (
            (1.9, 2, PHASES["c ≤ 2"]),
            (2, k, PHASES["sharpness reduction"]),
            (k, 4, PHASES["loss catapult"]),
            (4, 4.3, PHASES["divergence"]),
        ):
            left.fill_between(a, below, above, color=colour, lw=0, zorder=0)
        left.plot(a, k, color="black", lw=1.2, label="k_loss, theory")
        left.axhline(uv.MAX_THRESHOLD, color="black", ls=DASHES[1], label="k_trace = k_max = 4, theory")
        for name in ("loss", "trace", "max", "top"):
            left.plot(
                found["random_a"].ravel(),
                found[f"random_{name}"].ravel(),
                ".",
                ms=2.5,
                color="white",
                mew=0,
                zorder=1,
                label="random u, v" if name == "loss" else None,
            )
        for name, mark, label in (
            ("loss", "o", "loss rises"),
            ("trace", "^", "trace rises"),
            ("max", "x", "diverges"),
            ("top", "s", "top eigenvalue rises"),
        ):
            left.plot(found["a"], found[f"grid_{name}"], mark, ms=4, color="black", mfc="white", label=label)
        left.set(xscale="log", xlabel="a = f₀²/(w λ₀²)", ylabel="k = η λ₀", ylim=(1.9, 4.3), xlim=(a[0], a[-1]))
        left.legend(loc="upper left", bbox_to_anchor=(0.0, 0.86), fontsize=6.5)
        for name, height in (("divergence", 4.15), ("loss catapult", 2.28)):
            left.annotate(name, (6e-4, height), fontsize=7.5, va="center", color="white" if height > 4 else "black")
        left.set_title("no target", fontsize=9)
        left.grid(False)
        r = np.repeat(target["r"], target["orbit"].shape[1])
        right.plot(r, target["orbit"].ravel(), ",", color="black", alpha=0.25, rasterized=True)
        right.plot(target["r"], target["mean"], color=colours(3)[1], lw=1.0, label="mean over the orbit")
        right.axhline(2, color="0.4", lw=0.8, ls=(0, (4, 3)), label="η λ = 2")
        right.set(xlabel="r = η λ_min", ylabel="η λ along the orbit", xlim=(target["r"][0], target["r"][-1]))
        right.legend(loc="upper left", fontsize=6.5)
        right.set_title(f"target y = {orbits.TARGET:g}, w = {orbits.WIDTH}", fontsize=9)
        return figure
