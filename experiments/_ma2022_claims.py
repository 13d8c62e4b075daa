"""What a record of `ma2022_multiscale` says: the paper's phenomena, and where they end."""

from typing import Any

import numpy as np

from experiments import _ma2022_toys as toys
from experiments._ma2022_networks import CORE_RADII, RADII, TEACHER_RADII, edge
from landscape_jax import Record
from landscape_jax.landscape.multiscale import fitted_exponent, separate_scales
from landscape_jax.record import Claim

PAPER = "Ma, Kunin, Wu and Ying 2022, arXiv 2204.11326"
HERE = f"derived or found here, after {PAPER}"
STABLE = 0, 1, 2, 3  # places in CYCLE_RATES up to η f''(0) = 4


def claims(record: Record, config: Any) -> list[Claim]:
    """Every claim on what was run; those on parts left out are not tested."""
    found: list[Claim] = []
    for part, judges in PARTS.items():
        for name, statement, source, criterion, judge in judges:
            measured, passed = judge(record, config) if part in record else ({}, None)
            found.append(Claim(name, statement, source, criterion, measured, passed))
    return found


def at(exponents, radius: float) -> np.ndarray:
    """p at the radius nearest to the one asked for."""
    return np.asarray(exponents)[..., np.abs(np.log(RADII / radius)).argmin()]


def highest(exponents, where: np.ndarray) -> np.ndarray:
    """The largest p there; 0 for a run without any."""
    return np.nan_to_num(np.asarray(exponents)[..., where]).max(axis=-1)


def by_rate(part: dict, values) -> dict[str, list]:
    return {f"η = {rate:g}": np.round(row, 4).tolist() for rate, row in zip(part["rate"], np.asarray(values), strict=True)}


# ── toys ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _cycle(record: Record, config: Any) -> tuple[dict, bool]:
    cycles = record["toys"]["cycles"]
    off, still = {}, {}
    for name in ("log_cosh", "pseudo_huber"):
        settled, predicted = (np.asarray(cycles[name][k])[list(STABLE)] for k in ("settled", "predicted"))
        still[name] = float(settled[0])
        off[name] = float(np.max(np.abs(settled[1:] / predicted[1:] - 1)))
    step = int(cycles["quartic_diverges_at"])
    passed = max(off.values()) < 1e-4 and max(still.values()) < 1e-4 and step >= 0
    return {"largest |x/x* − 1|": off, "|x| at 1.5": still, "quartic diverges at step": step}, passed


def _marginal(record: Record, config: Any) -> tuple[dict, bool]:
    found = record["toys"]["cycles"]["cauchy"]
    stable, gone = slice(1, 3), -1
    off = np.abs(np.asarray(found["settled"]) / np.maximum(found["predicted"], 1e-9) - 1)
    measured = {
        "off at 2.5 and 3": off[stable].tolist(),
        "off at 6": float(off[gone]),
        "multipliers": np.asarray(found["multiplier"])[1:].tolist(),
    }
    return measured, bool((off[stable] < 1e-4).all() and off[gone] > 0.1)


def _power(record: Record, config: Any) -> tuple[dict, bool]:
    part = record["toys"]["powers"]
    slopes = [float(np.polyfit(np.log(part["rate"]), np.log(row), 1)[0]) for row in np.asarray(part["plateau"])]
    predicted = toys.POWERS / (2 - toys.POWERS)
    return {"slopes": slopes, "p/(2 − p)": predicted.tolist()}, bool(np.max(np.abs(slopes / predicted - 1)) < 0.01)


def _decay(record: Record, config: Any) -> tuple[dict, bool]:
    part = record["toys"]["two_scale"]
    final = dict(zip(toys.SCHEDULES, np.asarray(part["loss"])[:, -1].tolist(), strict=True))
    off = abs(final["big"] / float(part["predicted"]) - 1)
    least = min(final["big"], final["small"])
    return {"final loss": final, "plateau off by": off}, bool(least > 100 * final["big, then small"] and off < 0.01)


