"""Paths between solutions: curves through parameter space whose bends are trained to keep the loss low.

A path is θ(t) = Σᵢ wᵢ(t) cᵢ for t in [0, 1], with control points c₀ = start, c₁ … c_m the bends, c_{m+1} = end, and weights
from a basis: `bezier` or `polygon`. The mean loss on it is a loss of the bends, so that any dynamics trains it:

    path = path_loss(loss, start, end)
    descent = dynamics.gradient(path, optax.adam(1e-2), spread(full_batch(train)))
    final, record = run(key, straight(start, end), descent, watch, num_steps=500)
    barrier(along(loss, start, final.params, end, ts, train), ts)

Source: T. Garipov et al. 2018, arXiv 1802.10026; F. Draxler et al. 2018, arXiv 1803.00885.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import gammaln
from jax.tree_util import Partial

from landscape_jax import tree
from landscape_jax.types import Batch, BatchCoupled, Batches, Key, Loss, Params

Basis = Callable[[Array, int], Array]  # (t [], m + 1) ↦ the weights of m + 2 control points


def bezier(t: Array, degree: int) -> Array:
    """Bernstein polynomials C(d, i) tⁱ (1 − t)^{d−i}, [d + 1]: a smooth curve that its bends pull at but are not on.

    >>> lj.landscape.connectivity.bezier(jnp.array(0.5), 2)
    Array([0.25, 0.5 , 0.25], dtype=float32)
    """
    i = jnp.arange(degree + 1, dtype=t.dtype)
    binomial = jnp.exp(gammaln(degree + 1.0) - gammaln(i + 1) - gammaln(degree + 1 - i)).astype(t.dtype)
    return jnp.round(binomial) * t**i * (1 - t) ** (degree - i)


def polygon(t: Array, degree: int) -> Array:
    """Hat functions max(0, 1 − |d t − i|), [d + 1]: straight pieces from bend to bend.

    >>> lj.landscape.connectivity.polygon(jnp.array(0.25), 2)
    Array([0.5, 0.5, 0. ], dtype=float32)
    """
    return jnp.maximum(0, 1 - jnp.abs(degree * t - jnp.arange(degree + 1, dtype=t.dtype)))


def point(start: Params, bends: Params, end: Params, t: Array, basis: Basis = bezier) -> Params:
    """θ(t); `bends` is a stack, leaves [m, ...].

    >>> start, bends, end = jnp.zeros(2), jnp.array([[1.0, 0.0]]), jnp.ones(2)
    >>> lj.landscape.connectivity.point(start, bends, end, jnp.array(0.5))
    Array([0.75, 0.25], dtype=float32)
    """
    controls = jax.tree.map(lambda a, c, b: jnp.concatenate([a[None], c, b[None]]), start, bends, end)
    return tree.combine(basis(t, tree.num_examples(controls) - 1), controls)


def straight(start: Params, end: Params, num_bends: int = 1) -> Params:
    """Bends evenly spaced on the straight line, leaves [m, ...]: where training of a path begins.

    >>> lj.landscape.connectivity.straight(jnp.zeros(2), jnp.ones(2), num_bends=3)[:, 0]
    Array([0.25, 0.5 , 0.75], dtype=float32)
    """
    if num_bends < 1:
        raise ValueError(f"straight: num_bends={num_bends} must be at least 1")
    ts = np.linspace(0, 1, num_bends + 2)[1:-1]
    return jax.tree.map(lambda a, b: jnp.stack([(1 - t) * a + t * b for t in ts]).astype(a.dtype), start, end)


def path_loss(loss: Loss, start: Params, end: Params, basis: Basis = bezier) -> Loss:
    """(bends, (ts [s], batch)) ↦ (1/s) Σ_s L(θ(t_s), batch). `spread` makes such batches of plain ones.

    With ts uniform this is the mean over the parameter t, not over arc length.

    >>> start, end = params, lj.tree.scale(2.0, params)
    >>> on_path = lj.landscape.connectivity.path_loss(loss, start, end)
    >>> on_path(lj.landscape.connectivity.straight(start, end), (jnp.array([0.1, 0.9]), batch)).shape
    ()
    """

    def on_path(bends: Params, batch: Batch) -> Array:
        ts, examples = batch
        return jnp.mean(jax.vmap(lambda t: loss(point(start, bends, end, t, basis), examples))(ts))

    return BatchCoupled.like(loss, on_path)


def spread(batches: Batches, num: int = 4) -> Batches:
    """Batches for `path_loss`: `num` places t, one uniform in each `num`-th of [0, 1], and a batch for them.

    >>> batches = lj.landscape.connectivity.spread(lj.data.full_batch(batch), num=2)
    >>> ts, examples = batches(key, 0)
    >>> ts.shape
    (2,)
    """
    if num < 1:
        raise ValueError(f"spread: num={num} must be at least 1")

    def drawn(batches: Batches, key: Key, step: Array) -> Batch:
        examples = batches(key, step)
        real = jax.dtypes.canonicalize_dtype(float)
        shift = jax.random.uniform(jax.random.fold_in(jax.random.fold_in(key, step), num), (num,), real)
        return (jnp.arange(num, dtype=real) + shift) / num, examples

    return Partial(drawn, batches)


def along(loss: Loss, start: Params, bends: Params, end: Params, ts: Array, batch: Batch, basis: Basis = bezier) -> Array:
    """L(θ(t)) for each t, [n]. Pure: jit it.

    >>> start, end = params, lj.tree.scale(2.0, params)
    >>> bends = lj.landscape.connectivity.straight(start, end)
    >>> lj.landscape.connectivity.along(loss, start, bends, end, jnp.linspace(0, 1, 5), batch).shape
    (5,)
    """
    return jax.lax.map(lambda t: loss(point(start, bends, end, t, basis), batch), ts)


def barrier(values: Array, ts: Array) -> Array:
    """max_t L(θ(t)) − ((1 − t) L(θ₀) + t L(θ₁)), shape []: how far the loss rises above the line between its ends.

    Args:
      values: losses [n] at ts [n] from 0 to 1, ends included, on a path or, from `interpolation`, on the straight line.
    Source: J. Frankle et al. 2020, arXiv 1912.05671, and R. Entezari et al. 2022, arXiv 2110.06296.

    >>> float(lj.landscape.connectivity.barrier(jnp.array([1.0, 3.0, 2.0]), jnp.array([0.0, 0.5, 1.0])))
    1.5
    """
    return jnp.max(values - ((1 - ts) * values[0] + ts * values[-1]))
