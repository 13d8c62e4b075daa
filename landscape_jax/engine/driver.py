"""The host's loop around the engine: compiled chunks, a progress bar, checkpoints, Ctrl-C."""

import contextlib
import functools
import math
import re
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jax.sharding import Mesh, NamedSharding

from landscape_jax import devices, programs, sweep, tree
from landscape_jax.arguments import count, described, number, require
from landscape_jax.engine.checkpoint import identity
from landscape_jax.engine.checkpoint.saving import opened
from landscape_jax.engine.core import Observe, Run, Status, hoisted, scanned, to_next_record
from landscape_jax.engine.interrupts import defer_interrupts
from landscape_jax.engine.progress import show_progress
from landscape_jax.record import Gathered, Record
from landscape_jax.record.values import plain
from landscape_jax.types import Dynamics

MOST_HELD = 2**23  # bytes of record that wait in memory for a checkpoint


class Interrupted(KeyboardInterrupt):
    """Ctrl-C stopped a `drive`. Nothing is lost: `run` can be driven on, `record` holds all up to there."""

    def __init__(self, message: str, run: Run, record: Record):
        super().__init__(message)
        self.run, self.record = run, record


# Over a screen: one loop, whose state its checkpoints, Ctrl-C, the death of all runs and the progress bar share.
def drive(
    run: Run,
    dynamics: Dynamics,
    observe: Observe,
    *,
    num_steps: int,
    every: int = 1,
    chunk: int | None = None,
    ceiling: float = math.inf,
    checkpoint: str | Path | None = None,
    config: Mapping[str, Any] | None = None,
    accept: Sequence[str] = (),
    keep: int = 3,
    pause: float = 1.0,
    axes: Mapping[str, Any] | None = None,
    mesh: Mesh | None = None,
    size: int | None = None,
    progress: bool = True,
) -> tuple[Run, Record]:
    """The host's loop: compiled chunks of `advance`, their records gathered, a progress bar, checkpoints.

    With `checkpoint`, the run and its record are saved as chunks end (the record on disk, so that memory stays flat however
    long the run), and the same call made again, after Ctrl-C, a crash or a power cut, goes on from the newest
    checkpoint that is whole and ends with the same bits. Made again with a larger `num_steps`, it goes on further. A folder
    with the checkpoints of another run is refused, by what differs: start, data, program, cadence, or `config`.

    Once every run has diverged nothing changes any more: the steps left are not computed, a warning says so, and the record
    is filled up with the rows that they would have given.

    Args:
      run: one run or a batch of them (from a vmapped `start`; leaves with leading axes): all advance together, sharing
        `dynamics`. What differs between them, such as learning rates, belongs in their state (`optax.inject_hyperparams`).
      num_steps, every, ceiling: as for `advance`; `num_steps` counts from `run`, whatever was done of them before.
      chunk: steps per compiled call, a multiple of `every`; the default makes at least twenty calls, of at most
        some hundreds of observed steps.
      checkpoint: a folder, new or of the same run. Each takes some 50 ms, in the background.
      config: whatever else tells this run from others, e.g. `dataclasses.asdict(config)`.
      accept: names of differences, as the error that refuses another run tells them, or how they begin: the run goes on all
        the same. ("program",) after an update of jax, which may write the same functions as another program.
      keep: how many checkpoints stay on disk.
      pause: seconds from one checkpoint to the next, at least, so that a crash costs little more; 0 makes one at each chunk's
        end. None is waited for after the last chunk, at a Ctrl-C, and where 8 MiB of record have come together.
      axes: names of a batch's axes of runs with their coordinates (None: 0, 1, …), for the record.
      mesh: split the runs of a batch over these devices; they must divide their number. Default: as `run` is split.
      size: how many runs of a batch side by side under vmap; default: all on accelerators, one after the other on a CPU.
      progress: show step, loss, sharpness and steps per second: as a bar on a terminal, elsewhere (a log file, a notebook) as
        a line on standard error every ten seconds and at the end.
    Returns: the run, and its record as NumPy arrays, leaves [..., num_steps // every, ...]; with `checkpoint`, memory maps.
    Raises: `Interrupted`, with the run and the record up to there, at the end of the chunk in which Ctrl-C came; a second
      Ctrl-C is Python's own. `ValueError` for another run's checkpoints; `record.Unwritable` where they can't be written.
    """
    if not isinstance(run, Run):
        raise TypeError(f"drive: run must be a Run, but is {described(run)}: write lj.start(key, params, dynamics, observe)")
    require("drive", dynamics=dynamics, observe=observe)
    count("drive", num_steps=num_steps, every=every, keep=keep)
    count("drive", **{name: n for name, n in (("chunk", chunk), ("size", size)) if n is not None})
    number("drive", ceiling=ceiling, more_than=0)
    if num_steps % every:
        raise ValueError(f"num_steps={num_steps} must be a multiple of every={every}, and both at least 1")
    chunk = every * _few(num_steps // every) if chunk is None else chunk
    if chunk < 1 or chunk % every:
        raise ValueError(f"chunk={chunk} must be a multiple of every={every}, so that the cadence goes on across chunks")
    if checkpoint is None and config is not None:
        raise ValueError("config= is what checkpoints are told apart by: give checkpoint= as well, or neither")
    shape = run.step.shape
    if axes is not None and len(axes) != len(shape):
        raise ValueError(f"axes names {len(axes)} axes of runs, {', '.join(axes)}; but the batch has {len(shape)}: {shape}")
    dynamics, observe = hoisted(dynamics), hoisted(dict(observe))
    run, mesh = _flat(run, mesh)
    whole = dynamics, observe, ceiling
    single = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[run.step.ndim :], x.dtype), run)
    compiled, arrays = programs.program(_driving, (dynamics, observe))
    stretch = compiled.stretch.trace(single, arrays, ceiling, every)
    structure = jax.tree.structure(stretch.out_info)
    done = 0
    with contextlib.ExitStack() as stack:
        if checkpoint is not None:
            fields = _fields(run, whole, stretch.jaxpr, every, config)
            on = _devices(run)
            saved = stack.enter_context(opened(checkpoint, fields, ndim=run.step.ndim, keep=keep, on=on, accept=accept))
            done, run = saved.newest(run) or (0, run)
            if done > num_steps:
                raise ValueError(f"{checkpoint} holds {done} steps, more than num_steps={num_steps}: ask for at least those")
        else:
            saved = None
        gathered, held, latest = Gathered(run.step.ndim), 0, time.monotonic()
        interrupted = stack.enter_context(defer_interrupts())
        show = stack.enter_context(show_progress(num_steps, done, progress and devices.first()))
        stopped = devices.anywhere(interrupted())
        ended, last = False, None  # whether all runs have diverged; the row that then comes again and again
        while done < num_steps and not stopped:
            steps = min(chunk, num_steps - done)
            if last is None:
                run, record = compiled.advance(run, (arrays, ceiling), stretch.jaxpr, structure, steps // every, mesh, size)
                record, status = devices.fetched((record, run.status))
                last = _last_row(record, run.step.ndim, done + steps, num_steps) if ended else None
                ended = bool(np.all(status == Status.DIVERGED))
            else:
                record = _repeated(last, run.step.ndim, steps // every)
            done += steps
            gathered.append(record)
            show(done, record, status)
            stopped = devices.anywhere(interrupted())
            held += sum(x.nbytes for x in jax.tree.leaves(record))
            due = done >= num_steps or stopped or held >= MOST_HELD
            if saved is not None and (due or devices.anywhere(time.monotonic() - latest >= pause)):
                saved.save(done, run, gathered.read())
                gathered, held, latest = Gathered(run.step.ndim), 0, time.monotonic()
        whole = gathered.read() if saved is None else saved.whole_record()
    run = tree.regrouped(run, 1, shape) if len(shape) > 1 else run
    whole = Record(jax.tree.map(lambda x: x.reshape(*shape, *x.shape[1:]), dict(whole)) if shape else whole, axes)
    _warn_unconverged(whole)
    if done < num_steps:
        raise Interrupted(f"stopped by Ctrl-C after {done} of {num_steps} steps", run, whole)
    return run, whole


def _flat(run: Run, mesh: Mesh | None) -> tuple[Run, Mesh | None]:
    """A copy, for buffers are donated while the caller's must stay; a batch with one axis of runs, split over the mesh."""
    ndim = run.step.ndim
    sharding = run.step.sharding
    if mesh is None and ndim and isinstance(sharding, NamedSharding) and sharding.spec[:1] not in ((), (None,)):
        mesh = sharding.mesh if isinstance(sharding.mesh, Mesh) else None
    run = tree.regrouped(run, ndim, (-1,) if ndim else ())
    if mesh is None:
        return run, None
    if ndim == 0:
        raise ValueError("mesh= splits the runs of a batch, but this is a single run: split its examples or θ instead")
    if len(run.step) % mesh.size:
        raise ValueError(
            f"drive: {mesh.size} devices don't divide {len(run.step)} runs: drive a multiple of {mesh.size}, or give a mesh "
            "of fewer devices"
        )
    return devices.placed(run, devices.runs_over(mesh)), mesh


class _Compiled(NamedTuple):
    stretch: Any  # one run from one record to the next: traced once, for what tells it from others and for what is compiled
    advance: Any  # all runs, so many records on


def _driving(rebuild: Callable) -> _Compiled:
    @functools.partial(jax.jit, static_argnames="every")
    def stretch(run, arrays, ceiling, every):
        dynamics, observe = rebuild(arrays)
        return to_next_record(run, dynamics, observe, ceiling, every)

    @functools.partial(jax.jit, static_argnames=("stretch", "structure", "records", "mesh", "size"), donate_argnames="run")
    def advance(run, whole, stretch, structure, records, mesh, size):
        def one(r, whole):
            to_next = lambda r: structure.unflatten(jaxpr_as_fun(stretch)(*jax.tree.leaves((r, *whole))))  # noqa: E731
            return scanned(to_next, r, records)

        go = sweep.over_runs(one, mesh, size) if run.step.ndim else one
        return go(run, whole)

    return _Compiled(stretch, advance)


def _warn_unconverged(record: Mapping) -> None:
    """Say how many looks of each observable that records `converged` were not, of those that have a value."""
    for name, told in record.items():
        values = told.get("value", told.get("eigenvalues")) if isinstance(told, Mapping) else None
        if values is None or "converged" not in told:
            continue
        made, sure = np.isfinite(values), np.asarray(told["converged"])
        made = made.all(-1) if made.ndim == sure.ndim + 1 else made
        if made.shape == sure.shape and (unsure := int(np.sum(made & ~sure.astype(bool)))):
            warnings.warn(
                f"drive: {unsure} of {int(made.sum())} looks of {name!r} did not converge: their brackets are wider than tol; "
                "leave them out, or track with more guards or a larger num_steps",
                stacklevel=3,
            )


def _last_row(record: Record, ndim: int, done: int, num_steps: int) -> Record:
    """The last row of a chunk before which all runs had diverged, entries [*runs, 1, ...]: all later ones are the same."""
    if done < num_steps:
        warnings.warn(
            f"drive: all runs have diverged; the last {num_steps - done} of {num_steps} steps are not computed, and the record "
            "has there what diverged runs record: check(run) tells which diverged, when, and what to do",
            stacklevel=3,
        )
    return jax.tree.map(lambda x: np.take(x, [-1], axis=ndim), record)


def _repeated(row: Record, ndim: int, count: int) -> Record:
    return jax.tree.map(lambda x: np.repeat(x, count, axis=ndim), row)


def _fields(run: Run, whole: tuple, stretch: ClosedJaxpr, every: int, config) -> identity.Fields:
    """What tells this run from others: how it starts, its data, its program."""
    dynamics, observe, ceiling = whole
    ndim = run.step.ndim
    # what observers remember at the start follows from the key; numbers in the state, such as rates, count to their last bit
    start = identity.fingerprint({"key": run.key, "step": run.step, "status": run.status})
    start |= identity.fingerprint({"params": run.params}, lambda x: True)
    start |= identity.fingerprint({"state": run.state}, lambda x: x.ndim > ndim)
    data = identity.fingerprint({"dynamics": dynamics, "observe": observe, "constant": identity.constants(stretch)})
    return {
        "every": every,
        "ceiling": str(float(ceiling)),
        "observe": sorted(observe),
        "program": identity.program(stretch.jaxpr),
        **{f"start{name}": x for name, x in start.items()},
        **{re.sub(r"^\['(\w+)'\]", r"\1", name): x for name, x in data.items()},
        **{f"config.{name}": x for name, x in plain(config or {}, "config", nonfinite=str).items()},
    }


def _devices(run: Run) -> str:
    """In words, those that a run is on."""
    found = run.step.sharding.device_set
    return f"{len(found)} {min(d.device_kind for d in found)}{'s' if len(found) > 1 else ''}"


def _few(units: int, calls: int = 20, longest: int = 250) -> int:
    """A length for about `calls` equal pieces of `units`, so that one program serves for all of them if it can be; more
    pieces where these would be long, for Ctrl-C waits for the end of one."""
    least = min(-(-units // calls), longest)
    return next((c for c in range(least, 2 * least + 1) if units % c == 0), least)
