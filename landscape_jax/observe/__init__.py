"""Observables: what to record of each observed step."""

from landscape_jax.observe.alignment import alignment, gradient_taken, overlaps, random_cosine, redrawn, update_taken
from landscape_jax.observe.clusters import clustering, confidence, logit_gradients, mean_cosines
from landscape_jax.observe.scalars import accuracy, distance, grad_norm, loss, param_norm, stateless
from landscape_jax.observe.sharpness import eigenpairs, sharpness
from landscape_jax.observe.spectra import hutchinson_ratio, spectral_density, trace_ratio
from landscape_jax.observe.step import changes, cross_sections, sections, step_effect

__all__ = [
    "accuracy",
    "alignment",
    "changes",
    "clustering",
    "confidence",
    "cross_sections",
    "distance",
    "eigenpairs",
    "grad_norm",
    "gradient_taken",
    "hutchinson_ratio",
    "logit_gradients",
    "loss",
    "mean_cosines",
    "overlaps",
    "param_norm",
    "random_cosine",
    "redrawn",
    "sections",
    "sharpness",
    "spectral_density",
    "stateless",
    "step_effect",
    "trace_ratio",
    "update_taken",
]
