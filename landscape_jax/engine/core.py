"""The engine: the only scan over time.

    start → Run → advance → Run, Record → advance → …

`advance` is pure: jit it, vmap it over runs, shard it. `run` is `start` and `advance`, compiled. `drive` is the host's loop.
Compiled programs are kept as long as the functions in `dynamics` and `observe` (`programs.py`).
"""

import functools
import math
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.tree_util import Partial

from landscape_jax import programs, tree
from landscape_jax.arguments import count, described, number, require
from landscape_jax.engine.cadence import (
    Cadences,
    Look,
    check_gaps,
    check_steps,
    read_cadences,
    record_interval,
    scan_gaps,
    scan_intervals,
)
from landscape_jax.engine.state import Run, Status
from landscape_jax.record.axes import Record, check_name, check_names
from landscape_jax.types import Dynamics, Key, Moment, Observable, Params

Observe = Mapping[str, Observable]


def start(key: Key, params: Params, dynamics: Dynamics, observe: Observe) -> Run:
    """A run before its first step. Pure; vmap it for a batch of runs.

    Args:
      key: a typed key, `jax.random.key(seed)`. All random numbers of the run follow from it.
      params: θ₀, a non-empty pytree of float arrays.
      dynamics: what moves θ.
      observe: what to record, by name. The name "step" is taken.

    >>> gd = lj.dynamics.gradient(lambda w, batch: w @ w, optax.sgd(0.1), lambda key, step: None)
    >>> run = lj.start(jax.random.key(0), jnp.ones(2), gd, {"loss": lj.observe.loss})
    """
    _check_start(key, params, dynamics, observe)
    params = jax.tree.map(jnp.asarray, params)
    memory = {name: o.init(_observable_key(key, name), params) for name, o in observe.items()}
    return Run(key, jnp.int32(0), jnp.int32(Status.RUNNING), params, dynamics.init(params), memory)


def advance(
    run: Run,
    dynamics: Dynamics,
    observe: Observe,
    *,
    num_steps: int | None = None,
    every: int | Mapping[str, int] = 1,
    gaps: Array | np.ndarray | None = None,
    ceiling: float = math.inf,
) -> tuple[Run, Record]:
    """`num_steps` further steps, recorded at every `every`-th, beginning with the first.

    Two calls of n steps equal one of 2n, bit for bit, if `every` divides n. Step t draws from `fold_in(key, t)`, and each
    observable has a key of its own, so that watching a run never moves it.

    A run diverges when its loss or its next θ is not finite, or its loss is above `ceiling`. It is then frozen at its last
    finite θ, with status `DIVERGED`. From that step on its record holds NaN (integers and booleans, which have no NaN, are
    recorded as they are), and its clock, "step", stands still. Runs vmapped beside it are not affected.

    Args:
      run: from `start` or an earlier `advance`.
      dynamics, observe: as given to `start`.
      num_steps: how many steps, a multiple of `every`.
      every: the cadence in steps; or one for each observable, by name. Then each must divide the next larger one, and an entry
        of the record has a row for each step at which it was measured (`Record.cadence`, `Record.steps`).
      gaps: in place of `num_steps` and `every`: [records] integers, each at least 1 (less counts as 1). From record i to the
        next it is gaps[i] steps, sum(gaps) in all. The gaps may be traced, so that one program serves runs of different
        lengths; `pace` makes some. Under vmap all runs wait at each record for the one with most steps to it; mapped one after
        the other (`sweep` on a CPU) each makes its own steps only. No reverse differentiation.
      ceiling: the loss above which a run counts as diverged, positive; float32 losses pass 1e25 before they overflow.
    Returns: the run, and its record: leaves [num_steps // every, ...], with "step".

    Outside of jit it is compiled once for the same `dynamics` and `observe` objects and the same shapes. Make these before a
    Python loop, not in it.

    >>> run, record = lj.advance(run, gd, {"loss": lj.observe.loss}, num_steps=10, every=5)
    >>> record["step"].tolist()
    [0, 5]
    """
    check_run("advance", run, dynamics, observe)
    number("advance", ceiling=ceiling, more_than=0)
    if gaps is None:
        if num_steps is None:
            raise TypeError("advance: num_steps is missing: say how many steps, or when to record by gaps=")
        cadences = read_cadences("advance", every, observe)
        check_steps("advance", num_steps, cadences)
        go, arrays = programs.program(_advance_program, (dynamics, dict(observe)))
        return go(run, arrays, ceiling, num_steps=num_steps, cadences=cadences)
    if num_steps is not None or isinstance(every, Mapping) or every != 1:
        raise ValueError("advance: gaps say how many steps and when to record: leave out num_steps and every")
    check_gaps("advance", gaps)
    go, arrays = programs.program(_gaps_program, (dynamics, dict(observe)))
    return go(run, arrays, ceiling, jnp.asarray(gaps))


