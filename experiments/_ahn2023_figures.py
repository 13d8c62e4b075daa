"""The figures of `ahn2023_threshold_neurons`: from its record alone."""

import itertools
from typing import Any

import matplotlib
import numpy as np
from matplotlib import ticker

from experiments import _ahn2023_mean as mean
from experiments import _ahn2023_neuron as neurons
from experiments import _ahn2023_verdicts as verdicts
from experiments._float64 import float64
from landscape_jax.plots import DASHES, STYLE, Figure, colours
from landscape_jax.theory import neuron, sparse_coding

CRITICAL: dict[str, Any] = dict(color="0.25", lw=0.9, ls=(0, (4, 3)), zorder=1)
SHOWN = (0.5, 1.3, 3.0, 19.0)  # η/η_c of the trainings that are drawn over time
ETA_C = r"$\eta_c$"
MARKS = ("o", "^", "s", "D", "v")


def transition(record, config) -> Figure:
    """The learned bias against η, with the critical step; beneath, loss and sharpness of some of the trainings."""
    found, ratios = record["network"], np.array(config.ratios)
    critical = sparse_coding.critical_rate(config.dim)
    bias = np.asarray(found["final_bias"])  # [seed, ratio]
    shown = sorted({int(np.abs(np.log(ratios / x)).argmin()) for x in SHOWN})
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.3, 5.6), dpi=200)
        grid = figure.add_gridspec(2, 2, height_ratios=(1.15, 1))
        above, left, right = figure.add_subplot(grid[0, :]), figure.add_subplot(grid[1, 0]), figure.add_subplot(grid[1, 1])
        rates = ratios * critical
        above.plot(rates, bias.T, color="0.6", lw=0.6, zorder=2)
        above.plot(rates, np.median(bias, axis=0), color="black", marker="o", ms=3.5, label=f"network, median of {len(bias)}")
        fine = np.geomspace(critical, rates[-1], 200)
        with float64():
            limit = np.asarray(sparse_coding.edge_limit(fine, config.dim))
        above.plot(fine, limit, color=colours(3)[1], ls=DASHES[1], label="mean model", zorder=3)
        above.axvline(critical, **CRITICAL)
        above.annotate(
            f"{ETA_C} = 8π/d²",
            (critical, 0.04),
            xycoords=("data", "axes fraction"),
            va="bottom",
            fontsize=9,
            xytext=(8, 0),
            textcoords="offset points",
        )
        above.set(xscale="log", xlabel="step η", ylabel="learned bias b", xlim=(0.9 * rates[0], 1.1 * rates[-1]))
        above.set_title(
            f"d = {config.dim}, n = {config.n_train}, λ = {config.signal:g}, the same time η · steps = {config.time:g} for all",
            fontsize=8.5,
        )
        above.legend(loc="lower left")
        for i, colour, dash in zip(shown, colours(len(shown)), itertools.cycle(DASHES), strict=False):
            time = np.asarray(found["time"])[0, i]
            style: dict[str, Any] = dict(color=colour, ls=dash, lw=1.1, label=f"{ratios[i]:g} {ETA_C}")
            start = time > 0  # step 0 has no place on a logarithmic axis
            left.plot(time[start], np.asarray(found["loss"])[0, i][start], **style)
            right.plot(time[start], (np.asarray(found["sharpness"])[0, i] * rates[i] / 2)[start], **style)
            above.plot(rates[i], bias[0, i], "o", ms=6.5, mfc="none", mec=colour, mew=1.3, zorder=4)
        right.axhline(1, **CRITICAL)
        right.annotate(
            "sharpness = 2/η", (0.98, 1.03), xycoords=("axes fraction", "data"), fontsize=7.5, ha="right", va="bottom"
        )
        left.set(xscale="log", yscale="log", xlabel="time η · step", ylabel="training loss")
        right.set(xscale="log", xlabel="time η · step", ylabel="sharpness λ₁ · η/2")
        right.set_ylim(0, min(1.1 * np.nanmax(right.get_ylim()), 3))
        figure.legend(
            *left.get_legend_handles_labels(),
            loc="outside lower center",
            ncols=len(shown),
            title="one draw (circled above), at steps of",
            title_fontsize=8,
        )
        return figure


