"""The figure of Jastrzębski et al. 2019, row by row; a row for each part that was run."""

import itertools
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments._jastrzebski2019_claims import LATE, best, sweeps
from landscape_jax import Record, observe, plots
from landscape_jax.observe.step import PLACES
from landscape_jax.record import clock

MARKS = ("o", "s", "^", "D", "v", "P")


def whole(record: Record, config) -> Figure:
    """All rows of three panels each."""
    rows = [
        *([_grid] if "grid" in record and config.grid else []),
        *([_step, _bowls] if "step" in record and config.step_runs else []),
        *([_nudged, _merits] if "nudged" in record else []),
    ]
    style: Any = plots.STYLE | {"font.size": 8, "axes.labelsize": 8, "legend.fontsize": 7, "axes.titlesize": 8}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(8.4, 2.45 * max(1, len(rows))), dpi=170)
        axes = figure.subplots(max(1, len(rows)), 3, squeeze=False)
        for draw, row in zip(rows, axes, strict=False):
            draw(row, record, config)
        for axis, letter in zip(axes.flat, "abcdefghijklmno", strict=False):
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
    ticks = [t for t in (-1000, -100, -10, -1, 0, 1, 10, 100, 1000, 10_000)
             if min(values.min(), -1) * 1.5 <= t <= max(values.max(), 1) * 1.5]  # fmt: skip
    axes.set_yscale("symlog", linthresh=1)
    axes.set_yticks(ticks, [f"{t:g}".replace("-", "−") for t in ticks])
    axes.minorticks_off()


def _directions(k: int) -> str:
    return "e₁" if k == 1 else f"e₁ … $e_{{{k}}}$"


def _grid(row, record: Record, config) -> None:
    cells = {(rate, size): record["grid"][f"rate{rate:g}-batch{size}"] for rate, size, *_ in config.grid}

    def epochs(key: tuple[float, int]) -> np.ndarray:
        return clock(cells[key]) * key[1] / config.n_train

    for axes, keys, name in zip(row, sweeps(config), ("η = {0:g}", "S = {1}"), strict=False):
        top = [np.asarray(cells[key]["eigenvalues"])[..., 0] for key in keys]
        _lines(axes, [epochs(key) for key in keys], top, [name.format(*key) for key in keys])
        for key, colour in zip(keys, plots.colours(len(keys)), strict=True):  # λ₂ faint and dotted
            second = np.median(np.asarray(cells[key]["eigenvalues"])[..., min(1, config.k - 1)], axis=0)
            axes.plot(epochs(key), second, color=colour, lw=0.6, ls=":")
        axes.set(xlabel="epoch (linear up to 1)", ylabel="λ₁ (λ₂ dotted)", ylim=(0, None))
        _from_zero(axes, max(epochs(key)[-1] for key in keys))
        fixed = f"S = {keys[0][1]}" if axes is row[0] else f"η = {keys[0][0]:g}"
        axes.legend(title=fixed, title_fontsize=7)
    axes, styles = row[2], zip(("o-", "s--"), ("η varies", "S varies"), plots.colours(2), strict=True)
    for keys, (mark, label, colour) in zip(sweeps(config), styles, strict=True):
        peaks = [np.asarray(cells[key]["eigenvalues"])[..., 0].max(axis=-1) for key in keys]
        x = [rate / size for rate, size in keys]
        axes.plot(x, [np.median(p) for p in peaks], mark, color=colour, ms=4, label=label)
        for at, p in zip(x, peaks, strict=True):
            axes.plot([at] * len(p), p, ".", color=colour, ms=3, alpha=0.6)
    axes.set(xscale="log", xlabel="η / S", ylabel="peak of λ₁", ylim=(0, None))
    axes.legend()


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
    percent = {n: 100 * np.asarray(change[n]) / loss.reshape(*loss.shape, *[1] * (np.ndim(change[n]) - 2))
               for n in ("sharpest", "subspace", "random", "whole")}  # fmt: skip
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
        axes.legend(loc="upper center")


def _nudged(row, record: Record, config) -> None:
    part = record["nudged"][f"k{config.k}"]
    epoch = clock(part) / config.epoch
    labels = [f"γ = {gamma:g}" + (" (SGD)" if gamma == 1 else "") for gamma in config.gammas]
    shown = ((np.asarray(part["eigenvalues"])[..., 0], "λ₁"), (np.asarray(part["frobenius"]), r"$\|H\|_F$"),
             (np.asarray(part["loss"]), "training loss"))  # fmt: skip
    for axes, (values, name) in zip(row, shown, strict=True):
        _lines(axes, epoch, list(values), labels)
        axes.set(xlabel="epoch", ylabel=name, xlim=(0, None))
        axes.set_yscale("log") if name == "training loss" else axes.set_ylim(0, None)
        axes.legend()


def _merits(row, record: Record, config) -> None:
    part = record["nudged"][f"k{config.k}"]
    epoch = clock(part) / config.epoch
    _lines(row[0], epoch, list(np.asarray(part["test"])), [f"γ = {gamma:g}" for gamma in config.gammas])
    chance = np.asarray(part["test"])[..., max(1, len(epoch) // 16) :]
    row[0].set(
        xlabel="epoch", ylabel="test accuracy", xlim=(0, None), ylim=(np.nanmin(chance) - 0.02, np.nanmax(chance) + 0.01)
    )
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
    row[1].legend()

    points = {0: (part, plain)} | {k: (record["nudged"][f"k{k}"], 0) for k in (config.k, *config.ablation)}
    ks = sorted(points)
    for values, mark, label in (
        ([np.asarray(points[k][0]["frobenius"])[points[k][1], :, -1] for k in ks], "o-", r"$\|H\|_F$ at the end"),
        ([np.asarray(points[k][0]["eigenvalues"])[points[k][1], :, -1, 0] for k in ks], "s--", "λ₁ at the end"),
    ):
        colour = plots.colours(2)[mark == "s--"]
        row[2].plot(range(len(ks)), [np.median(v) for v in values], mark, color=colour, ms=4, label=label)
        for at, v in enumerate(values):
            row[2].plot([at] * len(v), v, ".", color=colour, ms=3, alpha=0.5)
    row[2].set_xticks(range(len(ks)), ["SGD", *(f"{k}" for k in ks[1:])])
    row[2].set(xlabel=f"K, nudged by γ = {config.gammas[0]:g}", ylabel="curvature", ylim=(0, None))
    row[2].legend()
