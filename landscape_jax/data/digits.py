"""The UCI optical digits: real data that travels with the package."""

import importlib.resources

import numpy as np
from jax import Array

from landscape_jax.arguments import count
from landscape_jax.data import images, scaling, targets

NUM_EXAMPLES, NUM_CLASSES = 1797, 10


def digits(
    n_train: int = 1000,
    n_test: int | None = None,
    *,
    scale: scaling.Scale = scaling.per_sample,
    one_hot: bool = True,
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """1,797 real handwritten digits, 8 × 8 pixels, 10 classes; nothing to download.

    By default each image is standardised by itself: x ← (x − mean(x)) / std(x) over its 64 pixels. The examples are
    shuffled once by a fixed permutation, so that train and test mix the writers; the first `n_train` are for training and
    the last `n_test` for testing, and asking for fewer of one never changes the choice of the other.

    Args:
      n_train: how many training examples, from 1.
      n_test: how many test examples; the default is all the rest.
      scale: what becomes of pixels in [0, 1]; see `data.unit`, `centred`, `per_pixel`, `per_sample`.
      one_hot: targets as one-hot 0/1 rows; False gives integer classes [n].
    Returns: (train, test), each (inputs [n, 64] float, targets [n, 10] float) in JAX's default float dtype.

    Source: E. Alpaydin and C. Kaynak 1998, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository
    (doi 10.24432/C50P49, CC BY 4.0): its test part, the copy that scikit-learn ships.

    >>> train, test = lj.data.digits(100, 50)
    >>> train[0].shape, train[1].shape, test[0].shape
    ((100, 64), (100, 10), (50, 64))
    """
    count("digits", None, n_train=n_train, **({} if n_test is None else {"n_test": n_test}))
    if not (1 <= n_train <= NUM_EXAMPLES and 0 <= (n_test or 0) <= NUM_EXAMPLES - n_train):
        others = "" if n_test is None else f" and n_test={n_test}"
        raise ValueError(
            f"digits: n_train={n_train}{others} must be at least 1 and 0 and sum to at most {NUM_EXAMPLES}, the size of the "
            "set: ask for fewer, or take a larger set such as mnist"
        )
    n_test = NUM_EXAMPLES - n_train if n_test is None else n_test
    embedded = importlib.resources.files("landscape_jax.data") / "digits.npz"
    with importlib.resources.as_file(embedded) as path, np.load(path) as file:
        pixels, labels = file["images"] / 16.0, file["labels"]  # [1797, 64] in [0, 1], [1797] in 0..9
    order = np.random.RandomState(0).permutation(NUM_EXAMPLES)  # noqa: NPY002  a stream NumPy has promised not to change
    train = order[:n_train]

    def part(index: np.ndarray) -> tuple[Array, Array]:
        x = images.scaled(scale, pixels[train], pixels[index])
        return x, targets.of_classes(labels[index], NUM_CLASSES, one_hot)

    return part(train), part(order[NUM_EXAMPLES - n_test :])
