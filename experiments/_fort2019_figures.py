"""The figures of Fort and Ganguli 2019, model beside network, and of Fort and Scherlis 2018."""

import itertools
from typing import Any

import matplotlib
import matplotlib.ticker
import numpy as np
from matplotlib.axes import Axes

from experiments import _fort2019_claims_trained as trained
from experiments import _fort2019_model as model
from experiments._fort2019_goldilocks import needed
from landscape_jax import Record, plots
from landscape_jax.plots import Figure
from landscape_jax.theory import logits

STYLE: dict[Any, Any] = plots.STYLE | {"font.size": 8, "axes.labelsize": 8, "legend.fontsize": 7, "axes.titlesize": 8}
C = trained.CLASSES


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
        for name, column in zip(("model", "network"), axes.T, strict=True):
            for axis in column if name not in record else ():
                axis.set_visible(False)
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
    if "network" in record:
        _spectrum(right, record["network"], _looks(record["network"])[1], ", where λ₁ is largest")


def _looks(part: dict) -> list[int]:
    """The first look, the one with the largest λ₁, the last."""
    return [0, int(np.argmax(part["hessian"]["eigenvalues"][:, 0])), len(part["step"]) - 1]


def _spectrum(axes: Axes, part: dict, look: int, said: str = "") -> None:
    """H and its parts at one look: all eigenvalues, or, where they were too many, densities with lines as Gaussians."""
    top = part["hessian"]["eigenvalues"][look]
    count = int(logits.num_outliers(top, trained.CUT_WITHIN)[0])
    if "spectra" in part:
        found = part["spectra"]
        i = np.asarray(found["look"]).tolist().index(look)
        _histogram(axes, {"H": found["hessian"][i], "G": found["ggn"][i], "H − G": found["h_term"][i]}, count)
    else:
        densities = {"H": part["density"], "H − G": part["h_term"]}
        ends = [part["nodes"][look] for part in densities.values()]
        grid = np.linspace(min(map(np.min, ends)), max(map(np.max, ends)) * 1.02, 400)
        width = np.ptp(grid) / 200
        curves = {name: _density(each, look, grid, width) for name, each in densities.items()}
        _lines(axes, grid, curves, lw=1)
        lowest = 1 / (10 * int(part["p"]) * width)  # a tenth of one eigenvalue: below, curves are their Gaussians' tails
        highest = 30 * max(np.max(curve) for curve in curves.values())
        axes.set(yscale="log", ylim=(lowest, highest), xlabel="eigenvalue", ylabel="density")
        _mark(axes, top[:count], count, lowest * 1.5)
    _note(axes, f"step {part['step'][look]}{said}", 0.97)
    axes.legend(loc="center right")


def _density(found: dict, look: int, grid: np.ndarray, width: float) -> np.ndarray:
    """The mean over probes of lines drawn as Gaussians [grid]."""
    nodes, weights = (np.asarray(found[name][look], float) for name in ("nodes", "weights"))  # [s, m]
    lines = np.exp(-0.5 * ((grid[:, None, None] - nodes) / width) ** 2) / (width * (2 * np.pi) ** 0.5)
    return (lines * weights).sum(axis=2).mean(axis=1)


def _histogram(axes: Axes, named: dict[str, np.ndarray], count: int) -> None:
    """All eigenvalues, and the first `count` of the first marked one by one."""
    low, high = min(v[-1] for v in named.values()), max(v[0] for v in named.values())
    bins = np.linspace(low - 0.01 * (high - low), high * 1.02, 90)
    for (label, values), colour, dash in zip(named.items(), plots.colours(len(named)), plots.DASHES, strict=False):
        axes.stairs(np.histogram(values, bins)[0], bins, color=colour, ls=dash, label=label, lw=1)
    axes.set(yscale="log", ylim=(0.5, None), xlabel="eigenvalue", ylabel="count")
    _mark(axes, next(iter(named.values()))[:count], count, 0.7)


def _mark(axes: Axes, values: np.ndarray, count: int, height: float) -> None:
    axes.plot(values, np.full(count, height), "v", color="black", ms=3.5)
    _note(axes, f"{count} beyond the widest gap", 0.87)


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
            right.plot(
                1 + part["step"],
                top[:, i],
                color=plots.colours(3)[0 if i < C - 1 else 1 if i == C - 1 else 2],
                lw=1.2 if i == C - 1 else 0.7,
                ls="-" if i < C - 1 else plots.DASHES[1] if i == C - 1 else ":",
                label={0: f"$e_1 … e_{{{C - 1}}}$", C - 1: f"$e_{{{C}}}$", C: "next"}.get(i),
            )
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
        _lines(right, 1 + part["step"], {f"top {k}": trained.energy(part, k) for k in (C, C - 1, 1)})
        right.axhline(C / _size(record), color="black", ls=":", lw=0.8, label=f"random direction, top {C}")
        right.set(xscale="log", xlabel="1 + step", ylabel="share of gradient energy", ylim=(0, 1))
        right.legend()


