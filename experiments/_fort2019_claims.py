"""The claims of Fort and Ganguli 2019 on the random model and on one network: records of NumPy arrays in, verdicts out."""

from typing import Any

import numpy as np

from experiments import _fort2019_model as model
from landscape_jax import Record
from landscape_jax.record import Claim
from landscape_jax.theory import logits

GANGULI = "Fort and Ganguli 2019, arXiv 1910.05929"
OWN = "found here"
KINDS = "equal", "unequal", "square"  # of random models


def passed(value) -> bool | None:
    return None if value is None else bool(value)


def table(names, values) -> dict[str, float]:
    return {f"{name:g}": float(value) for name, value in zip(names, values, strict=True)}


# ── the model ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def of_the_model(record: Record, config: Any) -> list[Claim]:
    part = record.get("model")
    told: list[dict] = [{}, {}, {}, {}, {}, {}]
    verdict: list = [None] * 6
    if part is not None:
        told[0], verdict[0] = _cuts(part["outliers"], ("equal", "unequal"), -1)
        ranks = {c: part["outliers"]["rank"][c].tolist() for c in part["outliers"]["rank"]}
        told[0]["rank at σ_E = 0"] = ranks
        verdict[0] = verdict[0] and all(rank == int(c) - 1 for c, each in ranks.items() for rank in each)
        told[1], verdict[1] = _cuts(part["outliers"], ("square",), 0)
        told[2], verdict[2] = _transition(part["transition"], config)
        told[3], verdict[3] = _freezing(part["freezing"]["participation"])
        energy = part["confinement"]["energy"].mean(axis=1)
        told[4] = {"energy in the top 10 by σ_E/σ_c": table(model.SPREADS, energy)}
        verdict[4] = (np.diff(energy) < 0).all() and energy[0] >= 0.7
        told[5], verdict[5] = _model_transient(part["transient"])
    return [
        Claim(
            "model-outliers-c-minus-1",
            "The random model's Hessian has C − 1 outliers, whatever the clusters' lengths.",
            f"{OWN}; {GANGULI} has C",
            "largest ratio of successive eigenvalues after C − 1 in every draw, C = 3, 5, 10, 20, "
            "also with lengths from 0.5 to 2, residuals under 1 % of λ₁; rank C − 1 at σ_E = 0, to 1e-8 of λ₁",
            told[0],
            passed(verdict[0]),
        ),
        Claim(
            "model-square-loss-c",
            "Under the square loss it has C.",
            OWN,
            "largest ratio after C in every draw, residuals under 1 % of λ₁",
            told[1],
            passed(verdict[1]),
        ),
        Claim(
            "model-bbp",
            "Outliers leave the bulk at l = √γ, where the closed forms have them.",
            GANGULI,
            f"p = {config.transition_p}, n = {config.transition_n}, C = 10: position within 1 % and squared overlap within "
            "0.03 for l/l_c ≥ 1.25, means over draws; for l < l_c nothing over 2 % beyond the edge in any draw; residuals "
            "under 1 % of λ₁",
            told[2],
            passed(verdict[2]),
        ),
        Claim(
            "model-rem-freezing",
            "The softmax freezes at σ_z = √(2 ln C).",
            GANGULI,
            "C = 10⁴: Σp² within 0.1 of 1 − σ_c/σ_z from 2 σ_c on, below 0.05 up to σ_c/2, in both sets of draws",
            told[3],
            passed(verdict[3]),
        ),
        Claim(
            "model-gradient-confinement",
            "The gradient lies in the top-C subspace as far as logit gradients cluster.",
            GANGULI,
            "falls with σ_E/σ_c; at least 0.7 at 0.5",
            told[4],
            passed(verdict[4]),
        ),
        Claim(
            "model-transient",
            "λ₁ rises and falls with σ_z where |J|² grows more slowly than σ_z.",
            GANGULI,
            "|J|² ∝ (1 + σ_z)^a: highest inside of the range for a = ½, at its end for a = 1 and 2",
            told[5],
            passed(verdict[5]),
        ),
    ]


def _cuts(part: dict, names: tuple[str, ...], beyond: int) -> tuple[dict, bool]:
    told, fine = {}, True
    for name in names:
        found = {c: logits.num_outliers(values) for c, values in part[name].items()}
        doubts = {c: float(part["residual"][c][:, KINDS.index(name)].max()) for c in found}
        told[name] = {
            c: {"after": sorted(set(place.tolist())), "least ratio": float(ratio.min()), "residual": doubts[c]}
            for c, (place, ratio) in found.items()
        }
        fine = fine and all((place == int(c) + beyond).all() for c, (place, _) in found.items()) and max(doubts.values()) < 0.01
    return told, fine


def _transition(part: dict, config: Any) -> tuple[dict, bool]:
    position, overlap = part["position"].mean(axis=1), part["overlap"].mean(axis=1)
    off = np.abs(position / part["predicted_position"] - 1)
    apart = np.abs(overlap - part["predicted_overlap"])
    above, below = np.array(model.FACTORS) >= 1.25, np.array(model.FACTORS) < 1
    beyond, residual = float((part["largest"][below] / part["edge"]).max()), float(part["residual"].max())
    told = {
        "position": table(model.FACTORS, position),
        "predicted": table(model.FACTORS, part["predicted_position"]),
        "squared overlap": table(model.FACTORS, overlap),
        "predicted overlap": table(model.FACTORS, part["predicted_overlap"]),
        "worst position above": float(off[above].max()),
        "worst overlap above": float(apart[above].max()),
        "largest eigenvalue over the edge, below": beyond,
        "worst residual": residual,
    }
    return told, (off[above] <= 0.01).all() and (apart[above] <= 0.03).all() and beyond <= 1.02 and residual < 0.01


