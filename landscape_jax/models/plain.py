"""XLA's own convolutions in compiled loops on a CPU: found in a jaxpr, and warned of."""

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend.core import Jaxpr

MESSAGE = (
    "the gradient of a convolution lies inside a compiled loop, where XLA on a CPU takes about ten times as long for it as "
    "outside. Give the layer conv_general_dilated=landscape_jax.models.convolved (flax.linen.Conv and flax.nnx.Conv take it), "
    "or call that function in place of jax.lax.conv_general_dilated: the same convolution, fast in loops"
)


def warn_of_slow_convolutions(body: Callable, carry: Any, xs: Any = None) -> None:
    """Warn if `jax.lax.scan(body, carry, xs)` holds a convolution's kernel gradient that `convolved` has a fast form for.

    On a CPU only. Cost: a walk over the equations; `scan` caches the jaxpr of `body`, which is traced once for both.
    """
    if jax.default_backend() != "cpu" or jax.config.jax_disable_jit:  # pyright: ignore[reportAttributeAccessIssue]  # set late
        return
    length = 1 if xs is None else None
    jaxpr = jax.make_jaxpr(lambda carry, xs: jax.lax.scan(body, carry, xs, length=length))(carry, xs)
    if any(_is_kernel_gradient(equation) for equation in _equations(jaxpr.jaxpr, set())):
        warnings.warn(MESSAGE, stacklevel=1)  # one place for all callers: Python shows it once


def _equations(jaxpr: Jaxpr, seen: set) -> Iterator:
    """The equations of a jaxpr and of all jaxprs in it that were not seen before."""
    if id(jaxpr) in seen:
        return
    seen.add(id(jaxpr))
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            for inner in value if isinstance(value, (tuple, list)) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if isinstance(inner, Jaxpr):
                    yield from _equations(inner, seen)


def _is_kernel_gradient(equation) -> bool:
    """Whether this is the kernel gradient of a two-dimensional convolution without dilation and groups.

    It is a convolution too, whose channels are what is summed over: the images, on the leading axis. Its window strides are
    the dilation of the kernel, and its dilations of the left side those of the inputs.
    """
    if equation.primitive.name != "conv_general_dilated" or equation.outvars[0].aval.ndim != 4:
        return False
    given = equation.params
    undilated = {*given["window_strides"], *given["lhs_dilation"]} == {1}
    ungrouped = given["feature_group_count"] == given["batch_group_count"] == 1
    return undilated and ungrouped and given["dimension_numbers"].lhs_spec[1] == 0
