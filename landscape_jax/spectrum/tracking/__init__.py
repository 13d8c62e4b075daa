"""Eigenpairs that are followed from look to look, each value in a bracket."""

from landscape_jax.spectrum.tracking.policy import Policy
from landscape_jax.spectrum.tracking.tracker import Tracked, Tracker, tracker

__all__ = ["Policy", "Tracked", "Tracker", "tracker"]