def _stairs(record: Record, config: Any) -> tuple[dict, bool]:
    part = record["toys"]["staircase"]
    plateau, predicted = np.asarray(part["plateau"]), np.asarray(part["predicted"])
    good = np.abs(plateau - predicted) <= 1e-3 * predicted + 1e-6
    return {"rates within": f"{good.sum()} of {good.size}"}, bool(good.all())


def _decays(record: Record, config: Any) -> tuple[dict, bool]:
    part = record["toys"]["staircase"]
    ends, plateaus = np.asarray(part["decays"]).reshape(len(toys.DECAYS), -1)[:, -1], np.asarray(part["decay_plateaus"])
    measured = {f"η = {rate:g}": end for rate, end in zip(toys.DECAYS, ends.tolist(), strict=True)}
    return measured, bool((np.abs(ends - plateaus) <= 1e-3 * plateaus + 1e-6).all() and (np.diff(ends) < 0).all())


def _continuum(record: Record, config: Any) -> tuple[dict, bool]:
    part = record["toys"]["continuum"]

    def fits(name: str, low: float, high: float) -> list[float]:
        return [fitted_exponent(part["t"], rise, low, high) for rise in np.asarray(part[name])]

    tanh, core, linear = fits("tanh", 3e-3, 3e-2), fits("tanh", 0, 1e-5), fits("linear", 3e-3, 3e-2)
    off = np.abs(np.array(tanh) - part["predicted"])
    named = {f"q = {q:g}": p for q, p in zip(part["q"], tanh, strict=True)}
    return {"exponent": named, "core": core, "linear unit": linear}, bool(off[:3].max() < 0.1)


def _no_continuum(record: Record, config: Any) -> tuple[dict, bool]:
    part = record["toys"]["continuum"]
    relu, t = np.asarray(part["relu"]), np.asarray(part["t"])
    exponents = [fitted_exponent(t, rise, 3e-3, 3e-2) for rise in relu]
    shape = relu / relu[:, :1]
    apart = float(np.max(np.abs(shape / shape[:1] - 1)))
    passed = np.abs(np.array(exponents) - 2).max() < 1e-6 and apart < 1e-6
    named = {f"q = {q:g}": p for q, p in zip(part["q"], exponents, strict=True)}
    return {"exponent": named, "shapes apart": apart}, bool(passed)


def _separated(record: Record, config: Any) -> tuple[dict, bool]:
    part = record["toys"]["separated"]
    places = [int(np.abs(np.log(np.asarray(part["t"]) / t)).argmin()) for t in toys.SEPARATED_AT]
    p, count = np.asarray(part["exponent"])[places], separate_scales(part["exponent"])
    measured = {"p": p.tolist(), "scales beyond the first": count}
    return measured, bool(count == 2 and np.abs(p - toys.SEPARATED_P).max() <= 0.05)


# ── origin ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def counted(exponents) -> np.ndarray:
    """Separate scales beyond the first, [scales, seed]."""
    exponents = np.asarray(exponents)
    return np.array([[separate_scales(p[np.isfinite(p)]) for p in row] for row in exponents])


def _scales(record: Record, config: Any) -> tuple[dict, bool]:
    top = np.asarray(record["origin"]["tanh"]["top"])
    counts = counted(top)
    core = np.abs(top[..., TEACHER_RADII <= 1e-4] - 2)[[0, -1]].max()  # the control and the most spread data
    measured = {str(s): counts[i].tolist() for i, s in enumerate(config.scales)} | {"|p − 2| at r ≤ 1e-4": float(core)}
    further_in = np.abs(np.asarray(record["origin"]["tanh"]["core"]) - 2)[[0, -1]].max(axis=(0, 1))  # [radius]
    for radius in (1e-5, 1e-6):
        measured[f"|p − 2| at r = {radius:g}"] = float(further_in[np.abs(np.log(CORE_RADII / radius)).argmin()])
    return measured, bool((counts[0] == 0).all() and (counts[-1] >= 2).all() and core <= 0.02)


