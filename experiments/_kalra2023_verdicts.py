"""What a record of `kalra2023_phase_diagram` says of the papers' claims."""

from typing import Any

import numpy as np

from experiments import _kalra2023_figures as figures
from experiments import _kalra2023_uv as orbits
from experiments._kalra2023_first_steps import BOUNDARIES
from landscape_jax import Record
from landscape_jax.record import Claim

SOURCE = "Kalra and Barkeshli 2023, arXiv 2302.12250"
TARGET = "Kalra, He and Barkeshli 2023, arXiv 2311.02076"
EVERY = 5  # steps between the measurements of the long runs
SATURATION_CS = 2.0 ** np.arange(-1, 3.01, 0.25)  # [c]
# λ₀, c_loss, c_sharp, c_max of the authors' notebook by width: d = 8, CIFAR-10, square loss, one initialisation
PRINTED = {
    256: (67.8, 3.25, 4.92, 13.9),
    512: (101, 3.03, 4.29, 13.0),
    1024: (202, 2.64, 4.00, 13.9),
    2048: (348, 2.46, 3.25, 12.1),
}


def claims(record: Record, config: Any) -> list[Claim]:
    """Every claim on what was run; those on parts left out are not tested."""
    return [*_phase_claims(record, config), *_plateau_claims(record, config), *_uv_claims(record, config)]


def _phase_claims(record: Record, config: Any) -> list[Claim]:
    values = np.asarray(record["phases"]["boundaries"])  # [d, w, s, 4]
    sharp = values[:, :, : config.num_sharp]
    closs, errors, undefined = figures.means(values[..., 0])
    csharp, _, unsharp = figures.means(sharp[..., 1])
    _, _, whole = figures.means(values[..., 3])

    def by_network(numbers, digits: int = 3) -> dict[str, list]:
        rows = numbers.tolist() if numbers.dtype.kind == "i" else [[float(f"{x:.{digits}g}") for x in row] for row in numbers]
        return {f"d={d}": row for d, row in zip(config.depths, rows, strict=True)}

    def ordered(*names: str) -> tuple[int, int]:
        """Of how many initialisations that have the second, how many have all in order; what was never seen lies beyond."""
        at = sharp[..., [BOUNDARIES.index(name) for name in names]].reshape(-1, len(names))
        at = at[np.isfinite(at[:, 1])]
        at = np.where(np.isnan(at), np.inf, at)
        return int((at[:, 1:] >= at[:, :-1]).all(axis=1).sum()), len(at)

    def most(good: int, cases: int) -> bool | None:
        return None if cases == 0 else bool(good >= 0.95 * cases)

    def scaling(mean, missing, inits: int, least: int) -> tuple[dict, bool | None]:
        """Whether means fall with w and rise with d; a network where nothing was seen is left out of the comparisons, which
        can then only fail."""
        told: dict[str, Any] = {"inits without": by_network(missing), "of": inits}
        ordered = all((np.diff(row[np.isfinite(row)]) < 0).all() for row in mean)
        ordered = ordered and all((np.diff(column[np.isfinite(column)]) > 0).all() for column in mean.T)
        unseen = int(np.isnan(mean).sum())
        if inits < least or min(mean.shape) < 2:
            return told | {"not tested": f"it takes {least} initialisations, two depths and two widths"}, None
        if ordered and unseen:
            return told | {"not tested": f"{unseen} of {mean.size} networks have it in no initialisation"}, None
        return told, bool(ordered)

    order, last = ordered("loss", "sharp", "max"), ordered("sharp", "barrier", "max")
    missing = {
        "inits without": {"c_loss": by_network(undefined), "c_sharp": by_network(unsharp), "c_max": by_network(whole)},
        "of": config.num_inits,
        "with sharpness": config.num_sharp,
        "c_sharp without c_loss": int((np.isnan(sharp[..., 0]) & np.isfinite(sharp[..., 1])).sum()),
    }
    at_once = int((sharp[..., 2] == sharp[..., 3]).sum())  # `phases` has it so
    closs_told, closs_scales = scaling(closs, undefined, config.num_inits, 10)
    csharp_told, csharp_scales = scaling(csharp, unsharp, config.num_sharp, 8)
    plain = (config.last_scale, config.output_scale, config.parametrisation) == (1.0, 1.0, "standard")
    wide = plain and 2 in config.depths and 256 in config.widths and config.network == "fcn"
    shallow = closs[config.depths.index(2), config.widths.index(256)] if wide else np.nan
    found = [
        Claim(
            "phase-order",
            "Loss catapults come before sharpness catapults, and these before divergence.",
            SOURCE,
            "c_loss ≤ c_sharp ≤ c_max in at least 95 % of the initialisations that have c_sharp; without c_loss it is violated",
            {"in order": f"{order[0]} of {order[1]}"} | missing,
            most(*order),
        ),
        Claim(
            "barrier-last",
            "A loss barrier to the initialisation appears only beyond c_sharp.",
            SOURCE,
            "c_sharp ≤ c_barrier ≤ c_max in at least 95 % of the initialisations that have c_barrier, which is c_max where no "
            "barrier comes before it; without c_sharp it is violated",
            {"in order": f"{last[0]} of {last[1]}", "c_barrier = c_max": at_once},
            most(*last),
        ),
        Claim(
            "closs-scales-depth-width",
            "c_loss falls with width and rises with depth.",
            SOURCE,
            "its mean over at least 10 initialisations, of those that have it, decreases strictly in w at each d and increases "
            "strictly in d at each w",
            {"mean": by_network(closs), "standard error": by_network(errors, 2), "widths": list(config.widths)} | closs_told,
            closs_scales,
        ),
        Claim(
            "csharp-scales-depth-width",
            "c_sharp does so too.",
            SOURCE,
            "its mean over at least 8 initialisations with sharpness, of those that have it, decreases strictly in w and "
            "increases strictly in d",
            {"mean": by_network(csharp)} | csharp_told,
            csharp_scales,
        ),
        Claim(
            "closs-shallow-wide",
            "c_loss comes near 2 for shallow wide networks.",
            SOURCE,
            "mean c_loss at d = 2, w = 256 in [2, 2.6]",
            {"c_loss": float(shallow)},
            bool(2 <= shallow <= 2.6) if np.isfinite(shallow) else None,
        ),
    ]
    return [*found, _zero_claim(record, config), _table_claim(values, record, config)]


