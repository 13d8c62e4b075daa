"""Closed forms and toy dynamics, each with its derivation and a simulation that tests it."""

from landscape_jax.theory import neuron, noisy_step, stability, uv

__all__ = ["neuron", "noisy_step", "stability", "uv"]
