"""The engine: the only scan over time.

    start → Run → advance → Run, Record → advance → …

`advance` is pure: jit it, vmap it over runs, shard it. `run` and `drive` are the host's ways to call it.
"""

import contextlib
import functools
import math
import signal
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from enum import IntEnum
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.tree_util import Partial

from landscape_jax import tree
from landscape_jax.types import Dynamics, Key, Moment, Observable, Params

Observe = Mapping[str, Observable]
Record = dict[str, Any]  # leaves [num_steps // every, ...], with "step"


class Status(IntEnum):
    """How a run stands."""

    RUNNING = 0
    DIVERGED = 1


class Run(NamedTuple):
    """A whole run: save it, load it, and it goes on bit for bit."""

    key: Key  # the same from first step to last
    step: Array  # [] int32: t, how many steps were made; a diverged run's stands still
    status: Array  # [] int32: a Status
    params: Params  # θ_t
    state: Any  # s_t, the dynamics' own
    memory: dict[str, Any]  # what each observable remembers


def start(key: Key, params: Params, dynamics: Dynamics, observe: Observe) -> Run:
    """A run before its first step. Pure; vmap it for a batch of runs.

    Args:
      key: a typed key, `jax.random.key(seed)`; all that is random in the run follows from it.
      params: θ₀, a non-empty pytree of float arrays.
      dynamics: what moves θ.
      observe: what to record, by name; "step" is taken.
    """
    _checked(key, params, observe)
    params = jax.tree.map(jnp.asarray, params)
    memory = {name: o.init(_own_key(key, name), params) for name, o in observe.items()}
    return Run(key, jnp.int32(0), jnp.int32(Status.RUNNING), params, dynamics.init(params), memory)