def _zero_claim(record: Record, config: Any) -> Claim:
    passed, measured = None, {}
    if "zero" in record:
        values = np.asarray(record["zero"]["boundaries"])[..., 0]  # [d, w, s]
        mean, _, undefined = figures.means(values)
        wide = np.array(config.widths) >= 64
        passed = bool((np.abs(np.log2(mean[:, wide] / 2)) <= 0.2).all()) if wide.any() else None
        measured = {f"d={d}": row.round(3).tolist() for d, row in zip(config.zero_depths, mean, strict=True)}
        measured |= {"undefined": int(undefined.sum())}
        if np.isfinite(values).any():
            measured |= {"all from": float(np.nanmin(values)), "to": float(np.nanmax(values))}
    return Claim(
        "zero-init-closs-two",
        "With a zero last layer c_loss is 2, whatever depth and width.",
        SOURCE,
        "mean c_loss within a factor 2^0.2 of 2 at every depth and every width from 64",
        measured,
        passed,
    )


def _table_claim(values: np.ndarray, record: Record, config: Any) -> Claim:
    """The authors' printed numbers; only at their own scale."""
    there = [w for w in config.widths if w in PRINTED]
    alike = (config.data, config.network, config.criterion, config.batch_size) == ("cifar10", "fcn", "square", 512)
    passed: bool | None = None
    measured: dict[str, Any] = {}
    if alike and 8 in config.depths and there:
        i = config.depths.index(8)
        here = np.stack([figures.means(values[i, config.widths.index(w)].T)[0][[0, 1, 3]] for w in there])  # [w, 3]
        printed = np.array([PRINTED[w][1:] for w in there])
        for width, mean in zip(there, here, strict=True):
            measured[f"w={width}"] = {"here": mean.tolist(), "printed": list(PRINTED[width][1:])}
        measured |= {"within two grid steps": f"{int((np.abs(np.log2(here / printed)) <= 0.2).sum())} of {here.size}"}
        if config.n_train == 50_000:
            passed = bool((np.abs(np.log2(here / printed)) <= 0.2).all())
        else:
            measured |= {"not tested": f"{config.n_train} of their 50000 images"}
    return Claim(
        "cifar-table",
        "The authors' c_loss, c_sharp and c_max of an FCN of depth 8 on CIFAR-10.",
        f"{SOURCE}, code",
        "all within two grid steps (2^0.2), at their own scale",
        measured,
        passed,
    )


