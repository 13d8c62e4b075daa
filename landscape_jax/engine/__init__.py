"""The engine: the only scan over time, the host's loop around it, and its checkpoints.

start, advance, run, warm_up     pure: jit them, vmap them, shard them
drive, check, checkpoint.load    for the host
"""

from landscape_jax.engine import checkpoint
from landscape_jax.engine.cadence import pace
from landscape_jax.engine.checkpoint.settings import Saving
from landscape_jax.engine.core import Observe, advance, run, start, warm_up
from landscape_jax.engine.driver import Interrupted, drive
from landscape_jax.engine.interrupts import defer_interrupts
from landscape_jax.engine.state import Run, Status, check

__all__ = [
    "Interrupted",
    "Observe",
    "Run",
    "Saving",
    "Status",
    "advance",
    "check",
    "checkpoint",
    "defer_interrupts",
    "drive",
    "pace",
    "run",
    "start",
    "warm_up",
]
