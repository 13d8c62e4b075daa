"""Fully connected networks."""

from collections.abc import Callable, Sequence
from numbers import Real

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from landscape_jax.types import Key, Model, Params


class _MLP(nn.Module):
    sizes: tuple[int, ...]
    scales: tuple[float, ...]
    activation: Callable[[Array], Array]
    bias: bool

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = x.reshape(x.shape[0], -1)  # [n, d]
        last = len(self.sizes) - 1
        dtype = x.dtype if jnp.issubdtype(x.dtype, jnp.floating) else jnp.float32
        for i, (size, scale) in enumerate(zip(self.sizes, self.scales, strict=True)):
            # variance_scaling(0) is refused by jax; an exactly zero layer is a legitimate start
            init = nn.initializers.variance_scaling(scale, "fan_in", "normal") if scale else nn.initializers.zeros
            x = nn.Dense(size, use_bias=self.bias, kernel_init=init, param_dtype=dtype, name=f"layer{i}")(x)
            x = x if i == last else self.activation(x)
        return x


def mlp(
    widths: Sequence[int],
    outputs: int,
    *,
    activation: Callable[[Array], Array] = jnp.tanh,
    bias: bool = True,
    init_scale: float | Sequence[float] = 1 / 3,
) -> Model:
    """A multilayer perceptron: h_{l+1} = φ(W_l h_l + b_l) for each hidden layer, outputs W_L h_L + b_L.

    Weights start as W_l ~ N(0, s_l / fan_in), biases at 0: with s = 1 a linear layer keeps the variance of its input
    (LeCun), s = 2 does so through a ReLU (He et al. 2015, arXiv 1502.01852). The default, s = 1/3, is the variance of
    PyTorch's linear layers, with which the papers on sharpness begin (Cohen et al. 2021): training starts well below the
    edge of stability at common learning rates, where s = 1 starts above it and may diverge.

    Args:
      widths: the hidden widths, one per hidden layer; () gives a linear model.
      outputs: c.
      activation: φ, elementwise.
      bias: whether layers have biases.
      init_scale: s, one number for all layers or one per layer (len(widths) + 1 of them).
    Returns: `Model(init, apply)`; `apply` flattens each example and gives [n, c]. Parameters have the inputs' dtype.
    """
    sizes = (*widths, outputs)
    if any(not isinstance(size, int) or size < 1 for size in sizes):
        raise ValueError(f"mlp: widths={tuple(widths)} and outputs={outputs} must be positive integers")
    scales = (init_scale,) * len(sizes) if isinstance(init_scale, Real) else tuple(init_scale)
    if len(scales) != len(sizes):
        raise ValueError(
            f"mlp: init_scale has {len(scales)} numbers for {len(sizes)} layers "
            f"({len(widths)} hidden and the output): give one number, or one per layer"
        )
    if any(scale < 0 for scale in scales):
        raise ValueError(f"mlp: init_scale={scales} are variances times fan_in and can't be negative")
    module = _MLP(sizes, scales, activation, bias)

    def init(key: Key, inputs: Array) -> Params:
        return module.init(key, inputs[:1])["params"]

    def apply(params: Params, inputs: Array) -> Array:
        return module.apply({"params": params}, inputs)

    return Model(init, apply)
