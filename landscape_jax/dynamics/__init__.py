"""Rules that move parameters: `Dynamics(init, step)` pairs for the engine to scan."""

from landscape_jax.dynamics.gradient import gradient
from landscape_jax.dynamics.nudged import nudged

__all__ = ["gradient", "nudged"]
