"""The figures of Fort and Ganguli 2019, model beside network, and of Fort and Scherlis 2018."""

import itertools
from typing import Any

import matplotlib
import matplotlib.ticker
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments import _fort2019_claims as judged
from experiments import _fort2019_model as model
from experiments._fort2019_goldilocks import needed
from landscape_jax import Record, plots
from landscape_jax.theory import logits

STYLE: dict[Any, Any] = plots.STYLE | {"font.size": 8, "axes.labelsize": 8, "legend.fontsize": 7, "axes.titlesize": 8}
C = judged.CLASSES


def side_by_side(record: Record, config: Any) -> Figure:
    """Left the model, right the network: spectrum, outliers, gradient, clusters, transient; what was not run stays empty."""
    rows = (_spectra, _largest, _gradient, _clusters, _transient)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.4, 2.35 * len(rows)), dpi=170)
        axes = figure.subplots(len(rows), 2)
        axes[0, 0].set_title("random logit-gradient model\n", fontweight="bold")
        axes[0, 1].set_title(f"network, {config.data}, η = {config.rate:g}\n", fontweight="bold")
        for draw, (left, right) in zip(rows, axes, strict=True):
            draw(left, right, record, config)
        _lettered(axes)
        return figure


def _lettered(axes: np.ndarray) -> None:
    for axis, letter in zip(axes.flat, "abcdefghijklmno", strict=False):
        axis.set_title(letter, loc="left", fontweight="bold", pad=3)


def _lines(axes: Axes, x, named: dict[str, Any], **style) -> None:
    for (label, y), colour, dash in zip(named.items(), plots.colours(len(named)), itertools.cycle(plots.DASHES), strict=False):
        axes.plot(x, y, color=colour, ls=dash, label=label, **style)


def _spectra(left: Axes, right: Axes, record: Record, config: Any) -> None:
    if "model" in record:
        _histogram(left, {"": record["model"]["example"]["values"]}, C - 1)
    if "spectra" in record.get("network", {}):
        found, step = record["network"]["spectra"], record["network"]["step"]
        at = int(found["look"][1])
        named = {"H": found["hessian"][1], "G": found["ggn"][1], "H − G": found["h_term"][1]}
        _histogram(right, named, int(logits.num_outliers(found["hessian"][1], judged.CUT_WITHIN)[0]))
        _note(right, f"step {step[at]}, where λ₁ is largest", 0.97)
        right.legend(loc="center right")


def _histogram(axes: Axes, named: dict[str, np.ndarray], count: int) -> None:
    """All eigenvalues, and the first `count` of the first marked one by one."""
    low, high = min(v[-1] for v in named.values()), max(v[0] for v in named.values())
    bins = np.linspace(low - 0.01 * (high - low), high * 1.02, 90)
    for (label, values), colour, dash in zip(named.items(), plots.colours(len(named)), plots.DASHES, strict=False):
        axes.stairs(np.histogram(values, bins)[0], bins, color=colour, ls=dash, label=label, lw=1)
    first = next(iter(named.values()))
    axes.plot(first[:count], np.full(count, 0.7), "v", color="black", ms=3.5)
    _note(axes, f"{count} to the right of the widest gap", 0.87)
    axes.set(yscale="log", ylim=(0.5, None), xlabel="eigenvalue", ylabel="count")


def _note(axes: Axes, text: str, height: float) -> None:
    axes.annotate(text, (0.98, height), xycoords="axes fraction", ha="right", va="top", fontsize=7)


def _largest(left: Axes, right: Axes, record: Record, config: Any) -> None:
    if "model" in record:
        found = record["model"]["outliers"]["equal"]
        for classes, colour, mark in zip(sorted(found, key=int), plots.colours(4), "os^D", strict=True):
            values = found[classes]
            top = values.mean(axis=0)
            left.plot(1 + np.arange(top.size), top / top[int(classes) - 1], mark, color=colour, ms=3, label=f"C = {classes}")
        left.set(xlabel="i", ylabel=r"$e_i\,/\,e_C$", yscale="log")
        left.axhline(1, color="black", lw=0.6)
        left.legend()
    if "network" in record:
        part = record["network"]
        top = part["hessian"]["eigenvalues"]
        for i in range(top.shape[1]):
            right.plot(1 + part["step"], top[:, i], color=plots.colours(3)[0 if i < C - 1 else 1 if i == C - 1 else 2],
                       lw=1.2 if i == C - 1 else 0.7, ls="-" if i < C - 1 else plots.DASHES[1] if i == C - 1 else ":",
                       label={0: f"$e_1 … e_{{{C - 1}}}$", C - 1: f"$e_{{{C}}}$", C: "next"}.get(i))  # fmt: skip
        right.set(xscale="log", yscale="log", xlabel="1 + step", ylabel="eigenvalues of H")
        right.legend(loc="lower left")


