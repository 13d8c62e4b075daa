"""What a tracker remembers, and how its vectors are kept so that an ordinary look writes one of them."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from landscape_jax import tree
from landscape_jax.backend import layout
from landscape_jax.spectrum.lanczos import append_row
from landscape_jax.spectrum.tracking.policy import Policy
from landscape_jax.types import Params

_matmul = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


class Side(NamedTuple):
    """What was known of b Ritz vectors V when a look ended,

        diag(values) − below  ⪯  V A Vᵀ  ⪯  diag(values) + above ,

    and of everything orthogonal to V: no eigenvalue there is above `ceiling`. In the operator's own units.
    """

    values: Array  # [b], descending
    below: Array  # [b, b] ⪰ 0
    above: Array  # [b, b] ⪰ 0
    rises: Array  # [b]: by how much each value rises from look to look
    ages: Array  # [b]: looks of this side since each vector was multiplied, mixed as the vectors are
    ceiling: Array  # []


class Memory(NamedTuple):
    """What is known from the last looks at even and at odd steps: at the edge of stability θ hops from one side of a valley to
    the other, and the operator with it."""

    vectors: Params  # Z, leaves [2 b, ...]: v₁, and as they were when all were last written, q₂ … q_b, orthonormal
    frame: Array  # [2, b, b]: V in the orthonormal frame of (v₁ − Σ ⟨v₁, qⱼ⟩ qⱼ) / ‖·‖ and q₂ … q_b
    sides: Side  # leaves [2, ...]
    drift: Array  # []: how far A may move from look to look
    reach: Array  # []: the largest size seen; it loses 1 % a look, and a cold look sets it anew
    mean: Array  # []: ⟨x, A x⟩ of a random direction, about tr A / p, measured at the first look
    looks: Array  # [] int32: how many
    last: Array  # [2] int32: which of them was the last on each side
    step: Array  # [] int32: of the last look


def new_memory(params: Params, b: int, policy: Policy) -> Memory:
    """Before the first look: b fixed directions, of which nothing is known."""
    start = tree.zero_stack(layout.pack(params), b)
    direction = lambda i: layout.pack(tree.scattered_like(i, params))  # noqa: E731
    start = jax.lax.fori_loop(0, b, lambda i, q: append_row(q, i, direction(i), i)[0], start)
    dtype = tree.dtype(params)
    vectors, frame = jax.tree.map(lambda x: jnp.concatenate([x, x]), start), jnp.eye(b, dtype=dtype)
    rows, squares, zero = jnp.zeros((2, b), dtype), jnp.zeros((2, b, b), dtype), jnp.zeros((), dtype)
    sides = Side(rows, squares, squares, rows, rows, rows[:, 0])
    none, never = jnp.int32(0), jnp.full(2, -policy.recent - 1, jnp.int32)
    return Memory(vectors, jnp.stack([frame, frame]), sides, zero, zero, zero, none, never, none)


def select_side(memory: Memory, side: Array, policy: Policy) -> Array:
    """The side whose memory a look on `side` starts from: its own, if that is recent and its bounds are not much wider than the
    other's. To the own mean width is added the drift, to the other's the drift or 2.2 times the distance of the first values,
    whichever is larger."""
    first, other = memory.sides.values[:, 0], 1 - side
    recent = memory.looks - memory.last <= policy.recent  # [2]
    widths = jnp.trace(memory.sides.above, axis1=1, axis2=2) / memory.frame.shape[1]  # [2], means over the vectors
    distance = policy.gain * jnp.abs(first[0] - first[1])
    other_is_better = policy.better * (widths[other] + jnp.maximum(memory.drift, distance)) < widths[side] + memory.drift
    return jnp.where(recent[side] & ~(other_is_better & recent[other]), side, other)


def ritz_coefficients(frame: Array) -> Array:
    """F [b, b] with V = F Z: the Ritz vectors in the stored vectors."""
    x, along = frame[:, :1] / frame[0, 0], frame[0, 1:]
    return jnp.concatenate([x, frame[:, 1:] - x * along[None]], axis=1)


def update_frame(frame: Array, rotation: Array) -> tuple[Array, Array]:
    """The frame after v₁ in Z is replaced by y₁, and q₂ … q_b are unchanged.

    Args:
      rotation: the new Ritz vectors y, [b, b + 1], in V and one remainder.
    Returns: the frame, and the largest share ‖·‖² of a y outside of the span of the new Z; NaN where y₁ is among q₂ … q_b.
    """
    along = _matmul(rotation[:, : len(frame)], frame[:, 1:])  # [b, b − 1]: ⟨yᵢ, qⱼ⟩
    y1 = along[0]
    across = (jnp.eye(1, len(frame), dtype=frame.dtype)[0] - _matmul(along, y1)) / jnp.sqrt(1 - jnp.sum(y1**2))
    frame = jnp.concatenate([across[:, None], along], axis=1)
    gram = _matmul(frame, frame.T)
    return 1.5 * frame - 0.5 * _matmul(gram, frame), jnp.max(jnp.abs(1 - jnp.diagonal(gram)))
