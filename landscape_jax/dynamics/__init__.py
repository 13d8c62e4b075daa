"""Rules that move parameters: `Dynamics(init, step)` pairs for the engine to scan."""

from landscape_jax.dynamics.gradient import gradient

__all__ = ["gradient"]