def _gradient(left: Axes, right: Axes, record: Record, config: Any) -> None:
    if "model" in record:
        part = record["model"]["confinement"]
        for name, mark, label, colour in (("energy", "o-", f"top {C}", 0), ("one_less", "s--", f"top {C - 1}", 1)):
            left.plot(model.SPREADS, part[name].mean(axis=1), mark, color=plots.colours(2)[colour], ms=3, label=label)
        spread = np.array(model.SPREADS)
        left.plot(spread, 1 / (1 + spread**2), ":", color="black", label=r"$\sigma_c^2/(\sigma_c^2 + \sigma_E^2)$")
        left.set(xscale="log", xlabel=r"$\sigma_E/\sigma_c$", ylabel="share of gradient energy", ylim=(0, 1))
        left.set_xticks(model.SPREADS, [f"{s:g}" for s in model.SPREADS])
        left.minorticks_off()
        left.legend()
    if "network" in record:
        part = record["network"]
        _lines(right, 1 + part["step"], {f"top {k}": judged.energy(part, k) for k in (C, C - 1, 1)})
        right.axhline(C / _size(record), color="black", ls=":", lw=0.8, label=f"random direction, top {C}")
        right.set(xscale="log", xlabel="1 + step", ylabel="share of gradient energy", ylim=(0, 1))
        right.legend()


def _size(record: Record) -> int:
    return int(record["network"]["p"])


def _clusters(left: Axes, right: Axes, record: Record, config: Any) -> None:
    names = {"same_class": "$q_{SLSC}$ same logit, its class", "same_logit": "$q_{SL}$ same logit",
             "other_logit": "$q_{DL}$ other logits"}  # fmt: skip
    if "model" in record:
        part = record["model"]["example"]
        left.bar(range(3), [part[name] for name in names], color=plots.colours(3), width=0.6)
        left.set_xticks(range(3), ["$q_{SLSC}$", "$q_{SL}$", "$q_{DL}$"])
        left.axhline(0, color="black", lw=0.6)
        left.set(ylabel="mean cosine", ylim=(-0.05, 1))
        _note(left, r"no classes within the clusters: $q_{SLSC} = q_{SL} = \sigma_c^2/(\sigma_c^2+\sigma_E^2)$", 0.95)
    if "network" in record:
        part = record["network"]
        _lines(right, 1 + part["step"], {label: part["clusters"][name] for name, label in names.items()})
        right.axhline(0, color="black", lw=0.6)
        right.set(xscale="log", xlabel="1 + step", ylabel="mean cosine", ylim=(-0.05, 1))
        right.legend()


def _transient(left: Axes, right: Axes, record: Record, config: Any) -> None:
    if "model" in record:
        part, sigma = record["model"]["transient"], np.array(model.SIGMA_Z)
        named = {f"$|J|^2 ∝ (1+σ_z)^{{{a:g}}}$": part["fixed"] * (1 + sigma) ** a for a in model.POWERS}
        ahead = f"power {model.MARGIN_POWER:g}, right logits {model.MARGIN:g} $σ_z$ ahead"
        named[ahead] = part["margin"] * (1 + sigma) ** model.MARGIN_POWER
        _lines(left, sigma, named)
        left.set(xscale="log", yscale="log", xlabel=r"$\sigma_z$", ylabel="λ₁")
        left.legend(fontsize=6)
    if "network" in record:
        part = record["network"]
        top, law = part["hessian"]["eigenvalues"][:, 0], part["clusters"]["length"] * part["softmax"]["freedom"]
        sigma = part["softmax"]["variance"] ** 0.5
        scale = np.exp(np.mean(np.log(top / law)))
        _lines(right, sigma, {"λ₁": top, f"{scale:.3f} $|J|^2(1 - Σp^2)$": scale * law}, marker="o", ms=2)
        right.set(xscale="log", yscale="log", xlabel=r"$\sigma_z$, growing with training", ylabel="λ₁")
        for axis, values in ((right.xaxis, sigma), (right.yaxis, np.append(top, scale * law))):
            ticks = [t for t in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50) if values.min() / 1.1 <= t <= values.max() * 1.1]
            axis.set_ticks(ticks, [f"{t:g}" for t in ticks])
            axis.set_minor_locator(matplotlib.ticker.NullLocator())
        right.legend()


# ── conditions ────────────────────────────────────────────────────────────────────────────────────────────────────────


