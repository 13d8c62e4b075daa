"""Residual networks for images [n, h, w, channels]: without normalisation, with GroupNorm, or with BatchNorm."""

import functools
import itertools
from collections.abc import Callable
from typing import cast

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.tree_util import Partial

from landscape_jax.arguments import count
from landscape_jax.models.module import Conv, Dense, float_of, gaussian, model
from landscape_jax.types import Batch, BatchCoupled, Model, Params

WHY = "BatchNorm in batch mode takes its statistics over the whole batch"


def no_norm(dtype, name: str) -> Callable[[Array], Array]:
    """x as it is."""
    return lambda x: x


def group_norm(dtype, name: str) -> Callable[[Array], Array]:
    """GroupNorm: each example by itself, 8 groups of channels. Y. Wu and K. He 2018, arXiv 1803.08494."""
    return nn.GroupNorm(num_groups=8, param_dtype=dtype, name=name)


def batch_norm(dtype, name: str, running: bool = False) -> Callable[[Array], Array]:
    """BatchNorm with the statistics of the batch it sees: examples are coupled, and chunks of a batch are another function.
    `frozen` holds the statistics. S. Ioffe and C. Szegedy 2015, arXiv 1502.03167."""
    return nn.BatchNorm(use_running_average=running, momentum=0.0, param_dtype=dtype, name=name)


class _ResNet(nn.Module):
    blocks: tuple[int, ...]  # in each stage
    filters: tuple[int, ...]
    outputs: int
    norm: Callable
    preactivation: bool
    stem: Callable  # (conv, x) ↦ x
    weights: Callable

    @nn.compact
    def __call__(self, x: Array) -> Array:
        dtype = float_of(x)
        x = x.astype(dtype)
        bias = self.norm is no_norm  # a norm has shifts of its own
        count = itertools.count()

        def norm(x: Array) -> Array:
            return self.norm(dtype, f"norm{next(count)}")(x)

        def conv(x: Array, filters: int, kernel: int = 3, stride: int = 1) -> Array:
            return Conv(
                filters,
                (kernel, kernel),
                stride,
                padding="SAME",
                use_bias=bias,
                kernel_init=self.weights,
                param_dtype=dtype,
                name=f"conv{next(count)}",
            )(x)

        def shortcut(x: Array, filters: int, stride: int) -> Array:
            if stride == 1 and x.shape[-1] == filters:
                return x
            projected = conv(x, filters, 1, stride)
            return projected if self.preactivation else norm(projected)

        x = self.stem(conv, x)
        x = x if self.preactivation else nn.relu(norm(x))
        for stage, (blocks, filters) in enumerate(zip(self.blocks, self.filters, strict=True)):
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                if self.preactivation:
                    y = conv(nn.relu(norm(x)), filters, 3, stride)
                    x = shortcut(x, filters, stride) + conv(nn.relu(norm(y)), filters)
                else:
                    y = norm(conv(nn.relu(norm(conv(x, filters, 3, stride))), filters))
                    x = nn.relu(shortcut(x, filters, stride) + y)
        x = nn.relu(norm(x)) if self.preactivation else x
        x = jnp.mean(x, axis=(1, 2))  # [n, filters]
        return Dense(self.outputs, kernel_init=gaussian(1.0), param_dtype=dtype, name="outputs")(x)


