"""Figures a referee can read: in colour, in greyscale and at the width of a column.

Matplotlib is imported when the first name of this package is used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from landscape_jax.plots.slices import contour, relief, section
    from landscape_jax.plots.style import DASHES, PLAIN, STYLE, Figure, colours, finite_range
    from landscape_jax.plots.training import sharpness

__all__ = ["DASHES", "PLAIN", "STYLE", "Figure", "colours", "contour", "finite_range", "relief", "section", "sharpness"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    for module in ("style", "training", "slices"):
        found = vars(importlib.import_module(f"{__name__}.{module}"))
        globals().update({public: found[public] for public in __all__ if public in found})
    return globals()[name]


def __dir__() -> list[str]:
    return __all__
