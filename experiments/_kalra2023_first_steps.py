"""What the first steps of a training at η = c/λ₀ do, from one initialisation: four constants that part the line of c.

    c_loss      the loss rises above its start within the first steps
    c_sharp     the sharpness does
    c_barrier   the straight line from the first to the last of these steps passes above the initial loss
    c_max       the largest c that does not diverge

Each but the last is the least c at which its event is seen, on a geometric grid and then by bisection of the grid's
interval in log c. A training with sharpness at every step costs up to ten without, and the loss along its line as much as the
training does: what no boundary needs is not measured.

Source: D. Kalra and M. Barkeshli 2023, arXiv 2302.12250.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

import landscape_jax as lj
from landscape_jax.types import Batch, Dynamics, Key, Loss, Model, Moment, Observable, Params

BOUNDARIES = ("loss", "sharp", "barrier", "max")


class Task(NamedTuple):
    """What is trained, and what is measured on the way."""

    model: Model
    loss: Loss
    train: Batch
    batch_size: int | None = None  # None: gradient descent on all of `train`
    num_measured: int | None = None  # how many examples the Hessian is taken over; None: all

    def descent(self, rate: Array) -> Dynamics:
        size = self.batch_size
        batches = lj.data.full_batch(self.train) if size is None else lj.data.epochs(self.train, size)
        return lj.dynamics.gradient(self.loss, optax.sgd(rate), batches)

    @property
    def measured(self) -> Batch:
        return jax.tree.map(lambda x: x[: self.num_measured], self.train)

    def total(self) -> Observable:
        """The loss on all of `train`."""
        full = self.batch_size is None
        return lj.observe.loss if full else lj.observe.stateless(lambda m: self.loss(m.params, self.train))


class Start(NamedTuple):
    """An initialisation whose sharpness is known."""

    key: Key  # of the order of its batches
    params: Params  # θ₀
    sharpness: Array  # [] λ₀
    vector: Params  # the leading eigenvector at θ₀


def started(task: Task, key: Key) -> Start:
    """A fresh initialisation, and its λ₀ by 24 Lanczos steps."""
    init_key, run_key = jax.random.split(key)
    params = task.model.init(init_key, task.train[0])
    hessian = lj.curvature.hessian(task.loss)(params, task.measured)
    eigs = lj.spectrum.eigsh(hessian, lj.tree.scattered_like(0, params), num_steps=24)
    return Start(run_key, params, eigs.values[0], lj.tree.row(eigs.vectors, 0))


def tracked(task: Task, start: Start, wanted: Array) -> Observable:
    """Sharpness from step to step, each by Lanczos from the eigenvector of the one before, the first from that of `start`.

    NaN where not `wanted` ([], bool); nothing is measured there, nor at the start, nor of a run that has diverged.
    """
    curvature = lj.curvature.hessian(task.loss)

    def measure(key: Key, vector: Params, moment: Moment) -> tuple[Params, Array]:
        def anew():
            matvec = curvature(moment.params, task.measured)
            eigs = lj.spectrum.eigsh(matvec, vector, tol=1e-2, depth=8, confirm=0, max_restarts=3)
            return lj.tree.row(eigs.vectors, 0), eigs.values[0]

        known = jnp.where(wanted, start.sharpness, jnp.nan)
        needed = wanted & (moment.step > 0) & moment.alive
        return jax.lax.cond(needed, anew, lambda: (vector, known))

    return Observable(lambda key, params: start.vector, measure)


def first_steps(
    task: Task, start: Start, c: Array, sharpness: Array, line: Array, *, num_steps: int, ceiling: float, num_between: int
) -> dict[str, Array]:
    """A training of `num_steps` steps at η = c/λ₀; pure, to be mapped over starts and over c.

    Args:
      c: [].
      sharpness: [], bool: whether to measure it. Without, a training costs a tenth, at small widths a half.
      line: [], bool: whether to walk the line from the first to the last θ.
      ceiling: the loss above which it counts as diverged.
      num_between: on how many places of the line from θ₀ to the last θ, both ends included, the loss is taken.
    Returns: "loss" and "sharpness" at steps 0 … num_steps [num_steps + 1], NaN once diverged; "diverged" [], bool; "barrier"
      []: the highest loss on the line up to the first place above the initial loss; that itself if there is none, or none was
      looked for.
    """
    dynamics = task.descent(c / start.sharpness)
    last = Observable(lambda key, params: params, lambda key, params, moment: (moment.params, ()))
    watch = {"loss": task.total(), "last": last, "sharpness": tracked(task, start, sharpness)}
    run = lj.start(jax.random.clone(start.key), start.params, dynamics, watch)
    run, record = lj.advance(run, dynamics, watch, num_steps=num_steps + 1, ceiling=ceiling)

    diverged, initial = run.status == lj.Status.DIVERGED, record["loss"][0]
    change = lj.tree.sub(run.memory["last"], start.params)
    way = jnp.linspace(0, 1, num_between)

    def further(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        i, highest = carry
        return i + 1, jnp.maximum(highest, task.loss(lj.tree.axpy(way[i], change, start.params), task.train))

    def below(carry: tuple[Array, Array]) -> Array:  # to the first crossing: on a small network the line costs as much as
        return (carry[0] < num_between) & (carry[1] <= initial)  # the steps do

    begun = jnp.where(diverged | ~line, num_between, 1), initial  # the start is no higher than itself, whatever the rounding
    _, highest = jax.lax.while_loop(below, further, begun)
    return {"loss": record["loss"], "sharpness": record["sharpness"], "diverged": diverged, "barrier": highest}


def events(first: Mapping[str, np.ndarray]) -> np.ndarray:
    """Which of the four were seen, [..., 4] in the order of `BOUNDARIES`. What diverged has raised its loss and the rest too.

    Args:
      first: of `first_steps`, with any leading axes.
    """
    loss, sharp, diverged = (np.asarray(first[name]) for name in ("loss", "sharpness", "diverged"))
    rises = np.any(loss[..., 1:] > loss[..., :1], axis=-1)  # False for NaN
    sharpens = np.any(sharp[..., 1:] > sharp[..., :1], axis=-1)
    crosses = np.asarray(first["barrier"]) > loss[..., 0]
    return np.stack([rises | diverged, sharpens | diverged, crosses | diverged, diverged], axis=-1)


def brackets(seen: np.ndarray, cs: np.ndarray) -> np.ndarray:
    """[..., 4, 2] from events [..., c, 4]: the last c before an event was first seen, and that c. Both are the first c if it
    was seen there, and NaN if it never was."""
    first = seen.argmax(axis=-2)  # [..., 4]
    both = np.stack([cs[np.maximum(first - 1, 0)], cs[first]], axis=-1)
    return np.where(np.expand_dims(seen.any(axis=-2), -1), both, np.nan)


def phases(
    train: Callable[[np.ndarray, np.ndarray, np.ndarray], dict],
    cs: np.ndarray,
    sharp: np.ndarray,
    line: np.ndarray,
    *,
    halvings: int,
    together: int,
    sharp_every: int = 1,
    sharp_beyond: bool = True,
) -> dict[str, np.ndarray]:
    """The first steps of all initialisations at every c, and the four boundaries of each.

    Args:
      train: (c [s, m], whether to measure sharpness [s, m], whether to walk the line [s, m]) ↦ `first_steps`, leaves
        [s, m, ...]: one compiled program.
      cs: [c], ascending.
      sharp: [s], bool: of which initialisations sharpness is measured.
      line: [s], bool: and of which the line to the start is walked, up to the first call of `train` that sees a barrier on it.
      halvings: how many bisections of the grid's interval, in log c.
      together: m, how many values of c go into one call on the grid; a bisection takes 4, so that with 4 one shape is compiled.
      sharp_every: sharpness is measured at each how manieth c of the grid; c_sharp is then looked for between these.
      sharp_beyond: also after the first call that saw it rise.
    Returns: leaves [s, c, ...] as of `first_steps`, and "boundaries" [s, 4]: NaN where nothing was seen up to the last c, and
      for c_sharp and c_barrier where they were not looked for. c_max is the largest c without divergence, c_barrier at most
      that.
    """
    s, c = len(sharp), len(cs)
    padded = np.append(cs, np.repeat(cs[-1:], -c % together)).reshape(-1, together)
    place = np.arange(padded.size).reshape(-1, together)
    measured = (place < c) & (place % sharp_every == 0)
    parts = []
    risen = np.zeros((s, len(BOUNDARIES)), bool)  # what was seen at lower c
    for row, here in zip(padded, measured, strict=True):
        wanted = sharp & (sharp_beyond | ~risen[:, 1])
        walked = np.broadcast_to((line & ~risen[:, 2])[:, None], (s, together))
        parts.append(jax.device_get(train(np.broadcast_to(row, (s, together)), wanted[:, None] & here, walked)))
        risen |= events(parts[-1]).any(axis=1)
    first = jax.tree.map(lambda *rows: np.concatenate(rows, axis=1)[:, :c], *parts)
    seen = events(first)  # [s, c, 4]
    which = np.arange(len(BOUNDARIES))
    sharpest = which[:, None] == BOUNDARIES.index("sharp")  # [4, 1]
    found = np.where(sharpest, brackets(seen[:, ::sharp_every], cs[::sharp_every]), brackets(seen, cs))  # [s, 4, 2]
    for _ in range(halvings):
        middle = np.sqrt(found[..., 0] * found[..., 1])  # [s, 4]
        tried = jax.device_get(train(middle, sharp[:, None] & (which == 1), line[:, None] & (which == 2)))
        seen = events(tried)[:, which, which]  # [s, 4]
        found = np.where(seen[..., None], np.stack([found[..., 0], middle], -1), np.stack([middle, found[..., 1]], -1))
    boundaries = found[..., 1].copy()
    boundaries[:, 3] = found[:, 3, 0]
    boundaries[:, 2] = np.fmin(boundaries[:, 2], boundaries[:, 3])
    boundaries[:, 1:3] = np.where(np.stack([sharp, line], axis=-1), boundaries[:, 1:3], np.nan)
    return first | {"boundaries": boundaries}


def saturated(task: Task, start: Start, c: Array, time: float, ceiling: float) -> Array:
    """λ_τ/λ₀ at the step τ with c τ = `time`, [], NaN if it diverged: the early transient is over, sharpening has not begun."""
    dynamics = task.descent(c / start.sharpness)

    def step(_, run: lj.Run) -> lj.Run:
        return lj.advance(run, dynamics, {}, num_steps=1, ceiling=ceiling)[0]

    begun = lj.start(jax.random.clone(start.key), start.params, dynamics, {})
    run = jax.lax.fori_loop(0, jnp.round(time / c).astype(jnp.int32), step, begun)
    hessian = lj.curvature.hessian(task.loss)(run.params, task.measured)
    eigs = lj.spectrum.eigsh(hessian, start.vector, num_steps=16)
    return jnp.where(run.status == lj.Status.RUNNING, eigs.values[0] / start.sharpness, jnp.nan)
