"""Checkpoints: a run on disk, from which it goes on bit for bit (`drive(..., checkpoint=folder)` writes them)."""

from landscape_jax.engine.checkpoint.saving import Checkpoints, load, opened

__all__ = ["Checkpoints", "load", "opened"]
