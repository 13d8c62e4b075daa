"""A run chunk by chunk: how far it is, and what waits to be saved."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from landscape_jax import devices
from landscape_jax.engine.cadence import Cadences
from landscape_jax.engine.checkpoint.saving import Checkpoints
from landscape_jax.engine.checkpoint.settings import Saving
from landscape_jax.engine.state import Run, Status
from landscape_jax.record import Gathered, Record, disk

MOST_UNSAVED = 2**23  # bytes of record that wait in memory for a checkpoint


@dataclasses.dataclass
class Loop:
    """How far a `drive` is, and what waits to be saved."""

    run: Run  # with one axis of runs at most
    step: Callable[[Run, int], tuple[Run, Record]]
    cadences: Cadences
    num_steps: int
    chunk: int
    done: int = 0
    status: Any = None  # of the runs, on the host
    all_diverged: bool = False
    last_row: Record | None = None  # once a whole chunk was made by diverged runs: what they record
    saved: Checkpoints | None = None
    pause: float = 0.0

    def __post_init__(self):
        self._forget_saved()

    def resume(self, saved: Checkpoints, saving: Saving) -> None:
        """Save there from now on, and go on from the newest checkpoint, if there is one."""
        self.saved, self.pause = saved, saving.pause
        self.done, self.run = saved.newest(self.run) or (0, self.run)
        if self.done > self.num_steps:
            raise ValueError(
                f"{saving.folder} holds {self.done} steps, more than num_steps={self.num_steps}: ask for at least those"
            )

    def advance(self) -> tuple[Record, np.ndarray]:
        """A chunk: its record and the status of the runs."""
        ndim, steps = self.run.step.ndim, min(self.chunk, self.num_steps - self.done)
        only_diverged, self.done = self.all_diverged, self.done + steps
        if self.last_row is None:
            self.run, record = self.step(self.run, steps // self.cadences[-1].every)
            record, self.status = devices.to_host((record, self.run.status))
            self.all_diverged = bool(np.all(self.status == Status.DIVERGED))
            if only_diverged:
                self.last_row = jax.tree.map(lambda x: np.take(x, [-1], axis=ndim), record)
                _warn_all_diverged(self.done, self.num_steps)
        else:
            record = _repeat_row(self.last_row, ndim, steps // self.cadences[0].every)
        self.gathered.append(record)
        self.unsaved += sum(x.nbytes for x in jax.tree.leaves(record))
        return record, self.status

    def save_if_due(self, stopped: bool) -> None:
        """Save at the end, when stopped, when much is unsaved, or after a pause."""
        due = self.done >= self.num_steps or stopped or self.unsaved >= MOST_UNSAVED
        if self.saved is not None and (due or devices.any_process(time.monotonic() - self.latest >= self.pause)):
            self.saved.save(self.done, self.run, self.gathered.read())
            self._forget_saved()

    def whole_record(self) -> Record:
        """All of it so far."""
        return self.gathered.read() if self.saved is None else self.saved.whole_record()

    def _forget_saved(self) -> None:
        self.gathered, self.unsaved, self.latest = Gathered(self.run.step.ndim), 0, time.monotonic()


def _repeat_row(row: Record, ndim: int, times: int) -> Record:
    """A chunk whose rows are all the same, `times` of them in entries of the finest cadence."""
    cadence = row.cadence
    repeat = lambda x, n: np.repeat(x, n, axis=ndim)  # noqa: E731
    entries = {name: jax.tree.map(lambda x, n=times // cadence[name]: repeat(x, n), row[name]) for name in row}
    return Record(entries, cadence=cadence)


def _warn_all_diverged(done: int, num_steps: int) -> None:
    if done < num_steps:
        disk.warn(
            f"drive: all runs have diverged; the last {num_steps - done} of {num_steps} steps are not computed, and the record "
            "has there what diverged runs record: check(run) tells which diverged, when, and what to do"
        )
