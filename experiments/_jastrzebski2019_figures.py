"""The figure of Jastrzębski et al. 2019, row by row; a row for each part that was run."""

import itertools
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes

from experiments._jastrzebski2019_claims import LATE, TRACKED, best, cell, sweeps, variants
from landscape_jax import Record, observe, plots
from landscape_jax.observe.step import PLACES
from landscape_jax.plots import Figure, finite_range
from landscape_jax.record import clock

MARKS = ("o", "s", "^", "D", "v", "P")


def whole(record: Record, config) -> Figure:
    """All rows of three panels each."""
    rows = [
        *([_grid, _first_epochs] if "grid" in record and config.grid else []),
        *([_step, _bowls] if "step" in record and config.step_runs else []),
        *([_nudged, _merits] if "nudged" in record else []),
        *([_variants] if "nudged" in record and (config.ablation or TRACKED in record["nudged"]) else []),
    ]
    style: Any = plots.STYLE | {"font.size": 8, "axes.labelsize": 8, "legend.fontsize": 7, "axes.titlesize": 8}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(8.4, 2.45 * max(1, len(rows))), dpi=170)
        axes = figure.subplots(max(1, len(rows)), 3, squeeze=False)
        for draw, row in zip(rows, axes, strict=False):
            draw(row, record, config)
        for axis, letter in zip(axes.flat, "abcdefghijklmnopqrstu", strict=False):
            axis.set_title(letter, loc="left", fontweight="bold", pad=3)
        return figure


def _lines(axes: Axes, x, values: Sequence[np.ndarray], labels: Sequence[str], marks: bool = False) -> None:
    """Each of `values` [run, check] as a bold median and thin runs; x [check], or one for each."""
    xs = x if isinstance(x, list) else [x] * len(values)
    for v, at, label, colour, dash, mark in zip(
        values, xs, labels, plots.colours(len(values)), itertools.cycle(plots.DASHES), itertools.cycle(MARKS), strict=False
    ):
        if len(v) > 1:
            axes.plot(at, np.transpose(v), color=colour, lw=0.4, alpha=0.4)
        axes.plot(at, np.median(v, axis=0), color=colour, ls=dash, label=label, marker=mark if marks else None, ms=3)


def _from_zero(axes: Axes, end: float) -> None:
    """An axis of epochs that is logarithmic from 1 on and has a 0."""
    decades = [10.0**i for i in range(1 + int(np.log10(max(end, 1))))]
    axes.set_xscale("symlog", linthresh=1, linscale=0.5)
    axes.set_xticks([0, *decades], [f"{x:g}" for x in (0, *decades)])
    axes.minorticks_off()
    axes.set_xlim(0, end)


def _signed(axes: Axes, values: np.ndarray) -> None:
    """Per cents of either sign: linear within ±1, with a tick a decade as far as the values reach."""
    values = values[np.isfinite(values)]
    ticks = [
        t
        for t in (-1000, -100, -10, -1, 0, 1, 10, 100, 1000, 10_000)
        if min(values.min(), -1) * 1.5 <= t <= max(values.max(), 1) * 1.5
    ]
    axes.set_yscale("symlog", linthresh=1)
    axes.set_yticks(ticks, [f"{t:g}".replace("-", "−") for t in ticks])
    axes.minorticks_off()


def _directions(k: int) -> str:
    return "e₁" if k == 1 else f"e₁ … $e_{{{k}}}$"


Cell = tuple[float, int]  # η, S


def _looks(record: Record, config) -> dict[Cell, tuple[np.ndarray, np.ndarray]]:
    """Epochs [check] and eigenvalues [seed, check, k] of each cell of the grid."""
    cells = {(rate, size): record["grid"][cell(rate, size)] for rate, size, *_ in config.grid}
    return {at: (clock(x) * at[1] / config.n_train, np.asarray(x["eigenvalues"])) for at, x in cells.items()}


