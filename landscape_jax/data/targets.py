"""Classes as targets: one-hot rows or integers, right or partly wrong."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from landscape_jax.labels import check_range
from landscape_jax.types import Key


def of_classes(labels: np.ndarray, num_classes: int, one_hot: bool) -> Array:
    """Targets for integer `labels` [n]: one-hot rows [n, c] of JAX's default float dtype, or the labels as int32 [n]."""
    check_range("of_classes", labels, num_classes)
    if not one_hot:
        return jnp.asarray(np.asarray(labels, np.int32))
    rows = labels[:, None] == np.arange(num_classes)[None]
    return jnp.asarray(rows.astype(jax.dtypes.canonicalize_dtype(float)))


def with_label_noise(key: Key, y: Array, fraction: float, num_classes: int | None = None) -> Array:
    """Targets of which exactly round(`fraction` · n) are wrong: examples drawn without repetition, each moved to one of
    the other c − 1 classes, uniformly.

    To draw anew from all c classes with probability q, which leaves some labels right, pass fraction = q (1 − 1/c); then
    the number is the expected one, and fixed.

    Args:
      y: one-hot rows [n, c], or integer classes [n]. For tokens [n, t] pass y.ravel(), for signs ±1 the classes
        (y > 0).astype(int).ravel().
      fraction: in [0, 1].
      num_classes: c, for integer classes; the default is the largest class of `y` and one more. One-hot rows know theirs.
    Returns: targets like `y`; those not drawn are untouched.
    Errors: `ValueError` for a concrete label outside of 0 … c − 1; a traced one stays as it is.

    >>> lj.data.with_label_noise(key, jnp.arange(6) % 3, 0.5).shape
    (6,)
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"with_label_noise: fraction={fraction} must lie in [0, 1]")
    y = jnp.asarray(y)
    integer = jnp.issubdtype(y.dtype, jnp.integer)
    if y.ndim != (1 if integer else 2) or y.shape[1:] == (1,):
        raise ValueError(
            f"with_label_noise: {y.dtype} targets {y.shape} are neither integers [n] nor one-hot rows [n, c]: flatten tokens "
            "with y.ravel(); for one logit pass (y > 0).astype(int).ravel()"
        )
    if integer and num_classes is None and isinstance(y, Tracer):
        raise ValueError("with_label_noise: traced classes have no largest one; pass num_classes")
    n = y.shape[0]
    if n == 0:
        raise ValueError("with_label_noise: there are no targets: y has length 0; pass at least one")
    c = y.shape[1] if not integer else int(y.max()) + 1 if num_classes is None else num_classes
    if num_classes not in (None, c):
        raise ValueError(f"with_label_noise: num_classes={num_classes}, but the one-hot rows have {c} classes")
    if c < 2:
        raise ValueError(f"with_label_noise: with {c} class no label can be wrong; pass num_classes, 2 at least")
    if integer and c - 1 > jnp.iinfo(y.dtype).max:
        raise ValueError(f"with_label_noise: {y.dtype} targets cannot hold num_classes={c} classes: cast them to int32")
    if integer:
        check_range("with_label_noise", y, c)
    which, where_to = jax.random.split(key)
    wrong = jax.random.permutation(which, n)[: round(fraction * n)]  # [m]
    shift = jax.random.randint(where_to, wrong.shape, 1, c)  # [m] in 1..c−1: never the class itself
    if integer:
        before = y[wrong].astype(jnp.int32)  # in 8 bits the sum would overflow
        after = jnp.where((before >= 0) & (before < c), (before + shift) % c, before)
        return y.at[wrong].set(after.astype(y.dtype))
    source = (jnp.arange(c)[None] - shift[:, None]) % c  # [m, c]: the row turned by `shift`
    return y.at[wrong].set(jnp.take_along_axis(y[wrong], source, axis=1))
