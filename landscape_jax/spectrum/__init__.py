"""Spectra of symmetric operators known only by their products: a matvec and a vector are a matrix."""

from landscape_jax.spectrum.density import Density, density, function_trace, smoothed
from landscape_jax.spectrum.eigsh import assert_symmetric, block_eigsh, eigsh
from landscape_jax.spectrum.lanczos import Krylov, lanczos, recurrence
from landscape_jax.spectrum.moments import diagonal, frobenius_norm, hutch_plus_plus, trace, xtrace
from landscape_jax.spectrum.rayleigh_ritz import ritz
from landscape_jax.spectrum.tracking import Policy, Tracked, Tracker, tracker

__all__ = [
    "Density",
    "Krylov",
    "Policy",
    "Tracked",
    "Tracker",
    "assert_symmetric",
    "block_eigsh",
    "density",
    "diagonal",
    "eigsh",
    "frobenius_norm",
    "function_trace",
    "hutch_plus_plus",
    "lanczos",
    "recurrence",
    "ritz",
    "smoothed",
    "trace",
    "tracker",
    "xtrace",
]
