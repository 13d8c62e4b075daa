"""What do the spectral density of a Hessian (Lanczos of 64 steps from random probes) and its trace (100 probes) cost?

    python -m benchmarks.density [--tasks a b] [--peers lean pyhessian eigenthings curvlinops matfree] [--rounds N] [--write]

Tasks a (ten probes) and b (three) of `_tasks`, float32; ours and its `peers` each in a process of its own, one after another,
round by round; medians with their least and most. Densities are compared by their first four moments, which for each probe z
are zᵀHʲz exactly, whatever the library: the error is the worst of the means over probes against those of the same probes in
float64, and is told relative to the moment, and to the standard error that so few probes leave. The trace is known exactly.
Densities are asked for once more without reorthogonalisation from those who offer that (`TERMS`): moments, and curves no finer
than a hundredth of the range, are the same. Fails when a moment of ours is more than a thousandth wrong, which chance has no
part in, or the trace by more than four of its standard errors. Five minutes on two cores.
"""

import json

import numpy as np

from benchmarks import peers
from benchmarks._results import keep

ROUNDS = {"a": 3, "b": 2}  # a call of a takes a tenth of a second: one interrupted should not count
TERMS = ("lean", "matfree", "ours")  # curvlinops never reorthogonalises


def measured(task: str, asked, rounds: int) -> dict:
    names = (*asked.peers, "ours")
    asks = {"density": names, "three terms": [name for name in names if name in TERMS], "trace": names}
    with peers.exported(task) as path:
        kept = path.parent / "probes"
        kept.mkdir()

        def child(question: str, name: str) -> peers.Child:
            given = ["--state", path, "--rounds", rounds, "--threads", asked.threads]
            if question == "trace":
                return peers.Child(name, "trace", task, *given)
            given += ["--probes", kept / f"{question}, {name}.npz"]
            setting = ["--setting", "reorthogonalise=0"] if question == "three terms" else []
            return peers.Child(name, "density", task, *given, *setting)

        found = {q: peers.in_turns([child(q, name) for name in several], rounds) for q, several in asks.items()}
        truth = peers.asked("truth", "trace", task, "--state", path)["trace"]
        exact = peers.asked("truth", "moments", task, "--state", path, "--probes", kept)["moments"]
    told = {
        question: {name: density(found[question][name], exact.get(f"{question}, {name}")) for name in asks[question]}
        for question in ("density", "three terms")
    }
    return told | {"trace": {"exact": truth} | {name: trace(answer, truth) for name, answer in found["trace"].items()}}


def density(answer: dict, exact: list | None) -> dict:
    if exact is None:
        return answer
    given, true = np.array(answer["moments"]), np.array(exact)  # [s, 4]
    off, mean = np.abs((given - true).mean(0)), true.mean(0)
    chance = true.std(0, ddof=1) / len(true) ** 0.5 if len(true) > 1 else np.full(4, np.nan)
    return peers.told(answer) | {
        "moments": given.mean(0).tolist(),
        "worst relative error of a moment": float((off / np.abs(mean)).max()),
        "in standard errors of its probes": float((off / chance).max()),
    }


def trace(answer: dict, exact: float) -> dict:
    if "absent" in answer:
        return answer
    off = abs(answer["trace"] - exact) / answer["error"]
    return peers.told(answer) | {"trace": answer["trace"], "its standard error": answer["error"], "off by so many": off}


def row(figures: dict) -> tuple[str, str]:
    tasks = [figures[task] for task in ("a", "b") if task in figures]

    def cell(name: str, question: str) -> str:
        found = [task[question].get(name, {}) for task in tasks]
        return " / ".join(f"{x['ms']['median'] / 1e3:.2f}" if "ms" in x else "–" for x in found)

    def bound(question: str) -> str:
        return peers.bounds([task[question]["ours"] for task in tasks], 1e3, 2)

    told = [f"{name} {cell(name, 'density')} and {cell(name, 'trace')}" for name in ("ours", *peers.NAMES)]
    told[0] += bound("density")
    if all("three terms" in task for task in tasks):
        others = [f"{name} {cell(name, 'three terms')}" for name in TERMS if name != "ours"]
        ours = f"ours {cell('ours', 'three terms')}{bound('three terms')}"
        told.append("density without reorthogonalisation: " + ", ".join([ours, *others]))
    return "spectral density, 64 steps, 10 and 3 probes, and trace, 100 probes, s (a / b)", ", ".join(told)


def main() -> None:
    asked = peers.options(__doc__, rounds=None).parse_args()
    found = {task: measured(task, asked, asked.rounds or ROUNDS[task]) for task in asked.tasks}
    print(json.dumps(found, indent=2, ensure_ascii=False))
    if asked.write:
        keep(__file__, found, add=True)
    for task, answers in found.items():
        for question in ("density", "three terms"):
            if not answers[question]["ours"]["worst relative error of a moment"] <= 1e-3:
                raise SystemExit(f"task {task}, {question}: a moment of our density is more than a thousandth wrong")
        if not answers["trace"]["ours"]["off by so many"] <= 4:
            raise SystemExit(f"task {task}: our trace is more than four standard errors wrong")


if __name__ == "__main__":
    main()
