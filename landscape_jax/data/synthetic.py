"""Data drawn from exact models, as pure functions of a key: one key, one (inputs, targets) pair; jit and vmap them.

For test data pass another key. Floats have JAX's default float dtype.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from landscape_jax import tree
from landscape_jax.arguments import count
from landscape_jax.types import Key, Params


def simplex_means(num_classes: int, dim: int, separation: float) -> Array:
    """c means in d ≥ c dimensions, every two at distance `separation`, their average at 0; [c, d].

    >>> means = lj.data.simplex_means(3, dim=5, separation=2.0)
    >>> means.shape, round(float(jnp.linalg.norm(means[0] - means[1])), 4)
    ((3, 5), 2.0)
    """
    count("simplex_means", num_classes=num_classes, dim=dim)
    if num_classes > dim:
        raise ValueError(f"simplex_means: {num_classes} means at equal distances need dim={dim} to be at least as many")
    corners = jnp.eye(num_classes, dim)
    return separation / 2**0.5 * (corners - corners.mean(axis=0, keepdims=True))


def gaussian_mixture(key: Key, n: int, means: Array, sd: float = 1.0) -> tuple[Array, Array]:
    """x = μ_c + sd · ε with class c uniform and ε ~ N(0, I).

    For two classes at distance s the best error any classifier can have is Φ(−s / (2 sd)).

    Args:
      means: μ, [c, d], e.g. `simplex_means(num_classes, dim, separation)`.
    Returns: (inputs [n, d], one-hot targets [n, c]).

    >>> x, y = lj.data.gaussian_mixture(key, 6, means=4 * jnp.eye(2), sd=0.5)
    >>> x.shape, y.shape
    ((6, 2), (6, 2))
    """
    count("gaussian_mixture", n=n)
    if means.ndim != 2 or 0 in means.shape:
        raise ValueError(f"gaussian_mixture: means {means.shape} must be one row a class, [classes, dim], at least one of each")
    of_class, of_noise = jax.random.split(key)
    classes = jax.random.randint(of_class, (n,), 0, means.shape[0])
    x = means[classes] + sd * jax.random.normal(of_noise, (n, means.shape[1]), means.dtype)
    return x, jax.nn.one_hot(classes, means.shape[0], dtype=means.dtype)


def teacher(
    key: Key, x: Array, apply: Callable[[Params, Array], Array], params: Params, noise: float = 0.0
) -> tuple[Array, Array]:
    """y = f(θ*, x) + noise · ε, ε ~ N(0, I): with noise 0 the loss of a student of the same form is 0 at θ*.

    Args:
      x: inputs [n, ...], e.g. `jax.random.normal(key, (n, d))` or `magnitudes(key, n, d)`.
      apply, params: f and θ*, e.g. of one of `models`.
    Returns: (x, targets shaped like f's outputs).

    >>> x, y = lj.data.teacher(key, batch[0], apply, params, noise=0.1)
    >>> y.shape
    (8, 3)
    """
    tree.num_examples(x, "teacher: x")
    y = apply(params, x)
    return x, y + noise * jax.random.normal(key, y.shape, y.dtype)


def magnitudes(key: Key, n: int, dim: int, scales: Sequence[float] = (1.0, 10.0, 100.0)) -> Array:
    """Inputs of several magnitudes: for each scale s, n points s · u with u uniform on the unit sphere.

    Regression targets come from `teacher`. A saturating unit sees a datum of size s at distance 1/s around its weights,
    with curvature s²: separate magnitudes of data give the loss separate scales.

    Returns: inputs [len(scales) · n, dim], the scales one after the other.

    Source: Ma et al. 2022, arXiv 2204.11326: data of different magnitudes; the sphere is our choice.

    >>> lj.data.magnitudes(key, 6, dim=2, scales=(1.0, 100.0)).shape  # six of each
    (12, 2)
    """
    count("magnitudes", n=n, dim=dim)
    if len(scales) == 0:
        raise ValueError("magnitudes: scales is empty: give at least one size of inputs")
    directions = jax.random.normal(key, (len(scales) * n, dim))
    directions = directions / jnp.linalg.norm(directions, axis=1, keepdims=True)
    return jnp.repeat(jnp.asarray(scales, directions.dtype), n)[:, None] * directions


def chebyshev(degree: int, n: int = 20) -> tuple[Array, Array]:
    """y = T_k(x), the Chebyshev polynomial of degree k, at n evenly spaced points of [−1, 1]; no randomness.

    Returns: (inputs [n, 1], targets [n, 1]).

    Source: Cohen et al. 2021, arXiv 2103.00065 (n = 20, degrees 3, 4 and 5).

    >>> x, y = lj.data.chebyshev(3, n=20)
    >>> x.shape, y.shape
    ((20, 1), (20, 1))
    """
    count("chebyshev", 0, degree=degree)
    count("chebyshev", 2, n=n)
    x = np.linspace(-1, 1, n)[:, None]
    y = np.polynomial.Chebyshev.basis(degree)(x)
    dtype = jax.dtypes.canonicalize_dtype(float)
    return jnp.asarray(x, dtype), jnp.asarray(y, dtype)


def sparse_coding(key: Key, n: int, dim: int, signal: float, noise: float = 1.0) -> tuple[Array, Array]:
    """x = λ y e_j + noise · ε: label y = ±1, place j uniform over the d coordinates, ε ~ N(0, I).

    Args:
      signal: λ, the size of the signal; 3 in the paper's figure with d = 200, n = 300.
    Returns: (inputs [n, d], targets [n, 1] in {−1, +1}, as `losses.logistic` wants them).

    Source: Ahn et al. 2023, arXiv 2212.07469.

    >>> x, y = lj.data.sparse_coding(key, 5, dim=10, signal=2.0)
    >>> x.shape, y.shape
    ((5, 10), (5, 1))
    """
    count("sparse_coding", n=n, dim=dim)
    of_label, of_place, of_noise = jax.random.split(key, 3)
    epsilon = jax.random.normal(of_noise, (n, dim))
    y = jax.random.rademacher(of_label, (n, 1), epsilon.dtype)
    place = jax.nn.one_hot(jax.random.randint(of_place, (n,), 0, dim), dim, dtype=epsilon.dtype)
    return signal * y * place + noise * epsilon, y


def whitened(key: Key, n: int, matrix: Array) -> tuple[Array, Array]:
    """Inputs whose second moment is the identity, XᵀX / n = I to rounding, and targets y = M x.

    For a linear network with product W the loss ½ ‖W − M‖_F² is then exactly that of matrix factorisation: no data left.

    Args:
      n: at least d.
      matrix: M, [c, d].
    Returns: (inputs [n, d], targets [n, c]).

    Source: Cohen et al. 2021, arXiv 2103.00065 (deep linear networks): X = √n Q with Q from the QR of a Gaussian matrix.

    >>> x, y = lj.data.whitened(key, 6, jnp.ones((3, 2)))
    >>> x.shape, y.shape
    ((6, 2), (6, 3))
    """
    count("whitened", n=n)
    if matrix.ndim != 2 or n < matrix.shape[1] or 0 in matrix.shape:
        raise ValueError(f"whitened: n={n} examples must be at least the d columns of a matrix [c, d], not {matrix.shape}")
    q, _ = jnp.linalg.qr(jax.random.normal(key, (n, matrix.shape[1]), matrix.dtype))
    x = n**0.5 * q
    return x, jnp.matmul(x, matrix.T, precision=jax.lax.Precision.HIGHEST)
