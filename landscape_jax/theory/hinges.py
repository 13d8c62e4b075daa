"""Sums of hinges that share one bias, exactly and without going through them all.

S_r(b) = Σ_k relu(b − t_rk) is a piecewise linear function of b alone. `pieces` cuts the line of b into intervals with equally
many of all the thresholds t; for each interval it keeps, row by row, the value and slope at its lower end and the few
thresholds inside, so that on it

    S_r(b) = S_r(e) + S_r'(e) (b − e) + Σ_{e < t_rk ≤ e'} relu(b − t_rk).

As the rows share b, one scalar look-up finds the interval for all of them. It is the same function, with the same derivative
wherever it has one, so that autodiff through it is autodiff through the sum.

Cost of a look-up: rows · (2 + m) numbers in place of rows · d, m ≈ 3 to 4 times `per_piece`. Memory: d/per_piece times that.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

Arrays = Array | np.ndarray


class Pieces(NamedTuple):
    """S_r(b) of r rows over g intervals, at most m thresholds of a row in one of them. Hand it to a compiled function as an
    argument: closed over, it would be a constant of several MB."""

    edges: Arrays  # [g − 1], ascending: where the next interval begins
    corner: Arrays  # [g]: lower end e of each interval; 0 for the first, which has none
    value: Arrays  # [g, r]: S_r(e)
    slope: Arrays  # [g, r]: S_r'(e), how many hinges are open
    inside: Arrays  # [g, m, r]: thresholds within, filled up with inf


def pieces(thresholds: np.ndarray, per_piece: float = 1.5) -> Pieces:
    """The pieces of S_r(b) = Σ_k relu(b − t_rk), on the host, in float64; NumPy arrays in JAX's default float dtype.

    Args:
      thresholds: t, [r, d], finite.
      per_piece: how many thresholds of a row an interval holds on average.

    >>> lj.theory.hinges.pieces(np.array([[-1.0, 0.0, 1.0]])).edges.shape[0]  # rows
    1
    """
    t = np.sort(np.asarray(thresholds, np.float64))  # [r, d]
    if t.ndim != 2 or t.size == 0 or not np.isfinite(t).all():
        raise ValueError(f"pieces: thresholds {t.shape} must be finite numbers, one row a sum: [rows, hinges]")
    if not per_piece > 0:
        raise ValueError(f"pieces: per_piece={per_piece} must be positive")
    rows, d = t.shape
    count = max(1, round(d / per_piece))
    edges = np.quantile(t, np.arange(1, count) / count)
    open_ = np.stack([np.searchsorted(row, edges, side="right") for row in t], axis=1)  # [g − 1, r]
    below = np.concatenate([np.zeros((1, rows), int), open_])  # [g, r]: open at the lower end …
    within = np.concatenate([open_, np.full((1, rows), d)]) - below  # … and how many open up inside
    totals = np.concatenate([np.zeros((rows, 1)), np.cumsum(t, axis=1)], axis=1)  # [r, d + 1]
    corner = np.concatenate([[0.0], edges])
    value = below * corner[:, None] - np.take_along_axis(totals, below.T, axis=1).T
    place = np.arange(within.max())[:, None]  # [m, 1]
    at = below[:, None] + place  # [g, m, r]
    inside = np.where(place < within[:, None], t[np.arange(rows), np.minimum(at, d - 1)], np.inf)
    dtype = jax.dtypes.canonicalize_dtype(float)
    return Pieces(*(np.asarray(x, dtype) for x in (edges, corner, value, below, inside)))


def stacked(several: Sequence[Pieces]) -> Pieces:
    """Pieces of equally many rows on one leading axis, filled up to the most intervals and thresholds among them.

    >>> several = [lj.theory.hinges.pieces(np.array([[0.0, 1.0]])), lj.theory.hinges.pieces(np.array([[0.0, 2.0]]))]
    >>> lj.theory.hinges.stacked(several).edges.shape[0]
    2
    """
    if len({p.value.shape[1] for p in several}) != 1:
        raise ValueError(f"stacked: rows differ, {[p.value.shape[1] for p in several]}: each needs as many as the others")
    count, most = (max(p.inside.shape[axis] for p in several) for axis in (0, 1))

    def filled(p: Pieces) -> Pieces:
        more = (0, count - p.inside.shape[0])
        return Pieces(
            np.pad(p.edges, more, constant_values=np.inf),
            np.pad(p.corner, more),  # no b gets there
            np.pad(p.value, (more, (0, 0))),
            np.pad(p.slope, (more, (0, 0))),
            np.pad(p.inside, (more, (0, most - p.inside.shape[1]), (0, 0)), constant_values=np.inf),
        )

    return jax.tree.map(lambda *x: np.stack(x), *map(filled, several))


def hinge_sums(table: Pieces, b: Array) -> Array:
    """S_r(b), [r], for one b [].

    >>> table = lj.theory.hinges.pieces(np.array([[-1.0, 0.0, 1.0]]))
    >>> lj.theory.hinges.hinge_sums(table, jnp.array(0.5))  # relu(1.5) + relu(0.5)
    Array([2.], dtype=float32)
    """
    here = jnp.sum(table.edges < jax.lax.stop_gradient(b))  # []: the interval of b
    corner, value, slope, inside = (jax.lax.dynamic_index_in_dim(jnp.asarray(x), here, keepdims=False) for x in table[1:])
    return value + slope * (b - corner) + jax.nn.relu(b - inside).sum(axis=0)
