"""Convolutions in the form that suits the machine: the same parameters, the same numbers to rounding.

On a CPU, the convolutions of float32 images in jaxlib 0.10 run anywhere between 15 and 340 GFLOP/s on two cores, by details of
their form, and a gradient meets the slow ones: the derivative by the kernel is a convolution whose kernel is an image, and
in a loop (a scan over steps, Lanczos) transposed kernels are not brought into the order that the fast code wants. So here
a convolution and both its transposes are two operations, closed under differentiation, each written in a fast form:

    y = x ∗ k,    y[n, i, j, d] = Σ_{r, s, c} x[n, i + r − top, j + s − left, c] k[r, s, c, d]        `_convolve`
    k = x ⋆ y,    k[r, s, c, d] = Σ_{n, i, j} x[n, i + r − top, j + s − left, c] y[n, i, j, d]        `_correlate`

    transposes    of x ∗ k:  by x: y ∗ k°,  by k: x ⋆ y         k°[r, s, d, c] = k[a − 1 − r, b − 1 − s, c, d]
                  of x ⋆ y:  by x: y ∗ k°,  by y: x ∗ k         and y ∗ k° pads by a − 1 − top, ...

SimpleCNN on 64 images, two cores, in a loop: gradient 94 → 46 ms, one more Hessian product 118 → 80 ms, against patches kept
for the backward pass (`as_product`), at 40 % of their memory. What else there is (strides, 1 × 1, other dtypes) is one
product of patches; dilated and grouped convolutions are left to XLA everywhere.

The two operations are primitives of JAX, since `custom_vjp` has no forward mode and `linear_call` no `vmap`. The type of an
output (dtype, sharding, the mesh axes that it varies over) is the one that JAX derives for its own convolution of the same
operands.
"""

import functools
import itertools
import math
import os
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

Pads = tuple[tuple[int, int], tuple[int, int]]  # (top, bottom), (left, right)

FEW = 8  # channels
LARGEST = 2**24  # numbers in the two factors of a correlation's product, 64 MiB: beyond, images are taken in parts


