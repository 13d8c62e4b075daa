"""Checkpoints: a run on disk, from which it goes on bit for bit. `drive(..., saving=Saving(folder))` writes them."""

from landscape_jax.engine.checkpoint.saving import load

__all__ = ["load"]
