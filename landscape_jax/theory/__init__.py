"""Closed forms and toy dynamics, each with its derivation and a simulation that tests it."""

from landscape_jax.theory import hinges, neuron, noisy_step, sparse_coding, stability, uv

__all__ = ["hinges", "neuron", "noisy_step", "sparse_coding", "stability", "uv"]
