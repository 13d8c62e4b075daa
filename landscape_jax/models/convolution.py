"""Convolutions in the form that suits the machine: the same parameters, the same numbers to rounding."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array


def as_product(x: Array, kernel: Array, strides, padding, *, precision=None, **others) -> Array:
    """A convolution as one matrix product: the a · b shifted, strided views of x side by side, times the kernel.

        y[n, i, j, d] = Σ_{r, s, c} x[n, i·stride₀ + r, j·stride₁ + s, c] kernel[r, s, c, d]

    Args: as for `jax.lax.conv_general_dilated`, for inputs [n, h, w, c] and kernels [a, b, c, d] without dilation or groups.

    Cost: the same multiply-adds. Memory: a · b times the inputs, kept for the backward pass.
    """
    a, b, channels, filters = kernel.shape
    if isinstance(padding, str):
        padding = jax.lax.padtype_to_pads(x.shape[1:3], (a, b), strides, padding)
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    counts = [(size - tap) // stride + 1 for size, tap, stride in zip(x.shape[1:3], (a, b), strides, strict=True)]
    reach = [(count - 1) * stride + 1 for count, stride in zip(counts, strides, strict=True)]

    def view(r: int, s: int) -> Array:
        return jax.lax.slice(x, (0, r, s, 0), (len(x), r + reach[0], s + reach[1], channels), (1, *strides, 1))

    patches = jnp.concatenate([view(r, s) for r in range(a) for s in range(b)], axis=-1)  # [n, i, j, a · b · c]
    product = jnp.matmul(patches.reshape(-1, a * b * channels), kernel.reshape(-1, filters), precision=precision)
    return product.reshape(len(x), *counts, filters)


def convolved(x: Array, kernel: Array, strides, padding, **others) -> Array:
    """`jax.lax.conv_general_dilated`, on a CPU as a matrix product.

    XLA's convolutions are quick on a CPU, but not their derivatives: for SimpleCNN on 32 images a gradient within a scan took
    18 times as long as with products (2.2 s against 0.12 s), a Hessian product of a narrower one 8 times. Dilated and grouped
    convolutions are left to XLA everywhere.
    """
    spread = math.prod((*(others.get("lhs_dilation") or ()), *(others.get("rhs_dilation") or ())))
    plain = x.ndim == 4 and spread == 1 and others.get("feature_group_count", 1) == 1
    form = as_product if plain and jax.default_backend() == "cpu" else jax.lax.conv_general_dilated
    return form(x, kernel, strides, padding, **others)


Conv = functools.partial(nn.Conv, conv_general_dilated=convolved)  # flax's layer, its parameters and its options
