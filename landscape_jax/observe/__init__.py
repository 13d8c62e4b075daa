"""Observables: what to record of each observed step."""

from landscape_jax.observe.scalars import accuracy, distance, grad_norm, loss, param_norm, stateless
from landscape_jax.observe.sharpness import sharpness

__all__ = ["accuracy", "distance", "grad_norm", "loss", "param_norm", "sharpness", "stateless"]
