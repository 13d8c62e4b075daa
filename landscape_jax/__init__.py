"""Loss-landscape dynamics in JAX."""

from landscape_jax import curvature, data, dynamics, losses, models, observe, spectrum, sweep, tree, types
from landscape_jax.engine import Interrupted, Record, Run, Status, advance, check, drive, run, start

__version__ = "0.1.0"
