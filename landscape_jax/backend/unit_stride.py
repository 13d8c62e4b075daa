"""Convolutions of stride 1 that stay fast on a CPU under differentiation, in loops and under vmap: two primitives.

    y = x ∗ k,    y[n, i, j, d] = Σ_{r, s, c} x[n, i + r − top, j + s − left, c] k[r, s, c, d]        `_convolve`
    k = x ⋆ y,    k[r, s, c, d] = Σ_{n, i, j} x[n, i + r − top, j + s − left, c] y[n, i, j, d]        `_correlate`

    transposes    of x ∗ k:  by x: y ∗ k°,  by k: x ⋆ y         k°[r, s, d, c] = k[a − 1 − r, b − 1 − s, c, d]
                  of x ⋆ y:  by x: y ∗ k°,  by y: x ∗ k         and y ∗ k° pads by a − 1 − top, ...

Why: the speed of XLA's CPU convolutions varies more than tenfold with the details of their form, and a gradient meets the slow
forms. The derivative by the kernel is a convolution whose kernel is an image. In a loop (a scan over steps, Lanczos),
transposed kernels are not brought into the layout that the fast code wants. The two operations here are closed under
differentiation, and each is lowered to a fast form. They are primitives of JAX because `custom_vjp` has no forward mode and
`linear_call` no `vmap`.
Found with: jaxlib 0.10. For a small CNN in a loop, a gradient takes about half the time, and a Hessian product two thirds, of
those through `convolution.convolve_im2col`, in less than half the memory.
No longer needed when: `python -m benchmarks.products --tasks cnn` is no slower with `convolution.convolve` calling
`jax.lax.conv_general_dilated` throughout ("gradient, a step of a loop" is the row that XLA's own form is slowest in).
"""

import functools
import math
import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

Pads = tuple[tuple[int, int], tuple[int, int]]  # (top, bottom), (left, right)

FEW_CHANNELS = 8
MAX_FACTORS = 2**24  # numbers in the two factors of a correlation's product: beyond, images are taken in parts


def convolve_unit_stride(x: Array, kernel: Array, pads: Pads) -> Array:
    """A convolution x ∗ k of stride 1, fast on a CPU with its derivatives of every order, mapped or not, in loops or not.

    The type of the output (dtype, sharding, the mesh axes that it varies over) is the one that JAX derives for its own
    convolution of the same operands.

    Args:
      x: [n, h, w, c].
      kernel: [a, b, c, d].
      pads: zeros around the images, (top, bottom), (left, right), each less than the kernel's side.

    Cost: 2 · n · i · j · a · b · c · d operations for [n, i, j, d], and as many for each transpose. Memory: x is kept for the
    backward pass; a or b times x and the outputs are held during the computation.
    """
    x, kernel = _match_varying(x, kernel)
    return _convolve.bind(x, kernel, pads=pads)


