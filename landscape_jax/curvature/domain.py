"""The vectors that a curvature acts on, where they are not shaped like θ.

A curvature says so by an attribute `acts_on`, which wrappers hand on (`types.BatchCoupled.like`). Without it they are like θ.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax

from landscape_jax.types import Curvature, Params


class Part(NamedTuple):
    """A space of vectors beside that of θ."""

    take: Callable  # θ ↦ a vector of the space
    fill: Callable  # (v, θ) ↦ v shaped like θ, with 0 elsewhere


def domain(curvature: Curvature, params: Params) -> Params:
    """A vector shaped like those that the curvature acts on: θ, or a part of it. Its values don't matter."""
    part = getattr(curvature, "acts_on", None)
    return params if part is None else part.take(params)


def embed(curvature: Curvature, vectors: Params, params: Params) -> Params:
    """A stack of vectors that the curvature acts on, leaves [k, ...], as one shaped like θ, with 0 where it does not act."""
    part = getattr(curvature, "acts_on", None)
    return vectors if part is None else jax.vmap(lambda v: part.fill(v, params))(vectors)
