"""Arrays in, `Batches` out: data sets as (inputs, targets) pairs, and batch orders as pure functions of key and step."""

from landscape_jax.data.augment import augmented, flipped, shifted
from landscape_jax.data.batches import epochs, full_batch, independent, minibatch
from landscape_jax.data.cifar import cifar10, cifar100
from landscape_jax.data.digits import digits
from landscape_jax.data.idx import fashion_mnist, mnist
from landscape_jax.data.scaling import centred, per_channel, per_pixel, per_sample, standardised, unit
from landscape_jax.data.signals import signals
from landscape_jax.data.synthetic import (
    chebyshev,
    gaussian_mixture,
    magnitudes,
    simplex_means,
    sparse_coding,
    teacher,
    whitened,
)
from landscape_jax.data.targets import with_label_noise
from landscape_jax.data.text import Text, characters, decoded, encoded

__all__ = [
    "Text",
    "augmented",
    "centred",
    "characters",
    "chebyshev",
    "cifar10",
    "cifar100",
    "decoded",
    "digits",
    "encoded",
    "epochs",
    "fashion_mnist",
    "flipped",
    "full_batch",
    "gaussian_mixture",
    "independent",
    "magnitudes",
    "minibatch",
    "mnist",
    "per_channel",
    "per_pixel",
    "per_sample",
    "shifted",
    "signals",
    "simplex_means",
    "sparse_coding",
    "standardised",
    "teacher",
    "unit",
    "whitened",
    "with_label_noise",
]
