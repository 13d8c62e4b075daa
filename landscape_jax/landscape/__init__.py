"""The loss away from where training goes: along lines, over planes, on paths between solutions, scale by scale."""

from landscape_jax.landscape import connectivity, multiscale
from landscape_jax.landscape.slices import (
    Principal,
    coordinates,
    filter_normalised,
    interpolation,
    line,
    plane,
    principal,
    random_directions,
    sharpest,
    values,
)

__all__ = [
    "Principal",
    "connectivity",
    "coordinates",
    "filter_normalised",
    "interpolation",
    "line",
    "multiscale",
    "plane",
    "principal",
    "random_directions",
    "sharpest",
    "values",
]
