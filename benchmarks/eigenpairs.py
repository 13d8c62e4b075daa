"""What do the five largest eigenpairs of a Hessian cost to a relative error of 1e-3: time, products, memory?

    python -m benchmarks.eigenpairs [--tasks a b] [--peers lean pyhessian eigenthings curvlinops matfree] [--rounds 5]
                                    [--starts 12] [--write]

Tasks a (p = 17,610) and b (p = 656,810) of `_tasks`, float32; ours and its `peers` each in a process of its own, one after
another, round by round; medians with their least and most; peers not asked keep the figures they had, with their date. Every
peer has the loosest setting with which its five values were right for three start vectors; errors are against ARPACK in
float64. The memory is the most that the process ever held, its libraries included. One product more is that of a compiled loop
of 40 less one of 8, once the gradient is linearised; the bound is `peers.bound`. Besides, from so many random starts, how many
products ours and ARPACK make, and how often five values are not right: each trusts the first end at a loose tolerance. Fails
when a value that is timed is wrong by more than 1e-3. A few minutes on two cores.
"""

import json
import statistics

from benchmarks import peers
from benchmarks._results import before, keep

LIMIT = 1e-3


def measured(task: str, asked) -> dict:
    with peers.exported(task) as path:
        truth = peers.asked("truth", "eigenpairs", task, "--state", path)
        given = ("--state", path, "--rounds", asked.rounds, "--threads", asked.threads)
        children = [peers.Child(name, "eigenpairs", task, *given) for name in (*asked.peers, "ours")]
        answers = peers.in_turns(children, asked.rounds)
        true = truth["values"]
        found = {"eigenvalues": true, "at most this wrong": max(truth["residuals"])}
        found |= {name: told(answer, true) for name, answer in answers.items()}
        if asked.starts:
            found["random starts"] = {name: scattered(name, task, path, true, asked) for name in ("lean", "ours")}
    return found


def worst(values: list[float], true: list[float]) -> float:
    return max(abs(value / exact - 1) for value, exact in zip(values, true, strict=False))


def scattered(name: str, task: str, path, true: list[float], asked) -> dict:
    """Products and errors of one peer from random starts."""
    given = ("--state", path, "--threads", asked.threads, "--setting", f"count={asked.starts}")
    answer = peers.asked(name, "starts", task, *given)
    if "absent" in answer:
        return answer
    products = answer["products"]
    return {
        "starts": asked.starts,
        "products on average": statistics.mean(products),
        "each": products,
        "with a value more than 1e-3 wrong": sum(worst(values, true) > LIMIT for values in answer["values"]),
    }


def told(answer: dict, true: list[float]) -> dict:
    if "absent" in answer:
        return answer
    return {"worst relative error": worst(answer["values"], true)} | peers.told(answer)


def row(figures: dict) -> tuple[str, str]:
    def cell(name: str) -> str:
        found = [figures[task].get(name, {}) for task in ("a", "b") if task in figures]
        return " / ".join(f"{x['ms']['median']:.0f}" if "ms" in x else "–" for x in found)

    told = [f"{name} {cell(name)}" for name in ("ours", *peers.NAMES)]
    told[0] += peers.bounds([figures[task]["ours"] for task in ("a", "b") if task in figures])
    return "top-5 eigenpairs to 1e-3, ms (a / b)", ", ".join(told)


def main() -> None:
    parser = peers.options(__doc__, rounds=5)
    parser.add_argument("--starts", type=int, default=12, help="random ones, ours and ARPACK's; 0 for none")
    asked = parser.parse_args()
    found, entry = {task: measured(task, asked) for task in asked.tasks}, before(__file__)
    for task, answers in found.items():
        answers |= peers.unasked(asked, entry, entry.get(task, {}))
    print(json.dumps(found, indent=2, ensure_ascii=False))
    if asked.write:
        keep(__file__, found, add=True)
    errors = {
        f"{name} on {task}": answer["worst relative error"]
        for task, answers in found.items()
        for name, answer in answers.items()
        if isinstance(answer, dict) and "worst relative error" in answer
    }
    wrong = [f"{where} {error:.1e}" for where, error in errors.items() if not error <= LIMIT]
    if wrong:
        raise SystemExit(f"eigenvalues more than {LIMIT} wrong: " + ", ".join(wrong))


if __name__ == "__main__":
    main()
