"""One peer answers one question: see `benchmarks.peers`. Prints one JSON object."""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before SciPy comes in: it is read once

import argparse
import contextlib
import importlib
import json
import resource
import sys
import time
from importlib.metadata import version
from pathlib import Path

from benchmarks import peers
from benchmarks.peers import _state

COMMON = {  # what is asked, of every peer alike
    "density": {"a": {"probes": 10}, "b": {"probes": 3}},
    "tracking": {"a": {"rate": 0.1, "steps": 20}, "b": {"rate": 0.02, "steps": 5}},
    "sweep": {"a": {"rate": 0.1, "steps": 500, "every": 10}},
}
LITTLE = {"density": {"probes": 1}, "trace": {"probes": 20}}  # warms up what compiles nothing
ENOUGH = 6  # seconds of a round that is timed, and no other follows: a disturbance does not count much in that long


def setting(text: str) -> tuple[str, float | int]:
    name, value = text.split("=")
    return name, float(value) if "." in value or "e" in value else int(value)


def peak() -> int:
    """MiB that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (2**20 if sys.platform == "darwin" else 2**10)


def answered(asked: argparse.Namespace, path: Path, done) -> dict:
    try:
        peer = importlib.import_module(f"benchmarks.peers.{asked.peer}")
    except ModuleNotFoundError as error:
        return {"absent": str(error)}
    if "torch" in peer.PACKAGES:
        import torch

        torch.set_num_threads(asked.threads)
    question = "tracking" if asked.question == "sweep" else asked.question
    if not hasattr(peer, question):
        return {"absent": f"{asked.peer} does not answer {asked.question}"}
    common = COMMON.get(asked.question, {}).get(asked.task, {})
    settings = common | getattr(peer, "SETTINGS", {}).get(question, {}).get(asked.task, {}) | dict(asked.setting)
    kept = {"keep": asked.probes} if asked.probes else {}
    state = _state.load(path)

    def programs(**other) -> dict:
        made = getattr(peer, question)(state, **settings | other, **kept)
        return {name: made[name] for name in made if (asked.question, name) != ("sweep", "plain")}

    little = LITTLE.get(question, {}) if "torch" in peer.PACKAGES and asked.rounds else {}
    answer, memory, now = {}, [peak()], programs(**little)
    seconds: dict[str, list[float]] = {name: [] for name in now}
    for turn in range(asked.rounds + 1):
        if asked.held and not sys.stdin.readline():
            sys.exit("nobody asks any more")
        if turn == 1 and little:
            memory, now = memory[:1], programs()
        started = time.perf_counter()
        for name, program in now.items():
            begun = time.perf_counter()
            new = program()
            took = time.perf_counter() - begun
            answer |= new or {}
            memory.append(peak())
            if turn:  # the first warms up, or compiles
                seconds[name].append(took)
        if turn and time.perf_counter() - started > ENOUGH:
            break
        done()
    found = {"peer": asked.peer, "question": asked.question, "task": asked.task, "settings": settings} | answer
    return found | {
        "seconds": seconds,
        "peak memory, MiB": memory[1],
        "before the first round": memory[0],  # of the first program, before others add to it
        "threads": asked.threads if "torch" in peer.PACKAGES else os.cpu_count(),
        "of BLAS": int(os.environ["OPENBLAS_NUM_THREADS"]),
        "versions": {name: version(name) for name in peer.PACKAGES},
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=peers.__doc__.splitlines()[0])
    parser.add_argument("peer", choices=(*peers.NAMES, "ours", "truth"))
    parser.add_argument("question")
    parser.add_argument("task", choices=("a", "b"))
    parser.add_argument("--rounds", type=int, default=5, help="beyond one to warm up")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of torch; XLA takes all cores")
    parser.add_argument("--state", type=Path, help="weights and data; default: those of the task")
    parser.add_argument("--setting", nargs="*", type=setting, default=[], help="name=value, of this peer for this question")
    parser.add_argument("--probes", type=Path, help="where to keep the probes of a density; where truth finds files of them")
    parser.add_argument("--held", action="store_true", help="wait for a line on standard input before each round")
    asked = parser.parse_args()
    out = sys.stdout

    def done() -> None:
        if asked.held:
            print("null", file=out, flush=True)

    with contextlib.redirect_stdout(sys.stderr), contextlib.ExitStack() as stack:
        path = asked.state or stack.enter_context(peers.exported(asked.task))
        found = answered(asked, path, done)
    print(json.dumps(found), file=out)


if __name__ == "__main__":
    main()
