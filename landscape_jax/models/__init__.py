"""Networks as `Model(init, apply)` pairs: Flax inside, pure functions outside; one family a file."""

from landscape_jax.models.mlp import mlp
from landscape_jax.types import Model

__all__ = ["Model", "mlp"]