def _size(record: Record) -> int:
    return int(record["network"]["p"])


def _clusters(left: Axes, right: Axes, record: Record, config: Any) -> None:
    names = {
        "same_class": "$q_{SLSC}$ same logit, its class",
        "same_logit": "$q_{SL}$ same logit",
        "other_logit": "$q_{DL}$ other logits",
    }
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


# ── H and its parts ───────────────────────────────────────────────────────────────────────────────────────────────────────


def parts(part: Any) -> Figure:
    """H, its Gauss–Newton part G and the rest: above their spectra at the start, at the peak of λ₁ and at the end; below their
    ends, the density of H and tr H/‖H‖_F through training."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.6, 5.0), dpi=170)
        axes = figure.subplots(2, 3)
        for axis, look in zip(axes[0], _looks(part), strict=True):
            _spectrum(axis, part, look)
        _ends(axes[1, 0], part)
        _densities(figure, axes[1, 1], part)
        ratio, time = part["ratio"], 1 + part["step"]
        axes[1, 2].errorbar(time, ratio["value"], 2 * ratio["error"], color=plots.colours(1)[0], marker="o", ms=2.5, lw=1)
        axes[1, 2].set(xscale="log", ylim=(0, None), xlabel="1 + step", ylabel="tr H / ‖H‖$_F$, ± 2 standard errors")
        _lettered(axes)
        return figure


def _ends(axes: Axes, part: dict) -> None:
    """The largest eigenvalue of each, and how far each reaches below 0; G does not."""
    top = part["hessian"]["eigenvalues"]
    named = {"H": top[:, 0], "G": part["ggn"][:, 0], f"H, {C}th": top[:, C - 1], f"G, {C}th": part["ggn"][:, C - 1]}
    named["H − G"] = part["h_term"]["nodes"].max(axis=(1, 2))
    named["H − G, − lowest"] = -part["h_term"]["nodes"].min(axis=(1, 2))
    named["H, − lowest"] = -part["density"]["nodes"].min(axis=(1, 2))
    colour = dict(zip("HGR", plots.colours(3), strict=True))
    for name, values in named.items():
        kind = "R" if "H − G" in name else name[0]
        dash = "--" if "lowest" in name else ":" if "th" in name else "-"
        axes.plot(1 + part["step"], values, dash, color=colour[kind], lw=1.1, label=name)
    axes.set(xscale="log", yscale="log", xlabel="1 + step", ylabel="ends of the spectra")
    axes.yaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
    axes.legend(fontsize=5.5, ncols=2, loc="lower left")


def _densities(figure: Figure, axes: Axes, part: dict) -> None:
    """The density of H at every look, against asinh of the eigenvalue: linear about 0, logarithmic beyond."""
    nodes, step = part["density"]["nodes"], part["step"]
    unit = np.ptp(nodes) / 25  # forty nodes a probe tell no finer structure about 0
    first, last = np.arcsinh(np.array([nodes.min(), nodes.max()]) / unit)
    x = np.linspace(first, last, 240)
    found = {"nodes": np.arcsinh(nodes / unit), "weights": part["density"]["weights"]}
    image = np.stack([_density(found, look, x, 4 * (x[1] - x[0])) for look in range(len(step))])  # [look, x]
    edges = np.append(1 + step, (1 + step[-1]) * 1.2)
    low = 1e-5
    mesh = axes.pcolormesh(
        edges,
        np.append(x, 2 * x[-1] - x[-2]),
        np.log10(np.maximum(image.T, low)),
        cmap="magma",
        vmin=np.log10(low),
        rasterized=True,
    )
    top = np.arcsinh(part["hessian"]["eigenvalues"][:, [0, C - 1]] / unit)
    axes.plot((edges[:-1] * edges[1:]) ** 0.5, top, color="white", lw=0.7)
    ticks = [
        t for t in (-1, -0.1, -0.01, 0, 0.01, 0.1, 1, 10) if nodes.min() <= t <= nodes.max() and (not t or abs(t) > unit / 2)
    ]
    axes.set_yticks(np.arcsinh(np.array(ticks) / unit), [f"{t:g}" for t in ticks])
    axes.set(xscale="log", xlabel="1 + step", ylabel=f"eigenvalue of H; white: λ₁, λ$_{{{C}}}$")
    axes.grid(False)
    figure.colorbar(mesh, ax=axes, label="log₁₀ density")


# ── conditions ────────────────────────────────────────────────────────────────────────────────────────────────────────


def conditions(found: Any, rates_of: dict[str, tuple[float, ...]], noises: tuple[float, ...]) -> Figure:
    """For each loss and noise: where the spectrum parts, and the gradient's share, over time, by η."""
    columns = [(name, i) for name in found for i in range(len(noises))]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(2.3 * len(columns), 6.4), dpi=170)
        axes = figure.subplots(3, len(columns), squeeze=False, sharey="row")
        for (name, i), (above, middle, below) in zip(columns, axes.T, strict=True):
            part, rates = found[name], rates_of[name]
            place, ratio = logits.num_outliers(part["hessian"]["eigenvalues"][i], trained.CUT_WITHIN)  # [η, look]
            share, late = trained.energy(part)[i], part["test"]["accuracy"][i] >= trained.LEARNED
            step = part["step"][i]
            above.set_title(f"{name.replace('_', ' ')}, {100 * noises[i]:.0f} % wrong labels", fontsize=7, pad=4, loc="right")
            styles = zip(rates, plots.colours(len(rates)), itertools.cycle("os^Dv"), strict=False)
            for j, (rate, colour, mark) in enumerate(styles):
                at = step[j]
                above.scatter(
                    at,
                    place[j] * 1.02 ** (j - 1),
                    60 * (ratio[j] - 1) + 5,
                    color=colour,
                    marker=mark,
                    alpha=np.where(late[j], 1.0, 0.25),
                    lw=0,
                )
                middle.plot(at, share[j], color=colour, marker=mark, ms=2.5, label=f"η = {rate:g}")
                below.plot(at, rate * part["hessian"]["eigenvalues"][i, j, :, 0], color=colour, marker=mark, ms=2.5)
            above.axhspan(C - 1.4, C + 0.4, color="black", alpha=0.08, lw=0)
            below.axhline(2, color="black", ls=(0, (4, 3)), lw=0.8)
            above.set(ylim=(0, trained.CUT_WITHIN + 1))
            middle.set(ylim=(0, 1.25), yticks=np.linspace(0, 1, 6))
            below.set(yscale="log", xlabel="step")
            for axis in (above, middle, below):
                axis.set_xscale("function", functions=(_root, _square))  # looks at 0, and many late
                axis.set_xlim(-4, step.max() * 1.1)
                axis.set_xticks([t for t in (0, 100, 400, 900, 1600, 2500) if t <= step.max()])
            small = {"fontsize": 6, "columnspacing": 0.6, "handlelength": 1, "handletextpad": 0.4}
            middle.legend(ncols=len(rates), loc="upper center", **small)
        axes[0, 0].set_ylabel("widest gap after …\n(area: ratio − 1; pale: not learned)")
        axes[1, 0].set_ylabel(f"gradient energy in the top {C}")
        axes[2, 0].set_ylabel("ηλ₁ (2 dashed)")
        _lettered(axes)
        return figure


