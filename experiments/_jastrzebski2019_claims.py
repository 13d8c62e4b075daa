"""The claims of Jastrzębski et al. 2019, part by part: records of NumPy arrays in, verdicts out."""

from typing import Any

import numpy as np

import landscape_jax as lj
from landscape_jax import Record
from landscape_jax.record import Claim
from landscape_jax.theory import noisy_step

SOURCE = "Jastrzębski et al. 2019, arXiv 1807.05031"
LATE = 11  # checks in a late mean: single ones change sign
TRACKED = "tracked"  # Nudged-SGD whose directions are followed at every step, in the record


def cell(rate: float, size: int) -> str:
    return f"rate{rate:g}-batch{size}"


def _passed(value) -> bool | None:
    return None if value is None else bool(value)


def _peaks(record: Record, config: Any) -> dict[tuple[float, int], np.ndarray]:
    top = {at: np.asarray(part["eigenvalues"])[..., 0] for at, part in record["grid"].items()}  # [seed, check]
    return {(rate, size): top[cell(rate, size)].max(axis=-1) for rate, size, *_ in config.grid}


def sweeps(config: Any) -> tuple[list[tuple[float, int]], list[tuple[float, int]]]:
    """The cells of the grid that differ in η alone and those that differ in S alone, ascending: the longest such rows."""
    cells = [(rate, size) for rate, size, *_ in config.grid]

    def row(shared: int) -> list[tuple[float, int]]:
        return sorted(max(([c for c in cells if c[shared] == d[shared]] for d in cells), key=len, default=[]))

    return row(1), row(0)


def of_the_grid(record: Record, config: Any) -> list[Claim]:
    rise = fall = lr = small = None
    told: list[dict] = [{}, {}, {}]
    if "grid" in record and config.grid:
        top = {name: np.asarray(part["eigenvalues"])[..., 0] for name, part in record["grid"].items()}  # [seed, check]
        peak = _peaks(record, config)
        rise = {name: x.max(-1) / x[:, 0] for name, x in top.items()}
        fall = {name: x[:, -1] / x.max(-1) for name, x in top.items()}
        settled = {name: np.median(x[:, -LATE:], axis=1) / x.max(-1) for name, x in top.items()}
        told[0] = {
            "λ₁ at the start": {name: x[:, 0] for name, x in top.items()},
            "peak / start": rise,
            "end / peak": fall,
            f"median of the last {LATE} checks / peak": settled,
        }
        rates, sizes = sweeps(config)
        if len(rates) > 1:
            lr = peak[rates[-1]] / peak[rates[0]]  # [seed]
            told[1] = {f"peak at η = {r:g}": peak[r, s] for r, s in rates} | {"largest / smallest η": lr}
        if len(sizes) > 1:
            small = peak[sizes[0]] / peak[sizes[-1]]
            told[2] = {f"peak at S = {s}": peak[r, s] for r, s in sizes} | {"smallest / largest S": small}
    transient = (
        rise
        and fall
        and all((rise[name] >= 1.3).all() and (fall[name] <= 0.85).all() and np.isfinite(fall[name]).all() for name in rise)
    )
    return [
        Claim(
            "lambda1-rise-and-fall",
            "The largest eigenvalue rises, peaks, and falls along SGD.",
            SOURCE,
            "in every run: peak at least 1.3 times the start, end at most 0.85 of the peak",
            told[0],
            _passed(transient),
        ),
        Claim(
            "peak-falls-with-lr",
            "The larger the learning rate, the lower the peak.",
            SOURCE,
            "peak at the largest η at most 0.7 of that at the smallest, for every seed",
            told[1],
            _passed(None if lr is None else np.all(lr <= 0.7)),
        ),
        Claim(
            "peak-falls-with-small-batch",
            "The smaller the batch, the lower the peak.",
            SOURCE,
            "peak at the smallest S at most 0.6 of that at the largest, for every seed",
            told[2],
            _passed(None if small is None else np.all(small <= 0.6)),
        ),
    ]


def critical(change: Record, rate: float) -> np.ndarray:
    """α* = 2(ḡ·e)²/(ηλE(g·e)²) at each check and for each direction, [seed, check, k]."""
    slope, second, values = (np.asarray(change[name], float) for name in ("slope", "second", "eigenvalues"))
    return noisy_step.sgd_critical_multiple(rate, slope, second / rate**2, values)


def agreement(change: Record, rate: float, multiples: np.ndarray) -> dict[str, float]:
    """How often α* tells the sign of ΔL, over all checks, directions and α: from E[(g·e)²] and ḡ, and from the same draws."""
    terms = (np.asarray(change[name], float) for name in ("slope", "first", "second", "eigenvalues"))
    turns = {"2(ḡ·e)²/(ηλE(g·e)²)": critical(change, rate), "from the draws": noisy_step.critical_multiple(*terms)}
    risen = np.asarray(change["sharpest"]) > 0  # [seed, check, k, A]
    return {name: np.mean((multiples > turn[..., None]) == risen) for name, turn in turns.items()}


