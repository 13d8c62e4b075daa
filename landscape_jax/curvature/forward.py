"""Derivatives along a direction, for functions that hold a `jax.custom_vjp` too.

JAX takes the tangent of a `custom_vjp` function as an equation `custom_lin`, which reverse mode transposes and forward mode
can't compile. It says so when the program is lowered, outside of any `try` around the tracing. So the mode is chosen from the
jaxpr, before anything is compiled.
"""

import warnings
from collections.abc import Callable
from typing import Any

import chex
import jax
from jax.extend.core import jaxpr_as_fun

from landscape_jax import tree
from landscape_jax.types import Params


def pushforward(fn: Callable[[Params], Any], x: Params, name: str) -> Callable[[Params], Any]:
    """v ↦ J v for the Jacobian J of `fn` at x: forward mode, or two reverse passes where a `jax.custom_vjp` forbids it.

    J v is the transpose of u ↦ Jᵀ u, which is linear, so that it is the derivative of ⟨Jᵀ u, v⟩ by u at any u.

    Args:
      fn: a function of one pytree of float arrays; it gives another.
      x: where; v is shaped like it.
      name: what a warning about the reverse passes calls it.
    Cost: `fn` and its tangent; with reverse passes two to three times as much. `fn` is traced once.
    """
    forward = _forward(fn, x)
    if forward is None:
        warn(name, "by two reverse passes in place of each forward pass")
        return _of_vectors_like(x, name, lambda v: _transposed_twice(fn, x, v))
    return _of_vectors_like(x, name, forward)


def symmetric_pushforward(fn: Callable[[Params], Params], x: Params, name: str) -> Callable[[Params], Params]:
    """`pushforward` of a function whose Jacobian is symmetric, such as a gradient: without forward mode, J v = Jᵀ v."""
    forward = _forward(fn, x)
    if forward is None:
        warn(name, "by reverse over reverse; curvature.reverse_hessian says that this is meant")
        return _of_vectors_like(x, name, lambda v: jax.vjp(fn, x)[1](v)[0])
    return _of_vectors_like(x, name, forward)


def _of_vectors_like(x: Params, name: str, product: Callable) -> Callable:
    """The product, which refuses a vector that is not shaped like x."""

    def checked(v: Params):
        came, like = (", ".join(f"{leaf.dtype}{list(leaf.shape)}" for leaf in jax.tree.leaves(tree)[:4]) for tree in (v, x))
        message = f"{name}: a product takes a vector shaped like θ, {like}, not {came}"
        chex.assert_trees_all_equal_shapes_and_dtypes(v, x, exception_type=ValueError, custom_message=message)
        return product(v)

    return checked


def allows_forward_mode(linear: Callable, v: Params) -> bool:
    """Whether a tangent map can be compiled as it is. Costs a trace, no arithmetic."""
    return not _holds_custom_vjp(jax.make_jaxpr(linear)(v).jaxpr)


def warn(name: str, how: str) -> None:
    """Warn that `name` does without forward mode, and `how`."""
    warnings.warn(
        f"{name}: what is differentiated does not allow forward mode (it holds a jax.custom_vjp): products go {how}",
        stacklevel=4,
    )


def _forward(fn: Callable, x: Params) -> Callable | None:
    """v ↦ J v in forward mode; None where it is not allowed."""

    def along(v: Params):
        return jax.jvp(fn, (x,), (v,))[1]

    if not allows_forward_mode(along, x):
        return None
    types = _types(x)

    def product(v: Params):
        if _types(v) != types:
            return along(v)  # e.g. in shard_map, where v may vary over devices and x may not
        jaxpr, shape = jax.make_jaxpr(along, return_shape=True)(v)  # JAX remembers it: one trace for all products
        return jax.tree.unflatten(jax.tree.structure(shape), jaxpr_as_fun(jaxpr)(*jax.tree.leaves(v)))

    return product


def _types(x: Params) -> list:
    return [jax.typeof(leaf) for leaf in jax.tree.leaves(x)]


def _transposed_twice(fn: Callable, x: Params, v: Params):
    outputs, pull = jax.vjp(fn, x)  # u ↦ Jᵀ u
    return jax.vjp(lambda u: pull(u)[0], tree.zeros_like(outputs))[1](v)[0]


def _holds_custom_vjp(jaxpr) -> bool:
    """Whether a tangent that only reverse mode can use is left in a jaxpr, or in one inside of it (jit, scan, cond, while)."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "custom_lin":
            return True
        for value in equation.params.values():
            for inner in value if isinstance(value, (tuple, list)) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns") and _holds_custom_vjp(inner):
                    return True
    return False
