"""The state of a run, and how a run stands."""

from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
from jax import Array

from landscape_jax import devices
from landscape_jax.arguments import described
from landscape_jax.types import Key, Params

_LATER = (
    "Each that moved is kept at its last finite parameters: lower the learning rate, or raise the ceiling if a large loss was "
    "expected"
)
_AT_ONCE = (
    "Those at step 0 are kept at θ₀, where the loss or the first step is not finite, or the loss is above the ceiling: look at "
    "the data (NaN, inf, scale), at the labels (classes count from 0 to c − 1) and at θ₀ itself"
)


class Status(IntEnum):
    """How a run stands."""

    RUNNING = 0
    DIVERGED = 1


class Run(NamedTuple):
    """The whole state of a run. Saved and loaded, it goes on bit for bit."""

    key: Key  # the same from the first step to the last
    step: Array  # [] int32: t, the number of steps made; it stops when the run diverges
    status: Array  # [] int32: a Status
    params: Params  # θ_t
    state: Any  # s_t, of the dynamics
    memory: dict[str, Any]  # what each observable remembers; unspecified once the run has diverged


def check(run: Run) -> None:
    """Raise `FloatingPointError` if the run, or any of a batch, diverged. It says which, when, and what to do. For the host.

    >>> lj.check(run)
    """
    if not isinstance(run, Run):
        raise TypeError(f"check: run must be a Run, but is {described(run)}: give the first of what run and drive return")
    status, step = devices.to_host((run.status, run.step))
    bad = np.argwhere(status != Status.RUNNING)
    if len(bad) == 0:
        return
    which = "; ".join(
        f"run {tuple(map(int, i)) if len(i) else ''}".strip() + f" {Status(status[tuple(i)]).name} at step {step[tuple(i)]}"
        for i in bad[:5]
    )
    more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
    moved = step[status != Status.RUNNING] > 0
    advice = [_LATER] * bool(moved.any()) + [_AT_ONCE] * bool(not moved.all())
    raise FloatingPointError(f"{len(bad)} of {status.size} runs did not go through: {which}{more}. {'. '.join(advice)}")