def _root(t):
    return np.sign(t) * np.abs(t) ** 0.5


def _square(t):
    return np.sign(t) * np.square(t)


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
            row[0].legend(loc="upper left" if name == "relu" else "lower left")
            panels = (row[1], "plane", "ratio in planes"), (row[2], "positive", "positive curvature in planes")
            for axis, key, label in panels:
                for d, colour, mark, found, said in zip(
                    config.plane_dims,
                    plots.colours(len(config.plane_dims)),
                    itertools.cycle("os^"),
                    part[key],
                    part["predicted" if key == "plane" else "predicted_positive"],
                    strict=False,
                ):
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
            axis.text(
                i,
                j,
                f"{value:.2f}"[1:] if value < 1 else "1",
                ha="center",
                va="center",
                fontsize=6,
                color="white" if value < 0.6 else "black",
            )
        axis.set_xticks(range(len(config.map_radii)), [f"{r:g}" for r in config.map_radii])
        axis.set_yticks(range(len(dims)), dims)
        axis.set(xlabel="radius / Xavier's", ylabel=f"dimension of the {surface}")
        axis.grid(False)
    figure.colorbar(image, ax=row[1], label="test accuracy")
    named = {
        f"{name}, {surface}": needed(record["maps"][name][surface]["accuracy"].mean(axis=2), sizes)
        for name in record["maps"]
        if name != "p"
        for surface in ("plane", "sphere")
    }
    _lines(row[2], config.map_radii, named, marker="o", ms=2.5)
    if np.isfinite(list(named.values())).any():  # else there is nothing to scale
        row[2].set_yscale("log")
    row[2].set(xscale="log", xlabel="radius / Xavier's", ylabel="dimension for 0.9 of full accuracy")
    row[2].legend(fontsize=6)