def _top(axes: Axes, looks: dict, keys: list[Cell], varied: int, end: float = np.inf, **style) -> None:
    """λ₁ in some cells up to an epoch, λ₂ faint and dotted."""
    shown = [(x[x <= end], values[:, x <= end]) for x, values in (looks[key] for key in keys)]
    names = ["η = {0:g}", "S = {1}"]
    _lines(axes, [x for x, _ in shown], [v[..., 0] for _, v in shown], [names[varied].format(*key) for key in keys], **style)
    for (x, v), colour in zip(shown, plots.colours(len(keys)), strict=True):
        axes.plot(x, np.median(v[..., min(1, v.shape[-1] - 1)], axis=0), color=colour, lw=0.6, ls=":")
    axes.set(ylabel="λ₁ (λ₂ dotted)", ylim=(0, None))
    axes.legend(title=names[1 - varied].format(*keys[0]), title_fontsize=7)


def _grid(row, record: Record, config) -> None:
    looks = _looks(record, config)
    for varied, (axes, keys) in enumerate(zip(row, sweeps(config), strict=False)):
        _top(axes, looks, keys, varied)
        axes.set_xlabel("epoch (linear up to 1)")
        _from_zero(axes, max(looks[key][0][-1] for key in keys))
    axes, styles = row[2], zip(("o-", "s--"), ("η varies", "S varies"), plots.colours(2), strict=True)
    for keys, (mark, label, colour) in zip(sweeps(config), styles, strict=True):
        peaks = [looks[key][1][..., 0].max(axis=-1) for key in keys]
        x = [rate / size for rate, size in keys]
        axes.plot(x, [np.median(p) for p in peaks], mark, color=colour, ms=4, label=label)
        for at, p in zip(x, peaks, strict=True):
            axes.plot([at] * len(p), p, ".", color=colour, ms=3, alpha=0.6)
    axes.set(xscale="log", xlabel="η / S", ylabel="peak of λ₁", ylim=(0, None))
    axes.legend()


