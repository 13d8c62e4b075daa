"""Random changes of images, as pure functions of a key, and `augmented`, which applies them to every batch of a run."""

import functools
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.tree_util import Partial

from landscape_jax.arguments import count
from landscape_jax.types import Batch, Batches, Key

# orders of examples fold epochs and steps, non-negative int32, into the run's key: this number is none of them
_STREAM = np.uint32(2**32 - 1)


def shifted(key: Key, x: Array, pixels: int = 4) -> Array:
    """Each image moved by whole pixels, −`pixels` … `pixels` along each axis, uniformly; zeros move in.

    The pad-and-crop of the CIFAR papers. Standardise first: zero is then the mean colour.

    Args:
      x: images, [n, h, w, channels].
    Cost: one padded copy.

    >>> lj.data.shifted(key, jnp.ones((2, 8, 8, 3)), pixels=2).shape
    (2, 8, 8, 3)
    """
    n, height, width, channels = _images("shifted", x)
    count("shifted", None, pixels=pixels)
    if not 0 <= pixels < min(height, width):
        raise ValueError(f"shifted: pixels={pixels} must be at least 0 and less than the sides of images {x.shape}")
    padded = jnp.pad(x, ((0, 0), (pixels, pixels), (pixels, pixels), (0, 0)))
    corners = jax.random.randint(key, (n, 2), 0, 2 * pixels + 1)

    def crop(image: Array, corner: Array) -> Array:
        return jax.lax.dynamic_slice(image, (corner[0], corner[1], jnp.zeros_like(corner[0])), (height, width, channels))

    return jax.vmap(crop)(padded, corners)


def flipped(key: Key, x: Array) -> Array:
    """Each image [n, h, w, channels] mirrored left to right with probability ½.

    >>> lj.data.flipped(key, jnp.ones((2, 8, 8, 3))).shape
    (2, 8, 8, 3)
    """
    n, *_ = _images("flipped", x)
    heads = jax.random.bernoulli(key, shape=(n, 1, 1, 1))
    return jnp.where(heads, x[:, :, ::-1], x)


def augmented(batches: Batches, *changes: Callable[[Key, Array], Array]) -> Batches:
    """`batches` whose inputs go through random changes, one after the other, drawn afresh at every step.

    `augmented(epochs(train, 128), shifted, flipped)`; other settings by `functools.partial(shifted, pixels=2)`. The
    choice of examples stays that of `batches`, and the changes at a step are a pure function of the run's key and the step.

    Args:
      batches: its batch is a pair (x [n, ...], y), or the array x alone.
      changes: (key, x) ↦ x of the same shape and dtype, each with a key of its own.
    Returns: a `Partial`: the data stay arguments of the compiled program.

    >>> images, classes = jnp.ones((4, 8, 8, 1)), jnp.arange(4)
    >>> batches = lj.data.augmented(lj.data.minibatch((images, classes), 2), lj.data.shifted, lj.data.flipped)
    >>> batches(key, 0)[0].shape
    (2, 8, 8, 1)
    """
    if not changes:
        raise ValueError("augmented: no changes were passed; pass at least one, e.g. shifted, or use the batches themselves")
    inner = batches if isinstance(batches, Partial) else Partial(batches)
    return Partial(functools.partial(_augmented, changes), inner)


def _augmented(changes: tuple[Callable, ...], batches: Batches, key: Key, step: Array) -> Batch:
    batch = batches(key, step)
    x, *rest = batch if isinstance(batch, tuple | list) else (batch,)
    at_step = jax.random.fold_in(jax.random.fold_in(key, _STREAM), step)
    for i, change in enumerate(changes):
        new = change(jax.random.fold_in(at_step, i), x)
        if new.shape != x.shape or new.dtype != x.dtype:
            raise ValueError(f"augmented: change {i} made {new.dtype}{new.shape} of {x.dtype}{x.shape}; it must keep both")
        x = new
    return (x, *rest) if isinstance(batch, tuple | list) else x


def _images(name: str, x: Array) -> tuple[int, ...]:
    fact = f"{name}: inputs {x.shape} are not images [n, height, width, channels]"
    chex.assert_rank(x, 4, exception_type=ValueError, custom_message=f"{fact}; reshape them, channels last")
    return x.shape
