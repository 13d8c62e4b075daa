"""The UCI optical digits: real data that travels with the package."""

import importlib.resources

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

NUM_EXAMPLES, NUM_CLASSES = 1797, 10


def digits(n_train: int = 1000, n_test: int | None = None) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """1,797 real handwritten digits, 8 × 8 pixels, 10 classes; nothing to download.

    Each image is standardised by itself: x ← (x − mean(x)) / std(x) over its 64 pixels. Targets are one-hot 0/1. The
    examples are shuffled once by a fixed permutation, so that train and test mix the writers; the first `n_train` are
    for training and the last `n_test` for testing, and asking for fewer of one never changes the other.

    Args:
      n_train: how many training examples, from 1.
      n_test: how many test examples; the default is all the rest.
    Returns: (train, test), each (inputs [n, 64] float, targets [n, 10] float) in JAX's default float dtype.

    Source: E. Alpaydin and C. Kaynak 1998, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository
    (doi 10.24432/C50P49, CC BY 4.0): its test part, the copy that scikit-learn ships.
    """
    n_test = NUM_EXAMPLES - n_train if n_test is None else n_test
    if n_train < 1 or n_test < 0 or n_train + n_test > NUM_EXAMPLES:
        raise ValueError(
            f"digits: n_train={n_train} and n_test={n_test} must be at least 1 and 0 and sum to at most {NUM_EXAMPLES}, "
            "the size of the set"
        )
    with np.load(importlib.resources.files(__package__) / "digits.npz") as file:
        images, labels = file["images"].astype(np.float64), file["labels"]  # [1797, 64] in 0..16, [1797] in 0..9
    images = images - images.mean(axis=1, keepdims=True)
    images = images / images.std(axis=1, keepdims=True)
    order = np.random.RandomState(0).permutation(NUM_EXAMPLES)  # noqa: NPY002  a stream NumPy has promised not to change
    dtype = jax.dtypes.canonicalize_dtype(float)

    def part(index: np.ndarray) -> tuple[Array, Array]:
        onehot = np.eye(NUM_CLASSES)[labels[index]]  # [n, 10]
        return jnp.asarray(images[index], dtype), jnp.asarray(onehot, dtype)

    return part(order[:n_train]), part(order[NUM_EXAMPLES - n_test :])