def _first_epochs(row, record: Record, config) -> None:
    """The zoom: every check of the first two epochs; and all K eigenvalues of the middle cell along its run."""
    looks, end = _looks(record, config), 2.0
    for varied, (axes, keys) in enumerate(zip(row, sweeps(config), strict=False)):
        _top(axes, looks, keys, varied, end, marks=True)
        axes.set(xlabel="epoch, the first two", xlim=(0, end))
    axes, rates = row[2], sweeps(config)[0]
    middle = rates[len(rates) // 2]
    x, values = looks[middle]
    for i, colour in enumerate(plots.colours(values.shape[-1])):
        axes.plot(x, np.median(values[..., i], axis=0), color=colour, label=f"$λ_{{{i + 1}}}$")
    axes.set(xlabel="epoch (linear up to 1)", ylabel="eigenvalues", ylim=(0, None))
    _from_zero(axes, x[-1])
    axes.legend(title=f"η = {middle[0]:g}, S = {middle[1]}", title_fontsize=7)


def _step(row, record: Record, config) -> None:
    parts = {rate: record["step"][f"rate{rate:g}"] for rate, *_ in config.step_runs}
    chance, axes = observe.random_cosine(int(record["p"])), row[0]
    cosines = [np.asarray(p["alignment"]["cosines"]).mean(axis=-1) for p in parts.values()]
    epochs = [clock(p) * config.step_batch / config.n_train for p in parts.values()]
    _lines(axes, epochs, cosines, [f"η = {rate:g}" for rate in parts], marks=True)
    axes.axhline(chance, color="black", ls=":", lw=1, label="random direction")
    axes.axhline(10 * chance, color="black", ls=(0, (4, 3)), lw=0.8, label="ten times that")
    _from_zero(axes, max(e[-1] for e in epochs))
    axes.set(yscale="log", xlabel="epoch (linear up to 1)", ylabel=f"|cos(g, e)|, mean over {_directions(config.k)}")
    axes.legend()

    rate = max(parts)
    change, epoch = parts[rate]["change"], clock(parts[rate]) * config.step_batch / config.n_train
    loss = np.asarray(change["loss"])
    percent = {
        n: 100 * np.asarray(change[n]) / loss.reshape(*loss.shape, *[1] * (np.ndim(change[n]) - 2))
        for n in ("sharpest", "subspace", "random", "whole")
    }
    named = [percent["sharpest"][:, :, 0], percent["subspace"], percent["whole"], percent["random"]]
    axes = row[1]
    late = [x[:, -LATE:].mean(axis=1) for x in named]
    labels = ["along e₁", f"along {_directions(config.k)}", "whole step", "random direction"]
    _lines(axes, np.array(config.multiples), late, labels, marks=True)
    axes.axhline(0, color="black", lw=0.6)
    axes.set_xscale("log", base=2)
    _signed(axes, np.concatenate([x.ravel() for x in late]))
    axes.set_xticks(config.multiples, [f"{a:g}" for a in config.multiples])
    axes.minorticks_off()
    axes.set(xlabel=f"α, multiple of the step (η = {rate:g})", ylabel="late mean of ΔL / L [%]")
    axes.legend()

    axes = row[2]
    chosen = [i for i, a in enumerate(config.multiples) if a in (0.5, 1.0, 2.0)]
    _lines(
        axes, epoch, [percent["sharpest"][:, :, 0, i] for i in chosen], [f"α = {config.multiples[i]:g}" for i in chosen], True
    )
    axes.axhline(0, color="black", lw=0.6)
    axes.set(xlabel=f"epoch (η = {rate:g})", ylabel="ΔL / L along e₁ [%]", xlim=(0, None))
    axes.legend()


def _bowls(row, record: Record, config) -> None:
    rate = max(rate for rate, *_ in config.step_runs)
    part = record["step"][f"rate{rate:g}"]
    epoch, sections = clock(part) * config.step_batch / config.n_train, np.asarray(part["sections"]["loss"])
    places, last = np.array(PLACES), sections.shape[1] - 1
    here = int(np.argmin(np.abs(places)))
    chosen = [0, last // 4, last // 2, last]
    for axes, i in zip(row, sorted({0, min(2, config.k - 1), config.k - 1}), strict=False):
        bowl = 100 * (sections[:, :, i] / sections[:, :, i, here][..., None] - 1)  # [seed, check, place]
        _lines(axes, places, [bowl[:, c] for c in chosen], [f"epoch {epoch[c]:.3g}" for c in chosen])
        axes.axvline(1, color="black", ls=":", lw=0.8)
        axes.set_xscale("symlog", linthresh=1, linscale=0.8)
        axes.set_xticks([-16, -4, -1, 0, 1, 4, 16], ["−16", "−4", "−1", "0", "1", "4", "16"])
        axes.minorticks_off()
        axes.axhline(0, color="black", lw=0.6)
        _signed(axes, bowl[:, chosen])
        axes.set(xlabel=f"steps along $e_{{{i + 1}}}$ (η = {rate:g})", ylabel="ΔL / L [%]")
        axes.legend(loc="upper center", handlelength=1.3)


def _nudged(row, record: Record, config) -> None:
    part = record["nudged"][f"k{config.k}"]
    epoch = clock(part) / config.epoch
    labels = [f"γ = {gamma:g}" + (" (SGD)" if gamma == 1 else "") for gamma in config.gammas]
    shown = (
        (np.asarray(part["eigenvalues"])[..., 0], "λ₁"),
        (np.asarray(part["frobenius"]), r"$\|H\|_F$"),
        (np.asarray(part["loss"]), "training loss"),
    )
    for axes, (values, name) in zip(row, shown, strict=True):
        _lines(axes, epoch, list(values), labels)
        axes.set(xlabel="epoch", ylabel=name, xlim=(0, None))
        axes.set_yscale("log") if name == "training loss" else axes.set_ylim(0, None)
        axes.legend()


def _merits(row, record: Record, config) -> None:
    part = record["nudged"][f"k{config.k}"]
    epoch = clock(part) / config.epoch
    _lines(row[0], epoch, list(np.asarray(part["test"])), [f"γ = {gamma:g}" for gamma in config.gammas])
    low, high = finite_range(np.asarray(part["test"])[..., max(1, len(epoch) // 16) :])
    row[0].set(xlabel="epoch", ylabel="test accuracy", xlim=(0, None), ylim=(low - 0.02, high + 0.01))
    row[0].legend(loc="lower left")

    plain, accuracy = config.gammas.index(1.0), best(part)
    loss = np.asarray(part["loss"])[..., config.early[0]]
    places = np.arange(len(config.gammas))
    for shift, values, mark, label in (
        (-0.12, 100 * (accuracy - accuracy[plain]), "o", "best test accuracy [points]"),
        (0.12, 100 * (loss / loss[plain] - 1), "s", f"loss at epoch {config.early[0]} [%]"),
    ):
        colour = plots.colours(2)[mark == "s"]
        for at, each in zip(places, values, strict=True):
            row[1].plot([at + shift] * len(each), each, mark, color=colour, ms=3, alpha=0.4, mew=0)
        row[1].plot(places + shift, values.mean(axis=1), mark, color=colour, ms=6, mfc="none", label=label)
    row[1].axhline(0, color="black", lw=0.6)
    row[1].set_xticks(places, [f"{gamma:g}" for gamma in config.gammas])
    row[1].set(xlabel="γ", ylabel="difference to γ = 1, pair by pair")
    row[1].margins(y=0.3)  # for the legend
    row[1].legend()

    _lines(row[2], epoch, list(np.asarray(part["distance"])), [f"γ = {gamma:g}" for gamma in config.gammas])
    row[2].set(xlabel="epoch", ylabel="distance from the start", xlim=(0, None), ylim=(0, None))
    row[2].legend(loc="lower right")


def _variants(row, record: Record, config) -> None:
    """The smallest γ over K, and with directions tracked at every step."""
    ends = variants(record, config)
    places = np.arange(len(ends))
    names = ["SGD", *(name.removeprefix("K = ").partition(",")[0] for name in list(ends)[1:])]
    names = [name + "*" if "tracked" in long else name for name, long in zip(names, ends, strict=True)]
    curvature = (("‖H‖_F", r"$\|H\|_F$ at the end", "o"), ("λ₁", "λ₁ at the end", "s"))
    for axes, shown in ((row[0], curvature), (row[1], (("best test accuracy", "best test accuracy", "o"),))):
        for (what, label, mark), colour in zip(shown, plots.colours(2), strict=False):
            for at, each in zip(places, ends.values(), strict=True):
                axes.plot([at] * len(each[what]), each[what], mark, color=colour, ms=3, alpha=0.4, mew=0)
            means = [np.mean(each[what]) for each in ends.values()]
            axes.plot(places, means, mark, color=colour, ms=6, mfc="none", label=label)
        axes.set_xticks(places, names)
        also = " (*: at every step)" if TRACKED in record["nudged"] else ""
        axes.set_xlabel(f"K, nudged by γ = {config.gammas[0]:g}{also}")
    row[0].set(ylabel="curvature", ylim=(0, None))
    row[0].legend()
    row[1].set(ylabel="best test accuracy")

    part, axes = record["nudged"][f"k{config.k}"], row[2]
    least = config.gammas[0]
    runs = [part.sel(gamma=gamma)["eigenvalues"] for gamma in (1.0, least)]
    labels = ["SGD", "directions of each epoch" if config.refresh is None else f"each {config.refresh} steps"]
    if TRACKED in record["nudged"]:
        runs, labels = [*runs, record["nudged"][TRACKED].sel(gamma=least)["eigenvalues"]], [*labels, "directions of each step"]
    _lines(axes, clock(part) / config.epoch, [np.asarray(x)[..., 0] for x in runs], labels)
    axes.set(xlabel="epoch", ylabel="λ₁", xlim=(0, None), yscale="log")
    axes.set_ylim(top=12 * axes.get_ylim()[1])  # room for the legend
    axes.legend(title=f"K = {config.k}, γ = {config.gammas[0]:g}", title_fontsize=7, loc="upper left")