def knee(record, config) -> Figure:
    """How the knee is found; test accuracy; and what the bias does over time below the critical step."""
    found, ratios = record["network"], np.array(config.ratios)
    bias, accuracy = (np.asarray(found[name]) for name in ("final_bias", "accuracy"))  # [seed, ratio]
    at = verdicts.knees(ratios, bias)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.3, 2.75), dpi=200)
        left, middle, right = figure.subplots(1, 3)
        near = (ratios > 0.2) & (ratios <= 2)
        shades = colours(len(bias))
        for i, (row, shade) in enumerate(zip(bias, shades, strict=True)):
            left.plot(ratios[near], row[near], "o", ms=2.5, color=shade)
            if at is not None:
                flat = row[verdicts.places(ratios, verdicts.PLATEAU)].mean()
                slope = np.polyfit(verdicts.FITTED, row[verdicts.places(ratios, verdicts.FITTED)], 1)[0]
                left.plot([0.25, at[i], 1.7], [flat, flat, flat + slope * (1.7 - at[i])], color=shade, lw=0.7)
        left.axvline(1, **CRITICAL)
        middle_of, told = None if at is None else verdicts.interval(at), ""
        if middle_of is not None:
            left.axvspan(*middle_of[1:], color="0.85", lw=0, zorder=0)
            told = ": {:.3f}\n95 %: {:.3f} to {:.3f}".format(*middle_of)
        left.set(xlabel=f"η/{ETA_C}", ylabel="learned bias b", title="the knee" + told)
        middle.plot(ratios, accuracy.T, color="0.6", lw=0.6)
        middle.plot(ratios, np.median(accuracy, axis=0), color="black", marker="o", ms=3)
        middle.axvline(1, **CRITICAL)
        middle.set(xscale="log", xlabel=f"η/{ETA_C}", ylabel="test accuracy (%)", title="accuracy")
        below = [i for i, x in enumerate(ratios) if x < 1.0 and (np.isclose(x, (0.25, 0.5, 0.8)).any() or len(ratios) < 4)]
        for i, dash in zip(below, itertools.cycle(DASHES), strict=False):
            for s, shade in enumerate(shades):
                path = np.append(np.asarray(found["bias"])[s, i], bias[s, i])
                clock = np.append(np.asarray(found["time"])[s, i], config.time)
                right.plot(clock, path, color=shade, ls=dash, lw=0.9, label=f"{ratios[i]:g} {ETA_C}" if s == 0 else None)
        right.set(xlabel="time η · step", ylabel="bias b", title=f"below {ETA_C}: flat in η,\nnot in time")
        if below:
            right.legend(fontsize=7)
        for axes in (left, middle, right):
            axes.title.set_fontsize(8.5)
        return figure


def scaling(record, config) -> Figure:
    """The bias against η in units of 8π/d² for several d and λ; and where the knee is, against d."""
    bias = np.asarray(record["scaling"]["final_bias"])  # [cell, seed, ratio]
    ratios = np.array(config.scaling_ratios)
    at = verdicts.knees(ratios, bias)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.3, 3.1), dpi=200)
        left, right = figure.subplots(1, 2)
        plateau = bias[..., ratios < 0.85].mean(axis=-1, keepdims=True)
        looks = list(zip(config.scaling, bias, colours(len(bias)), itertools.cycle(MARKS), strict=False))
        for i, ((d, signal), each, colour, mark) in enumerate(looks):
            label = f"d = {d}, λ = {signal:g}"
            left.plot(ratios, (each - plateau[i]).T, color=colour, lw=0.5, alpha=0.6)
            left.plot(ratios, (each - plateau[i]).mean(axis=0), mark, ms=3.5, color=colour, mfc="white", label=label)
            if at is not None:
                step = at[i] * sparse_coding.critical_rate(d)
                right.plot(np.full(len(each), d), step, mark, ms=4.5, color=colour, mfc="none")
        fine = np.linspace(1, ratios[-1], 100)
        with float64():
            theory = np.asarray(sparse_coding.edge_limit(fine * sparse_coding.critical_rate(config.dim), config.dim))
        left.plot(fine, theory, color="black", lw=0.9, label="mean model")
        left.axvline(1, **CRITICAL)
        left.set(xlabel="η/(8π/d²)", ylabel="b − plateau")
        left.legend(fontsize=7, frameon=True, edgecolor="none", framealpha=1)
        dims = np.geomspace(0.85 * min(d for d, _ in config.scaling), 1.18 * max(d for d, _ in config.scaling), 50)
        right.plot(dims, [sparse_coding.critical_rate(d) for d in dims], color="black", lw=0.9, label="8π/d²")
        right.plot(dims, sparse_coding.critical_rate(config.dim) * config.dim / dims, **CRITICAL | {"label": "∝ 1/d"})
        right.set(xscale="log", yscale="log", xlabel="d", ylabel="knee (step η)")
        ticks = sorted({d for d, _ in config.scaling})
        right.set_xticks(ticks, [str(d) for d in ticks])
        right.minorticks_off()
        right.legend()
        return figure


