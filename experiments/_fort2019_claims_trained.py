"""The claims of Fort and Ganguli 2019 on networks under many conditions, of Fort and Scherlis 2018 on the Goldilocks zone."""

import itertools
from typing import Any

import numpy as np

from experiments import _fort2019_goldilocks as goldilocks
from experiments._fort2019_claims import GANGULI, OWN, passed, table
from landscape_jax import Record
from landscape_jax.record import Claim
from landscape_jax.theory import logits

SCHERLIS = "Fort and Scherlis 2018, arXiv 1807.02581"
CLASSES = 10
LEARNED = 0.85  # test accuracy from which on a network counts as having learned the classes
EDGES = (0, 0.05, 0.2, 0.5, 1, 4)  # bins of ηλ₁
CUT_WITHIN = 15  # where the spectrum of a network parts is looked for among so many eigenvalues


# ── the conditions ────────────────────────────────────────────────────────────────────────────────────────────────────


def rates(config: Any) -> dict[str, tuple[float, ...]]:
    """η by loss."""
    return {name: config.rates if name == "cross_entropy" else config.square_rates for name in config.losses}


def wide_rates(config: Any) -> dict[str, tuple[float, ...]]:
    return {"cross_entropy": config.wide_rates, "square": config.wide_square_rates}


def wide_noises(config: Any) -> tuple[float, float]:
    return 0.0, config.noises[-1]


def energy(part: dict, k: int = CLASSES) -> np.ndarray:
    """Part of the gradient's energy in the top k eigenvectors: [..., look]."""
    return (part["hessian"]["cosines"][..., :k] ** 2).sum(axis=-1)


def cells(record: Record, config: Any):
    """(loss, noise, η, that run) of every condition."""
    for name, several in rates(config).items():
        for (i, noise), (j, rate) in itertools.product(enumerate(config.noises), enumerate(several)):
            yield name, noise, rate, _at(record["conditions"][name], i, j)


def wide_cells(record: Record, config: Any, name: str):
    """(noise, η, that run) of the wider network under one loss."""
    for (i, noise), (j, rate) in itertools.product(enumerate(wide_noises(config)), enumerate(wide_rates(config)[name])):
        yield noise, rate, _at(record["wide"][name], i, j)


def _at(part: Any, i: int, j: int) -> Any:
    return {name: _at(x, i, j) for name, x in part.items()} if isinstance(part, dict) else part[i, j]


def learned(cell: dict, best: bool = False) -> np.ndarray:
    """Looks from a test accuracy of 0.85 on [look]; with `best` up to its highest: after that wrong labels are being fitted."""
    accuracy = np.asarray(cell["test"]["accuracy"])
    return (accuracy >= LEARNED) & (np.arange(accuracy.size) <= accuracy.argmax() if best else True)


