"""Float64 for the parts of an experiment that need it."""

import contextlib

import jax


def float64() -> contextlib.AbstractContextManager:
    """Float64 within a `with`."""
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(True)
    from jax.experimental import enable_x64  # before jax 0.8  # pyright: ignore

    return enable_x64()