def of_the_step(record: Record, config: Any) -> list[Claim]:
    overshoots = agrees = aligned = None
    told: list[dict] = [{}, {}, {}]
    if "step" in record and config.step_runs:
        alphas = np.array(config.multiples)
        one, two = list(config.multiples).index(1.0), list(config.multiples).index(2.0)
        rates = sorted((rate for rate, *_ in config.step_runs), reverse=True)
        part = record["step"][f"rate{rates[0]:g}"]["change"]
        names = "sharpest", "subspace", "random", "whole"
        percent = {name: 100 * np.asarray(part[name]) / _up(part["loss"], np.ndim(part[name])) for name in names}
        late = {n: x[:, -LATE:].mean(axis=1) for n, x in percent.items()}  # [seed, ..., A]
        start, turn = percent["sharpest"][:, 0, 0, two], critical(part, rates[0])[..., 0]
        told[0] = {f"late ΔL % along e₁ at α = {a:g}": late["sharpest"][:, 0, i] for i, a in enumerate(alphas)} | {
            "late ΔL % along e₁ … e_K at α = 2": late["subspace"][:, two],
            "late ΔL % of the whole step at α = 1": late["whole"][:, one],
            "first ΔL % along e₁ at α = 2": start,
            "first ΔL % along e₁ … e_K at α = 2": percent["subspace"][:, 0, two],
            "α* along e₁, first": turn[:, 0],
            "α* along e₁, late median": np.median(turn[:, -LATE:], axis=1),
            "late ΔL % along a random direction at α = 1": late["random"][:, one],
            "largest |ΔL| % along a random direction at α = 1": np.abs(percent["random"][..., one]).max(axis=1),
        }
        raised = (late["sharpest"][:, 0, two] > 0) & (late["subspace"][:, two] > 0)
        still = np.abs(percent["random"][..., one]).max(axis=1) <= 0.01
        overshoots = np.all(raised & (start < 0) & still)
        told[1] = {f"η = {r:g}": agreement(record["step"][f"rate{r:g}"]["change"], r, alphas) for r in rates}
        agrees = next(iter(told[1][f"η = {rates[0]:g}"].values())) >= 0.8
        chance = lj.observe.random_cosine(int(record["p"]))
        times = {r: np.asarray(record["step"][f"rate{r:g}"]["alignment"]["cosines"]).mean(axis=-1) / chance for r in rates}
        aligned = all((x.mean(axis=1) >= 10).all() for x in times.values())
        energy = {r: np.asarray(record["step"][f"rate{r:g}"]["alignment"]["energy"]).mean(axis=1) for r in rates}
        told[2] = {"|cos| of chance": chance, "energy of chance": config.k / int(record["p"])}
        for r in rates:
            told[2] |= {
                f"|cos| / chance at η = {r:g}, mean": times[r].mean(axis=1),
                f"|cos| / chance at η = {r:g}, least check": times[r].min(axis=1),
                f"energy along e₁ … e_K at η = {r:g}": energy[r],
            }
    return [
        Claim(
            "step-overshoots-e1",
            "Late in training the step is at or past the minimum along the sharpest direction; early it is not.",
            SOURCE,
            f"at the larger η, mean over the last {LATE} checks at α = 2: ΔL > 0 along e₁ and in the span; at the first check "
            "ΔL < 0 along e₁; along a random direction |ΔL| at α = 1 within 0.01 % at every check; for every seed",
            told[0],
            _passed(overshoots),
        ),
        Claim(
            "step-criterion-sign",
            "α* = 2(ḡ·e)²/(ηλE(g·e)²) tells whether the loss rises along e.",
            f"derived; {SOURCE}, §4",
            "the sign of ΔL is that of α − α* in at least 80 % of all checks, directions and α at the larger η",
            told[1],
            _passed(agrees),
        ),
        Claim(
            "gradient-aligned-with-sharp",
            "Minibatch gradients are aligned with the sharpest directions.",
            SOURCE,
            "mean |cos| with e₁ … e_K at least 10 times that of a random direction, √(2/πp), at each η and seed",
            told[2],
            _passed(aligned),
        ),
    ]


def _up(x, ndim: int) -> np.ndarray:
    """x with axes at the end, up to so many."""
    x = np.asarray(x)
    return x.reshape(x.shape + (1,) * (ndim - x.ndim))


