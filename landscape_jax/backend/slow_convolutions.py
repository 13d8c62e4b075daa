"""A warning about XLA's own convolutions in compiled loops on a CPU.

Why: there XLA's kernel gradient takes about ten times as long as outside of a loop, and a user can't see the reason.
Found with: jaxlib 0.10.
No longer needed when: `convolution.convolve` is no longer needed, which says how to see it.
"""

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend.core import Jaxpr

from landscape_jax.backend import policy

MESSAGE = (
    "the gradient of a convolution lies inside a compiled loop, where XLA on a CPU takes about ten times as long for it as "
    "outside. Give the layer conv_general_dilated=landscape_jax.models.convolve (flax.linen.Conv and flax.nnx.Conv take it), "
    "or call that function in place of jax.lax.conv_general_dilated: the same convolution, fast in loops"
)


def warn_of_slow_convolutions(body: Callable, carry: Any, xs: Any = None) -> None:
    """Warn if `jax.lax.scan(body, carry, xs)` contains a kernel gradient that `convolve` has a fast form for.

    On a CPU only. Cost: a walk over the equations. `scan` caches the jaxpr of `body`, so that `body` is traced once in all.
    """
    if not policy.on_cpu() or jax.config.jax_disable_jit:  # pyright: ignore[reportAttributeAccessIssue]  # set late
        return
    length = 1 if xs is None else None
    jaxpr = jax.make_jaxpr(lambda carry, xs: jax.lax.scan(body, carry, xs, length=length))(carry, xs)
    if any(_is_kernel_gradient(equation) for equation in _equations(jaxpr.jaxpr, set())):
        warnings.warn(MESSAGE, stacklevel=1)  # one place for all callers: Python shows it once


def _equations(jaxpr: Jaxpr, seen: set) -> Iterator:
    """The equations of a jaxpr and of all jaxprs in it, each jaxpr once."""
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

    Such a gradient is itself a convolution. Its channels, which are summed over, are the images on the leading axis. Its window
    strides are the kernel's dilation; its left dilation is the inputs'.
    """
    if equation.primitive.name != "conv_general_dilated" or equation.outvars[0].aval.ndim != 4:
        return False
    given = equation.params
    undilated = {*given["window_strides"], *given["lhs_dilation"]} == {1}
    ungrouped = given["feature_group_count"] == given["batch_group_count"] == 1
    return undilated and ungrouped and given["dimension_numbers"].lhs_spec[1] == 0
