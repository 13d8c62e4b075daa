"""What every experiment's Config refuses."""

import dataclasses
import math
from typing import Any


def check_numbers(config: Any) -> None:
    """Raise `ValueError` for a field that holds NaN or an infinity, or a whole number that is none of JAX's int32."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        for x in _numbers(value):
            if isinstance(x, float) and not math.isfinite(x):
                raise ValueError(f"{field.name}={value} must be finite: {x} is not a number to compute with")
            if isinstance(x, int) and abs(x) >= 2**31:
                raise ValueError(f"{field.name}={value} is too large: whole numbers must lie within ±2147483647")


def _numbers(value: Any):
    if isinstance(value, tuple | list):
        for x in value:
            yield from _numbers(x)
    elif isinstance(value, int | float):
        yield value
