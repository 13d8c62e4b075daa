"""Python's values as JSON has them."""

import dataclasses
import datetime
import enum
import functools
import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def plain(x: Any, name: str = "", *, nonfinite: Callable[[float], Any] = lambda x: None) -> Any:
    """JSON's own types. Arrays and sets become lists; dtypes, functions, enums, dates and paths their names; numbers that
    JSON has no name for what `nonfinite` makes of them, null by default.

    Args:
      name: what `x` is called, for the error.
    Raises: `TypeError` for an object that has no form of its own in JSON, by its place.
    """
    again = functools.partial(plain, nonfinite=nonfinite)
    if isinstance(x, enum.Enum):
        return f"{type(x).__name__}.{x.name}"
    if x is None or isinstance(x, (bool, int, str)):
        return x
    if isinstance(x, float):
        return float(x) if math.isfinite(x) else nonfinite(float(x))
    if isinstance(x, Mapping):
        return {str(key): again(value, f"{name}.{key}" if name else str(key)) for key, value in x.items()}
    if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        return {str(x.dtype): again(jax.random.key_data(x), name)}
    if isinstance(x, (np.ndarray, np.generic, jax.Array)):
        return _of_array(np.asarray(x), name, again)
    if isinstance(x, (list, tuple)):
        return [again(value, f"{name}[{i}]") for i, value in enumerate(x)]
    if isinstance(x, (set, frozenset)):
        return sorted((again(value, name) for value in x), key=repr)
    if dataclasses.is_dataclass(x) and not isinstance(x, type):
        return {f.name: again(getattr(x, f.name), f"{name}.{f.name}") for f in dataclasses.fields(x)}
    return _named(x, name, again)


def _of_array(x: np.ndarray, name: str, again: Callable) -> Any:
    if x.dtype.kind in "Mm":
        return x.astype(str).tolist()
    if x.dtype.kind == "V" and x.dtype.names is None:  # bfloat16 and kin
        return again(x.astype(np.float32).tolist(), name)
    return again(x.tolist(), name)


def _named(x: Any, name: str, again: Callable) -> Any:
    """What is not data, by its name."""
    if isinstance(x, functools.partial):
        return again({"partial": x.func, "args": x.args, "keywords": x.keywords}, name)
    if isinstance(x, np.dtype) or (isinstance(x, type) and issubclass(x, np.generic)):
        return str(np.dtype(x))
    if isinstance(getattr(x, "dtype", None), np.dtype):  # jnp.float32
        return str(x.dtype)
    if callable(x) and hasattr(x, "__qualname__") and "<" not in x.__qualname__:  # not one of many that a function makes
        return f"{x.__module__}.{x.__qualname__}"
    if isinstance(x, (datetime.date, datetime.time)):
        return x.isoformat()
    if isinstance(x, os.PathLike):
        return os.fspath(x)
    told = repr(x)
    if type(x).__repr__ is not object.__repr__ and "0x" not in told:
        return told
    raise TypeError(
        f"{name or 'the value'} is a {type(x).__module__}.{type(x).__qualname__}, which JSON has no form for: give numbers, "
        "strings, lists or dicts that say what it is"
    )
