"""Programs of several libraries, each library in a process of its own, timed in turns so that a busy hour is fair to all."""

import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from benchmarks._results import large_pages

CORES = len(os.sched_getaffinity(0))


class Program(NamedTuple):
    """What is timed: a call that comes back when its work is done, less another one, over a count."""

    run: Callable[[], Any]
    less: Callable[[], Any] | None = None
    count: float = 1


class Times(NamedTuple):
    """Seconds of a program, one pair a turn."""

    run: list[float]
    less: list[float]
    count: float

    def middle(self) -> float:
        return (statistics.median(self.run) - statistics.median(self.less)) / self.count

    def least(self) -> float:
        return (min(self.run) - min(self.less)) / self.count

    def spread(self) -> tuple[float, float]:
        each = [(run - less) / self.count for run, less in zip(self.run, self.less, strict=True)]
        return min(each), max(each)


class Side:
    """A process that has prepared one library's programs: `prepare(*given)` there gives {name: Program} and its answers."""

    def __init__(self, prepare: Callable, *given):
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            os.environ[name] = str(CORES)  # read where a library is loaded: in the new process
        os.environ |= large_pages(kept=True)  # a call's temporary arrays are the same pages each time
        spawn = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_serve, args=(theirs, prepare, given), daemon=True)
        self._process.start()
        theirs.close()
        self.counts, self.answers = self._pipe.recv()

    def turn(self, name: str, least: float) -> tuple[float, float]:
        """Seconds of a program's two calls, each the median of several that take `least` together."""
        self._pipe.send((name, least))
        return self._pipe.recv()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.join()


def in_turns(sides: dict[str, Side], rounds: int, least: float) -> dict[str, dict[str, Times]]:
    """{side: {program: its times}}: round after round, program after program, side after side."""
    took = {side: {name: Times([], [], count) for name, count in sides[side].counts.items()} for side in sides}
    for _ in range(rounds):
        for name in dict.fromkeys(name for programs in took.values() for name in programs):
            for side, programs in took.items():
                if name in programs:
                    for times, seconds in zip(programs[name], sides[side].turn(name, least), strict=False):
                        times.append(seconds)
    return took


def _serve(pipe, prepare: Callable, given: tuple) -> None:
    programs, answers = prepare(*given)
    pipe.send(({name: program.count for name, program in programs.items()}, answers))
    while True:
        name, least = pipe.recv()
        pipe.send(tuple(0.0 if call is None else _seconds(call, least) for call in programs[name][:2]))


def _seconds(call: Callable, least: float) -> float:
    times: list[float] = []
    while len(times) < 2 or sum(times) < least:
        begun = time.perf_counter()
        call()
        times.append(time.perf_counter() - begun)
    return statistics.median(times[1:])  # the first finds the caches full of another's data