def single_neuron(found) -> Figure:
    """Orbits in the (x, y) plane, final sharpness against the start, deficits against η, and the common curve."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.3, 5.4), dpi=200)
        (plane, ends), (deficits, curve) = figure.subplots(2, 2)
        edge = 2 / neurons.PLANE_RATE
        x, y = found["plane"]["x"], found["plane"]["y"]
        high = neurons.PLANE_Y**2 > edge
        for xs, ys, colour in zip(x, y, colours(len(x)), strict=True):
            plane.plot(xs, ys, "-", lw=0.35, color=colour, alpha=0.7)
            plane.plot(xs, ys, ".", ms=2.2, color=colour)
            plane.plot(xs[0], ys[0], "o", ms=4, color=colour, mfc="white")
        with float64():
            s = np.linspace(0, 4.5, 200)
            along = [np.asarray(v) for v in neuron.envelope(s, neurons.PLANE_RATE, neuron.LOG_COSH)]
        for sign in (-1, 1):
            plane.plot(sign * along[0], along[1], color="black", lw=0.8, label="envelope" if sign > 0 else None)
        plane.axhline(edge**0.5, **CRITICAL | {"label": "y² = 2/η"})
        plane.set(xlabel="x", ylabel="y", title=f"log cosh(xy), η = 2/{edge:g}", xlim=(-0.7, 0.7), ylim=(2, 7.3))
        plane.legend(loc="lower left", fontsize=7)

        rates, starts = neurons.GRID_RATES, neurons.GRID_STARTS
        for i in (0, len(rates) // 2, len(rates) - 1):
            colour = colours(len(rates))[i]
            end = found["grid"]["end"][i] * rates[i] / 2
            ends.plot(starts, end, ".", ms=3, color=colour, label=f"η = {rates[i]:.2g}")
            ends.plot([1, 1.6], [1 - rates[i] ** 2 * 3 / 4] * 2, color=colour, lw=0.8)
        ends.plot([0.2, 1], [0.2, 1], color="black", lw=0.8, label="theory")
        ends.axvline(1, **CRITICAL)
        ends.set(xlabel="start, C₀ · η/2", ylabel="end, sharpness · η/2", title="from any start beyond 1: one end")
        ends.legend(fontsize=7)

        fine = np.geomspace(neurons.RATES[-1], neurons.RATES[0], 50)
        marks = zip(neurons.FAMILY.items(), found["family"]["end"], colours(len(neurons.FAMILY)), MARKS, strict=True)
        for (name, potential), end, colour, mark in marks:
            below = 2 / neurons.RATES - end[:, 1]
            deficits.plot(neurons.RATES, below, mark, ms=4.5, color=colour, mfc="white", label=f"β = {name}")
            deficits.plot(fine, neuron.deficit(fine, potential) * np.ones(50), color=colour, lw=0.8)
        deficits.set(xscale="log", yscale="log", xlabel="step η", ylabel="2/η − final sharpness")
        deficits.set_title("deficit, closed form as lines")
        deficits.set_xticks(neurons.RATES, [f"{r:g}" for r in neurons.RATES])
        deficits.minorticks_off()
        deficits.legend(fontsize=7, ncols=2)

        for xs, ys, colour in zip(x[high], y[high], np.array(colours(len(x)))[high], strict=True):
            size = np.abs(xs * ys)
            curve.plot(ys[size > 1e-3] ** 2, size[size > 1e-3], ".", ms=3, color=colour)
        curve.plot(along[1] ** 2, along[0] * along[1], color="black", lw=0.8, label="envelope, ℓ'(s)/s = 2/(η y²)")
        curve.axvline(edge, **CRITICAL)
        curve.set(xlabel="y²", ylabel="|xy|", xlim=(50, 14.5), ylim=(0, 4), title="all starts, one curve (time →)")
        curve.legend(fontsize=7)
        for axes in (plane, ends, deficits, curve):
            axes.title.set_fontsize(8.5)
        return figure


def mean_model(found, dim: int) -> Figure:
    """Bias and sharpness of the mean model across the transition, theory as lines; and the next order."""
    ratios = mean.RATIOS
    above = ratios > 1
    fine = np.geomspace(1.0005, ratios[-1], 200)
    with float64():
        critical = sparse_coding.critical_rate(dim)
        limit = np.asarray(sparse_coding.next_edge_limit(fine * critical, dim))
        below = 1 - np.asarray(sparse_coding.edge_sharpness(limit, dim))
        flow = float(sparse_coding.mean_sharpness(found["flow"], dim)) * critical / 2
    dot: dict[str, Any] = dict(ls="", marker="o", ms=3.2, color=colours(3)[1], mfc="white", zorder=3)
    line: dict[str, Any] = dict(color="black", lw=0.9)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.3, 2.7), dpi=200)
        left, middle, right = figure.subplots(1, 3)
        left.plot(ratios, found["bias"], **dot, label="mean model")
        left.plot(fine, limit, **line, label="theory")
        left.plot([ratios[0], 1], [found["flow"]] * 2, **line)
        left.set(ylabel="final bias b")
        left.legend(fontsize=7, loc="lower left")
        middle.plot(ratios, found["edge"], **dot)
        middle.plot(fine, 1 - below, **line)
        slow = np.geomspace(ratios[0], 1, 50)
        middle.plot(slow, slow * flow, **line)
        middle.set(ylabel="final sharpness · η/2")
        right.plot(ratios[above], 1 - found["edge"][above], **dot)
        right.plot(fine, below, **line, label="6Φ²/(d²g⁴)")
        right.set(yscale="log", ylabel="1 − sharpness · η/2")
        right.yaxis.set_minor_formatter(ticker.NullFormatter())
        right.legend(fontsize=7)
        for axes in (left, middle, right):
            axes.set(xscale="log", xlabel=f"η/{ETA_C}")
            axes.axvline(1, **CRITICAL)
        return figure


def whole(found, config) -> Figure:
    """Exploratory: the same question to a two-layer network with all its weights."""
    rates = np.array(config.whole_rates)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.3, 2.8), dpi=200)
        panels = figure.subplots(1, 3)
        edge = np.asarray(found["sharpness"])[..., -1] * rates / 2
        shades = colours(3)
        for axes, values, name in zip(
            panels,
            (found["mean_bias"], found["accuracy"], edge),
            ("mean hidden bias", "test accuracy (%)", "last sharpness · η/2"),
            strict=True,
        ):
            values = np.asarray(values)
            axes.plot(rates, values.T, color="0.6", lw=0.6)
            axes.plot(rates, np.median(values, axis=0), color=shades[1], marker="o", ms=3)
            axes.set(xscale="log", xlabel="step η", ylabel=name)
        panels[0].set_yscale("symlog", linthresh=0.1)
        panels[2].axhline(1, **CRITICAL)
        panels[2].set_yscale("log")
        figure.suptitle("Exploratory, not in the paper: the same data, all weights of a two-layer network", fontsize=8.5)
        return figure
