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

from landscape_jax.arguments import described, require
from landscape_jax.backend.convolution import convolve
from landscape_jax.backend.products import dense
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

    Linear algebra on θ is then one operation rather than one a leaf: Lanczos and its like compile in half the time.

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


# flax's layers, with their parameters and options
Conv = functools.partial(nn.Conv, conv_general_dilated=convolve)
Dense = functools.partial(nn.Dense, dot_general=dense)


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