def best(part: Record) -> np.ndarray:
    """Test accuracy at the epoch that is best in validation, or, where there is none, in the test itself: [..., pair]."""
    chooser = np.nan_to_num(np.asarray(part.get("validation", part["test"])), nan=-1)
    return np.take_along_axis(np.asarray(part["test"]), chooser.argmax(axis=-1)[..., None], axis=-1)[..., 0]


def paired(difference: np.ndarray) -> dict[str, Any]:
    """Mean of paired differences and its 95 % interval by Student's t (Cornish–Fisher: exact to 1 % from four pairs)."""
    n = len(difference)
    if n < 3 or not np.isfinite(difference).all():
        return {"mean": float(np.mean(difference)), "95 % interval": None, "pairs": n}
    z, v = 1.959964, n - 1
    t = z + (z**3 + z) / (4 * v) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
    t += (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
    half = t * np.std(difference, ddof=1) / n**0.5
    mean = float(np.mean(difference))
    return {"mean": mean, "95 % interval": [float(mean - half), float(mean + half)], "pairs": n}


def _ends(part: Record, gamma: float) -> dict[str, np.ndarray]:
    """What Nudged-SGD comes to, [pair] each."""
    runs = part.sel(gamma=gamma)
    end = runs.isel(step=-1)
    return {"λ₁": end["eigenvalues"][:, 0], "‖H‖_F": end["frobenius"], "best test accuracy": best(runs)}


def variants(record: Record, config: Any) -> dict[str, dict[str, np.ndarray]]:
    """The ends of plain SGD and of the smallest γ: over K, and with directions tracked at every step."""
    nudged = record["nudged"]
    ks = sorted({config.k, *config.ablation})
    least = config.gammas[0]
    found = {"γ = 1": _ends(nudged[f"k{config.k}"], 1.0)}
    found |= {f"K = {k}": _ends(nudged[f"k{k}"], least) for k in ks}
    return found | ({f"K = {config.k}, tracked at every step": _ends(nudged[TRACKED], least)} if TRACKED in nudged else {})


def of_nudging(record: Record, config: Any) -> list[Claim]:
    controls = sharper = followed = better = faster = None
    told: list[dict] = [{}, {}, {}, {}, {}]
    below = [i for i, gamma in enumerate(config.gammas) if gamma < 1]
    if "nudged" in record:
        part = record["nudged"][f"k{config.k}"]  # leaves [γ, pair, check]
        plain = config.gammas.index(1.0)
        eigenvalues, norms = np.asarray(part["eigenvalues"])[..., 0], np.asarray(part["frobenius"])
        loss, best_test = np.asarray(part["loss"]), best(part)
        early = loss[..., list(config.early)]  # [γ, pair, 2]
        ends = {"λ₁": eigenvalues[..., -1], "‖H‖_F": norms[..., -1]}  # [γ, pair] each

        def table(values):
            return {f"γ = {gamma:g}": values[i] for i, gamma in enumerate(config.gammas)}

        told[0] = {
            **{f"{name} at the end": table(x) for name, x in ends.items()},
            "λ₁ at its peak": table(eigenvalues.max(-1)),
            "best test accuracy": table(best_test),
            "final test accuracy": table(np.asarray(part["test"])[..., -1]),
            **{f"loss at epoch {e}": table(early[..., i]) for i, e in enumerate(config.early)},
            "loss at the end": table(loss[..., -1]),
            "distance from the start": table(np.asarray(part["distance"])[..., -1]),
        }
        if config.ablation or TRACKED in record["nudged"]:
            told[0][f"means at the end, γ = {config.gammas[0]:g}"] = {
                name: {what: float(np.mean(x)) for what, x in each.items()} for name, each in variants(record, config).items()
            }
        if below and len(config.gammas) > plain + 1:
            factors = {name: x[0] / x[-1] for name, x in ends.items()}  # [pair]
            for name, x in ends.items():
                told[0][f"{name} ratio of the least to the largest γ"] = factors[name]
                each = np.asarray((np.diff(x, axis=0) < 0).all(axis=0))  # [pair]
                told[0][f"initialisations with {name} in order"] = f"{each.sum()} of {each.size}"
            late = eigenvalues[..., -LATE:].mean(axis=-1)
            told[0][f"λ₁ ratio of these, means over the last {LATE} epochs"] = late[0] / late[-1]
            means = {name: x.mean(axis=1) for name, x in ends.items()}  # [γ]
            slow, accuracy = early[..., 0].mean(axis=1), best_test.mean(axis=1)[: plain + 1]
            parts = {
                "λ₁ and ‖H‖_F fall with γ": all((np.diff(x) < 0).all() for x in means.values()),
                "λ₁ by the factor": (factors["λ₁"] >= 2.5).all(),
                "‖H‖_F by the factor": (factors["‖H‖_F"] >= 2.5).all(),
                "the largest γ slower": slow[-1] > slow[plain],
                "test accuracies alike": np.ptp(accuracy) <= 0.015,
            }
            told[0]["held"] = {name: bool(x) for name, x in parts.items()}
            controls = all(parts.values())
        if below:
            told[1] = {
                f"{name} at the end, γ = {config.gammas[i]:g} over γ = 1": x[i] / x[plain]
                for i in below
                for name, x in ends.items()
            }
            sharper = (ends["λ₁"][0] / ends["λ₁"][plain] >= 2.5).all()
        if below and TRACKED in record["nudged"]:
            tracked = record["nudged"][TRACKED].sel(gamma=config.gammas[0])  # leaves [pair, check]
            far, course = _ends(record["nudged"][TRACKED], config.gammas[0]), np.asarray(tracked["eigenvalues"])[..., 0]
            soon = np.asarray(tracked["loss"])[:, config.early[0]]
            checks = np.isfinite(course).sum(axis=-1)  # [pair]
            pairs = np.arange(len(checks)), np.maximum(checks - 1, 0)
            told[2] = {f"{name} at the end, over γ = 1": far[name] / x[plain] for name, x in ends.items()} | {
                f"checks before it diverges, of {course.shape[-1]}": checks,
                "λ₁ at the last of these, over γ = 1": course[pairs] / eigenvalues[plain][pairs],
                "best test accuracy less that of γ = 1": paired(far["best test accuracy"] - best_test[plain]),
                f"loss at epoch {config.early[0]} against γ = 1, relative": paired(soon / early[plain, :, 0] - 1),
            }
            followed = (far["λ₁"] / ends["λ₁"][plain] >= 2.5).all()
        gains = {config.gammas[i]: paired(best_test[i] - best_test[plain]) for i in below}
        speed = {config.gammas[i]: paired(early[i, :, 0] / early[plain, :, 0] - 1) for i in below}
        later = {config.gammas[i]: paired(early[i, :, 1] / early[plain, :, 1] - 1) for i in below}
        told[3] = {f"best test accuracy, γ = {gamma:g} less γ = 1": found for gamma, found in gains.items()}
        told[4] = {
            f"loss at epoch {e}, γ = {g:g} against γ = 1, relative": found
            for e, each in zip(config.early, (speed, later), strict=True)
            for g, found in each.items()
        }
        better, faster = _above(gains), _above({g: _negative(found) for g, found in speed.items()}, least=0.02)
    return [
        Claim(
            "nsgd-controls-sharpness",
            "Nudged-SGD with γ < 1 ends sharper, with γ > 1 flatter.",
            SOURCE,
            "averaged over the initialisations, λ₁ and ‖H‖_F at the end fall with γ; both by a factor of 2.5 at least from the "
            f"least to the largest γ for each; the largest has a higher loss than γ = 1 at epoch {config.early[0]}; best test "
            "accuracies for γ ≤ 1 within 1.5 points",
            told[0],
            _passed(controls),
        ),
        Claim(
            "nsgd-ends-much-sharper",
            "Nudged-SGD with γ < 1 ends much sharper than SGD.",
            f"{SOURCE}, abstract of version 1",
            "λ₁ at the end with the least γ at least 2.5 times that with γ = 1, for each initialisation",
            told[1],
            _passed(sharper),
        ),
        Claim(
            "nsgd-followed-ends-much-sharper",
            "It does so where the sharpest directions are followed at every step.",
            "ours",
            "the same, with the directions tracked from step to step in place of one look an epoch",
            told[2],
            _passed(followed),
        ),
        Claim(
            "nsgd-generalises-better",
            "Nudged-SGD with γ < 1 generalises better.",
            SOURCE,
            "paired difference of best test accuracies to γ = 1: 95 % interval above 0 for some γ < 1, below 0 for none",
            told[3],
            _passed(better),
        ),
        Claim(
            "nsgd-trains-faster",
            "Nudged-SGD with γ < 1 trains clearly faster.",
            SOURCE,
            f"training loss at epoch {config.early[0]} lower than with γ = 1 by 2 % on average for some γ < 1, the 95 % "
            "interval of the paired relative difference below 0; above 0 for none",
            told[4],
            _passed(faster),
        ),
    ]


def _negative(found: dict) -> dict:
    interval = found["95 % interval"]
    return {"mean": -found["mean"], "95 % interval": None if interval is None else [-interval[1], -interval[0]]}


def _above(found: dict[float, dict], least: float = 0.0) -> bool | None:
    """Whether some interval lies above 0, its mean at least at `least`, and none below; None where there is none."""
    intervals = [(f["mean"], f["95 % interval"]) for f in found.values() if f["95 % interval"] is not None]
    if not intervals:
        return None
    return any(low > 0 and mean >= least for mean, (low, _) in intervals) and not any(high < 0 for _, (_, high) in intervals)