def of_the_conditions(record: Record, config: Any) -> list[Claim]:
    told: list[dict] = [{}, {}, {}, {}, {}, {}, {}]
    verdict: list = [None] * 7
    if record.get("conditions"):
        told[0], verdict[0] = _outliers(record, config)
        told[2], verdict[2], told[3], verdict[3] = _energies(record, config)
    if "wide" in record:
        told[1], verdict[1] = _wide_square(record, config)
        told[4], verdict[4] = _wide_softmax(record, config)
        clean, noisy = (_at(record["wide"]["cross_entropy"], i, 0) for i in (0, -1))
        share, late = energy(noisy), noisy["step"] >= 400
        if late.any():
            told[5] = {
                "by step": dict(zip(map(str, noisy["step"].tolist()), share.tolist(), strict=True)),
                "largest after step 400": float(share[late].max()),
                "mean": float(share[late].mean()),
                "without noise": float(energy(clean)[late].max()),
                "its mean": float(energy(clean)[late].mean()),
            }
            verdict[5] = share[late].max() >= 0.7
            told[6] = {"at the start": float(share[0]), "times that after step 400": float(share[late].max() / share[0])}
            verdict[6] = share[late].max() >= 2 * share[0]
    return [
        Claim(
            "net-exactly-c-outliers",
            "A trained network's Hessian has exactly C outliers.",
            GANGULI,
            "largest ratio of successive eigenvalues after C = 10 in at least 80 % of the looks from test accuracy 0.85 on, "
            "for every loss, noise and η",
            told[0],
            passed(verdict[0]),
        ),
        Claim(
            "net-c-with-square-loss",
            "Under the square loss it has, as the model does, where the network is wide enough.",
            OWN,
            "wide network, square loss, with wrong labels and without, each η: largest ratio after C in at least 90 % of all "
            "looks after the start; narrow one, the same batches and η: in fewer",
            told[1],
            passed(verdict[1]),
        ),
        Claim(
            "net-c-minus-1-with-noise",
            "Under cross-entropy it has C − 1 where the network is wide and labels are noisy.",
            OWN,
            "wide network, wrong labels, each η that gets there: largest ratio after C − 1 in at least 80 % of the looks "
            "from test accuracy 0.85 up to the highest, when wrong labels begin to be fitted; after C in at most 10 %",
            told[4],
            passed(verdict[4]),
        ),
        Claim(
            "net-gradient-mostly-confined",
            "The gradient lies mostly in the top-C subspace.",
            GANGULI,
            "mean share of its energy from test accuracy 0.85 on at least 0.5, for every loss, noise and η",
            told[2],
            passed(verdict[2]),
        ),
        Claim(
            "net-confinement-follows-the-step",
            "How much of it does follows ηλ₁, and is never almost all.",
            OWN,
            "looks from test accuracy 0.85 on, all conditions: rank correlation of the share with ηλ₁ at least 0.5; mean share "
            "at least 0.5 for ηλ₁ ≥ 0.5, at most 0.35 for ηλ₁ ≤ 0.05; no look above 0.95",
            told[3],
            passed(verdict[3]),
        ),
        Claim(
            "net-gradient-confinement",
            "With wrong labels and a wider network the gradient comes to lie in the top-C space.",
            GANGULI,
            f"full gradient, η = {config.wide_rates[0]:g}: largest share after step 400 at least 0.7",
            told[5],
            passed(verdict[5]),
        ),
        Claim(
            "net-gradient-confinement-grows",
            "It lies there more than at the start.",
            GANGULI,
            "the same: largest share after step 400 at least twice that at the start",
            told[6],
            passed(verdict[6]),
        ),
    ]


def _places(cell: dict, looks: np.ndarray) -> dict[str, Any]:
    """Where the spectrum parts, over some looks."""
    place, ratio = logits.num_outliers(cell["hessian"]["eigenvalues"][looks], CUT_WITHIN)
    if not looks.any():
        return {"looks": 0, "never learned; highest accuracy": float(cell["test"]["accuracy"].max())}
    at = {c: np.asarray(cell["step"])[looks][place == c].tolist() for c in (CLASSES - 1, CLASSES)}
    after = {f"after {c}": len(steps) / looks.sum() for c, steps in at.items()}
    steps = {f"steps after {c}": steps for c, steps in at.items()}
    return {"looks": int(looks.sum()), **after, **steps, "median ratio": float(np.median(ratio))}


def _outliers(record: Record, config: Any) -> tuple[dict, bool]:
    several = cells(record, config)
    told = {f"{name}, noise {noise:g}, η = {rate:g}": _places(cell, learned(cell)) for name, noise, rate, cell in several}
    exact = [found["after 10"] >= 0.8 for found in told.values() if found["looks"]]
    return told, bool(exact) and all(exact)


def _wide_square(record: Record, config: Any) -> tuple[dict, bool]:
    told, fine = {}, True
    for noise, rate, cell in wide_cells(record, config, "square"):
        found = _places(cell, np.asarray(cell["step"]) > 0)
        fine = fine and found["after 10"] >= 0.9
        for name, other, at, narrow in cells(record, config) if "conditions" in record else ():
            if (name, other, at) == ("square", noise, rate):
                found["narrow, after 10"] = _places(narrow, np.asarray(narrow["step"]) > 0)["after 10"]
                fine = fine and found["narrow, after 10"] < found["after 10"]
        told[f"noise {noise:g}, η = {rate:g}"] = found
    return told, fine


