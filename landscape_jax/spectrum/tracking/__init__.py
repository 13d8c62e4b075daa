"""Eigenpairs that are followed from look to look, each value in a bracket."""

from landscape_jax.spectrum.tracking.follow import Tracked
from landscape_jax.spectrum.tracking.policy import Policy
from landscape_jax.spectrum.tracking.tracker import Tracker, tracker

__all__ = ["Policy", "Tracked", "Tracker", "tracker"]
