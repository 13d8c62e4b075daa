"""Scales of inputs, to pass as `scale=`: functions (train_x, x) ↦ x, so that test inputs are scaled by training statistics.

x [n, ...] and train_x [m, ...] come as NumPy arrays with numbers in [0, 1]; train_x are the training examples asked for,
not the whole set, unless they are the whole set. Any such function of your own will do.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np

Scale = Callable[[np.ndarray, np.ndarray], np.ndarray]  # (train_x, x) ↦ x scaled, of the same shape


def unit(train_x: np.ndarray, x: np.ndarray) -> np.ndarray:
    """x as it is, in [0, 1].

    >>> lj.data.unit(np.zeros((1, 2)), np.array([[0.0, 0.5]]))
    array([[0. , 0.5]])
    """
    return x


def centred(train_x: np.ndarray, x: np.ndarray) -> np.ndarray:
    """x − mean, pixel by pixel: the mean image of the training set goes to 0.

    >>> lj.data.centred(np.array([[1.0], [3.0]]), np.array([[2.5]]))
    array([[0.5]])
    """
    mean, _ = _moments(train_x, 0)
    return x - mean


def per_pixel(train_x: np.ndarray, x: np.ndarray, floor: float = 0.0) -> np.ndarray:
    """(x − mean) / max(std, floor), pixel by pixel over the training set.

    A pixel that never varies in training (std 0, `floor` 0) is only centred. `functools.partial(per_pixel, floor=0.1)`
    keeps a pixel that hardly varies from becoming huge.

    Source: Cohen et al. 2021, arXiv 2103.00065, appendix on experimental details (floor 0).

    >>> lj.data.per_pixel(np.array([[1.0, 5.0], [3.0, 5.0]]), np.array([[3.0, 5.0]]))
    array([[1., 0.]])
    """
    mean, std = _moments(train_x, 0)
    return (x - mean) / _positive(np.maximum(std, std.dtype.type(floor)))


def per_channel(train_x: np.ndarray, x: np.ndarray) -> np.ndarray:
    """(x − mean) / std, channel by channel (last axis) over all pixels of the training set.

    >>> x = np.array([[[[1.0]], [[3.0]]]])  # one image of two pixels
    >>> lj.data.per_channel(x, x).ravel()
    array([-1.,  1.])
    """
    mean, std = _moments(train_x, tuple(range(train_x.ndim - 1)))
    return (x - mean) / _positive(std)


def per_sample(train_x: np.ndarray, x: np.ndarray) -> np.ndarray:
    """(x − mean(x)) / std(x), example by example over its own pixels; a blank example becomes 0.

    Source: Kalra and Barkeshli 2023, arXiv 2302.12250.

    >>> lj.data.per_sample(np.zeros((1, 2)), np.array([[1.0, 3.0]]))
    array([[-1.,  1.]])
    """
    flat = x.reshape(len(x), math.prod(x.shape[1:]))
    flat = flat - flat.mean(axis=1, keepdims=True, dtype=np.float64).astype(x.dtype)
    std = flat.std(axis=1, keepdims=True, dtype=np.float64).astype(x.dtype)
    return (flat / _positive(std)).reshape(x.shape)


def standardised(mean: float | Sequence[float], std: float | Sequence[float]) -> Scale:
    """The scale (x − mean) / std by known constants, one a channel: the whole set's, say, where only a part is read.

    CIFAR-10's 50,000 training images have mean (0.49140, 0.48216, 0.44653) and std (0.24703, 0.24349, 0.26159).

    >>> scale = lj.data.standardised(0.5, 0.25)
    >>> scale(np.zeros((1, 1)), np.array([[1.0]]))
    array([[2.]])
    """
    centre, width = np.asarray(mean, np.float64), np.asarray(std, np.float64)
    if centre.shape != width.shape or centre.ndim > 1 or not (width > 0).all():
        raise ValueError(f"standardised: mean {mean} and std {std} must be one number a channel each, the latter positive")

    def scale(train_x: np.ndarray, x: np.ndarray) -> np.ndarray:
        if centre.ndim and centre.shape != x.shape[-1:]:
            raise ValueError(f"standardised: {centre.size} constants do not fit inputs {x.shape}, channels last")
        row = (1,) * (x.ndim - 1) + (-1,)
        return (x - centre.astype(x.dtype).reshape(row)) / width.astype(x.dtype).reshape(row)

    return scale


def _moments(x: np.ndarray, axis: int | tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and std, kept as axes of length 1. Both in two passes, summed in float64 with no float64 copy of x."""
    mean = x.mean(axis, keepdims=True, dtype=np.float64).astype(x.dtype)
    variance = np.square(x - mean).mean(axis, keepdims=True, dtype=np.float64)
    return mean, np.sqrt(variance).astype(x.dtype)


def _positive(std: np.ndarray) -> np.ndarray:
    return np.where(std > 0, std, std.dtype.type(1))