def convolved(
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

    In a loop on a CPU, and every training here is one, XLA's own kernel gradients are slow. A network of your own takes this
    function in place of `jax.lax.conv_general_dilated`; its parameters and its outputs stay the same:

        flax.linen.Conv(8, (3, 3), conv_general_dilated=convolved)
        flax.nnx.Conv(3, 8, (3, 3), conv_general_dilated=convolved, rngs=rngs)

        class Conv2d(equinox.nn.Conv2d):  # in place of equinox.nn.Conv2d, with zeros as padding
            def __call__(self, x, *, key=None):
                y = convolved(x[None], self.weight, self.stride, self.padding, None, self.dilation, None, self.groups)[0]
                return y + self.bias if self.use_bias else y

    Args: as for `jax.lax.conv_general_dilated`, which does what is not a plain convolution of images (one or three
      dimensions, dilation, groups, another dtype for the outputs), and everything on other machines than a CPU.

    Cost: the same multiply-adds. Memory: that of `stationary` for float32, stride 1 and kernels beyond 1 × 1; else that of
    `as_product`.
    """
    given = {name: value for name, value in others.items() if value is not None}
    theirs = functools.partial(
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
    spread = math.prod((*(lhs_dilation or ()), *(rhs_dilation or ())))
    plain = spread == feature_group_count == batch_group_count == 1 and not given
    if jax.default_backend() != "cpu" or not plain or lhs.ndim != 4:
        return theirs(lhs, rhs)
    output = jax.make_jaxpr(theirs)(lhs, rhs).out_avals[0]  # raises for operands that do not fit
    of_x, of_k, of_y = jax.lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    sizes, taps = [lhs.shape[axis] for axis in of_x[2:]], [rhs.shape[axis] for axis in of_k[2:]]
    pads = _pads(sizes, taps, window_strides, padding)
    if min(itertools.chain(*pads)) < 0 or 0 in (*lhs.shape, *rhs.shape, *output.shape):
        return theirs(lhs, rhs)

    def ours(lhs: Array, rhs: Array) -> Array:
        x, k = lhs.transpose(of_x[0], *of_x[2:], of_x[1]), rhs.transpose(*of_k[2:], of_k[1], of_k[0])  # NHWC, HWIO
        y = _quick(x, k, tuple(window_strides), pads, precision)
        return y.transpose(np.argsort([of_y[0], *of_y[2:], of_y[1]]))

    if axes := _explicit_axes(output):
        automatic: Callable = jax.sharding.auto_axes(ours, axes=axes, out_sharding=output.sharding)
        return automatic(lhs, rhs)
    return ours(lhs, rhs)


def _quick(x: Array, kernel: Array, strides: tuple[int, ...], pads: Pads, precision) -> Array:
    within = all(pad < taps for taps, side in zip(kernel.shape[:2], pads, strict=True) for pad in side)
    if strides == (1, 1) and math.prod(kernel.shape[:2]) > 1 and within and x.dtype == jnp.float32:
        return stationary(x, kernel, pads)
    return as_product(x, kernel, strides, pads, precision=precision)


Conv = functools.partial(nn.Conv, conv_general_dilated=convolved)  # flax's layer, its parameters and its options


def as_product(x: Array, kernel: Array, strides, padding, *, precision=None) -> Array:
    """A convolution as one matrix product: the a · b shifted, strided views of x side by side, times the kernel.

        y[n, i, j, d] = Σ_{r, s, c} x[n, i·stride₀ + r, j·stride₁ + s, c] kernel[r, s, c, d]

    Args: as for `jax.lax.conv_general_dilated`, for inputs [n, h, w, c] and kernels [a, b, c, d] without dilation or groups.

    Cost: the same multiply-adds. Memory: a · b times the inputs, kept for the backward pass.
    """
    a, b, _, filters = kernel.shape
    x = jax.lax.optimization_barrier(jnp.pad(x, ((0, 0), *_pads(x.shape[1:3], (a, b), strides, padding), (0, 0))))
    patches = _views(_views(x, 2, b, strides[1]), 1, a, strides[0])  # [n, i, j, a · b · c]
    product = jnp.matmul(patches.reshape(-1, patches.shape[-1]), kernel.reshape(-1, filters), precision=precision)
    return product.reshape(*patches.shape[:-1], filters)


def _views(x: Array, axis: int, taps: int, stride: int) -> Array:
    """The views of x that each tap of a kernel sees along an axis, side by side among the channels."""
    reach = (x.shape[axis] - taps) // stride * stride + 1
    views = [jax.lax.slice_in_dim(x, tap, tap + reach, stride, axis) for tap in range(taps)]
    # fenced: fused with what comes before, the compiler would work that out once for each view
    return jax.lax.optimization_barrier(jnp.concatenate(views, axis=-1))


def _pads(sizes, taps, strides, padding) -> Pads:
    if isinstance(padding, str):
        padding = jax.lax.padtype_to_pads(sizes, taps, strides, padding)
    (top, bottom), (left, right) = padding
    return (int(top), int(bottom)), (int(left), int(right))


def stationary(x: Array, kernel: Array, pads: Pads) -> Array:
    """A convolution x ∗ k of stride 1, quick on a CPU with its derivatives of every order, mapped or not, in loops or not.

    Args:
      x: [n, h, w, c].
      kernel: [a, b, c, d].
      pads: zeros around the images, (top, bottom), (left, right), each less than the kernel's side.

    Cost: 2 · n · i · j · a · b · c · d operations for [n, i, j, d], each of its transposes as many; with 32 or 64 channels on
    two cores at 210 to 240 GFLOP/s, to the kernel at 140 to 210. Memory: x is kept for the backward pass, and a or b times x
    and the outputs are held while it is worked out.
    """
    x, kernel = _varying_alike(x, kernel)
    return _convolve.bind(x, kernel, pads=pads)


def _convolution(x: Array, k: Array, *, pads: Pads) -> Array:
    """x ∗ k: of few channels as a product of patches, which are then no burden; else by XLA's convolution with rows of outputs
    to spare, for one that makes images larger is run by the quicker of its libraries (jaxlib 0.10)."""
    (top, bottom), (left, right) = pads
    a, b, c, d = k.shape
    if c < FEW:
        i, j = _beyond(x.shape[1:3], (a, b), pads)
        x = _beside(_beside(x, 2, range(-left, b - left), j), 1, range(-top, a - top), i)  # [n, i, j, a · b · c]
        return (jax.lax.optimization_barrier(x).reshape(-1, a * b * c) @ k.reshape(-1, d)).reshape(-1, i, j, d)
    spare = max(0, a - top - bottom)
    padded = ((top, bottom + spare), (left, right))
    y = jax.lax.conv_general_dilated(x, k, (1, 1), padded, dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return y[:, : y.shape[1] - spare]


def _correlation(x: Array, y: Array, *, pads: Pads) -> Array:
    """x ⋆ y as one product: each axis's taps are shifted views of x or of y, whichever is less to write down.

    Views of x along its height and of y along its width, say: k[r, s, c, d] = Σ_{n, i, j} x[n, i + r, j, c] y[n, i, j − s, d].
    """
    n, *sizes, c = x.shape
    _, *outputs, d = y.shape
    taps = _beyond(sizes, outputs, pads)  # a, b

    def factors(of_x: tuple[bool, bool]) -> tuple[list[int], list[int], list[int]]:
        """Taps by axis in the views of x, and in those of y; the places that both are taken at."""
        return (
            [t if held else 1 for t, held in zip(taps, of_x, strict=True)],
            [1 if held else t for t, held in zip(taps, of_x, strict=True)],
            [out if held else size for out, size, held in zip(outputs, sizes, of_x, strict=True)],
        )

    def numbers(of_x: tuple[bool, bool]) -> int:
        u, v, places = factors(of_x)
        return math.prod(places) * (math.prod(u) * c + math.prod(v) * d)

    of_x = min(((True, True), (False, True), (True, False), (False, False)), key=numbers)
    u, v, places = factors(of_x)

    def product(x: Array, y: Array) -> Array:
        for axis in (2, 1):
            length, start = places[axis - 1], -pads[axis - 1][0]
            if of_x[axis - 1]:
                x = _beside(x, axis, range(start, start + taps[axis - 1]), length)
            else:
                y = _beside(y, axis, range(-start, -start - taps[axis - 1], -1), length)
        ways = _divisor(len(x), os.cpu_count() or 1)  # a sum over places is one core's work; so many sums are all cores'
        x, y = (z.reshape(ways, -1, z.shape[-1]) for z in jax.lax.optimization_barrier((x, y)))
        return jnp.einsum("gmp,gmq->gpq", x, y).sum(0)  # [u · c, v · d]

    parts = _parts(n, numbers(of_x))
    if parts == 1:
        total = product(x, y)
    else:
        grown = ((0, -n % parts), (0, 0), (0, 0), (0, 0))
        x, y = (jnp.pad(z, grown).reshape(-1, parts, *z.shape[1:]) for z in (x, y))  # each part from all over the images
        total = _one_by_one(product, (x, y), axis=1).sum(0)
    return total.reshape(*u, c, *v, d).transpose(0, 3, 1, 4, 2, 5).reshape(*taps, c, d)


def _beside(x: Array, axis: int, starts: Sequence[int], length: int) -> Array:
    """x[start : start + length] along an axis, zero outside of x, for every start, side by side among the channels."""
    channels, zero = x.shape[-1], jnp.zeros((), x.dtype)

    def alone(at: int, start: int) -> Array:
        sides = [(0, 0, 0)] * x.ndim
        sides[axis] = (-start, start + length - x.shape[axis], 0)
        sides[-1] = (at * channels, (len(starts) - 1 - at) * channels, 0)
        return jax.lax.pad(x, zero, sides)

    # a sum of what does not overlap: one pass, where concatenation copies
    return functools.reduce(jnp.add, [alone(at, start) for at, start in enumerate(starts)])


def _one_by_one(fn: Callable, given: tuple, axis: int) -> Array:
    """[m, ...]: fn of each of the m slices along an axis, one after another."""
    at = lambda i: tuple(jax.lax.dynamic_index_in_dim(z, i, axis, keepdims=False) for z in given)  # noqa: E731
    # carried: cut where it is used, the compiler would look each of a slice's numbers up once for each view of it
    step = lambda now, i: (at(i + 1), fn(*now))  # noqa: E731
    return jax.lax.scan(step, at(0), jnp.arange(given[0].shape[axis]))[1]


def _parts(n: int, each: int) -> int:
    """Into how many parts n images are taken: at least as many as memory asks, at most twice that if they then divide n."""
    least = max(1, -(-n // max(1, LARGEST // max(1, each))))
    return next((parts for parts in range(least, min(2 * least, n) + 1) if n % parts == 0), least)


def _divisor(n: int, most: int) -> int:
    return max(d for d in range(1, max(1, min(n, most)) + 1) if n % d == 0)


def _beyond(sizes, taken, pads: Pads) -> list[int]:
    """By axis, how many places a kernel of so many taps has in a padded image; or how many taps have so many places."""
    return [size + sum(pad) - part + 1 for size, part, pad in zip(sizes, taken, pads, strict=True)]


# ── types ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _explicit_axes(aval) -> tuple[str, ...]:
    """The explicit mesh axes of this type: those over which it says how an array is split."""
    mesh = aval.sharding.mesh
    types = zip(mesh.axis_names, mesh.axis_types, strict=True)
    return tuple(name for name, kind in types if kind == jax.sharding.AxisType.Explicit)


def _varying(aval) -> frozenset:
    """The manual mesh axes (of a `shard_map`) over which the values of this type vary."""
    if hasattr(aval, "manual_axis_type"):
        return aval.manual_axis_type.varying
    return getattr(aval, "vma", frozenset())  # before jax 0.10


def _varying_alike(*operands: Array) -> tuple[Array, ...]:
    """All of them varying over the mesh axes that any varies over, as JAX's operations have it: the transpose is a sum."""
    varying = [_varying(jax.typeof(z)) for z in operands]
    every = frozenset().union(*varying)
    if hasattr(jax.lax, "pcast"):
        cast = functools.partial(jax.lax.pcast, to="varying")
    else:
        cast = jax.lax.pvary  # pyright: ignore[reportAttributeAccessIssue]  # what it was called before
    missing = (tuple(every - axes) for axes in varying)
    return tuple(cast(z, axes) if axes else z for z, axes in zip(operands, missing, strict=True))


def _type(like: Callable, name: str, x, y, *, pads: Pads):
    """The type of an output, from the types of the operands."""
    if _varying(x) != _varying(y):
        raise ValueError(
            f"{name}: one operand varies over the mesh axes {sorted(_varying(x))}, the other over {sorted(_varying(y))}; give "
            "both the same with jax.lax.pcast"
        )
    return jax.make_jaxpr(functools.partial(like, pads=pads))(x, y).out_avals[0]


# ── the two primitives ─────────────────────────────────────────────────────────────────────────────────────────────────


def _primitive(name: str, form: Callable, dimensions: tuple[str, str, str]) -> Primitive:
    """A bilinear operation with the parameter `pads`: a form of XLA's convolution with these dimension numbers."""
    primitive = Primitive(name)
    primitive.def_impl(jax.jit(primitive.bind, static_argnames="pads"))
    like = lambda x, y, *, pads: jax.lax.conv_general_dilated(x, y, (1, 1), pads, dimension_numbers=dimensions)  # noqa: E731
    primitive.def_abstract_eval(functools.partial(_type, like, name))
    mlir.register_lowering(primitive, mlir.lower_fun(form, multiple_results=False))
    batching.primitive_batchers[primitive] = functools.partial(_mapped, primitive)
    return primitive


def _mapped(primitive: Primitive, operands, axes, *, pads: Pads):
    """Mapped images with one kernel are more images; other mapped operands go one after another, each with all cores."""
    mapped = tuple(jnp.moveaxis(z, axis, 0) for z, axis in zip(operands, axes, strict=True) if axis is not None)
    if primitive is _convolve and axes[1] is None:
        x = mapped[0]
        y = _convolve.bind(x.reshape(-1, *x.shape[2:]), operands[1], pads=pads)
        return y.reshape(*x.shape[:2], *y.shape[1:]), 0

    def one(*given):
        left = iter(given)
        return primitive.bind(*(z if axis is None else next(left) for z, axis in zip(operands, axes, strict=True)), pads=pads)

    return _one_by_one(one, mapped, axis=0), 0


_convolve = _primitive("convolve", _convolution, ("NHWC", "HWIO", "NHWC"))
_correlate = _primitive("correlate", _correlation, ("CHWN", "IHWO", "HWNC"))  # the images are summed over, as channels are


def _to_inputs(y: Array, k: Array, pads: Pads) -> Array:
    """y ∗ k°"""
    across = [tuple(taps - 1 - pad for pad in side) for taps, side in zip(k.shape[:2], pads, strict=True)]
    return _convolve.bind(y, k[::-1, ::-1].swapaxes(2, 3), pads=tuple(across))


ad.defbilinear(
    _convolve,
    lambda y, x, k, *, pads: _to_inputs(y, k, pads),
    lambda y, x, k, *, pads: _correlate.bind(x, y, pads=pads),
)
ad.defbilinear(
    _correlate,
    lambda k, x, y, *, pads: _to_inputs(y, k, pads),
    lambda k, x, y, *, pads: _convolve.bind(x, k, pads=pads),
)
