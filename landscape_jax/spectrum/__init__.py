"""Spectra of symmetric operators known only by their products."""

from landscape_jax.spectrum.block import refine
from landscape_jax.spectrum.lanczos import Krylov, eigsh, lanczos, ritz

__all__ = ["Krylov", "eigsh", "lanczos", "refine", "ritz"]