def _both(record: Record, config: Any) -> tuple[dict, bool]:
    counts = counted(record["origin"]["tanh"]["top"])
    linear = np.nanmax(np.abs(np.asarray(record["origin"]["linear"]["top"])[-1] - 2))
    measured = {
        "convex model, spread data: |p − 2|": float(linear),
        "tanh, uniform data: scales": counts[0].tolist(),
        "tanh, spread data: scales": counts[-1].tolist(),
    }
    return measured, bool(linear < 0.02 and (counts[0] == 0).all() and (counts[-1] >= 2).all())


def _relu_has_none(record: Record, config: Any) -> tuple[dict, bool]:
    counts = counted(record["origin"]["relu"]["top"])
    return {str(s): row.tolist() for s, row in zip(config.scales, counts, strict=True)}, bool((counts == 0).all())


# ── networks ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def late(part: Record) -> np.ndarray:
    """λ₁ η/2, the mean over the last third of the looks, [rate, seed]."""
    sharp = np.asarray(part["sharpness"])
    return sharp[..., -(sharp.shape[-1] // 3) :].mean(axis=-1) * np.asarray(part["rate"])[:, None] / 2


def _edge(record: Record, config: Any) -> tuple[dict, bool]:
    part, ratio = record["networks"]["tanh"], late(edge(record))
    return {"λ₁ η/2": by_rate(part, late(part))}, bool(((ratio >= 0.97) & (ratio <= 1.05)).all())


def _below(record: Record, config: Any) -> tuple[dict, bool]:
    (ratio,) = late(record["networks"]["tanh"].isel(rate=[0]))
    return {f"λ₁ η/2 at η = {config.rates[0]:g}": ratio.tolist()}, bool((ratio < 0.9).all())


def _subquadratic(record: Record, config: Any) -> tuple[dict, bool]:
    part = edge(record)
    one, three = at(part["top"], 1), at(part["top"], 3)
    return {"p(1)": by_rate(part, one), "p(3)": by_rate(part, three)}, bool((one < 1.97).all() and (three < 1.8).all())


def _drop(record: Record, config: Any) -> tuple[dict, bool]:
    """Gates of one initialisation. How much is lost depends on how far θ happens to swing when the rate drops: `_removed`."""
    part = edge(record)
    fall = part["dropped"][..., 20] / part["dropped"][..., 0]
    gates = np.where(np.isclose(part["rate"], 0.3), 0.95, 0.6)[:, None]
    return {"loss after 20 steps": by_rate(part, fall)}, bool((fall <= gates).all())


def _removed(record: Record, config: Any) -> tuple[dict, bool]:
    """What swings at λ = 2/η with amplitudes a has the energy Σ ½ λ a² = η ‖∇L‖²/4; at η/4 each step leaves a quarter of it."""
    part = edge(record)
    before = part["dropped"][..., 0]
    lost, energy = 1 - part["dropped"][..., 20] / before, part["rate"][:, None] * part["slope"] / (4 * before)
    measured = {"part of the loss lost": by_rate(part, lost), "η ‖∇L‖²/(4 L)": by_rate(part, energy)}
    return measured, bool((np.abs(lost - energy) <= 0.02).all())


def _random(record: Record, config: Any) -> tuple[dict, bool]:
    part = edge(record)
    p = at(part["random"], 1)
    return {"p(1)": by_rate(part, p)}, bool((np.abs(p - 2) <= 0.1).all())


def _gradient(record: Record, config: Any) -> tuple[dict, bool]:
    part = edge(record)
    before, after = (part[name][..., RADII >= 0.99] for name in ("gradient", "gradient_after"))
    measured = {told: [float(p.min()), float(p.max())] for told, p in (("before", before), ("after", after))}
    return {"p at r = 1 … 10": measured}, bool((after.max(axis=-1) > 2.1).all())


def _second(record: Record, config: Any) -> tuple[dict, bool]:
    part = edge(record)
    steps = part["dropped"].shape[-1] // 2
    fall = part["dropped"][..., steps + 20] / part["dropped"][..., steps]
    return {"loss after 20 more steps": by_rate(part, fall)}, bool((fall > 0.95).all())


def _one_cycle(record: Record, config: Any) -> tuple[dict, bool]:
    part = edge(record)
    half = part["rate"][:, None] / 2
    ratio, secant = part["curvature"] * half, part["secant"] * half
    measured = {"λ₁ η/2": by_rate(part, ratio), "secant η/2": by_rate(part, secant), "swing": by_rate(part, part["swing"])}
    return measured, bool(((secant - 1) < (ratio - 1) / 2)[ratio > 1].all() and (ratio > 1).any())


def _cross_entropy(record: Record, config: Any) -> tuple[dict, bool]:
    part = record["networks"]["cross_entropy"]
    ratio, high = late(part), highest(part["top"], RADII <= 1.01)
    measured = {"λ₁ η/2": ratio.ravel().tolist(), "largest p at r ≤ 1": high.ravel().tolist()}
    return measured, bool((ratio < 0.5).all() and (high > 2.1).all())


def _relu(record: Record, config: Any) -> tuple[dict, bool]:
    part = record["networks"]["relu"]
    high = highest(part["top"], RADII >= 0.99)
    measured = {"λ₁ η/2": late(part).ravel().tolist(), "largest p at r ≥ 1": high.ravel().tolist()}
    return measured, bool((high > 2.1).all())


PARTS = {
    "toys": [
        (
            "subquadratic-2-cycle",
            "Beyond the edge of a subquadratic loss, gradient descent settles on the two-cycle whose "
            "secant curvature is 2/η; a superquadratic one diverges.",
            HERE,
            "|x/x* − 1| < 1e-4 for log cosh and √(1 + x²) at η f''(0) = 2.5, 3, 4; 0 at 1.5; the quartic diverges at 2.05",
            _cycle,
        ),
        (
            "cycle-loses-stability",
            "Where the slope falls, ½ log(1 + x²) beyond η = 4, the cycle is left again.",
            HERE,
            "|x/x* − 1| < 1e-4 at η = 2.5 and 3, > 0.1 at 6",
            _marginal,
        ),
        (
            "power-law-plateau",
            "On |x|^p the loss is stuck at a plateau ∝ η^{p/(2−p)}.",
            HERE,
            "slopes of log loss against log η within 1 % for p = 1.2, 1.5, 1.8",
            _power,
        ),
        (
            "lr-decay-two-scales",
            "With two scales and a slow direction, a big rate followed by a small one beats either.",
            PAPER,
            "at 600 steps big and small alone each have over 100 times the loss of big, then small; plateau within 1 %",
            _decay,
        ),
        (
            "lr-staircase",
            "With three scales, the loss at rate η is stuck where f'(w)/w = 2/η.",
            HERE,
            "all 14 rates within 1e-3 relative + 1e-6",
            _stairs,
        ),
        (
            "lr-staircase-decays",
            "As the rate decays, one descent falls from plateau to plateau of these.",
            PAPER,
            "200 steps at each of six rates end within 1e-3 relative + 1e-6 of the plateau, each lower than the last",
            _decays,
        ),
        (
            "origin-continuum-exponent",
            "Magnitudes with density x^−q give growth t^(q−1) to a saturating unit.",
            HERE,
            "exponent on 3e-3 < t < 3e-2 within 0.1 of q − 1 for q = 1.5, 2, 2.5",
            _continuum,
        ),
        (
            "origin-relu-continuum",
            "A ReLU does not saturate: up to its kink growth is quadratic, and magnitudes set the size "
            "of the loss, not its shape.",
            HERE,
            "exponent there within 1e-6 of 2 for every q; L(t)/L(1e-6) the same for every q to 1e-6",
            _no_continuum,
        ),
        (
            "origin-separated-scales",
            "Magnitudes 1, 100, 10⁴ give a saturating unit exponents that fall and rise again.",
            HERE,
            "two scales beyond the first; p within 0.05 of 2, 1.1, .18, .94, .07, .92 at log₁₀ t = −5.5, −4, −3, −2, −1.2, 0",
            _separated,
        ),
    ],
    "origin": [
        (
            "origin-two-layer-scales",
            "In a two-layer tanh network, data of separate magnitudes give the loss separate scales.",
            PAPER,
            "maxima of the smoothed p(r) along the top Gauss–Newton direction: none for equal magnitudes, at least 2 for "
            "the last of `scales`, for every seed; both p = 2 ± 0.02 at r ≤ 1e-4",
            _scales,
        ),
        (
            "origin-needs-both",
            "A convex model alone, or uniform data alone, give no separate scales.",
            PAPER,
            "linear network on spread data: |p − 2| < 0.02; tanh on uniform data: no maxima; both together: at least 2",
            _both,
        ),
        (
            "origin-relu-has-none",
            "With ReLU, which does not saturate, spread data give no separate scales either.",
            HERE,
            "no maxima of the smoothed p(r), every seed, on all of `scales`",
            _relu_has_none,
        ),
    ],
    "networks": [
        (
            "net-reaches-eos",
            "The network's sharpness settles at 2/η.",
            PAPER,
            "mean of λ₁ η/2 over the last third in [0.97, 1.05], every seed at both larger rates",
            _edge,
        ),
        ("net-control-below", "With the smallest rate it never gets there.", HERE, "that mean under 0.9", _below),
        (
            "net-subquadratic-top-direction",
            "There the loss grows subquadratically along the sharpest direction.",
            PAPER,
            "p(1) < 1.97 and p(3) < 1.8, every seed at both larger rates",
            _subquadratic,
        ),
        (
            "net-lr-drop",
            "Dividing η by 4 at the edge lowers the loss at once.",
            PAPER,
            "loss after 20 steps at most 0.95 (η = 0.3) and 0.6 (η = 0.6) times",
            _drop,
        ),
        (
            "net-drop-removes-swing",
            "What the drop removes is the swing, the part of the loss in directions of curvature 2/η.",
            HERE,
            "part lost within 20 steps within 0.02 of η ‖∇L‖²/(4 L), every seed at both larger rates",
            _removed,
        ),
        (
            "net-second-drop-idle",
            "A second drop does nothing: one scale is active.",
            HERE,
            "loss 20 steps after it over 0.95 times",
            _second,
        ),
        (
            "net-random-quadratic",
            "Along random directions growth stays quadratic: subquadratic growth is not universal.",
            HERE,
            "|p(1) − 2| ≤ 0.1, every seed at both larger rates",
            _random,
        ),
        (
            "net-gradient-superquadratic",
            "Along the gradient after a drop growth is superquadratic.",
            HERE,
            "largest p on 1 ≤ r ≤ 10 over 2.1, every seed at both larger rates",
            _gradient,
        ),
        (
            "net-one-dimensional-cycle",
            "The one-dimensional two-cycle explains the network's edge: over the swing the secant "
            "curvature is 2/η where λ₁ is more.",
            HERE,
            "secant η/2 − 1 under half of λ₁ η/2 − 1 wherever that is positive",
            _one_cycle,
        ),
        (
            "net-cross-entropy-differs",
            "With cross-entropy there is no late edge, and growth along the sharpest direction is superquadratic.",
            HERE,
            "mean λ₁ η/2 of the last third under 0.5 and largest p at r ≤ 1 over 2.1, every seed",
            _cross_entropy,
        ),
        (
            "net-relu-differs",
            "With ReLU growth along the sharpest direction is superquadratic further out.",
            HERE,
            "largest p at r ≥ 1 over 2.1, every seed",
            _relu,
        ),
    ],
}
