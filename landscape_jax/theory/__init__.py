"""Closed forms and toy dynamics, each with its derivation and a simulation that tests it."""

from landscape_jax.theory import noisy_step, stability, uv

__all__ = ["noisy_step", "stability", "uv"]
