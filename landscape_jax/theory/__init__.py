"""Closed forms and toy dynamics, each with its derivation and a simulation that tests it."""

from landscape_jax.theory import stability, uv

__all__ = ["stability", "uv"]
