"""The engine: the only scan over time, the host's loop around it, and its checkpoints."""

from landscape_jax.engine import checkpoint
from landscape_jax.engine.core import Observe, Run, Status, advance, check, pace, paced, run, start, warmed
from landscape_jax.engine.driver import Interrupted, drive
from landscape_jax.engine.interrupts import defer_interrupts

__all__ = [
    "Interrupted",
    "Observe",
    "Run",
    "Status",
    "advance",
    "check",
    "checkpoint",
    "drive",
    "defer_interrupts",
    "pace",
    "paced",
    "run",
    "start",
    "warmed",
]
