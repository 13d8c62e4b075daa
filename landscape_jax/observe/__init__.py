"""Observables: what to record of each observed step."""

from landscape_jax.observe.alignment import alignment, gradient_taken, overlaps, random_cosine, redrawn, update_taken
from landscape_jax.observe.scalars import accuracy, distance, grad_norm, loss, param_norm, stateless
from landscape_jax.observe.sharpness import eigenpairs, sharpness
from landscape_jax.observe.step import changes, cross_sections, sections, step_effect

__all__ = [
    "accuracy",
    "alignment",
    "changes",
    "cross_sections",
    "distance",
    "eigenpairs",
    "grad_norm",
    "gradient_taken",
    "loss",
    "overlaps",
    "param_norm",
    "random_cosine",
    "redrawn",
    "sections",
    "sharpness",
    "stateless",
    "step_effect",
    "update_taken",
]
