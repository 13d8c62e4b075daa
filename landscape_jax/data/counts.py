"""How many: what every maker of data and of batches asks of its sizes."""

from typing import Any

import jax
import numpy as np

from landscape_jax import tree
from landscape_jax.types import Batch


def check_whole(name: str, **counts: Any) -> None:
    """Raise `TypeError` unless each is a whole number: a shape has to be known when a program is made."""
    for what, count in counts.items():
        if isinstance(count, bool | np.bool_) or not isinstance(count, int | np.integer):
            told = f"an array of shape {np.shape(count)}" if hasattr(count, "shape") else f"{count!r}"
            raise TypeError(f"{name}: {what} is {told}, not a whole number: pass a Python int")


def check_at_least(name: str, least: int = 1, **counts: Any) -> None:
    """Raise unless each is a whole number, and at least so much."""
    check_whole(name, **counts)
    for what, count in counts.items():
        if count < least:
            raise ValueError(f"{name}: {what}={count} must be at least {least}")


def check_examples(name: str, data: Batch) -> int:
    """n, the number of examples of a batch; raises unless its leaves are arrays that share it and there is at least one."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(data):
        if not hasattr(leaf, "shape"):
            raise TypeError(
                f"{name}: data{jax.tree_util.keystr(path)} is a {type(leaf).__name__}, not an array: make arrays of lists and "
                "numbers first, with examples along the leading axis, by jnp.asarray"
            )
    n = tree.num_examples(data)
    if n == 0:
        raise ValueError(f"{name}: the data hold no example: their leading axis has length 0; pass at least one")
    return n
