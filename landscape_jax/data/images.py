"""What all sets of images share: how many examples, labels within range, pixels and labels to arrays."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from landscape_jax.arguments import count
from landscape_jax.data import scaling, targets

REMEDY = "put the original file in its place, or delete it, and it will be downloaded"

Raw = tuple[np.ndarray, np.ndarray]  # images [n, h, w, channels] and labels [n], uint8


def counts(name: str, n_train: int | None, n_test: int | None, num_train: int, num_test: int) -> tuple[int, int]:
    """How many examples of a set of `num_train` and `num_test`; None asks for all."""
    n_train = num_train if n_train is None else n_train
    n_test = num_test if n_test is None else n_test
    count(name, None, n_train=n_train, n_test=n_test)
    if not (1 <= n_train <= num_train and 0 <= n_test <= num_test):
        raise ValueError(
            f"{name}: n_train={n_train} must lie between 1 and {num_train} and n_test={n_test} between 0 and {num_test}, "
            "the sizes of the set: ask for fewer, or leave them out for all"
        )
    return n_train, n_test


def checked_labels(path: Path, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """The labels, unless one is of no class."""
    wrong = np.flatnonzero(labels >= num_classes)
    if wrong.size:
        i = int(wrong[0])
        raise ValueError(f"{path} has label {labels[i]} at example {i}, past the last class {num_classes - 1}; {REMEDY}")
    return labels


def prepared(
    train: Raw, test: Raw, num_classes: int, scale: scaling.Scale, one_hot: bool
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """(train, test) as pairs of arrays: pixels / 255 in JAX's default float dtype, then `scale`; labels as targets."""
    dtype = jax.dtypes.canonicalize_dtype(float)
    train_x, test_x = (part[0].astype(dtype, order="C") / np.asarray(255, dtype) for part in (train, test))
    train_y, test_y = (targets.of_classes(part[1], num_classes, one_hot) for part in (train, test))
    return (scaled(scale, train_x, train_x), train_y), (scaled(scale, train_x, test_x), test_y)


def scaled(scale: scaling.Scale, train_x: np.ndarray, x: np.ndarray) -> Array:
    """`scale(train_x, x)` as a JAX array of its default float dtype."""
    out = jnp.asarray(scale(train_x, x), jax.dtypes.canonicalize_dtype(float))
    if out.shape[:1] != x.shape[:1]:
        raise ValueError(f"scale made {out.shape} of inputs {x.shape}: it must keep the examples along the leading axis")
    return out
