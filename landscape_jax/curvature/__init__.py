"""Curvatures: (θ, batch) ↦ (v ↦ A(θ) v), never the matrix itself; and what makes curvatures of curvatures."""

from landscape_jax.curvature.gauss_newton import fisher, ggn, gradient_covariance, h_term, ntk, sampled_fisher
from landscape_jax.curvature.hessian import hessian, linearized_hessian, reverse_hessian
from landscape_jax.curvature.optimizer import preconditioner
from landscape_jax.curvature.transform import (
    chunked,
    deflated,
    dense,
    per_class,
    preconditioned,
    projected,
    restricted,
    sharded,
    shifted,
)

__all__ = [
    "chunked",
    "deflated",
    "dense",
    "fisher",
    "ggn",
    "gradient_covariance",
    "h_term",
    "hessian",
    "linearized_hessian",
    "ntk",
    "per_class",
    "preconditioned",
    "preconditioner",
    "projected",
    "restricted",
    "reverse_hessian",
    "sampled_fisher",
    "sharded",
    "shifted",
]
