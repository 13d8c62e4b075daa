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
    a, b, _, filters = kernel.shape
    if isinstance(padding, str):
        padding = jax.lax.padtype_to_pads(x.shape[1:3], (a, b), strides, padding)
    x = jax.lax.optimization_barrier(jnp.pad(x, ((0, 0), *padding, (0, 0))))
    patches = _views(_views(x, 2, b, strides[1]), 1, a, strides[0])  # [n, i, j, a · b · c]
    product = jnp.matmul(patches.reshape(-1, patches.shape[-1]), kernel.reshape(-1, filters), precision=precision)
    return product.reshape(*patches.shape[:-1], filters)


def _views(x: Array, axis: int, taps: int, stride: int) -> Array:
    """The views of x that each tap of a kernel sees along an axis, side by side among the channels."""
    reach = (x.shape[axis] - taps) // stride * stride + 1
    views = [jax.lax.slice_in_dim(x, tap, tap + reach, stride, axis) for tap in range(taps)]
    # fenced: fused with what comes before, the compiler would work that out once for each view
    return jax.lax.optimization_barrier(jnp.concatenate(views, axis=-1))


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
