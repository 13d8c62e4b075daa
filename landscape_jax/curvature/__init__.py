"""Curvatures: (θ, batch) ↦ (v ↦ A(θ) v), never the matrix itself."""

from landscape_jax.curvature.hessian import hessian

__all__ = ["hessian"]
