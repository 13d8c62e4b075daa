"""The host's loop around the engine: compiled chunks, a progress bar, checkpoints, Ctrl-C."""

import contextlib
import functools
import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jax.sharding import Mesh, NamedSharding

from landscape_jax import devices, programs, sweep, tree
from landscape_jax.arguments import count, described, number
from landscape_jax.engine.cadence import (
    Cadences,
    check_steps,
    describe_cadences,
    read_cadences,
    record_interval,
    scan_intervals,
)
from landscape_jax.engine.checkpoint import identity
from landscape_jax.engine.checkpoint.saving import open_checkpoints
from landscape_jax.engine.checkpoint.settings import Saving
from landscape_jax.engine.core import Observe, as_pytree_functions, check_run, recorder
from landscape_jax.engine.interrupts import defer_interrupts
from landscape_jax.engine.loop import Loop
from landscape_jax.engine.progress import show_progress
from landscape_jax.engine.state import Run
from landscape_jax.record import Record
from landscape_jax.types import Dynamics


class Interrupted(KeyboardInterrupt):
    """Ctrl-C stopped a `drive`. Nothing is lost: `run` can be driven on, and `record` holds all steps up to there.

    >>> lj.Interrupted("stopped by Ctrl-C after 2 of 4 steps", run, record).record is record
    True
    """

    def __init__(self, message: str, run: Run, record: Record):
        super().__init__(message)
        self.run, self.record = run, record


def drive(
    run: Run,
    dynamics: Dynamics,
    observe: Observe,
    *,
    num_steps: int,
    every: int | Mapping[str, int] = 1,
    chunk: int | None = None,
    ceiling: float = math.inf,
    saving: Saving | None = None,
    axes: Mapping[str, Any] | None = None,
    mesh: Mesh | None = None,
    size: int | None = None,
    progress: bool = True,
) -> tuple[Run, Record]:
    """The host's loop around `advance`: compiled chunks whose records are gathered, a progress bar, checkpoints.

    With `saving`, the run and its record are saved as chunks end. The record grows on disk, so that memory stays flat however
    long the run. The same call made again, after Ctrl-C, a crash or a power cut, goes on from the newest checkpoint that is
    whole, and ends with the same bits. With a larger `num_steps` it goes on further. A folder with the checkpoints of another
    run is refused; the error names what differs: start, data, program, cadence, or `Saving.identity`.

    Once every run has diverged, the steps that are left are not computed. A warning says so, and the record is filled with the
    row that diverged runs record.

    Args:
      run: one run, or a batch (leaves with leading axes, from a vmapped `start`). A batch advances together and shares
        `dynamics`. What differs between its runs, such as learning rates, belongs in their state (`optax.inject_hyperparams`).
      num_steps, every, ceiling: as for `advance`. `num_steps` counts from `run`, whatever was done of them before.
      chunk: steps per compiled call, a multiple of the (coarsest) cadence. The default makes at least twenty calls, of at most
        some hundreds of records.
      saving: where and how often to save the run.
      axes: names of a batch's axes with their coordinates (None: 0, 1, …), for the record.
      mesh: split the runs of a batch over these devices, whose number must divide that of the runs. Default: as `run` is split.
      size: how many runs of a batch go side by side under vmap. Default: all on accelerators, one after the other on a CPU.
      progress: show step, loss, sharpness and steps per second: a bar on a terminal, elsewhere (a log file, a notebook) a line
        on standard error every ten seconds and at the end.
    Returns: the run, and its record as NumPy arrays, leaves [..., num_steps // every, ...]; memory maps where it is saved.
    Raises: `Interrupted`, with the run and the record up to there, at the end of the chunk in which Ctrl-C came; a second
      Ctrl-C is raised at once. `ValueError` for another run's checkpoints. `record.Unwritable` where they can't be written.

    >>> run, record = lj.drive(run, gd, {"loss": lj.observe.loss}, num_steps=20, progress=False)
    >>> record["loss"].shape
    (20,)
    """
    cadences, chunk = _check_arguments(run, dynamics, observe, num_steps, every, chunk, ceiling, saving, axes, size)
    shape = run.step.shape
    dynamics, observe = as_pytree_functions(dynamics), as_pytree_functions(dict(observe))
    run, mesh = _flatten_runs(run, mesh)
    step, jaxpr = _compile_steps(run, dynamics, observe, ceiling, cadences, mesh, size)
    with contextlib.ExitStack() as stack:
        loop = Loop(run, step, cadences, num_steps, chunk)
        if saving is not None:
            fields = identity.run_fields(run, dynamics, observe, ceiling, jaxpr, describe_cadences(cadences), saving.identity)
            saved = open_checkpoints(saving, fields, ndim=run.step.ndim, on=_describe_devices(run))
            loop.resume(stack.enter_context(saved), saving)
        interrupted = stack.enter_context(defer_interrupts())
        show = stack.enter_context(show_progress(num_steps, loop.done, progress and devices.is_first_process()))
        stopped = devices.any_process(interrupted())
        while loop.done < num_steps and not stopped:
            record, status = loop.advance()
            show(loop.done, record, status)
            stopped = devices.any_process(interrupted())
            loop.save_if_due(stopped)
        record = loop.whole_record()
    run = tree.reshape_leading(loop.run, 1, shape) if len(shape) > 1 else loop.run
    entries = jax.tree.map(lambda x: x.reshape(*shape, *x.shape[1:]), dict(record)) if shape else record
    record = Record(entries, axes, cadence=record.cadence)
    _warn_unconverged(record)
    if loop.done < num_steps:
        raise Interrupted(f"stopped by Ctrl-C after {loop.done} of {num_steps} steps", run, record)
    return run, record


