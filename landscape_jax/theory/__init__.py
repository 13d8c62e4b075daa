"""Closed forms and toy dynamics, each with its derivation and a simulation that tests it."""

from landscape_jax.theory import hinges, logits, multiscale, neuron, noisy_step, sparse_coding, stability, uv

__all__ = ["hinges", "logits", "multiscale", "neuron", "noisy_step", "sparse_coding", "stability", "uv"]
