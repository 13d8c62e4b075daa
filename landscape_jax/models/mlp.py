"""Fully connected networks."""

from collections.abc import Callable, Iterable, Sequence

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from landscape_jax.arguments import count, counts
from landscape_jax.backend.products import dense
from landscape_jax.models.module import float_of, model
from landscape_jax.models.parametrisation import Parametrisation, Scaling, standard
from landscape_jax.types import Model


class _Layer(nn.Module):
    """a W h + a_b b."""

    size: int
    scale: float
    scaling: Scaling
    bias: bool
    draw: Callable

    @nn.compact
    def __call__(self, x: Array) -> Array:
        std = (self.scale * self.scaling.variance) ** 0.5
        kernel = self.param("kernel", self.draw(std), (x.shape[-1], self.size), float_of(x))
        x = dense(x, kernel) * self.scaling.weight  # [n, size]
        if self.bias:
            bias = self.param("bias", nn.initializers.zeros, (self.size,), float_of(x))
            x = x + (self.scaling.bias * bias)[None]
        return x


class _MLP(nn.Module):
    sizes: tuple[int, ...]
    scales: tuple[float, ...]
    activation: Callable[[Array], Array]
    bias: bool
    parametrisation: Parametrisation
    output_scale: float
    draw: Callable

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = x.reshape(x.shape[0], -1).astype(float_of(x))  # [n, d]
        last = len(self.sizes) - 1
        for i, (size, scale) in enumerate(zip(self.sizes, self.scales, strict=True)):
            scaling = self.parametrisation(x.shape[-1], size, i == 0, i == last)
            x = _Layer(size, scale, scaling, self.bias, self.draw, name=f"layer{i}")(x)
            x = x if i == last else self.activation(x)
        return x * self.output_scale


def mlp(
    widths: Sequence[int],
    outputs: int,
    *,
    activation: Callable[[Array], Array] = jnp.tanh,
    bias: bool = True,
    init_scale: float | Sequence[float] = 1 / 3,
    parametrisation: Parametrisation = standard,
    output_scale: float = 1.0,
    draw: Callable[[float], Callable] = nn.initializers.normal,
) -> Model:
    """A multilayer perceptron: h_{l+1} = φ(W_l h_l + b_l) for each hidden layer, outputs α (W_L h_L + b_L).

    Weights start with mean 0 and variance s_l / fan_in, normal unless `draw` says otherwise, biases at 0: with s = 1 a
    linear layer keeps the variance of its input (LeCun), s = 2 does so through a ReLU (He et al. 2015, arXiv 1502.01852).
    The default, s = 1/3, is the variance of PyTorch's linear layers, with which the papers on sharpness begin (Cohen et al.
    2021): training starts well below the edge of stability at common learning rates, where s = 1 starts above it and may
    diverge.

    Args:
      widths: the hidden widths, one per hidden layer; () gives a linear model.
      outputs: c.
      activation: φ, elementwise.
      bias: whether layers have biases.
      init_scale: s, one number for all layers or one per layer (len(widths) + 1 of them); a last one of 0 starts at f = 0.
      parametrisation: how width enters: `models.standard` (as above), `models.ntk` or `models.mup`.
      output_scale: α; small values train nearly as features move, large ones "lazily" (L. Chizat et al. 2019, arXiv
        1812.07956).
      draw: std ↦ initialiser of that std, (key, shape, dtype) ↦ W: Flax's `normal`, or `models.uniform`. Glorot's uniform
        weights (2010, eq. 16) are uniform with s_l = 2 fan_in / (fan_in + fan_out).
    Returns: `Model(init, apply)`; `apply` flattens each example and gives [n, c]. Parameters have the inputs' dtype.
    """
    counts("mlp", widths=widths)
    count("mlp", outputs=outputs)
    sizes = (*widths, outputs)
    scales = tuple(init_scale) if isinstance(init_scale, Iterable) else (init_scale,) * len(sizes)
    if len(scales) != len(sizes):
        raise ValueError(
            f"mlp: init_scale has {len(scales)} numbers for {len(sizes)} layers "
            f"({len(widths)} hidden and the output): give one number, or one per layer"
        )
    if any(scale < 0 for scale in scales):
        raise ValueError(f"mlp: init_scale={scales} are variances times fan_in and can't be negative")
    return model(_MLP(sizes, scales, activation, bias, parametrisation, output_scale, draw))


def deep_linear(widths: Sequence[int], outputs: int, *, init_scale: float | Sequence[float] = 1.0) -> Model:
    """f = W_L … W_1 x, without biases: linear in x, not in θ, and its Hessian is known."""
    return mlp(widths, outputs, activation=lambda x: x, bias=False, init_scale=init_scale)
