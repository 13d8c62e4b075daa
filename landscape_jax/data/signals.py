"""Ten classes of short one-dimensional signals, drawn by formula: a small data set that a linear rule does not solve."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from landscape_jax.arguments import count
from landscape_jax.types import Key

# heights of five bumps, evenly spaced: no two classes are shifts or positive multiples of one another
TEMPLATES = np.array(
    [
        [0, 0, 1, 0, 0],
        [0, 0, -1, 0, 0],
        [0, 1, -1, 0, 0],
        [0, -1, 1, 0, 0],
        [1, 0, 0, 0, 1],
        [-1, 0, 0, 0, -1],
        [1, 0, 0, 0, -1],
        [-1, 0, 0, 0, 1],
        [0, 1, -1, 1, 0],
        [0, -1, 1, -1, 0],
    ]
)
NUM_CLASSES = len(TEMPLATES)


def signals(
    key: Key, n: int, length: int = 40, *, shift: float = 0.25, stretch: float = 0.2, tilt: float = 0.5, noise: float = 0.25
) -> tuple[Array, Array]:
    """n signals of ten classes, in the spirit of mnist1d:

    x(t) = a T_c((t − ½ − s) / r) + b (t − ½) + ε,   T_c(u) = Σ_j h_cj exp(−½ ((u − u_j) / w)²),

    at `length` points t evenly over [0, 1]; c uniform over the classes, a in [0.6, 1.4], s in ±`shift`, r in
    1 ± `stretch`, b in ±`tilt`, all uniform, and ε independent N(0, `noise`²). Bumps sit at u = −0.2, −0.1, 0, 0.1, 0.2
    and have width w = 0.04; their heights h are `TEMPLATES`. Only shapes tell the classes apart, not places or sizes.

    Returns: (signals [n, length], one-hot targets [n, 10]) in JAX's default float dtype.

    Source: the idea of a procedural 1-D data set is S. Greydanus and D. Kobak 2020, arXiv 2011.14439; the templates, the
    transformations and their ranges are our own.

    >>> x, y = lj.data.signals(key, 5, length=40)
    >>> x.shape, y.shape
    ((5, 40), (5, 10))
    """
    count("signals", n=n)
    count("signals", 2, length=length)
    if not 0 <= stretch < 1:
        raise ValueError(f"signals: stretch={stretch} must lie in [0, 1), for the width stays positive")
    dtype = jax.dtypes.canonicalize_dtype(float)
    of_class, of_amplitude, of_shift, of_stretch, of_tilt, of_noise = jax.random.split(key, 6)
    classes = jax.random.randint(of_class, (n,), 0, NUM_CLASSES)
    heights = jnp.asarray(TEMPLATES, dtype)[classes]  # [n, 5]

    def uniform(key: Key, low: float, high: float) -> Array:
        return jax.random.uniform(key, (n, 1), dtype, low, high)

    t = jnp.linspace(-0.5, 0.5, length, dtype=dtype)[None]  # [1, length]
    u = (t - uniform(of_shift, -shift, shift)) / uniform(of_stretch, 1 - stretch, 1 + stretch)  # [n, length]
    places = jnp.linspace(-0.2, 0.2, TEMPLATES.shape[1], dtype=dtype)[None, None]
    bumps = jnp.exp(-0.5 * ((u[:, :, None] - places) / 0.04) ** 2)  # [n, length, 5]
    x = uniform(of_amplitude, 0.6, 1.4) * jnp.sum(bumps * heights[:, None], axis=-1)
    x = x + uniform(of_tilt, -tilt, tilt) * t + noise * jax.random.normal(of_noise, x.shape, dtype)
    return x, jax.nn.one_hot(classes, NUM_CLASSES, dtype=dtype)
