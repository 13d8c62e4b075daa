"""`jax.lax.conv_general_dilated` in a form whose derivatives are fast on a CPU: the same numbers to rounding.

Why: in a compiled loop on a CPU, and every training here is one, XLA's kernel gradients of float32 images are slow.
Convolutions of stride 1 go to `unit_stride`, which says more. What else is plain (strides, 1 × 1 kernels, other dtypes) is one
product with the patches. Dilated and grouped convolutions are left to XLA everywhere.
Found with: jaxlib 0.10. A kernel gradient in a loop takes XLA about ten times as long as outside.
No longer needed when: `python -m benchmarks.products --tasks cnn` is no slower with `policy.on_cpu` returning False.
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from landscape_jax.backend import policy
from landscape_jax.backend.unit_stride import Pads, convolve_unit_stride


def convolve(
    lhs: Array,
    rhs: Array,
    window_strides: Sequence[int],
    padding,
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers=None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision=None,
    **others,
) -> Array:
    """`jax.lax.conv_general_dilated` in a form whose derivatives of every order are fast on a CPU, also in compiled loops.

    A network of your own takes this function in place of JAX's. Its parameters and its outputs stay the same:

        flax.linen.Conv(8, (3, 3), conv_general_dilated=convolve)
        flax.nnx.Conv(3, 8, (3, 3), conv_general_dilated=convolve, rngs=rngs)

        class Conv2d(equinox.nn.Conv2d):  # in place of equinox.nn.Conv2d, with zeros as padding
            def __call__(self, x, *, key=None):
                y = convolve(x[None], self.weight, self.stride, self.padding, None, self.dilation, None, self.groups)[0]
                return y + self.bias if self.use_bias else y

    Args: as for `jax.lax.conv_general_dilated`, which does all that is not a plain convolution of images (one or three
      dimensions, dilation, groups, another dtype for the outputs), and everything on backends other than a CPU.

    Cost: the same multiply-adds. Memory: that of `convolve_unit_stride` for float32, stride 1 and kernels beyond 1 × 1; else
    that of `convolve_im2col`.
    """
    given = {name: value for name, value in others.items() if value is not None}
    by_xla = functools.partial(
        jax.lax.conv_general_dilated,
        window_strides=window_strides,
        padding=padding,
        lhs_dilation=lhs_dilation,
        rhs_dilation=rhs_dilation,
        dimension_numbers=dimension_numbers,
        feature_group_count=feature_group_count,
        batch_group_count=batch_group_count,
        precision=precision,
        **given,
    )
    dilation = math.prod((*(lhs_dilation or ()), *(rhs_dilation or ())))
    plain = dilation == feature_group_count == batch_group_count == 1 and not given
    if not policy.on_cpu() or not plain or lhs.ndim != 4:
        return by_xla(lhs, rhs)
    output = jax.make_jaxpr(by_xla)(lhs, rhs).out_avals[0]  # raises for operands that do not fit
    layout = jax.lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    pads = _image_pads(lhs, rhs, layout, window_strides, padding)
    if min(itertools.chain(*pads)) < 0 or 0 in (*lhs.shape, *rhs.shape, *output.shape):
        return by_xla(lhs, rhs)

    fast = functools.partial(_convolve_fast, layout=layout, strides=tuple(window_strides), pads=pads, precision=precision)
    if axes := _explicit_axes(output):
        automatic: Callable = jax.sharding.auto_axes(fast, axes=axes, out_sharding=output.sharding)
        return automatic(lhs, rhs)
    return fast(lhs, rhs)


def _convolve_fast(
    lhs: Array, rhs: Array, *, layout: jax.lax.ConvDimensionNumbers, strides: tuple[int, ...], pads: Pads, precision
) -> Array:
    of_x, of_k, of_y = layout
    x, kernel = lhs.transpose(of_x[0], *of_x[2:], of_x[1]), rhs.transpose(*of_k[2:], of_k[1], of_k[0])  # NHWC, HWIO
    within = all(pad < taps for taps, side in zip(kernel.shape[:2], pads, strict=True) for pad in side)
    if strides == (1, 1) and math.prod(kernel.shape[:2]) > 1 and within and x.dtype == jnp.float32:
        y = convolve_unit_stride(x, kernel, pads)
    else:
        y = convolve_im2col(x, kernel, strides, pads, precision=precision)
    return y.transpose(np.argsort([of_y[0], *of_y[2:], of_y[1]]))


def convolve_im2col(x: Array, kernel: Array, strides, padding, *, precision=None) -> Array:
    """A convolution as one matrix product (im2col): the a · b shifted, strided views of x times the kernel.

        y[n, i, j, d] = Σ_{r, s, c} x[n, i·stride₀ + r, j·stride₁ + s, c] kernel[r, s, c, d]

    Args: as for `jax.lax.conv_general_dilated`, for inputs [n, h, w, c] and kernels [a, b, c, d] without dilation or groups.

    Cost: the same multiply-adds. Memory: a · b times the inputs, kept for the backward pass.
    """
    a, b, _, filters = kernel.shape
    x = jax.lax.optimization_barrier(jnp.pad(x, ((0, 0), *_explicit_pads(x.shape[1:3], (a, b), strides, padding), (0, 0))))
    patches = _strided_views(_strided_views(x, 2, b, strides[1]), 1, a, strides[0])  # [n, i, j, a · b · c]
    product = jnp.matmul(patches.reshape(-1, patches.shape[-1]), kernel.reshape(-1, filters), precision=precision)
    return product.reshape(*patches.shape[:-1], filters)


def _strided_views(x: Array, axis: int, taps: int, stride: int) -> Array:
    """The view of x that each tap of a kernel sees along an axis, concatenated along the channels."""
    reach = (x.shape[axis] - taps) // stride * stride + 1
    views = [jax.lax.slice_in_dim(x, tap, tap + reach, stride, axis) for tap in range(taps)]
    # fenced: the compiler would fuse this with what computes x, and compute that once for each view
    return jax.lax.optimization_barrier(jnp.concatenate(views, axis=-1))


def _image_pads(lhs: Array, rhs: Array, layout: jax.lax.ConvDimensionNumbers, strides, padding) -> Pads:
    sizes, taps = [lhs.shape[axis] for axis in layout.lhs_spec[2:]], [rhs.shape[axis] for axis in layout.rhs_spec[2:]]
    return _explicit_pads(sizes, taps, strides, padding)


def _explicit_pads(sizes, taps, strides, padding) -> Pads:
    """Padding as numbers: "SAME" and "VALID" by XLA's rule."""
    if isinstance(padding, str):
        padding = jax.lax.padtype_to_pads(sizes, taps, strides, padding)
    (top, bottom), (left, right) = padding
    return (int(top), int(bottom)), (int(left), int(right))


def _explicit_axes(aval) -> tuple[str, ...]:
    """The mesh axes of this type whose sharding is explicit, part of the type."""
    mesh = aval.sharding.mesh
    types = zip(mesh.axis_names, mesh.axis_types, strict=True)
    return tuple(name for name, kind in types if kind == jax.sharding.AxisType.Explicit)
