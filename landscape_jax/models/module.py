"""From a Flax module to a pair of pure functions."""

import functools
from collections.abc import Callable
from typing import cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree

from landscape_jax import tree
from landscape_jax.arguments import described, require
from landscape_jax.types import Key, Model, Params


def model(module: nn.Module) -> Model:
    """`Model(init, apply)` of a module whose only variables are its parameters."""

    def init(key: Key, inputs: Array) -> Params:
        return module.init(key, inputs[:1])["params"]

    def apply(params: Params, inputs: Array) -> Array:
        return cast(Array, module.apply({"params": params}, inputs))

    return Model(init, apply)


def flat(network: Model, inputs: Array) -> Model:
    """The same network with θ as one vector [p].

    Linear algebra on θ is then one operation where it was one a leaf: Lanczos and its like compile in half the time.

    Args:
      inputs: [n, ...], as for `init`.
    """
    require("flat", network=network)
    if not hasattr(inputs, "shape"):
        raise TypeError(f"flat: inputs must be an array [n, ...], as for init, but is {described(inputs)}")
    shapes = jax.eval_shape(network.init, jax.random.key(0), inputs)
    unravel = ravel_pytree(jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes))[1]

    def init(key: Key, inputs: Array) -> Array:
        return ravel_pytree(network.init(key, inputs))[0]

    return Model(init, lambda params, inputs: network.apply(unravel(params), inputs))


def dense(x: Array, kernel: Array, dims=None, **options) -> Array:
    """x W, [..., i] and [i, o] ↦ [..., o]: `x @ kernel`, quicker to differentiate on a CPU.

    The gradient to W is Xᵀ Δ, and XLA's CPU back end (jaxlib 0.10) runs it at full speed only with the right one of i and o on
    the right (`tree.turned`). Where that is i it is asked for as Δᵀ X, and turned: 1,000 examples, 3072 × 200, 12.1 → 6.2 ms on
    one core and 4.9 → 3.9 ms on two; 200 × 10, 110 → 35 µs and 73 → 39 µs (a Xeon); 64 × 100, 89 → 70 µs and 55 → 43 µs;
    128 × 200, 299 → 232 µs and 186 → 129 µs (an EPYC). The numbers are those of `x @ kernel` to rounding.

    Args:
      dims, options: as for `jax.lax.dot_general`, for which it can stand: `flax.linen.Dense(n, dot_general=models.dense)`.
    """
    plain = ((x.ndim - 1,), (0,)), ((), ())
    turns = kernel.ndim == 2 and tree.turned(*kernel.shape)
    if turns and dims in (None, plain) and jax.default_backend() == "cpu":
        turned = jax.lax.optimization_barrier(kernel.T)  # fenced, as its derivatives are: XLA would turn the product back
        return jax.lax.dot_general(x, turned, (((x.ndim - 1,), (1,)), ((), ())), **options)
    return jax.lax.dot_general(x, kernel, plain if dims is None else dims, **options)


Dense = functools.partial(nn.Dense, dot_general=dense)  # flax's layer, its parameters and its options


def float_of(x: Array):
    """The dtype of parameters for these inputs: theirs, or float32 for tokens and raw pixels."""
    return x.dtype if jnp.issubdtype(x.dtype, jnp.floating) else jnp.float32


def gaussian(scale: float) -> Callable:
    """W ~ N(0, scale / fan_in), and exactly zero weights for scale = 0, which JAX's own initialiser refuses."""
    return nn.initializers.variance_scaling(scale, "fan_in", "normal") if scale else nn.initializers.zeros


def uniform(std: float) -> Callable:
    """W ~ U(−√3 std, √3 std), as an initialiser (key, shape, dtype) ↦ W."""
    reach = 3**0.5 * std
    return lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -reach, reach)


he = gaussian(2.0)  # keeps the variance through a ReLU: K. He et al. 2015, arXiv 1502.01852, eq. 10
glorot_uniform = nn.initializers.glorot_uniform()  # X. Glorot and Y. Bengio 2010, eq. 16