def resnet(
    depth: int = 32,
    outputs: int = 10,
    *,
    width: int = 16,
    norm: Callable = no_norm,
    preactivation: bool = True,
    init_scale: float | None = None,
) -> Model:
    """The CIFAR ResNet of depth 6k + 2 (20, 32, …): 3 stages of k blocks of two 3 × 3 convolutions, width · (1, 2, 4) filters.

    Where the size changes, a 1 × 1 convolution of stride 2 is the shortcut. Convolutions have biases where there is no norm.

    Args:
      norm: `models.no_norm`, `models.group_norm`, or `models.batch_norm` (see there: it couples examples).
      preactivation: norm, ReLU, convolution (K. He et al. 2016b, arXiv 1603.05027), as in Jastrzębski et al. 2019; or
        convolution, norm, ReLU (K. He et al. 2016a, arXiv 1512.03385).
      init_scale: s of weights N(0, s / fan_in) in convolutions; default: 2 with a norm, and 2 over the number of blocks
        without, so that the sum over blocks stays O(1).
    Source: K. He et al. 2016, arXiv 1512.03385, §4.2; without norm: S. Jastrzębski et al. 2019, arXiv 1807.05031, App.
    """
    count("resnet", depth=depth, outputs=outputs, width=width)
    k, rest = divmod(depth - 2, 6)
    if rest or k < 1:
        raise ValueError(f"resnet: depth={depth} must be 6k + 2 with k ≥ 1: 8, 14, 20, 32, 44, 56, 110")
    scale = (2.0 if norm is not no_norm else 2.0 / (3 * k)) if init_scale is None else init_scale

    def stem(conv: Callable, x: Array) -> Array:
        return conv(x, width)

    return _model((k,) * 3, (width, 2 * width, 4 * width), outputs, norm, preactivation, stem, scale)


def resnet18(
    outputs: int = 10, *, width: int = 64, norm: Callable = no_norm, large: bool = False, init_scale: float | None = None
) -> Model:
    """ResNet-18: 4 stages of 2 post-activation blocks, width · (1, 2, 4, 8) filters.

    Args:
      norm: as for `resnet`.
      large: start with a 7 × 7 convolution of stride 2 and a 3 × 3 max-pool of stride 2, for 224 × 224 pixels; else with a
        3 × 3 convolution of stride 1, for 32 × 32.
      init_scale: as for `resnet`.
    Source: K. He et al. 2016, arXiv 1512.03385, Table 1.
    """
    count("resnet18", outputs=outputs, width=width)
    scale = (2.0 if norm is not no_norm else 2.0 / 8) if init_scale is None else init_scale

    def stem(conv: Callable, x: Array) -> Array:
        if not large:
            return conv(x, width)
        return nn.max_pool(conv(x, width, 7, 2), (3, 3), (2, 2), padding="SAME")

    return _model((2,) * 4, tuple(width * f for f in (1, 2, 4, 8)), outputs, norm, False, stem, scale)


def _model(blocks, filters, outputs, norm, preactivation, stem, scale) -> Model:
    def with_norm(norm: Callable) -> _ResNet:
        return _ResNet(blocks, filters, outputs, norm, preactivation, stem, gaussian(scale))

    if norm is not batch_norm:
        return model(with_norm(norm))
    in_batch, held = with_norm(batch_norm), with_norm(functools.partial(batch_norm, running=True))

    def init(key, inputs: Array) -> Params:
        return in_batch.init(key, inputs[:1])["params"]

    return Model(init, _BatchNormed(in_batch, held))


class _BatchNormed(BatchCoupled):
    """`apply` in batch mode, which knows how to hold its statistics."""

    def __init__(self, in_batch: nn.Module, held: nn.Module):
        self.in_batch, self.held = in_batch, held
        super().__init__(lambda params, inputs: self._run(params, inputs)[0], WHY)

    def _run(self, params: Params, inputs: Array):
        # what the module would keep as running statistics, with a momentum of 0, are those of this batch
        return self.in_batch.apply({"params": params}, inputs, mutable=["batch_stats"])

    def frozen(self, params: Params, inputs: Array) -> Callable[[Params, Array], Array]:
        statistics = self._run(params, inputs)[1]
        return Partial(functools.partial(_held, self.held), statistics)


def _held(held: nn.Module, statistics, params: Params, inputs: Array) -> Array:
    return cast(Array, held.apply({"params": params, **statistics}, inputs))


def frozen(batched: Model, params: Params, inputs: Batch) -> Model:
    """A model with BatchNorm, its statistics held at those of `inputs` under `params`: its examples are independent, and
    curvatures of it can be chunked. It is the function that "inference mode" evaluates after a pass over `inputs`.

    Raises: TypeError for a model without BatchNorm.
    """
    if not isinstance(batched.apply, _BatchNormed):
        raise TypeError("frozen: this model has no BatchNorm in batch mode, there is nothing to hold")
    return Model(batched.init, batched.apply.frozen(params, inputs))