def _advance_program(rebuild: Callable) -> Callable:
    @functools.partial(jax.jit, static_argnames=("num_steps", "cadences"), inline=True)
    def go(run, arrays, ceiling, num_steps, cadences):
        dynamics, observe = rebuild(arrays)
        return _advance(run, dynamics, observe, ceiling, num_steps, cadences)

    return go


def _advance(
    run: Run, dynamics: Dynamics, observe: Observe, ceiling: float, num_steps: int, cadences: Cadences
) -> tuple[Run, Record]:
    look = recorder(run, dynamics, observe, ceiling)
    to_next = lambda run: record_interval(look, run, cadences)  # noqa: E731
    return scan_intervals(to_next, run, cadences, num_steps // cadences[-1].every)


def _gaps_program(rebuild: Callable) -> Callable:
    @functools.partial(jax.jit, inline=True)
    def go(run, arrays, ceiling, gaps):
        dynamics, observe = rebuild(arrays)
        return scan_gaps(recorder(run, dynamics, observe, ceiling), run, tuple(observe), gaps)

    return go


def run(
    key: Key,
    params: Params,
    dynamics: Dynamics,
    observe: Observe,
    *,
    num_steps: int,
    every: int | Mapping[str, int] = 1,
    ceiling: float = math.inf,
) -> tuple[Run, Record]:
    """`start`, then `advance`, compiled; see those for the arguments. It works inside jit and vmap as well.

    All steps are one program: it shows no progress, and Ctrl-C takes effect at its end. For longer runs use `start` and
    `drive`, which give the same bits.

    A second call with the same `dynamics` and `observe` objects and the same shapes does not compile again. The program is
    freed with those objects.

    >>> final, record = lj.run(jax.random.key(0), jnp.ones(2), gd, {"loss": lj.observe.loss}, num_steps=10)
    >>> record["loss"].shape
    (10,)
    """
    _check_start(key, params, dynamics, observe)
    number("run", ceiling=ceiling, more_than=0)
    cadences = read_cadences("run", every, observe)
    check_steps("run", num_steps, cadences)
    go, arrays = programs.program(_run_program, (dynamics, dict(observe)))
    return go(key, params, arrays, ceiling, num_steps=num_steps, cadences=cadences)


def _run_program(rebuild: Callable) -> Callable:
    @functools.partial(jax.jit, static_argnames=("num_steps", "cadences"))
    def go(key, params, arrays, ceiling, num_steps, cadences):
        dynamics, observe = rebuild(arrays)
        started = start(key, params, dynamics, observe)
        return _advance(started, dynamics, observe, ceiling, num_steps, cadences)

    return go


def warm_up(run: Run, dynamics: Dynamics, observe: Observe, looks: int = 1, *, ceiling: float = math.inf) -> Run:
    """The run at the step where it stands, after its observables have measured that step `looks` times.

    A tracker's first look is a cold start, many times as expensive as a later one. Trainings that part at this θ share it if
    it is made before they part, with one program for the starts and one for the trainings:

        begin = lambda θ: warm_up(start(key, θ, dynamics(0.1), observe), dynamics(0.1), observe)
        train = lambda run, rate: advance(run, dynamics(rate), observe, num_steps=500, every=10)
        sweep.grid(train)(sweep.zipped(begin)(thetas), rates)

    θ and the loss go on from here as without it. Observables that remember the past of the run remember these looks too.

    Args:
      looks: how many.
      run, dynamics, observe, ceiling: as for `advance`.
    Cost: the looks, and for each a step that is discarded.

    >>> lj.warm_up(run, gd, {"loss": lj.observe.loss}).step == run.step
    Array(True, dtype=bool)
    """
    count("warm_up", looks=looks)
    check_run("warm_up", run, dynamics, observe)
    number("warm_up", ceiling=ceiling, more_than=0)
    go, arrays = programs.program(_warm_up_program, (dynamics, dict(observe)))
    return run._replace(memory=go(run, arrays, ceiling, looks=looks))


def _warm_up_program(rebuild: Callable) -> Callable:
    @functools.partial(jax.jit, static_argnames="looks", inline=True)
    def go(run, arrays, ceiling, looks):
        dynamics, observe = rebuild(arrays)
        look, names = recorder(run, dynamics, observe, ceiling), tuple(observe)
        again = lambda _, memory: look(run._replace(memory=memory), names, 0)[0].memory  # noqa: E731
        return jax.lax.fori_loop(0, looks, again, run.memory)

    return go


# ── a step ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def recorder(run: Run, dynamics: Dynamics, observe: Observe, ceiling: float) -> Look:
    """(run, names, rest) ↦ (run, record): one step, measured by the observables `names`, then `rest` unrecorded ones."""
    if set(observe) != set(run.memory):
        raise ValueError(
            f"observe has {sorted(observe)}, but the run was started with {sorted(run.memory)}: give both the same names"
        )

    def look(run: Run, names: tuple[str, ...], rest) -> tuple[Run, dict]:
        after, moment = _step(run, dynamics, ceiling)
        key = jax.random.fold_in(run.key, run.step)
        memory, record = dict(run.memory), {"step": run.step}
        for name in names:
            memory[name], value = observe[name].measure(_observable_key(key, name), run.memory[name], moment)
            check_names(value, f"observe[{name!r}]")
            record[name] = jax.tree.map(lambda x: _nan_unless(moment.alive, x), value)
        after = after._replace(memory=memory)
        if not isinstance(rest, int) or rest > 0:  # else not even an empty loop: its body would be compiled
            after = jax.lax.fori_loop(0, rest, lambda _, r: _step(r, dynamics, ceiling)[0], after)
        return after, record

    return look


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


def check_run(by: str, run: Run, dynamics: Dynamics, observe: Observe) -> None:
    if not isinstance(run, Run):
        raise TypeError(f"{by}: run must be a Run, but is {described(run)}: write lj.start(key, params, dynamics, observe)")
    require(by, dynamics=dynamics, observe=observe)


def _check_start(key: Key, params: Params, dynamics: Dynamics, observe: Observe) -> None:
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


def _observable_key(key: Key, name: str) -> Key:
    """An observable's key, by its name alone: adding another changes nothing."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def _nan_unless(alive: Array | bool, x: Array) -> Array:
    x = jnp.asarray(x)
    return jnp.where(alive, x, jnp.nan) if jnp.issubdtype(x.dtype, jnp.floating) else x


def as_pytree_functions(functions: Any) -> Any:
    """Wraps bare functions in `Partial`, so that `jit` accepts them as pytree arguments.

    Arrays that a `Partial` holds are then arguments of the program, where those of a closure would be constants of it.
    """
    return jax.tree.map(lambda f: Partial(f) if callable(f) else f, functions)
