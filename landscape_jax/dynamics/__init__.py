"""Rules that move parameters: `Dynamics(init, step)` pairs for the engine to scan."""

from landscape_jax.dynamics.gradient import gradient
from landscape_jax.dynamics.nudged import nudged
from landscape_jax.dynamics.subspace import dense_basis, generated_basis, leading, plane, sphere, subspace

__all__ = ["dense_basis", "generated_basis", "gradient", "leading", "nudged", "plane", "sphere", "subspace"]