# ── the fast forms ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _convolution(x: Array, k: Array, *, pads: Pads) -> Array:
    """x ∗ k. Few channels: one product with the patches (im2col), which then take little memory.

    Otherwise XLA's convolution, padded until it has a row more than the images, and cropped: XLA runs a convolution that makes
    images larger by the faster of its two CPU libraries.
    """
    (top, bottom), (left, right) = pads
    a, b, c, d = k.shape
    if c < FEW_CHANNELS:
        i, j = _output_sizes(x.shape[1:3], (a, b), pads)
        x = _shifted_views(_shifted_views(x, 2, range(-left, b - left), j), 1, range(-top, a - top), i)  # [n, i, j, a · b · c]
        return (jax.lax.optimization_barrier(x).reshape(-1, a * b * c) @ k.reshape(-1, d)).reshape(-1, i, j, d)
    spare = max(0, a - top - bottom)
    padded = ((top, bottom + spare), (left, right))
    y = jax.lax.conv_general_dilated(x, k, (1, 1), padded, dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return y[:, : y.shape[1] - spare]


class _Views(NamedTuple):
    """How a correlation is written as one product: along each axis, its taps are shifted views of x or of y."""

    of_x: tuple[bool, bool]  # by axis: views of x, or else of y
    x_taps: list[int]
    y_taps: list[int]
    places: list[int]  # that both are taken at
    numbers: int  # in the two factors


def _views(of_x: tuple[bool, bool], taps: list[int], sizes: list[int], outputs: list[int], c: int, d: int) -> _Views:
    x_taps = [t if held else 1 for t, held in zip(taps, of_x, strict=True)]
    y_taps = [1 if held else t for t, held in zip(taps, of_x, strict=True)]
    places = [out if held else size for out, size, held in zip(outputs, sizes, of_x, strict=True)]
    numbers = math.prod(places) * (math.prod(x_taps) * c + math.prod(y_taps) * d)
    return _Views(of_x, x_taps, y_taps, places, numbers)


def _correlation(x: Array, y: Array, *, pads: Pads) -> Array:
    """x ⋆ y as one product: each axis's taps are shifted views of x or of y, whichever takes less memory.

    With views of x along its height and of y along its width: k[r, s, c, d] = Σ_{n, i, j} x[n, i + r, j, c] y[n, i, j − s, d].
    """
    n, *sizes, c = x.shape
    _, *outputs, d = y.shape
    taps = _output_sizes(sizes, outputs, pads)  # a, b
    choices = ((True, True), (False, True), (True, False), (False, False))
    views = min((_views(of_x, taps, sizes, outputs, c, d) for of_x in choices), key=lambda views: views.numbers)
    product = functools.partial(_product_of_views, views=views, taps=taps, pads=pads)
    parts = _num_parts(n, views.numbers)
    if parts == 1:
        total = product(x, y)
    else:
        grown = ((0, -n % parts), (0, 0), (0, 0), (0, 0))
        x, y = (jnp.pad(z, grown).reshape(-1, parts, *z.shape[1:]) for z in (x, y))  # each part from all over the images
        total = _map_slices(product, (x, y), axis=1).sum(0)
    return total.reshape(*views.x_taps, c, *views.y_taps, d).transpose(0, 3, 1, 4, 2, 5).reshape(*taps, c, d)


def _product_of_views(x: Array, y: Array, *, views: _Views, taps: list[int], pads: Pads) -> Array:
    """Σ over images and places of the views' products: [x_taps · c, y_taps · d]."""
    for axis in (2, 1):
        length, start = views.places[axis - 1], -pads[axis - 1][0]
        if views.of_x[axis - 1]:
            x = _shifted_views(x, axis, range(start, start + taps[axis - 1]), length)
        else:
            y = _shifted_views(y, axis, range(-start, -start - taps[axis - 1], -1), length)
    groups = _largest_divisor(len(x), os.cpu_count() or 1)  # one sum over places uses one core; so many sums use all cores
    x, y = (z.reshape(groups, -1, z.shape[-1]) for z in jax.lax.optimization_barrier((x, y)))
    return jnp.einsum("gmp,gmq->gpq", x, y).sum(0)


def _shifted_views(x: Array, axis: int, starts: Sequence[int], length: int) -> Array:
    """x[start : start + length] along an axis, for every start, concatenated along the channels; zero outside of x."""
    channels, zero = x.shape[-1], jnp.zeros((), x.dtype)

    def alone(at: int, start: int) -> Array:
        sides = [(0, 0, 0)] * x.ndim
        sides[axis] = (-start, start + length - x.shape[axis], 0)
        sides[-1] = (at * channels, (len(starts) - 1 - at) * channels, 0)
        return jax.lax.pad(x, zero, sides)

    # a sum of padded views that don't overlap: one pass, where concatenation would copy each
    return functools.reduce(jnp.add, [alone(at, start) for at, start in enumerate(starts)])


def _map_slices(fn: Callable, given: tuple, axis: int) -> Array:
    """[m, ...]: fn of each of the m slices along an axis, one after another."""
    at = lambda i: tuple(jax.lax.dynamic_index_in_dim(z, i, axis, keepdims=False) for z in given)  # noqa: E731
    # the slice is carried: taken where it is used, the compiler would read each of its numbers once for every view of it
    step = lambda now, i: (at(i + 1), fn(*now))  # noqa: E731
    return jax.lax.scan(step, at(0), jnp.arange(given[0].shape[axis]))[1]


def _num_parts(n: int, each: int) -> int:
    """The number of parts that n images are split into: the least within `MAX_FACTORS`, or up to twice that if it divides n."""
    least = max(1, -(-n // max(1, MAX_FACTORS // max(1, each))))
    return next((parts for parts in range(least, min(2 * least, n) + 1) if n % parts == 0), least)


def _largest_divisor(n: int, most: int) -> int:
    """The largest divisor of n that is at most `most`."""
    return max(d for d in range(1, max(1, min(n, most)) + 1) if n % d == 0)


def _output_sizes(sizes, taken, pads: Pads) -> list[int]:
    """By axis, the number of places of a kernel with `taken` taps in a padded image; or of taps of one with `taken` places."""
    return [size + sum(pad) - part + 1 for size, part, pad in zip(sizes, taken, pads, strict=True)]


# ── types ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _varying(aval) -> frozenset:
    """The manual mesh axes (of a `shard_map`) over which the values of this type vary."""
    if hasattr(aval, "manual_axis_type"):
        return aval.manual_axis_type.varying
    return getattr(aval, "vma", frozenset())  # before jax 0.10


def _match_varying(*operands: Array) -> tuple[Array, ...]:
    """The operands, each varying over all mesh axes that any varies over, as in JAX's operations: the transpose is a sum."""
    varying = [_varying(jax.typeof(z)) for z in operands]
    every = frozenset().union(*varying)
    if hasattr(jax.lax, "pcast"):
        cast = functools.partial(jax.lax.pcast, to="varying")
    else:
        cast = jax.lax.pvary  # pyright: ignore[reportAttributeAccessIssue]  # what it was called before
    missing = (tuple(every - axes) for axes in varying)
    return tuple(cast(z, axes) if axes else z for z, axes in zip(operands, missing, strict=True))


def _output_type(like: Callable, name: str, x, y, *, pads: Pads):
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
    primitive.def_abstract_eval(functools.partial(_output_type, like, name))
    mlir.register_lowering(primitive, mlir.lower_fun(form, multiple_results=False))
    batching.primitive_batchers[primitive] = functools.partial(_batch, primitive)
    return primitive


def _batch(primitive: Primitive, operands, axes, *, pads: Pads):
    """The batching rule. Mapped images with one kernel are more images; else one after the other, each on all cores."""
    mapped = tuple(jnp.moveaxis(z, axis, 0) for z, axis in zip(operands, axes, strict=True) if axis is not None)
    if primitive is _convolve and axes[1] is None:
        x = mapped[0]
        y = _convolve.bind(x.reshape(-1, *x.shape[2:]), operands[1], pads=pads)
        return y.reshape(*x.shape[:2], *y.shape[1:]), 0

    def one(*given):
        left = iter(given)
        return primitive.bind(*(z if axis is None else next(left) for z, axis in zip(operands, axes, strict=True)), pads=pads)

    return _map_slices(one, mapped, axis=0), 0


_convolve = _primitive("convolve", _convolution, ("NHWC", "HWIO", "NHWC"))
_correlate = _primitive("correlate", _correlation, ("CHWN", "IHWO", "HWNC"))  # images are summed over, like channels


def _convolve_flipped(y: Array, k: Array, pads: Pads) -> Array:
    """y ∗ k°: the transpose of x ∗ k by x."""
    across = [tuple(taps - 1 - pad for pad in side) for taps, side in zip(k.shape[:2], pads, strict=True)]
    return _convolve.bind(y, k[::-1, ::-1].swapaxes(2, 3), pads=tuple(across))


ad.defbilinear(
    _convolve,
    lambda y, x, k, *, pads: _convolve_flipped(y, k, pads),
    lambda y, x, k, *, pads: _correlate.bind(x, y, pads=pads),
)
ad.defbilinear(
    _correlate,
    lambda k, x, y, *, pads: _convolve_flipped(y, k, pads),
    lambda k, x, y, *, pads: _convolve.bind(x, k, pads=pads),
)