def _wide_softmax(record: Record, config: Any) -> tuple[dict, bool]:
    told, reached = {}, []
    for noise, rate, cell in wide_cells(record, config, "cross_entropy"):
        name = f"noise {noise:g}, η = {rate:g}"
        told[name] = _places(cell, learned(cell))
        if noise:
            told[f"{name}, up to the highest accuracy"] = found = _places(cell, learned(cell, best=True))
            reached += [found["after 9"] >= 0.8 and found["after 10"] <= 0.1] if found["looks"] else []
    return told, bool(reached) and all(reached)


def _energies(record: Record, config: Any) -> tuple[dict, bool | None, dict, bool | None]:
    told, shares, edges = {}, [], []
    for name, noise, rate, cell in cells(record, config):
        late = learned(cell)
        if late.any():
            shares.append(energy(cell)[late])
            edges.append(rate * cell["hessian"]["eigenvalues"][late, 0])
            told[f"{name}, noise {noise:g}, η = {rate:g}"] = {
                "mean": float(shares[-1].mean()),
                "largest": float(shares[-1].max()),
                "ηλ₁": float(edges[-1].mean()),
            }
        else:
            told[f"{name}, noise {noise:g}, η = {rate:g}"] = _places(cell, late)
    if not shares:
        return told, None, {}, None
    share, edge = np.concatenate(shares), np.concatenate(edges)
    bins = {
        f"ηλ₁ in {low:g} to {high:g}": float(share[(edge >= low) & (edge < high)].mean())
        for low, high in itertools.pairwise(EDGES)
        if ((edge >= low) & (edge < high)).any()
    }
    correlation = float(np.corrcoef(share.argsort().argsort(), edge.argsort().argsort())[0, 1])
    large, small = share[edge >= 0.5], share[edge <= 0.05]
    follows = correlation >= 0.5 and share.max() <= 0.95
    if large.size and small.size:
        follows = follows and large.mean() >= 0.5 and small.mean() <= 0.35
    mine = {"rank correlation": correlation, "mean share": bins, "largest": float(share.max())}
    return told, min(each.mean() for each in shares) >= 0.5, mine, follows if large.size and small.size else None


# ── the Goldilocks zone ───────────────────────────────────────────────────────────────────────────────────────────────


