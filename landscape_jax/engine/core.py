"""The engine: the only scan over time.

    start → Run → advance → Run, Record → advance → …

`advance` is pure: jit it, vmap it over runs, shard it. `run` is the two compiled; `drive` (driver.py) the host's loop around.
Programs are kept as long as the functions in `dynamics` and `observe` (`programs.py`).
"""

import functools
import math
import zlib
from collections.abc import Callable, Mapping
from enum import IntEnum
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.tree_util import Partial

from landscape_jax import devices, programs, tree
from landscape_jax.arguments import count, described, number, require
from landscape_jax.models.plain import warn_of_slow_convolutions
from landscape_jax.record.axes import Record, check_name, check_names
from landscape_jax.types import Dynamics, Key, Moment, Observable, Params

Observe = Mapping[str, Observable]


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
    _checked(key, params, dynamics, observe)
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
      ceiling: the loss above which a run counts as diverged, positive; float32 losses pass 1e25 before they overflow.
    Returns: the run, and its record: leaves [num_steps // every, ...], with "step".

    Compiled when it is called outside of jit, once for the same `dynamics` and `observe` objects and the same shapes: make
    them before a Python loop, not in it.
    """
    _going_on("advance", run, dynamics, observe)
    count("advance", 0, num_steps=num_steps)
    count("advance", every=every)
    number("advance", ceiling=ceiling, more_than=0)
    if num_steps % every:
        raise ValueError(f"num_steps={num_steps} must be a multiple of every={every}, and every at least 1")
    go, arrays = programs.program(_advancing, (dynamics, dict(observe)))
    return go(run, arrays, ceiling, num_steps=num_steps, every=every)


def _advancing(rebuild: Callable) -> Callable:
    @functools.partial(jax.jit, static_argnames=("num_steps", "every"), inline=True)
    def go(run, arrays, ceiling, num_steps, every):
        dynamics, observe = rebuild(arrays)
        return scanned(lambda run: to_next_record(run, dynamics, observe, ceiling, every), run, num_steps // every)

    return go


def warmed(run: Run, dynamics: Dynamics, observe: Observe, looks: int = 1, *, ceiling: float = math.inf) -> Run:
    """The run where it stands, its observables having looked there a few times.

    A tracker's first look is a cold start of 26 to 43 products, where later ones take one to three. Trainings that part
    at this θ share it if it is made before they part, with one program for the starts and one for the trainings:

        begin = lambda θ: warmed(start(key, θ, dynamics(0.1), observe), dynamics(0.1), observe)
        train = lambda run, rate: advance(run, dynamics(rate), observe, num_steps=500, every=10)
        sweep.grid(train)(sweep.zipped(begin)(thetas), rates)

    θ and the loss go on from here as if nobody had looked. Observables that remember where the run has been remember these
    looks too.

    Args:
      looks: how many.
      run, dynamics, observe, ceiling: as for `advance`.
    Cost: the looks, and a step with each of which nothing is kept.
    """
    count("warmed", looks=looks)
    _going_on("warmed", run, dynamics, observe)
    number("warmed", ceiling=ceiling, more_than=0)
    go, arrays = programs.program(_warming, (dynamics, dict(observe)))
    return run._replace(memory=go(run, arrays, ceiling, looks=looks))


def _warming(rebuild: Callable) -> Callable:
    @functools.partial(jax.jit, static_argnames="looks", inline=True)
    def go(run, arrays, ceiling, looks):
        dynamics, observe = rebuild(arrays)
        observed = _observed(run, dynamics, observe, ceiling)
        look = lambda _, memory: observed(run._replace(memory=memory), 0)[0].memory  # noqa: E731
        return jax.lax.fori_loop(0, looks, look, run.memory)

    return go


def paced(
    run: Run, dynamics: Dynamics, observe: Observe, gaps: Array | np.ndarray, *, ceiling: float = math.inf
) -> tuple[Run, Record]:
    """As `advance`, at a pace of the run's own: from record i to the next it is gaps[i] steps, sum(gaps) in all.

    The gaps may be traced, so that one compiled program serves runs of different lengths (a given time η · steps at many
    rates) and records at any spacing. Where runs go one after the other (`sweep` on a CPU) each does its own steps and no
    more; side by side under vmap, all wait at each record for the one with most steps to it. No reverse differentiation.

    Args:
      gaps: [records] int32, each at least 1; a gap below counts as 1. `pace` makes them even.
    """
    _going_on("paced", run, dynamics, observe)
    if not hasattr(gaps, "dtype"):
        raise TypeError(f"paced: gaps must be a row of integers, but is {described(gaps)}: write jnp.array([10, 10])")
    if jnp.ndim(gaps) != 1 or not jnp.issubdtype(jnp.result_type(gaps), jnp.integer):
        raise ValueError(f"gaps must be one row of integers, [records], not {jnp.shape(gaps)} {jnp.result_type(gaps)}")
    number("paced", ceiling=ceiling, more_than=0)
    go, arrays = programs.program(_pacing, (dynamics, dict(observe)))
    return go(run, arrays, ceiling, jnp.asarray(gaps))


def _pacing(rebuild: Callable) -> Callable:
    @functools.partial(jax.jit, inline=True)
    def go(run, arrays, ceiling, gaps):
        dynamics, observe = rebuild(arrays)
        observed = _observed(run, dynamics, observe, ceiling)
        body = lambda run, gap: observed(run, gap - 1)  # noqa: E731
        warn_of_slow_convolutions(body, run, gaps)
        run, record = jax.lax.scan(body, run, gaps)
        return run, Record(record)

    return go


def pace(num_steps: Array, records: int, growth: float = 1.0) -> Array:
    """`num_steps` ([], may be traced, at least `records`) in so many gaps: [records] int32, each at least 1.

    Args:
      growth: how many times as long as the first gap the last one is, all in geometric progression but for rounding to whole
        steps; 1 makes them even.
    """
    count("pace", records=records)
    if not isinstance(num_steps, Array):
        count("pace", records, num_steps=num_steps)
    number("pace", growth=growth, more_than=0)
    part = np.linspace(0, 1, records + 1)
    part = part if growth == 1 else (growth**part - 1) / (growth - 1)  # of the time, until the end of each gap
    spare = jnp.asarray(num_steps, jnp.int32) - records  # beyond the one step that each must have
    ends = jnp.floor(spare.astype(jnp.float32) * jnp.asarray(part, jnp.float32)).astype(jnp.int32)
    return 1 + jnp.diff(ends.at[-1].set(spare))


def to_next_record(run: Run, dynamics: Dynamics, observe: Observe, ceiling: float, every: int) -> tuple[Run, Record]:
    """What `advance` repeats: a step that is looked at and `every` − 1 that are not; the record has no axis of time."""
    run, record = _observed(run, dynamics, observe, ceiling)(run, every - 1)
    return run, Record(record)


def scanned(to_next: Callable[[Run], tuple[Run, Mapping]], run: Run, records: int) -> tuple[Run, Record]:
    """So many records, one after the other, in one compiled loop."""
    body = lambda run, _: to_next(run)  # noqa: E731
    warn_of_slow_convolutions(body, run)
    run, record = jax.lax.scan(body, run, length=records)
    return run, Record(record)


def _observed(run: Run, dynamics: Dynamics, observe: Observe, ceiling: float):
    """(run, rest) ↦ (run, record) after a step that is looked at and `rest` that are not."""
    if set(observe) != set(run.memory):
        raise ValueError(
            f"observe has {sorted(observe)}, but the run was started with {sorted(run.memory)}: give both the same names"
        )

    def observed(run: Run, rest):
        after, moment = _step(run, dynamics, ceiling)
        key = jax.random.fold_in(run.key, run.step)
        memory, record = {}, {"step": run.step}
        for name, observable in observe.items():
            remembered, value = observable.measure(_own_key(key, name), run.memory[name], moment)
            check_names(value, f"observe[{name!r}]")
            memory[name] = remembered
            record[name] = jax.tree.map(lambda x: _nan_unless(moment.alive, x), value)
        after = after._replace(memory=memory)
        if not isinstance(rest, int) or rest > 0:  # else not even an empty loop: its body would be compiled
            after = jax.lax.fori_loop(0, rest, lambda _, r: _step(r, dynamics, ceiling)[0], after)
        return after, record

    return observed


def _step(run: Run, dynamics: Dynamics, ceiling: float) -> tuple[Run, Moment]:
    # The barriers fence the step off from whatever surrounds it: the compiler fuses, and so rounds, it the same way with
    # and without observers. The batch stays outside, it may be the whole data set.
    fence = jax.lax.optimization_barrier
    t, params, state = fence((run.step, run.params, run.state))
    new_params, new_state, moment = dynamics.step(run.key, t, params, state)
    new_params, new_state, rest = fence((new_params, new_state, moment._replace(batch=None, alive=None)))

    fine = jnp.isfinite(rest.loss) & (rest.loss <= ceiling) & tree.all_finite(new_params)
    alive = (run.status == Status.RUNNING) & fine
    after = Run(
        run.key,
        run.step + alive.astype(run.step.dtype),
        jnp.where(alive, run.status, jnp.int32(Status.DIVERGED)),
        tree.where(alive, new_params, run.params),
        tree.where(alive, new_state, run.state),
        run.memory,
    )
    return after, rest._replace(batch=moment.batch, alive=alive)


def _going_on(by: str, run: Run, dynamics: Dynamics, observe: Observe) -> None:
    if not isinstance(run, Run):
        raise TypeError(f"{by}: run must be a Run, but is {described(run)}: write lj.start(key, params, dynamics, observe)")
    require(by, dynamics=dynamics, observe=observe)


def _checked(key: Key, params: Params, dynamics: Dynamics, observe: Observe) -> None:
    require("run", key=key, params=params, dynamics=dynamics, observe=observe)
    tree.check(params)
    for name, observable in observe.items():
        check_name(name, "observe")
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


# ── compiled ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def hoisted(functions):
    """Bare functions in a pytree become leafless `Partial`s, so that `jit` can take the pairs as arguments, along with
    whatever arrays their `Partial`s hold: arguments, where a closure would make constants of them."""
    return jax.tree.map(lambda f: Partial(f) if callable(f) else f, functions)


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

    One program for all steps: it shows no progress, and Ctrl-C waits for its end. For what takes longer than you would wait
    in silence use `start` and `drive`, which give the same bits.

    A second call with the same `dynamics` and `observe` objects and the same shapes does not compile again; the program is
    freed with those objects.
    """
    _checked(key, params, dynamics, observe)
    count("run", 0, num_steps=num_steps)
    count("run", every=every)
    number("run", ceiling=ceiling, more_than=0)
    go, arrays = programs.program(_running, (dynamics, dict(observe)))
    return go(key, params, arrays, ceiling, num_steps=num_steps, every=every)


def _running(rebuild: Callable) -> Callable:
    @functools.partial(jax.jit, static_argnames=("num_steps", "every"))
    def go(key, params, arrays, ceiling, num_steps, every):
        dynamics, observe = rebuild(arrays)
        begun = start(key, params, dynamics, observe)
        return advance(begun, dynamics, observe, num_steps=num_steps, every=every, ceiling=ceiling)

    return go


def check(run: Run) -> None:
    """Raise `FloatingPointError` on the host if the run, or any of a batch, diverged: which, when, and what to do."""
    if not isinstance(run, Run):
        raise TypeError(f"check: run must be a Run, but is {described(run)}: give the first of what run and drive return")
    status, step = devices.fetched((run.status, run.step))
    bad = np.argwhere(status != Status.RUNNING)
    if len(bad) == 0:
        return
    told = "; ".join(
        f"run {tuple(map(int, i)) if len(i) else ''}".strip() + f" {Status(status[tuple(i)]).name} at step {step[tuple(i)]}"
        for i in bad[:5]
    )
    more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
    moved = step[status != Status.RUNNING] > 0
    advice = [LATER] * bool(moved.any()) + [AT_ONCE] * bool(not moved.all())
    raise FloatingPointError(f"{len(bad)} of {status.size} runs did not go through: {told}{more}. {'. '.join(advice)}")


LATER = (
    "Each that moved is kept at its last finite parameters: lower the learning rate, or raise the ceiling if a large loss was "
    "expected"
)
AT_ONCE = (
    "Those at step 0 are kept at θ₀, where the loss or the first step is not finite, or the loss is above the ceiling: look at "
    "the data (NaN, inf, scale), at the labels (classes count from 0 to c − 1) and at θ₀ itself"
)