# ── before the loop ───────────────────────────────────────────────────────────────────────────────────────────────────


def _check_arguments(
    run: Run,
    dynamics: Dynamics,
    observe: Observe,
    num_steps: int,
    every: int | Mapping[str, int],
    chunk: int | None,
    ceiling: float,
    saving: Saving | None,
    axes: Mapping[str, Any] | None,
    size: int | None,
) -> tuple[Cadences, int]:
    """The cadences and the length of a chunk, of arguments that fit."""
    check_run("drive", run, dynamics, observe)
    count("drive", **{name: n for name, n in (("chunk", chunk), ("size", size)) if n is not None})
    number("drive", ceiling=ceiling, more_than=0)
    cadences = read_cadences("drive", every, observe)
    check_steps("drive", num_steps, cadences, at_least=1)
    coarsest = cadences[-1].every
    chunk = coarsest * _chunk_length(num_steps // coarsest) if chunk is None else chunk
    if chunk % coarsest:
        raise ValueError(f"chunk={chunk} must be a multiple of every={coarsest}, so that the cadence goes on across chunks")
    if saving is not None and not isinstance(saving, Saving):
        raise TypeError(f"drive: saving must be a Saving, but is {described(saving)}: write lj.Saving(folder)")
    shape = run.step.shape
    if axes is not None and len(axes) != len(shape):
        raise ValueError(f"axes names {len(axes)} axes of runs, {', '.join(axes)}; but the batch has {len(shape)}: {shape}")
    return cadences, chunk


def _chunk_length(units: int, calls: int = 20, longest: int = 250) -> int:
    """A length of about 1/`calls` of `units`, at most `longest`; a divisor of `units` if there is one."""
    least = min(-(-units // calls), longest)
    return next((c for c in range(least, 2 * least + 1) if units % c == 0), least)


def _flatten_runs(run: Run, mesh: Mesh | None) -> tuple[Run, Mesh | None]:
    """A copy of the run, because its buffers are donated. A batch gets one axis of runs, which is split over the mesh."""
    ndim = run.step.ndim
    sharding = run.step.sharding
    if mesh is None and ndim and isinstance(sharding, NamedSharding) and sharding.spec[:1] not in ((), (None,)):
        mesh = sharding.mesh if isinstance(sharding.mesh, Mesh) else None
    run = tree.reshape_leading(run, ndim, (-1,) if ndim else ())
    if mesh is None:
        return run, None
    if ndim == 0:
        raise ValueError("mesh= splits the runs of a batch, but this is a single run: split its examples or θ instead")
    if len(run.step) % mesh.size:
        raise ValueError(
            f"drive: {mesh.size} devices don't divide {len(run.step)} runs: drive a multiple of {mesh.size}, or give a mesh "
            "of fewer devices"
        )
    return devices.to_mesh(run, devices.run_sharding(mesh)), mesh


def _describe_devices(run: Run) -> str:
    """The devices that a run is on, in words."""
    found = run.step.sharding.device_set
    return f"{len(found)} {min(d.device_kind for d in found)}{'s' if len(found) > 1 else ''}"


class _Programs(NamedTuple):
    interval: Any  # one run, from one record of the coarsest cadence to the next; traced once
    advance: Any  # all runs, by so many intervals


def _drive_programs(rebuild: Callable) -> _Programs:
    @functools.partial(jax.jit, static_argnames="cadences")
    def interval(run, arrays, ceiling, cadences):
        dynamics, observe = rebuild(arrays)
        return record_interval(recorder(run, dynamics, observe, ceiling), run, cadences)

    static = ("jaxpr", "structure", "cadences", "num", "mesh", "size")

    @functools.partial(jax.jit, static_argnames=static, donate_argnames="run")
    def advance(run, others, jaxpr, structure, cadences, num, mesh, size):
        def one(run, others):
            to_next = lambda run: structure.unflatten(jaxpr_as_fun(jaxpr)(*jax.tree.leaves((run, *others))))  # noqa: E731
            return scan_intervals(to_next, run, cadences, num)

        go = sweep.over_runs(one, mesh, size) if run.step.ndim else one
        return go(run, others)

    return _Programs(interval, advance)


def _compile_steps(
    run: Run, dynamics: Dynamics, observe: Observe, ceiling: float, cadences: Cadences, mesh: Mesh | None, size: int | None
) -> tuple[Callable[[Run, int], tuple[Run, Record]], ClosedJaxpr]:
    """(run, number of intervals) ↦ (run, record), and the jaxpr of an interval."""
    single = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[run.step.ndim :], x.dtype), run)
    compiled, arrays = programs.program(_drive_programs, (dynamics, observe))
    interval = compiled.interval.trace(single, arrays, ceiling, cadences)
    structure = jax.tree.structure(interval.out_info)

    def step(run: Run, num: int) -> tuple[Run, Record]:
        return compiled.advance(run, (arrays, ceiling), interval.jaxpr, structure, cadences, num, mesh, size)

    return step, interval.jaxpr


# ── after the loop ────────────────────────────────────────────────────────────────────────────────────────────────────


def _warn_unconverged(record: Mapping) -> None:
    """For each observable that records `converged`: warn of how many of its finite values were not."""
    for name, entry in record.items():
        values = entry.get("value", entry.get("eigenvalues")) if isinstance(entry, Mapping) else None
        if values is None or "converged" not in entry:
            continue
        finite, sure = np.isfinite(values), np.asarray(entry["converged"])
        finite = finite.all(-1) if finite.ndim == sure.ndim + 1 else finite
        if finite.shape == sure.shape and (unsure := int(np.sum(finite & ~sure.astype(bool)))):
            warnings.warn(
                f"drive: {unsure} of {int(finite.sum())} looks of {name!r} did not converge: their brackets are wider than "
                "tol; leave them out, or track with more guards or a larger num_steps",
                stacklevel=3,
            )
