"""What was recorded: in memory, on disk while it grows, and in the folder of a finished result."""

from landscape_jax.record.axes import Record, clock
from landscape_jax.record.disk import Unreadable, Unwritable
from landscape_jax.record.folder import Claim, circumstances, held, prepare, read, write
from landscape_jax.record.growing import Gathered, Growing

__all__ = [
    "Claim",
    "Gathered",
    "Growing",
    "Record",
    "Unreadable",
    "Unwritable",
    "circumstances",
    "clock",
    "held",
    "prepare",
    "read",
    "write",
]