def _freezing(found: np.ndarray) -> tuple[dict, bool]:
    at, many = np.array(model.FROZEN_AT), found[model.FROZEN_CLASSES.index(10_000)]  # [ratio, 2]
    limit = np.maximum(0, 1 - 1 / at)[:, None]
    fine = (np.abs(many - limit)[at >= 2] <= 0.1).all() and (many[at <= 0.5] < 0.05).all()
    return {"Σp² by σ_z/σ_c, C = 10⁴": table(at, many.mean(axis=1)), "limit": table(at, limit[:, 0])}, fine


def _model_transient(part: dict) -> tuple[dict, bool]:
    told, places = {}, {}
    for power in model.POWERS:
        curve = part["fixed"] * (1 + np.array(model.SIGMA_Z)) ** power
        places[power] = int(np.argmax(curve))
        told[f"a = {power:g}: σ_z of the highest λ₁"] = model.SIGMA_Z[places[power]]
    end = len(model.SIGMA_Z) - 1
    return told, 0 < places[0.5] < end and places[1.0] == places[2.0] == end


# ── the network ───────────────────────────────────────────────────────────────────────────────────────────────────────


def of_the_network(record: Record, config: Any) -> list[Claim]:
    part = record.get("network")
    told: list[dict] = [{}, {}, {}, {}]
    verdict: list = [None] * 4
    if part is not None:
        step, top, clusters, softmax = part["step"], part["hessian"]["eigenvalues"][:, 0], part["clusters"], part["softmax"]
        peak = int(top.argmax())
        told[0] = {
            "λ₁ at the start": float(top[0]),
            "at its peak": float(top[peak]),
            "at the end": float(top[-1]),
            "peak at step": int(step[peak]),
        }
        verdict[0] = top[peak] >= 1.5 * top[0] and top[-1] <= 0.3 * top[peak]
        law = clusters["length"] * softmax["freedom"]
        factor = top / law
        told[1] = {
            "λ₁/(|J|²(1 − Σp²)) over training": [float(factor.min()), float(factor.max())],
            "λ₁ over training": [float(top.min()), float(top.max())],
            "correlation of logarithms": float(np.corrcoef(np.log(top), np.log(law))[0, 1]),
            "peak of |J|²(1 − Σp²) at": int(step[law.argmax()]),
            "exponent of |J|² in σ_z, before and after the peak": _exponents(clusters["length"], softmax["variance"], peak),
            "exponent of 1 − Σp² in σ_z": _exponents(softmax["freedom"], softmax["variance"], peak),
        }
        near = step[peak] <= 2 * step[law.argmax()] <= 4 * step[peak]
        verdict[1] = near and np.corrcoef(np.log(top), np.log(law))[0, 1] >= 0.9
        names = ("same_class", "same_logit", "other_logit")
        told[2] = {name: [float(clusters[name].min()), float(clusters[name].max())] for name in names}
        one, two, three = (clusters[name] for name in names)
        verdict[2] = (one > two).all() and (two > 0.15).all() and (np.abs(three) < 0.05).all()
        grown = {
            name: float(x[-1] / x[0])
            for name, x in (("|J|²", clusters["length"]), ("var z", softmax["variance"]), ("‖θ‖", part["norm"]))
        }
        told[3], verdict[3] = grown, grown["|J|²"] > 5 and grown["var z"] > 5 and grown["‖θ‖"] > 1
    return [
        Claim(
            "net-transient",
            "λ₁ rises and falls in training.",
            GANGULI,
            "peak at least 1.5 × start, end at most 0.3 × peak",
            told[0],
            passed(verdict[0]),
        ),
        Claim(
            "net-transient-law",
            "It does as |J|²(1 − Σp²) says, the network's own growth of logit gradients and freezing.",
            f"{OWN}, after {GANGULI}",
            "correlation of logarithms over training at least 0.9, the peaks within a factor of 2 in time",
            told[1],
            passed(verdict[1]),
        ),
        Claim(
            "net-clustering",
            "Logit gradients cluster by logit, and more so within a class.",
            GANGULI,
            "q_SLSC > q_SL > 0.15 and |q_DL| < 0.05 at every look",
            told[2],
            passed(verdict[2]),
        ),
        Claim(
            "net-logit-growth",
            "Logit gradients, logit variance and weights grow.",
            GANGULI,
            "the first two by more than 5 ×, ‖θ‖ larger at the end",
            told[3],
            passed(verdict[3]),
        ),
    ]


def _exponents(values: np.ndarray, variance: np.ndarray, peak: int) -> list[float]:
    """d log values/d log σ_z from the start to the peak, and from there to the end."""
    x, y = np.log(variance) / 2, np.log(values)
    return [float((y[b] - y[a]) / (x[b] - x[a])) if b > a else float("nan") for a, b in ((0, peak), (peak, len(y) - 1))]
