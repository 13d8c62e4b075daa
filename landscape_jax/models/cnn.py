"""Plain convolutional networks for images [n, h, w, channels]."""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from landscape_jax.arguments import count, counts
from landscape_jax.models.module import Conv, Dense, float_of, gaussian, glorot_uniform, he, model
from landscape_jax.types import Model


def max_pool(x: Array) -> Array:
    """2 × 2, stride 2; of equal numbers the first has the derivative."""
    n, h, w, c = x.shape
    x = x[:, : h // 2 * 2, : w // 2 * 2].reshape(n, h // 2, 2, w // 2, 2, c)
    x = _larger(x[..., 0, :], x[..., 1, :])
    return _larger(x[:, :, 0], x[:, :, 1])


def _larger(x: Array, y: Array) -> Array:
    return jnp.where((x >= y) | jnp.isnan(x), x, y)  # by comparison: its derivatives need no scatter


def avg_pool(x: Array) -> Array:
    """2 × 2, stride 2."""
    return 0.25 * jax.lax.reduce_window(x, np.zeros((), x.dtype), jax.lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


class _CNN(nn.Module):
    layers: tuple  # ints are SAME convolutions of that many filters, negative ones VALID; functions are pools
    dense: tuple[int, ...]
    outputs: int
    kernel: int
    activation: Callable[[Array], Array]
    bias: bool
    weights: Callable
    last_init: Callable

    @nn.compact
    def __call__(self, x: Array) -> Array:
        dtype = float_of(x)
        x = x.astype(dtype)
        count = 0
        for layer in self.layers:
            if not isinstance(layer, int):
                x = layer(x)
                continue
            x = Conv(
                abs(layer),
                (self.kernel, self.kernel),
                padding="SAME" if layer > 0 else "VALID",
                use_bias=self.bias,
                kernel_init=self.weights,
                param_dtype=dtype,
                name=f"conv{count}",
            )(x)
            x = self.activation(x)
            count += 1
        x = x.reshape(x.shape[0], -1)  # [n, h · w · filters]
        for i, width in enumerate(self.dense):
            x = self.activation(Dense(width, kernel_init=self.weights, param_dtype=dtype, name=f"dense{i}")(x))
        return Dense(self.outputs, use_bias=self.bias, kernel_init=self.last_init, param_dtype=dtype, name="outputs")(x)


def cnn(
    filters: Sequence[int],
    outputs: int = 10,
    *,
    kernel: int = 3,
    dense: Sequence[int] = (),
    activation: Callable[[Array], Array] = nn.relu,
    pool: Callable[[Array], Array] = max_pool,
    init_scale: float = 1 / 3,
) -> Model:
    """For each entry of `filters` a SAME convolution, φ and a 2 × 2 pool; then dense layers; then the outputs.

    `cnn((32, 32))` is the network of Cohen et al. 2021 (arXiv 2103.00065), `cnn((16, 32, 32))` Fort and Ganguli's SmallCNN
    (arXiv 1910.05929). Weights start as N(0, s / fan_in), biases at 0.

    Args:
      filters: one convolution each.
      kernel: its side, in pixels.
      dense: widths of hidden dense layers.
      activation: φ.
      pool: `models.max_pool` or `models.avg_pool`.
      init_scale: s; 1/3 is PyTorch's variance.
    """
    counts("cnn", filters=filters, dense=dense)
    count("cnn", outputs=outputs, kernel=kernel)
    layers = tuple(part for width in filters for part in (width, pool))
    init = gaussian(init_scale)
    return model(_CNN(layers, tuple(dense), outputs, kernel, activation, True, init, init))


def simple_cnn(outputs: int = 10, *, kernel: int = 3, filters: tuple[int, int] = (32, 64), dense: int = 128) -> Model:
    """Two pairs of convolutions, SAME and VALID, with ReLU, each pair with a 2 × 2 max-pool; a dense layer; the outputs.

    Glorot-uniform weights, zero biases, no normalisation. `simple_cnn(kernel=5, filters=(100, 200))` is the larger one.
    Source: S. Jastrzębski et al. 2019, arXiv 1807.05031, §3.
    """
    counts("simple_cnn", filters=filters)
    count("simple_cnn", outputs=outputs, kernel=kernel, dense=dense)
    one, two = filters
    layers = (one, -one, max_pool, two, -two, max_pool)
    return model(_CNN(layers, (dense,), outputs, kernel, nn.relu, True, glorot_uniform, glorot_uniform))


def myrtle(depth: int, width: int, outputs: int = 10, *, pools: int = 5) -> Model:
    """Myrtle-5, -7 or -10: depth − 1 convolutions 3 × 3 with ReLU, average pools between and after, one dense layer.

    No biases; He weights, and N(0, 1/fan_in) in the last layer. Pools follow convolutions 2, 3, 4 (depth 5), 2, 4, 6 (7) or
    3, 6, 9 (10), and two more follow the last: 32 × 32 pixels become one.

    Args:
      width: filters of every convolution.
      pools: how many pools in all; 4 for 28 × 28 pixels.
    Source: V. Shankar et al. 2020, arXiv 2003.02237, App. A.
    """
    after = {5: (2, 3, 4), 7: (2, 4, 6), 10: (3, 6, 9)}
    if depth not in after:
        raise ValueError(f"myrtle: depth={depth} must be 5, 7 or 10")
    count("myrtle", width=width, outputs=outputs)
    count("myrtle", 3, pools=pools)
    layers: list = []
    for i in range(1, depth):
        layers += [width] + [avg_pool] * (i in after[depth])
    layers += [avg_pool] * (pools - 3)
    return model(_CNN(tuple(layers), (), outputs, 3, nn.relu, False, he, gaussian(1.0)))


def vgg11(outputs: int = 10, *, dense: Sequence[int] = (), init_scale: float = 2.0) -> Model:
    """VGG-11 for 32 × 32 pixels: eight 3 × 3 convolutions, 64 to 512 filters, five 2 × 2 max-pools; dense layers; the outputs.

    Args:
      dense: hidden dense layers: () gives one linear classifier (Cohen et al. 2021), (512, 512) Jastrzębski et al. 2019.
      init_scale: s of weights N(0, s / fan_in); biases are 0.
    Source: K. Simonyan and A. Zisserman 2015, arXiv 1409.1556, Table 1, column A.
    """
    count("vgg11", outputs=outputs)
    counts("vgg11", dense=dense)
    layers = (64, max_pool, 128, max_pool, 256, 256, max_pool, 512, 512, max_pool, 512, 512, max_pool)
    init = gaussian(init_scale)
    return model(_CNN(layers, tuple(dense), outputs, 3, nn.relu, True, init, init))
