"""Closed forms, with their derivations, for simulations to be held against."""

from landscape_jax.theory import noisy_step, stability, uv

__all__ = ["noisy_step", "stability", "uv"]
