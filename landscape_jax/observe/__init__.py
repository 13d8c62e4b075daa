"""Observables: what to record of each observed step."""

from landscape_jax.observe.alignment import alignment, gradient_taken, random_cosine, redrawn, update_taken
from landscape_jax.observe.scalars import accuracy, distance, grad_norm, loss, param_norm, stateless
from landscape_jax.observe.sharpness import eigenpairs, sharpness
from landscape_jax.observe.step import cross_sections, step_effect

__all__ = [
    "accuracy",
    "alignment",
    "cross_sections",
    "distance",
    "eigenpairs",
    "grad_norm",
    "gradient_taken",
    "loss",
    "param_norm",
    "random_cosine",
    "redrawn",
    "sharpness",
    "stateless",
    "step_effect",
    "update_taken",
]
