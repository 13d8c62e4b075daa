"""What accuracy rounding permits, and what is asked for by default. All are relative to the largest |λ|."""

import jax.numpy as jnp
from jax import Array

from landscape_jax import tree
from landscape_jax.types import Params


def rounding_error(dtype, eps: float | Array, m: int) -> float | Array:
    """10 ε √m + 4 (ε' − ε): what rounding may leave in a residual after m products. No tolerance can be less.

    Args:
      dtype: of vectors and coefficients; ε is its.
      eps: ε', of θ's narrowest leaf, to which products are rounded.
    """
    own = float(jnp.finfo(dtype).eps)
    return 10 * own * m**0.5 + 4 * (eps - own)


def default_tolerance(dtype, eps: float | Array, m: int) -> float | Array:
    """ε^(2/3), 2e-5 in float32 and 4e-11 in float64, or twice the rounding error of m products if that is more."""
    return maximum(eps ** (2 / 3), 2 * rounding_error(dtype, eps, m))


def attainable_tolerance(tol: float | Array, like: Params, m: int) -> float | Array:
    """`tol`; or, where a leaf is narrower than the widest, twice the rounding error of m products if that is more."""
    dtype, eps = tree.dtype(like), tree.eps(like)
    return maximum(tol, 2 * rounding_error(dtype, eps, m)) if eps > jnp.finfo(dtype).eps else tol


def default_slack(dtype) -> float:
    """ε^¾, 6e-6 in float32 and 2e-12 in float64: how far from orthogonal a Krylov basis for Ritz vectors may be."""
    return float(jnp.finfo(dtype).eps) ** 0.75


def maximum(x: float | Array, y: float | Array) -> float | Array:
    """The larger of two numbers, as a Python number where both are."""
    return jnp.maximum(x, y) if isinstance(x, Array) or isinstance(y, Array) else max(x, y)