def _plateau_claims(record: Record, config: Any) -> list[Claim]:
    flat = smears = None
    shown: dict[str, Any] = {}
    sharpest = {}
    if "saturation" in record:
        ratio = np.asarray(record["saturation"]["ratio"]).mean(axis=1)  # [network, c]
        _, slope = figures.derivatives(ratio, SATURATION_CS)
        near = (SATURATION_CS >= 0.99) & (SATURATION_CS <= 4.01)
        judged = []
        for (depth, width), curve, slopes in zip(config.saturation_at, ratio, slope, strict=True):
            crit = float(SATURATION_CS[np.nanargmax(slopes)]) if np.isfinite(slopes).any() else np.nan
            early = curve[SATURATION_CS <= 1.7] / curve[0] - 1
            sharpest[depth, width] = float(np.nanmax(slopes[near]) / curve[0])
            shown[f"d={depth}, w={width}"] = {
                "c_crit": crit,
                "to c = 1.7 it falls by": float(-early.min()),
                "and rises by": float(early.max()),
                "max χ′": sharpest[depth, width],
            }
            if depth <= 4 and width >= 256:
                judged.append(bool(1.7 <= crit <= 2.4 and np.abs(early).max() <= 0.15))
        flat = all(judged) if judged else None
        least, most = min(sharpest, key=lambda at: at[0] / at[1]), max(sharpest, key=lambda at: at[0] / at[1])
        smears = bool(sharpest[most] < 0.5 * sharpest[least]) if len(sharpest) > 1 else None
    found = [
        Claim(
            "saturation-flat-then-falls",
            "After the transient sharpness is flat in c up to c_crit ≈ 2 and then falls.",
            SOURCE,
            "for d ≤ 4, w ≥ 256, mean over initialisations: up to c = 1.7 it stays within 15 % of its value at c = 0.5, and "
            "c_crit = argmax χ′ lies in [1.7, 2.4]",
            shown,
            flat,
        ),
        Claim(
            "saturation-smears",
            "The fall smears out as d/w grows.",
            SOURCE,
            "the largest χ′ (relative to the plateau) of the network with most d/w is under half that of the one with least",
            {f"d={d}, w={w}": value for (d, w), value in sharpest.items()},
            smears,
        ),
    ]
    return [*found, _regimes_claim(record, config)]


def _regimes_claim(record: Record, config: Any) -> Claim:
    measured, passed = {}, None
    if "regimes" in record:
        for c, sharp in zip(config.regimes_c, np.asarray(record["regimes"]["sharpness"]), strict=True):
            time = EVERY * np.arange(len(sharp)) * c
            plateau = sharp[(time >= figures.PLATEAU[0]) & (time <= figures.PLATEAU[1])]
            tenth = sharp[-max(len(sharp) // 10, 1) :]
            if len(plateau) < 2:
                continue
            seen = {
                "transient": bool(sharp[10 // EVERY] < 0.9),
                "plateau": bool(np.ptp(plateau) < 0.15 * plateau.mean()),
                "sharpening": bool(np.median(tenth) > 1.2 * plateau.mean()),
                "edge": bool(abs(np.median(tenth) * c / 2 - 1) <= 0.05),
            }
            late = float(np.median(tenth) * c / 2)
            measured[f"c={c:g}"] = {"seen": [name for name, yes in seen.items() if yes], "late λ/(2/η)": late}
        passed = any(len(m["seen"]) == 4 for m in measured.values()) if measured else None
    return Claim(
        "four-regimes",
        "One training has them all: transient, plateau, progressive sharpening, edge of stability.",
        SOURCE,
        "at one c at least: down by 10 % in the first 10 steps; within 15 % for 40 ≤ c·step ≤ 200; over 1.2 times that in the "
        "last tenth; median of the last tenth within 5 % of 2/η",
        measured,
        passed,
    )


def _uv_claims(record: Record, config: Any) -> list[Claim]:
    found, target = record.get("uv"), record.get("uv_target")
    return [
        Claim(name, statement, source, criterion, *judge(found, target))
        for name, statement, source, criterion, judge in (
            (
                "uv-exact-map",
                "Gradient descent on the uv model, with and without target, is a map of two numbers.",
                SOURCE,
                "GD by autodiff within 1e-12 of the map over 50 steps, and the top Hessian eigenvalue of its formula (float64)",
                orbits.exactness,
            ),
            (
                "uv-thresholds",
                "Its thresholds: k_loss = (1 − √(1 − 8a))/(2a), and 4 for the trace and for divergence.",
                SOURCE,
                "each within one step of the grid, 0.002, for a ≤ 0.12",
                orbits.agreement,
            ),
            (
                "uv-window",
                "The window 2 < k < k_loss, where the loss falls past 2/λ₀, opens with f₀²/w.",
                SOURCE,
                "k_loss − 2 increases with a to the grid's 0.002, from under 0.01 at a = 1e-3",
                orbits.opening,
            ),
            (
                "uv-target-period-doubling",
                "With a target, the edge of stability is a period-doubling route to chaos.",
                TARGET,
                "at rest for r < 2 (one value, loss under 1e-12); 2 values at r = 2.05 and 2.2; more, but under 100, at 2.6; "
                "over 100 at 2.8; no orbit blows up",
                orbits.doubling,
            ),
        )
    ]
