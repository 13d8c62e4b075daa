"""How far a run is: a bar on a terminal, lines elsewhere."""

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from landscape_jax.engine.state import Status
from landscape_jax.record import Record

SECONDS_BETWEEN_LINES = 10.0

Show = Callable[[int, Record, np.ndarray], None]  # (steps done, record of the last chunk, status of the runs) ↦ nothing


@contextlib.contextmanager
def show_progress(num_steps: int, done: int, enabled: bool) -> Iterator[Show]:
    """A context that yields a function to be called after each chunk.

    Args:
      done: how many of the steps were made before.
      enabled: False for a function that shows nothing.
    """
    if not enabled:
        yield lambda *_: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal or console.is_dumb_terminal:
        yield _line_printer(num_steps, done)
        return
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[summary]}"), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=num_steps, completed=done, summary="compiling")

        def show(done: int, record: Record, status: np.ndarray) -> None:
            speed = bar.tasks[task].finished_speed or bar.tasks[task].speed
            bar.update(task, completed=done, summary=_summary(record, status, speed))

        yield show


def _line_printer(num_steps: int, done_before: int) -> Show:
    """For a log file or a notebook: a line on standard error every few seconds and at the end."""
    start = latest = time.monotonic()

    def show(done: int, record: Record, status: np.ndarray) -> None:
        nonlocal latest
        now = time.monotonic()
        if done < num_steps and now - latest < SECONDS_BETWEEN_LINES:
            return
        latest = now
        speed = (done - done_before) / max(now - start, 1e-9)
        print(f"{done}/{num_steps} steps, {_summary(record, status, speed)}", file=sys.stderr, flush=True)

    return show


def _summary(record: Record, status: np.ndarray, speed: float | None) -> str:
    """Loss, sharpness, speed, and how many runs are alive, in words."""
    values = {name: record[name] for name in ("loss", "sharpness") if name in record}
    values = {name: x.get("value") if isinstance(x, Mapping) else x for name, x in values.items()}
    parts = [f"{name} {_newest(x):.4g}" for name, x in values.items() if x is not None]
    parts += [f"{speed:.0f} steps/s"] if speed else []
    diverged = int(np.sum(status == Status.DIVERGED))
    parts += [f"{status.size - diverged} of {status.size} runs alive"] if status.size > 1 or diverged else []
    return ", ".join(parts)


def _newest(values: np.ndarray) -> float:
    """The newest finite value of a run; of several runs the median of their last values."""
    finite = np.asarray(values)[np.isfinite(values)] if np.ndim(values) == 1 else np.asarray(values)[..., -1]
    finite = finite[np.isfinite(finite)]
    return float(np.median(finite[-1:] if np.ndim(values) == 1 else finite)) if finite.size else math.nan
