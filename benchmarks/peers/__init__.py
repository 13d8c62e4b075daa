"""Released packages that answer the same questions, behind one interface, each in a process of its own.

    python -m benchmarks.peers NAME QUESTION TASK [--rounds 5] [--threads 2] [--setting tol=0.1 ncv=12]

A peer is a module here. It answers a question if it has a function of that name, which takes the state (`_state`) and the
peer's own settings and gives programs to be timed, by name:

    eigenpairs  the five largest eigenvalues with their vectors
    starts      these from several random starts: values and products
    density     nodes and weights of stochastic Lanczos quadrature, told as moments; the probes are kept
    trace       by Hutchinson's estimator
    tracking    gradient descent by itself, and with the sharpness at every step
    sweep       gradient descent with the sharpness now and then

torch's and XLA's thread pools must not share a process, nor may ARPACK's BLAS fight with either for the cores: it gets one
thread. Each process here has large pages of memory (`_results.large_pages`). Several peers take turns, round by round, so that
a busy machine is fair to all; whoever waits sleeps. The first round is not timed: it compiles, or warms torch up, of whose
densities and traces a few probes do; and a round of more than six seconds is the last.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks import _results

NAMES = ("lean", "pyhessian", "eigenthings", "curvlinops", "matfree")


def options(doc: str, rounds: int | None) -> argparse.ArgumentParser:
    """The command line of a benchmark that holds its answers on tasks a and b against the peers'."""
    parser = _results.options(doc)
    parser.add_argument("--tasks", nargs="+", choices=("a", "b"), default=["a", "b"])
    parser.add_argument("--peers", nargs="*", choices=NAMES, default=list(NAMES))
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of the peers in torch")
    return parser


def unasked(asked: argparse.Namespace, entry: dict, answers: dict) -> dict:
    """Of an entry's answers those of peers that are not asked this time, each with the date of when it was."""
    stand = [name for name in NAMES if name not in asked.peers and "absent" not in answers.get(name, {"absent": ""})]
    return {name: {"date": entry["date"]} | answers[name] for name in stand}


class Child:
    """A peer in a process of its own, which waits to be told its turn."""

    def __init__(self, name: str, question: str, task: str, *options):
        self.name, self.answer = name, None
        command = [sys.executable, "-m", "benchmarks.peers", name, question, task, "--held", *map(str, options)]
        root = Path(__file__).parents[2]
        pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.process = subprocess.Popen(command, **pipes, cwd=root, env=os.environ | _results.large_pages())

    def tell(self) -> None:
        with contextlib.suppress(BrokenPipeError):  # one that has ended already says why in its answer
            self.process.stdin.write("\n")
            self.process.stdin.flush()

    def hear(self) -> None:
        """Wait for the end of a round; the answer comes after the last, or at once where a package is not there."""
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended without an answer, with status {self.process.wait()}")
        self.answer = json.loads(line)


def in_turns(children: list[Child], rounds: int) -> dict[str, dict]:
    """The answers, by the children's names, after a round to warm up and `rounds` that are timed."""
    return dict(zip((child.name for child in children), _answers([[child] for child in children], rounds), strict=True))


def at_once(children: list[Child], rounds: int) -> list[dict]:
    """The answers of children that all work at the same time."""
    return _answers([children], rounds)


def _answers(groups: list[list[Child]], rounds: int) -> list[dict]:
    """Group after group, round by round; those of a group side by side."""
    children = [child for group in groups for child in group]
    try:
        for _ in range(rounds + 1):
            for group in groups:
                working = [child for child in group if child.answer is None]
                for child in working:
                    child.tell()
                for child in working:
                    child.hear()
        for child in children:
            if child.answer is None:
                child.hear()
        return [child.answer for child in children]
    finally:
        for child in children:
            child.process.kill()  # where one has failed, the others wait
            child.process.wait()


def asked(name: str, question: str, task: str, *options, rounds: int = 0) -> dict:
    """The answer of one peer. `rounds=0` is one run, not timed."""
    return in_turns([Child(name, question, task, "--rounds", rounds, *options)], rounds)[name]


@contextlib.contextmanager
def exported(task: str, seed: int = 0) -> Iterator[Path]:
    """A task's weights and data in a file, for as long as it is needed."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{task}.npz"
        command = [sys.executable, "-m", "benchmarks.peers._state", task, str(seed), str(path)]
        subprocess.run(command, check=True, cwd=Path(__file__).parents[2])
        yield path


def told(answer: dict) -> dict:
    """What of an answer does not depend on the question: time, products, memory, and how it was asked for."""
    seconds = answer["seconds"]
    found = {
        "ms": spread(seconds["answer"]),
        "products": answer["products"],
        "peak memory, MiB": answer["peak memory, MiB"],
        "before the first round": answer["before the first round"],
    }
    counts = [name for name in seconds if name.endswith("products")]  # of two loops, one shorter than the other
    if counts:
        few, many = (int(name.split()[0]) for name in counts)
        more = [(long - short) / (many - few) for short, long in zip(*(seconds[name] for name in counts), strict=True)]
        whole = statistics.median(seconds["answer"]) / statistics.median(more)
        found |= {"one product more, ms": spread(more), "time in units of its products": round(whole / answer["products"], 2)}
    if "vectors moved" in answer:
        found |= bound(answer["products"], statistics.median(more), answer["vectors moved"], counts[0], seconds)
    return found | {name: answer[name] for name in ("settings", "threads", "of BLAS", "versions")}


def bound(products: int, product: float, vectors: int, few: str, seconds: dict[str, list[float]]) -> dict:
    """The least that an answer can take by its own count of products and of vectors that are read or written: the products,
    the gradient before them (what a loop of a `few` takes beyond its products), and the vectors at the speed of reading."""
    read = next(name for name in seconds if name.endswith("vectors read"))
    before = max(0.0, statistics.median(seconds[few]) - int(few.split()[0]) * product)
    moving = statistics.median(seconds[read]) / int(read.split()[0])
    least = products * product + before + vectors * moving
    return {
        "vectors moved beside the products": vectors,
        "moving one, ms": round(1e3 * moving, 4),
        "bound, ms": round(1e3 * least, 3),
        "bound in units of its products": round(least / product / products, 2),
    }


def bounds(told: list[dict], units: float = 1, digits: int = 0) -> str:
    """For a row, where they were reckoned: " (bound 13 / 240)", of milliseconds in so many a unit."""
    known = [f"{x['bound, ms'] / units:.{digits}f}" if "bound, ms" in x else "–" for x in told]
    return f" (bound {' / '.join(known)})" if set(known) != {"–"} else ""


def spread(seconds: list[float], scale: float = 1e3) -> dict[str, float]:
    """Median, least and most, in milliseconds."""
    told = {"median": statistics.median(seconds), "min": min(seconds), "max": max(seconds)}
    return {name: round(scale * value, 3) for name, value in told.items()}