def of_the_zone(record: Record, config: Any) -> list[Claim]:
    told: list[dict] = [{}, {}, {}, {}, {}, {}]
    verdict: list = [None] * 6
    radii, map_radii = np.array(config.radii), list(config.map_radii)
    if "zone" in record:
        relu = record["zone"]["relu"]
        weights = {radius: float(value) for radius, value in zip(config.radii, relu["weights"], strict=True)}
        best = float(radii[np.argmax(relu["weights"])])
        told[0] = {"R by radius, weights alone": table(radii, relu["weights"]), "whole space": table(radii, relu["whole"])}
        verdict[0] = weights[0.1] < 0.05 and weights[1.4] > 4 and weights[30.0] < 1.5 and 1 <= best <= 2
        told[1], verdict[1] = _planes(relu, config)
        tanh = record["zone"]["tanh"]["weights"]
        told[5] = {"R by radius, weights alone": table(radii, tanh)}
        if "maps" in record:
            reached = record["maps"]["tanh"]["plane"]["accuracy"].mean(axis=2)[:, -1]
            told[5]["accuracy in all dimensions, by radius"] = table(map_radii, reached)
        verdict[5] = 0.5 <= radii[np.argmax(tanh)] <= 5 and tanh.max() > 1
    if "maps" in record:
        dims = (*config.map_dims, "all")
        accuracy = {name: part["accuracy"].mean(axis=2) for name, part in record["maps"]["relu"].items()}  # [radius, dimension]

        def at(name: str, d, radius: float) -> float:
            return float(accuracy[name][map_radii.index(radius), dims.index(d)])

        told[2] = {"accuracy by radius, d = 100": table(map_radii, accuracy["plane"][:, dims.index(100)])}
        inside, outside, middle = (at("plane", 100, radius) for radius in (0.1, 10, 1))
        verdict[2] = middle - outside >= 0.2 and abs(inside - middle) <= 0.15
        told[3] = {"accuracy by radius, d = 300": table(map_radii, accuracy["sphere"][:, dims.index(300)])}
        verdict[3] = at("sphere", 300, 2) - max(at("sphere", 300, 0.1), at("sphere", 300, 10)) >= 0.2
        if "zone" in record:
            where = float(radii[np.argmax(record["zone"]["relu"]["weights"])])
            told[3]["radius of the largest R"] = where
            verdict[3] = verdict[3] and 0.7 <= where <= 3
        sizes = np.array([*config.map_dims, record["maps"]["p"]], float)
        dimension = goldilocks.needed(accuracy["plane"], sizes)
        told[4] = {
            "plane: dimension for 0.9 of full accuracy, by radius": table(map_radii, dimension),
            "d = 100, radius 1": at("plane", 100, 1),
            "d = 300, radius 5": at("plane", 300, 5),
        }
        small = [at("plane", 100, radius) for radius in map_radii if radius <= 1]
        told[4]["d = 100, least up to radius 1"] = min(small)
        verdict[4] = min(small) >= 0.7 and at("plane", 300, 5) < 0.7
    return [
        Claim(
            "goldilocks-window",
            "tr H/‖H‖_F peaks at radii around the usual initialisation.",
            SCHERLIS,
            "weights alone, ReLU: below 0.05 at 0.1, above 4 at 1.4, below 1.5 at 30 times Xavier's radius, highest in 1 to 2",
            told[0],
            passed(verdict[0]),
        ),
        Claim(
            "goldilocks-window-tanh",
            "So it does with tanh.",
            SCHERLIS,
            "weights alone, tanh: highest at a radius from 0.5 to 5, and above 1 there",
            told[5],
            passed(verdict[5]),
        ),
        Claim(
            "hyperplane-r-formula",
            "In random planes the ratio and the fraction of positive curvature follow from R alone.",
            SCHERLIS,
            f"means over {config.plane_draws} planes (20 at least): R_d within 12 % for radii from 0.5 to 3, "
            "fraction within 0.06 for radii up to 1",
            told[1],
            passed(verdict[1]),
        ),
        Claim(
            "plane-one-sided",
            "Training in a plane fails only from outside of the zone.",
            f"{SCHERLIS}; one-sided: {OWN}",
            "d = 100: accuracy at radius 1 at least 0.2 above that at 10, within 0.15 of that at 0.1",
            told[2],
            passed(verdict[2]),
        ),
        Claim(
            "sphere-two-sided",
            "On a sphere it fails on both sides.",
            SCHERLIS,
            "d = 300: accuracy at radius 2 at least 0.2 above those at 0.1 and 10; R highest within 0.7 to 3",
            told[3],
            passed(verdict[3]),
        ),
        Claim(
            "intrinsic-dimension-depends-on-init",
            "How many dimensions are needed depends on the radius of initialisation.",
            SCHERLIS,
            "d = 100 reaches 0.7 at each radius up to 1, d = 300 stays under 0.7 at radius 5",
            told[4],
            passed(verdict[4]),
        ),
    ]


def _planes(part: dict, config: Any) -> tuple[dict, bool]:
    radii = np.array(config.radii)
    off = np.abs(part["plane"] / part["predicted"] - 1)  # [d, radius]
    apart = np.abs(part["positive"] - part["predicted_positive"])
    near, small = (radii >= 0.5) & (radii <= 3), radii <= 1
    named = {"R_d": part["plane"], "predicted": part["predicted"]}
    told: dict[str, Any] = {
        f"d = {d}": {name: table(radii, values[i]) for name, values in named.items()} for i, d in enumerate(config.plane_dims)
    }
    told["worst R_d, radii 0.5 to 3"] = float(off[:, near].max())
    told["worst fraction, radii to 1"] = float(apart[:, small].max())
    return told, (off[:, near] <= 0.12).all() and (apart[:, small] <= 0.06).all()
