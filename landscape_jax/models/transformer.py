"""Small transformers with LayerNorm before each part (pre-LN): a decoder for characters, and one for image patches."""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from landscape_jax.arguments import count
from landscape_jax.models.module import Conv, Dense, float_of, model
from landscape_jax.types import Model


class _Block(nn.Module):
    """x + attention(LN x), then x + MLP(LN x)."""

    heads: int
    depth: int  # of the whole network: what adds to the residual stream starts 1/√(2 depth) smaller

    @nn.compact
    def __call__(self, x: Array, mask: Array | None) -> Array:  # [n, t, d], [1, 1, t, t]
        d, dtype = x.shape[-1], x.dtype
        init, last = nn.initializers.normal(0.02), nn.initializers.normal(0.02 / (2 * self.depth) ** 0.5)
        y = nn.LayerNorm(param_dtype=dtype, name="norm0")(x)
        x = x + nn.MultiHeadDotProductAttention(
            num_heads=self.heads, param_dtype=dtype, kernel_init=init, out_kernel_init=last, name="attention"
        )(y, y, mask=mask)
        y = nn.LayerNorm(param_dtype=dtype, name="norm1")(x)
        y = nn.gelu(Dense(4 * d, kernel_init=init, param_dtype=dtype, name="wide")(y))
        return x + Dense(d, kernel_init=last, param_dtype=dtype, name="narrow")(y)


class _Decoder(nn.Module):
    vocabulary: int
    length: int
    width: int
    depth: int
    heads: int

    @nn.compact
    def __call__(self, tokens: Array) -> Array:  # [n, t] ↦ [n, t, vocabulary]
        t = tokens.shape[1]
        if t > self.length:
            raise ValueError(f"transformer: {t} tokens are more than length={self.length} positions")
        normal = nn.initializers.normal(0.02)
        x = nn.Embed(self.vocabulary, self.width, embedding_init=normal, name="tokens")(tokens)
        x = jnp.where((tokens >= 0)[..., None], x, jnp.nan)  # −1 would count from the end; what is too large is NaN already
        x = x + self.param("positions", normal, (self.length, self.width))[None, :t]
        mask = jnp.tril(jnp.ones((1, 1, t, t), bool))  # position i sees 0 … i
        for i in range(self.depth):
            x = _Block(self.heads, self.depth, name=f"block{i}")(x, mask)
        x = nn.LayerNorm(name="norm")(x)
        return Dense(self.vocabulary, use_bias=False, kernel_init=normal, name="outputs")(x)


def transformer(vocabulary: int, *, length: int = 64, width: int = 64, depth: int = 2, heads: int = 4) -> Model:
    """A decoder-only transformer: tokens [n, t ≤ length] ↦ logits of the next one [n, t, vocabulary], causal.

    Pre-LN blocks of multi-head attention and a GELU network four times as wide, learned positions, untied output without
    bias. Weights N(0, 0.02²), those that add to the residual stream smaller by √(2 depth), biases 0.
    `losses.cross_entropy` averages over the positions of an example.

    Args:
      vocabulary: how many tokens there are, `text.vocabulary` of `data.characters`.
      length: most positions.
      width: d, a multiple of heads.
    Returns: parameters p = (2 vocabulary + length) d + depth (12 d² + 13 d) + 2 d, in float32.
    Source: A. Radford et al. 2019, "Language models are unsupervised multitask learners", §2.3; R. Xiong et al. 2020, arXiv
      2002.04745, for pre-LN.
    """
    count("transformer", vocabulary=vocabulary, length=length, width=width, depth=depth, heads=heads)
    _heads("transformer", width, heads)
    return model(_Decoder(vocabulary, length, width, depth, heads))


class _ViT(nn.Module):
    outputs: int
    patch: int
    width: int
    depth: int
    heads: int

    @nn.compact
    def __call__(self, x: Array) -> Array:  # [n, h, w, channels] ↦ [n, outputs]
        dtype = float_of(x)
        x = x.astype(dtype)
        n, h, w, _ = x.shape
        if h % self.patch or w % self.patch:
            raise ValueError(f"vit: {h} × {w} pixels don't divide into patches of {self.patch} × {self.patch}")
        normal, side = nn.initializers.normal(0.02), (self.patch, self.patch)
        x = Conv(
            self.width,
            side,
            side,
            padding="VALID",
            kernel_init=nn.initializers.lecun_normal(),
            param_dtype=dtype,
            name="patches",
        )(x)
        x = x.reshape(n, -1, self.width)  # [n, t, d]
        x = x + self.param("positions", normal, x.shape[1:], dtype)[None]
        for i in range(self.depth):
            x = _Block(self.heads, self.depth, name=f"block{i}")(x, None)
        x = jnp.mean(nn.LayerNorm(param_dtype=dtype, name="norm")(x), axis=1)  # [n, d]
        return Dense(self.outputs, kernel_init=normal, param_dtype=dtype, name="outputs")(x)


def vit(outputs: int = 10, *, patch: int = 4, width: int = 64, depth: int = 4, heads: int = 4) -> Model:
    """A vision transformer: images cut into patches, pre-LN blocks, the mean over patches, a linear layer.

    Args:
      patch: side of a patch in pixels; it must divide both sides of an image.
      width: d, a multiple of heads.
    Returns: for t patches of k numbers, p = (k + 1) d + t d + depth (12 d² + 13 d) + 2 d + (d + 1) outputs.
    Source: A. Dosovitskiy et al. 2021, arXiv 2010.11929, §3.1, with the mean over patches in place of a class token.
    """
    count("vit", outputs=outputs, patch=patch, width=width, depth=depth, heads=heads)
    _heads("vit", width, heads)
    return model(_ViT(outputs, patch, width, depth, heads))


def _heads(name: str, width: int, heads: int) -> None:
    if width % heads:
        raise ValueError(f"{name}: width={width} must be a multiple of heads={heads}")
