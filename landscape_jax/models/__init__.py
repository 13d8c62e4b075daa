"""Networks as `Model(init, apply)` pairs of pure functions, one family a file."""

from landscape_jax.backend.convolution import convolve
from landscape_jax.backend.products import dense
from landscape_jax.models.cnn import avg_pool, cnn, max_pool, myrtle, simple_cnn, vgg11
from landscape_jax.models.mlp import deep_linear, mlp
from landscape_jax.models.module import flat, uniform
from landscape_jax.models.parametrisation import mup, ntk, standard
from landscape_jax.models.resnet import batch_norm, frozen, group_norm, no_norm, resnet, resnet18
from landscape_jax.models.transformer import transformer, vit

__all__ = [
    "avg_pool",
    "batch_norm",
    "cnn",
    "convolve",
    "deep_linear",
    "dense",
    "flat",
    "frozen",
    "group_norm",
    "max_pool",
    "mlp",
    "mup",
    "myrtle",
    "no_norm",
    "ntk",
    "resnet",
    "resnet18",
    "simple_cnn",
    "standard",
    "transformer",
    "uniform",
    "vgg11",
    "vit",
]
