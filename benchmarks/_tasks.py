"""The two networks that tracking, eigenpairs and products are measured on: fixed weights, real data.

a: 64-100-100-10, tanh, 1,000 digits, p = 17,610;  b: 3072-200-200-10, tanh, 1,000 images of CIFAR-10, p = 656,810. Each
example is standardised; the loss is ½ Σ_c (f_c − y_c)², averaged over the examples. Where CIFAR-10 is not at hand, b has
noise of its size instead, and says so.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import landscape_jax as lj

WIDTHS = {"a": (64, 100, 100, 10), "b": (3072, 200, 200, 10)}
EXAMPLES = 1000


class Task(NamedTuple):
    """One network on its data."""

    params: list  # [(W [fan in, fan out], b [fan out])]
    batch: tuple  # (x [n, fan in], y [n, 10])
    source: str  # where x comes from


def images(n: int) -> tuple[tuple, str]:
    """(x [n, 32, 32, 3], y [n, 10]) of CIFAR-10, and where they come from."""
    try:
        return lj.data.cifar10(n, 0, scale=lj.data.per_sample)[0], "CIFAR-10"
    except OSError:
        x, y = np.random.default_rng(1).normal(size=(n, 32, 32, 3)), np.eye(10)[np.arange(n) % 10]
        return (x.astype(np.float32), y.astype(np.float32)), "noise in CIFAR-10's place"


def task(name: str, seed: int = 0) -> Task:
    """Task a or b, with weights drawn N(0, 1/fan in) and biases 0."""
    (x, y), source = (lj.data.digits(EXAMPLES, 0)[0], "digits") if name == "a" else images(EXAMPLES)
    random, widths = np.random.default_rng(seed), WIDTHS[name]
    shapes = zip(widths[:-1], widths[1:], strict=True)
    params = [(random.normal(size=(m, n)) / m**0.5, np.zeros(n)) for m, n in shapes]
    x = np.asarray(x, np.float32).reshape(EXAMPLES, -1)
    return Task(*jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), (params, (x, y))), source)


def outputs(params: list, x):
    for w, b in params[:-1]:
        x = jnp.tanh(lj.models.dense(x, w) + b[None])
    w, b = params[-1]
    return lj.models.dense(x, w) + b[None]


loss = lj.losses.mean(outputs, lj.losses.square)