def conditions(found: Any, rates_of: dict[str, tuple[float, ...]], noises: tuple[float, ...]) -> Figure:
    """For each loss and noise: where the spectrum parts, and the gradient's share, over time, by η."""
    columns = [(name, i) for name in found for i in range(len(noises))]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(2.3 * len(columns), 6.4), dpi=170)
        axes = figure.subplots(3, len(columns), squeeze=False, sharey="row")
        for (name, i), (above, middle, below) in zip(columns, axes.T, strict=True):
            part, rates = found[name], rates_of[name]
            place, ratio = logits.num_outliers(part["hessian"]["eigenvalues"][i], judged.CUT_WITHIN)  # [η, look]
            share, late = judged.energy(part)[i], part["test"]["accuracy"][i] >= judged.LEARNED
            step = part["step"][i]
            above.set_title(f"{name.replace('_', ' ')}, {100 * noises[i]:.0f} % wrong labels", fontsize=7, pad=4, loc="right")
            styles = zip(rates, plots.colours(len(rates)), itertools.cycle("os^Dv"), strict=False)
            for j, (rate, colour, mark) in enumerate(styles):
                at = 1 + step[j]
                above.scatter(at, place[j] * 1.02 ** (j - 1), 60 * (ratio[j] - 1) + 5, color=colour, marker=mark,
                              alpha=np.where(late[j], 1.0, 0.25), lw=0)  # fmt: skip
                middle.plot(at, share[j], color=colour, marker=mark, ms=2.5, label=f"η = {rate:g}")
                below.plot(at, rate * part["hessian"]["eigenvalues"][i, j, :, 0], color=colour, marker=mark, ms=2.5)
            above.axhspan(C - 1.4, C + 0.4, color="black", alpha=0.08, lw=0)
            below.axhline(2, color="black", ls=(0, (4, 3)), lw=0.8)
            above.set(xscale="log", ylim=(0, judged.CUT_WITHIN + 1))
            middle.set(xscale="log", ylim=(0, 1.25), yticks=np.linspace(0, 1, 6))
            below.set(xscale="log", yscale="log", xlabel="1 + step")
            small = {"fontsize": 6, "columnspacing": 0.6, "handlelength": 1, "handletextpad": 0.4}
            middle.legend(ncols=len(rates), loc="upper center", **small)
        axes[0, 0].set_ylabel("widest gap after …\n(area: ratio − 1; pale: not learned)")
        axes[1, 0].set_ylabel(f"gradient energy in the top {C}")
        axes[2, 0].set_ylabel("ηλ₁ (2 dashed)")
        _lettered(axes)
        return figure


# ── the Goldilocks zone ───────────────────────────────────────────────────────────────────────────────────────────────


def goldilocks(record: Record, config: Any) -> Figure:
    """Above tr H/‖H‖_F and positive curvature against radius, below the maps of accuracy with the dimension that is needed."""
    radii = np.array(config.radii)
    kinds = list(record["zone"])
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.6, 7.0), dpi=170)
        axes = figure.subplots(1 + len(kinds), 3, squeeze=False)
        for row, name in zip(axes, kinds, strict=False):
            part = record["zone"][name]
            _lines(row[0], radii, {"whole space": part["whole"], "weights alone": part["weights"]}, marker="o", ms=2.5)
            row[0].set(ylabel=f"tr H / ‖H‖$_F$, {name}")
            row[0].legend()
            panels = (row[1], "plane", "ratio in planes"), (row[2], "positive", "positive curvature in planes")
            for axis, key, label in panels:
                for d, colour, mark, found, said in zip(
                    config.plane_dims, plots.colours(len(config.plane_dims)), itertools.cycle("os^"), part[key],
                    part["predicted" if key == "plane" else "predicted_positive"], strict=False,
                ):  # fmt: skip
                    axis.plot(radii, found, mark, color=colour, ms=3, label=f"d = {d}")
                    axis.plot(radii, said, color=colour, lw=0.9)
                axis.plot([], [], color="black", lw=0.9, label="from R alone")
                axis.set(ylabel=label)
                axis.legend()
            for axis in row:
                axis.set(xscale="log", xlabel="radius / Xavier's")
                axis.axvspan(0.7, 3, color="black", alpha=0.06, lw=0)
        if "maps" in record:
            _maps(figure, axes[-1], record, config)
        _lettered(axes)
        return figure


def _maps(figure: Figure, row, record: Record, config: Any) -> None:
    dims = [*map(str, config.map_dims), "all"]
    sizes = np.array([*config.map_dims, int(record["maps"]["p"])], float)
    for axis, surface in zip(row, ("plane", "sphere"), strict=False):
        accuracy = record["maps"]["relu"][surface]["accuracy"].mean(axis=2)  # [radius, d]
        image = axis.imshow(accuracy.T, origin="lower", aspect="auto", vmin=0, vmax=1, cmap="viridis")
        for (i, j), value in np.ndenumerate(accuracy):
            axis.text(i, j, f"{value:.2f}"[1:] if value < 1 else "1", ha="center", va="center", fontsize=6,
                      color="white" if value < 0.6 else "black")  # fmt: skip
        axis.set_xticks(range(len(config.map_radii)), [f"{r:g}" for r in config.map_radii])
        axis.set_yticks(range(len(dims)), dims)
        axis.set(xlabel="radius / Xavier's", ylabel=f"dimension of the {surface}")
        axis.grid(False)
    figure.colorbar(image, ax=row[1], label="test accuracy")
    named = {f"{name}, {surface}": needed(record["maps"][name][surface]["accuracy"].mean(axis=2), sizes)
             for name in record["maps"] if name != "p" for surface in ("plane", "sphere")}  # fmt: skip
    _lines(row[2], config.map_radii, named, marker="o", ms=2.5)
    if np.isfinite(list(named.values())).any():  # else there is nothing to scale
        row[2].set_yscale("log")
    row[2].set(xscale="log", xlabel="radius / Xavier's", ylabel="dimension for 0.9 of full accuracy")
    row[2].legend(fontsize=6)