def advance(
    run: Run, dynamics: Dynamics, observe: Observe, *, num_steps: int, every: int = 1, ceiling: float = math.inf
) -> tuple[Run, Record]:
    """`num_steps` further steps, observed at the first of every `every`.

    Two calls of n steps equal one of 2n, bit for bit, if `every` divides n. Step t draws from `fold_in(key, t)` and each
    observable from a key of its own, so watching a run never moves it.

    A run whose loss or next θ is not finite, or whose loss passes `ceiling`, is frozen at its last finite θ with status
    `DIVERGED`; from that step on its record holds NaN (integers and booleans stay as they are) and its own clock, "step",
    stands still. Runs vmapped beside it do not notice.

    Args:
      run: from `start` or an earlier `advance`.
      dynamics, observe: as given to `start`.
      num_steps: how many steps, a multiple of `every`.
      every: the cadence, in steps.
      ceiling: the loss above which a run counts as diverged; float32 losses pass 1e25 before they overflow.
    Returns: the run, and its record: leaves [num_steps // every, ...].
    """
    if every < 1 or num_steps < 0 or num_steps % every:
        raise ValueError(f"num_steps={num_steps} must be a multiple of every={every}, and every at least 1")
    if set(observe) != set(run.memory):
        raise ValueError(
            f"observe has {sorted(observe)}, but the run was started with {sorted(run.memory)}: give both the same names"
        )

    def observed(run: Run, _):
        after, moment, alive = _step(run, dynamics, ceiling)
        key = jax.random.fold_in(run.key, run.step)
        memory, record = {}, {"step": run.step}
        for name, observable in observe.items():
            remembered, value = observable.measure(_own_key(key, name), run.memory[name], moment)
            memory[name] = tree.where(alive, remembered, run.memory[name])
            record[name] = jax.tree.map(lambda x: _nan_unless(alive, x), value)
        after = after._replace(memory=memory)
        if every > 1:  # else not even an empty loop: its body would be compiled
            after = jax.lax.fori_loop(0, every - 1, lambda _, r: _step(r, dynamics, ceiling)[0], after)
        return after, record

    return jax.lax.scan(observed, run, length=num_steps // every)


def _step(run: Run, dynamics: Dynamics, ceiling: float) -> tuple[Run, Moment, Array]:
    # The barriers fence the step off from whatever surrounds it: the compiler fuses, and so rounds, it the same way with
    # and without observers. The batch stays outside, it may be the whole data set.
    fence = jax.lax.optimization_barrier
    t, params, state = fence((run.step, run.params, run.state))
    new_params, new_state, moment = dynamics.step(run.key, t, params, state)
    new_params, new_state, rest = fence((new_params, new_state, moment._replace(batch=None)))
    moment = rest._replace(batch=moment.batch)

    fine = jnp.isfinite(moment.loss) & (moment.loss <= ceiling) & tree.all_finite(new_params)
    alive = (run.status == Status.RUNNING) & fine
    after = Run(
        run.key,
        run.step + alive.astype(run.step.dtype),
        jnp.where(alive, run.status, jnp.int32(Status.DIVERGED)),
        tree.where(alive, new_params, run.params),
        tree.where(alive, new_state, run.state),
        run.memory,
    )
    return after, moment, alive


def _checked(key: Key, params: Params, observe: Observe) -> None:
    if not jnp.issubdtype(jnp.asarray(key).dtype, jax.dtypes.prng_key):
        raise TypeError("key must be a typed PRNG key: jax.random.key(seed), not an integer or a jax.random.PRNGKey")
    tree.check(params)
    for name, observable in observe.items():
        if name == "step":
            raise ValueError('observe: the name "step" is taken by the record\'s own clock; choose another')
        if not isinstance(observable, Observable):
            raise TypeError(
                f"observe[{name!r}] is {observable!r}, not an Observable: wrap a function of the moment with "
                "observe.stateless, and call factories such as observe.sharpness(curvature)"
            )


def _own_key(key: Key, name: str) -> Key:
    """An observable's key, by its name alone: adding another changes nothing."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def _nan_unless(alive: Array, x: Array) -> Array:
    x = jnp.asarray(x)
    return jnp.where(alive, x, jnp.nan) if jnp.issubdtype(x.dtype, jnp.floating) else x


# ── on the host ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _hoisted(functions):
    """Bare functions in a pytree become leafless `Partial`s, so that `jit` can take the pairs as arguments, along with
    whatever arrays their `Partial`s hold: arguments, where a closure would make constants of them."""
    return jax.tree.map(lambda f: Partial(f) if callable(f) else f, functions)


def _batched(fn: Callable, run: Run) -> Callable:
    """`fn`, vmapped over the leading axes that the run has."""
    for _ in range(run.step.ndim):
        fn = jax.vmap(fn)
    return fn


@functools.partial(jax.jit, static_argnames=("num_steps", "every"))
def _compiled_run(key, params, dynamics, observe, ceiling, num_steps, every):
    begun = start(key, params, dynamics, observe)
    return advance(begun, dynamics, observe, num_steps=num_steps, every=every, ceiling=ceiling)


@functools.partial(jax.jit, static_argnames=("num_steps", "every"), donate_argnames="run")
def _compiled_advance(run, dynamics, observe, ceiling, num_steps, every):
    def one(r):
        return advance(r, dynamics, observe, num_steps=num_steps, every=every, ceiling=ceiling)

    return _batched(one, run)(run)


def run(
    key: Key,
    params: Params,
    dynamics: Dynamics,
    observe: Observe,
    *,
    num_steps: int,
    every: int = 1,
    ceiling: float = math.inf,
) -> tuple[Run, Record]:
    """Start, then advance, compiled: see those for the arguments. Works inside jit and vmap as well.

    A second call with the same `dynamics` and `observe` objects and the same shapes does not compile again.
    """
    _checked(key, params, observe)
    return _compiled_run(
        key, params, _hoisted(dynamics), _hoisted(dict(observe)), ceiling, num_steps=num_steps, every=every
    )


class Interrupted(KeyboardInterrupt):
    """Ctrl-C stopped a `drive`. Nothing is lost: `run` can be driven on, `record` holds all up to there."""

    def __init__(self, message: str, run: Run, record: Record):
        super().__init__(message)
        self.run, self.record = run, record


def drive(
    run: Run,
    dynamics: Dynamics,
    observe: Observe,
    *,
    num_steps: int,
    every: int = 1,
    chunk: int | None = None,
    ceiling: float = math.inf,
    progress: bool = True,
) -> tuple[Run, Record]:
    """The host's loop: compiled chunks of `advance`, their records gathered in host memory, a progress bar.

    Args:
      run: one run or a batch of them (from a vmapped `start`; leaves with leading axes): all advance together, sharing
        `dynamics`. What differs between them, such as learning rates, belongs in their state (`optax.inject_hyperparams`).
      num_steps, every, ceiling: as for `advance`.
      chunk: steps per compiled call, a multiple of `every`; the default makes at least twenty calls, of at most
        some hundreds of observed steps.
      progress: show step, loss, sharpness and steps per second on the terminal.
    Returns: the run, and its record as NumPy arrays, leaves [..., num_steps // every, ...].
    Raises: `Interrupted`, with the run and the record up to there, at the end of the chunk in which Ctrl-C came; a second
      Ctrl-C is Python's own.
    """
    if every < 1 or num_steps < 1 or num_steps % every:
        raise ValueError(f"num_steps={num_steps} must be a multiple of every={every}, and both at least 1")
    chunk = every * _few(num_steps // every) if chunk is None else chunk
    if chunk < 1 or chunk % every:
        raise ValueError(f"chunk={chunk} must be a multiple of every={every}, so that the cadence goes on across chunks")
    dynamics, observe = _hoisted(dynamics), _hoisted(dict(observe))
    axis = run.step.ndim
    run = jax.tree.map(jnp.copy, run)  # the caller's stays valid when buffers are donated
    records, done = [], 0
    with held_interrupts() as interrupted, _bar(num_steps, progress) as show:
        while done < num_steps and not interrupted():
            steps = min(chunk, num_steps - done)
            run, record = _compiled_advance(run, dynamics, observe, ceiling, steps, every)
            records.append(jax.device_get(record))
            done += steps
            show(done, records[-1], np.asarray(run.status))
    whole = jax.tree.map(lambda *parts: np.concatenate(parts, axis=axis), *records) if records else {}
    if done < num_steps:
        raise Interrupted(f"stopped by Ctrl-C after {done} of {num_steps} steps", run, whole)
    return run, whole


def check(run: Run) -> None:
    """Raise `FloatingPointError` on the host if the run, or any of a batch, diverged: which, when, and what to do."""
    status, step = np.asarray(run.status), np.asarray(run.step)
    bad = np.argwhere(status != Status.RUNNING)
    if len(bad) == 0:
        return
    told = "; ".join(
        f"run {tuple(map(int, i)) if len(i) else ''}".strip() + f" {Status(status[tuple(i)]).name} at step {step[tuple(i)]}"
        for i in bad[:5]
    )
    more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
    raise FloatingPointError(
        f"{len(bad)} of {status.size} runs did not go through: {told}{more}. Each is kept at its last finite parameters: "
        "lower the learning rate, or raise the ceiling if a large loss was expected"
    )


def _few(units: int, calls: int = 20, longest: int = 250) -> int:
    """A length for about `calls` equal pieces of `units`, so that one program serves for all of them if it can be; more
    pieces where these would be long, for Ctrl-C waits for the end of one."""
    least = min(-(-units // calls), longest)
    return next((c for c in range(least, 2 * least + 1) if units % c == 0), least)


class _Note:
    """A SIGINT handler that only takes note; a second Ctrl-C goes to the handler before it."""

    def __init__(self, before):
        self.before, self.seen = before, False

    def __call__(self, signum, frame):
        if self.seen:
            signal.signal(signal.SIGINT, self.before)
            signal.raise_signal(signal.SIGINT)
        self.seen = True


@contextlib.contextmanager
def held_interrupts() -> Iterator[Callable[[], bool]]:
    """Within, Ctrl-C is noted and not raised, so that it can't break a compilation or lose a chunk: `drive` looks at the
    note after each chunk. Around a `drive` it extends this to all that comes before; yields a function that tells."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = signal.getsignal(signal.SIGINT)
    note = before if isinstance(before, _Note) else _Note(before)
    signal.signal(signal.SIGINT, note)
    try:
        yield lambda: note.seen
    finally:
        if signal.getsignal(signal.SIGINT) is note:
            signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _bar(num_steps: int, progress: bool) -> Iterator[Callable]:
    if not progress:
        yield lambda *_: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[told]}"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=num_steps, told="compiling")

        def show(done: int, record: Record, status: np.ndarray) -> None:
            told = [f"{name} {_last(record[name]):.4g}" for name in ("loss", "sharpness") if name in record]
            speed = bar.tasks[task].finished_speed or bar.tasks[task].speed
            told += [f"{speed:.0f} steps/s"] if speed else []
            diverged = int(np.sum(status == Status.DIVERGED))
            told += [f"{diverged}/{status.size} diverged"] if diverged else []
            bar.update(task, completed=done, told=", ".join(told))

        yield show


def _last(values: np.ndarray) -> float:
    """The median over runs of the newest finite value."""
    finite = np.asarray(values)[np.isfinite(values)] if np.ndim(values) == 1 else np.asarray(values)[..., -1]
    finite = finite[np.isfinite(finite)]
    return float(np.median(finite[-1:] if np.ndim(values) == 1 else finite)) if finite.size else math.nan
