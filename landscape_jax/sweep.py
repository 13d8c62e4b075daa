"""Many runs as one array program.

A sweep says which runs there are (`grid`: the outer product of its arguments; `zipped`: one argument list a run) and how they
are computed (`chunked`: so many at a time; `sharded`: split over devices). They nest: `sharded(chunked(grid(fn), 8), mesh)`.
"""

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import Mesh, PartitionSpec

from landscape_jax import devices, tree
from landscape_jax.arguments import count, require
from landscape_jax.backend import memory, policy
from landscape_jax.record.axes import Record, named


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A function of one run, called on arrays of arguments. `grid`, `zipped`, `chunked` and `sharded` make one.

    The axes of records in its result have the names of the function's arguments.
    """

    fn: Callable
    product: bool  # all combinations of arguments, or the i-th of each together
    size: int | None = None  # how many runs side by side, under vmap; None: by the backend (`backend.policy`)
    fits_memory: bool = False  # as many as memory holds
    mesh: Mesh | None = None

    def __call__(self, /, *args, **kwargs):
        axes, index, arrays, plan = self._prepare(args, kwargs)
        result = self._compiled(index, arrays, plan)
        total = math.prod(plan.shape)
        result = result if total == len(index) else jax.tree.map(lambda x: x[:total], result)
        if len(plan.shape) > 1:  # outside of the program: devices that don't divide the first axis exchange runs here
            result = tree.reshape_leading(result, 1, plan.shape)
        return named(result, {name: _coordinates(x) for name, x in axes.items()} if self.product else {"run": None})

    def lower(self, /, *args, **kwargs):
        """The lowered program, like `jax.jit(fn).lower(...)`: for its text, cost and memory."""
        return self._compiled.lower(*self._prepare(args, kwargs)[1:])

    def _prepare(self, args: tuple, kwargs: dict) -> tuple:
        """The arguments by name; run numbers [N] and the arguments, on the mesh if there is one; and the plan."""
        axes, positional = _bind(self.fn, args, kwargs)
        axes = {name: _arrays(name, x) for name, x in axes.items()}
        lengths = {name: _length(name, x) for name, x in axes.items()}
        if not self.product and len(set(lengths.values())) > 1:
            text = ", ".join(f"{name}: {n}" for name, n in lengths.items())
            raise ValueError(f"zipped arguments must be equally long, but have {text}; for all combinations use grid")
        shape = tuple(lengths.values())[: None if self.product else 1]
        total, count = math.prod(shape), 1 if self.mesh is None else self.mesh.size
        padded = -(-total // count) * count  # the last run is repeated until the devices divide the runs
        index, arrays = np.minimum(np.arange(padded, dtype=np.int32), total - 1), tuple(axes.values())
        if self.mesh is not None and not _any_traced(arrays):
            index = devices.to_mesh(index, devices.run_sharding(self.mesh))
            arrays = devices.to_mesh(arrays, devices.replicated_sharding(self.mesh))
        plan = _Plan(shape, tuple(axes), positional, self.size)
        if self.fits_memory:
            plan = plan._replace(size=_size_that_fits(self._one(plan), arrays, padded))
        return axes, index, arrays, plan

    def _one(self, plan: "_Plan") -> Callable:
        """(i, arrays) ↦ run number i."""

        def one(i, arrays):
            places = jnp.unravel_index(i, plan.shape) if self.product else [i] * len(arrays)
            entries = [jax.tree.map(lambda x, at=at: _entry(x, at), a) for a, at in zip(arrays, places, strict=True)]
            n = plan.positional
            result = self.fn(*entries[:n], **dict(zip(plan.names[n:], entries[n:], strict=True)))
            if self.product and "step" in plan.names and any(map(_is_record, jax.tree.leaves(result, is_leaf=_is_record))):
                raise ValueError("grid: a record's axis 'step' is its time: rename the function's parameter 'step'")
            return result

        return one

    @functools.cached_property
    def _compiled(self):
        @functools.partial(jax.jit, static_argnums=2)
        def go(index, arrays, plan):
            return over_runs(self._one(plan), self.mesh, plan.size)(index, arrays)

        return go


class _Plan(NamedTuple):
    """The static part of a sweep: its values are compiled in."""

    shape: tuple[int, ...]  # the lengths of the sweep's axes
    names: tuple[str, ...]  # of the arguments
    positional: int  # so many of them are passed by position; the others by keyword
    size: int | None  # runs side by side


def grid(fn: Callable) -> Sweep:
    """The outer product of a function over its array arguments, compiled as one program.

    `grid(fn)(xs [a], ys [b])` has leaves [a, b, ...]: entry (i, j) is `fn(xs[i], ys[j])`. Every leaf of every argument
    needs a leading axis, one per argument; a list of numbers counts as an array. Arguments given by keyword reach `fn` by
    keyword; those not given have their defaults. The axes follow the order of `fn`'s parameters.

    On accelerators all runs are computed side by side under vmap. On a CPU they are computed one after the other, by a loop in
    the compiled program: batched small products are no faster there, and in a vmapped `while` (the sharpness tracker) all runs
    wait for the slowest. `chunked` overrides this.

    Cost: len(xs) · len(ys) · … times that of `fn`.

    >>> lj.sweep.grid(lambda x, y: x + y)(jnp.array([0, 10]), jnp.array([1, 2, 3]))
    Array([[ 1,  2,  3],
           [11, 12, 13]], dtype=int32)
    """
    require("grid", fn=fn)
    return Sweep(fn, product=True)


def zipped(fn: Callable) -> Sweep:
    """`zipped(fn)(xs [n], ys [n])` has leaves [n, ...]: entry i is `fn(xs[i], ys[i])`, compiled as one program.

    >>> lj.sweep.zipped(lambda x, y: x + y)(jnp.array([0, 10]), jnp.array([1, 2]))
    Array([ 1, 12], dtype=int32)
    """
    require("zipped", fn=fn)
    return Sweep(fn, product=False)


def chunked(fn: Callable | Sweep, size: int | None = None) -> Sweep:
    """The sweep with `size` runs at a time side by side under vmap, chunk after chunk in one compiled program.

    Args:
      fn: a sweep, or a function, which counts as zipped.
      size: default: as many as fit into half of the free memory, by the compiler's report for two runs (one more
        compilation).

    >>> lj.sweep.chunked(lambda x: x**2, 2)(jnp.arange(5))  # two side by side
    Array([ 0,  1,  4,  9, 16], dtype=int32)
    """
    if size is not None:
        count("chunked", size=size)
    return dataclasses.replace(_sweep(fn), size=size, fits_memory=size is None)


def sharded(fn: Callable | Sweep, mesh: Mesh | None = None) -> Sweep:
    """The sweep with its runs split over all devices of a mesh. Each device computes its share: no communication.

    Where the devices don't divide the runs, the last run is repeated until they do, and its copies are cut off again. With
    several processes, each must call it with the same arguments. The leaves of the result are then spread over all processes;
    `devices.to_host` gathers them.

    Args:
      fn: a sweep, or a function, which counts as zipped.
      mesh: default: all devices of all processes.

    >>> lj.sweep.sharded(lambda x: x**2)(jnp.arange(5)).tolist()
    [0, 1, 4, 9, 16]
    """
    if mesh is not None:
        require("sharded", mesh=mesh)
    return dataclasses.replace(_sweep(fn), mesh=devices.mesh("runs") if mesh is None else mesh)


def over_runs(fn: Callable, mesh: Mesh | None = None, size: int | None = None) -> Callable:
    """(runs [N, ...], shared) ↦ fn(run, shared) for each run: split over a mesh, `size` at a time. Pure.

    The size of the mesh must divide N. By default all runs are side by side on accelerators, one after the other on a CPU.

    >>> lj.sweep.over_runs(lambda run, whole: run * whole)(jnp.arange(3), jnp.array(10))
    Array([ 0, 10, 20], dtype=int32)
    """

    def local(runs, shared):
        n = len(jax.tree.leaves(runs)[0])
        at_once = policy.runs_at_once(n, size)
        one = lambda run: fn(run, shared)  # noqa: E731
        if at_once == n > 1:
            return jax.vmap(one)(runs)
        return jax.lax.map(one, runs, batch_size=None if at_once == 1 else at_once)

    if mesh is None:
        return local
    split, replicated = PartitionSpec(mesh.axis_names), PartitionSpec()
    in_specs = (split, replicated)
    return jax.shard_map(local, mesh=devices.automatic(mesh), in_specs=in_specs, out_specs=split, check_vma=False)


def _sweep(fn: Callable | Sweep) -> Sweep:
    return fn if isinstance(fn, Sweep) else zipped(fn)


# ── arguments ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _bind(fn: Callable, args: tuple, kwargs: dict) -> tuple[dict[str, Any], int]:
    """The arguments by name, in the order of the signature; and the number of those passed by position."""
    if not args and not kwargs:
        raise ValueError("a sweep needs at least one array of arguments to go through")
    try:
        signature = inspect.signature(fn)
    except ValueError:  # some builtins have none
        signature = inspect.signature(lambda *arg, **kwargs: None)
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        raise TypeError(f"sweep of {getattr(fn, '__name__', 'a function')}{signature}: {error}") from None
    names: list[str] = []
    for parameter in signature.parameters.values():
        left = len(bound.args) - len(names)
        several = parameter.kind == inspect.Parameter.VAR_POSITIONAL
        names += [f"{parameter.name}_{i}" for i in range(left)] if several else [parameter.name][:left]
    axes = dict(zip(names, bound.args, strict=True))
    if axes.keys() & bound.kwargs.keys():
        raise ValueError(f"sweep: two arguments are called {min(axes.keys() & bound.kwargs.keys())!r}: rename one of them")
    return axes | bound.kwargs, len(axes)


_ONE_ROW_A_RUN = "give an array of numbers or keys with one row a run; for anything else, an index into it"


def _arrays(name: str, value: Any) -> Any:
    """The argument with arrays as leaves: a list of numbers, also one inside a pytree, becomes an array."""

    def array(x):
        if isinstance(x, (jax.Array, jax.ShapeDtypeStruct)):
            return x
        try:
            x = _stack(x) if _is_list(x) else np.asarray(x)
        except (ValueError, TypeError, OverflowError) as error:  # e.g. ragged
            raise ValueError(f"sweep: the argument {name!r} is no array ({error}): {_ONE_ROW_A_RUN}") from None
        if not any(jnp.issubdtype(x.dtype, kind) for kind in (jnp.number, jnp.bool_, jax.dtypes.prng_key)):
            raise TypeError(f"sweep: the argument {name!r} holds data of type {x.dtype}: {_ONE_ROW_A_RUN}")
        if jnp.issubdtype(x.dtype, jnp.integer):
            canonical = jax.dtypes.canonicalize_dtype(x.dtype)
            if isinstance(x, np.ndarray) and (x != x.astype(canonical)).any():
                raise ValueError(f"sweep: the argument {name!r} holds integers beyond {canonical}: set jax_enable_x64")
        return x

    return jax.tree.map(array, value, is_leaf=lambda x: _is_list(x) or isinstance(x, Iterator))


def _is_list(x: Any) -> bool:
    """Whether x is a list or tuple of scalars or of such lists: not a pytree with a leading axis in each leaf."""
    scalar = lambda y: isinstance(y, (int, float, complex, np.generic, np.ndarray, jax.Array)) and np.ndim(y) == 0  # noqa: E731
    return type(x) in (list, tuple) and len(x) > 0 and all(scalar(y) or _is_list(y) for y in x)


def _stack(x: list | tuple) -> jax.Array:
    keys = any(isinstance(y, jax.Array) and jnp.issubdtype(y.dtype, jax.dtypes.prng_key) for y in x)
    return jnp.stack(x) if keys else jnp.asarray(x)  # asarray takes no keys


def _length(name: str, arrays: Any) -> int:
    leaves = jax.tree.leaves(arrays)
    lengths = {x.shape[0] if x.ndim else "none" for x in leaves}
    if not leaves or lengths == {0}:
        raise ValueError(f"sweep: the argument {name!r} holds no runs: give at least one")
    if len(lengths) != 1 or "none" in lengths:
        single = len(leaves) == 1
        remedy = "stack what differs between runs, close over what doesn't"
        if single and jnp.issubdtype(leaves[0].dtype, jax.dtypes.prng_key):
            remedy = "this is a single key; jax.random.split(key, n) makes one a run"
        elif single:
            remedy = f"this is a single number; a list of one makes one run, functools.partial(fn, {name}=…) fixes it for all"
        raise ValueError(
            f"sweep: all leaves of the argument {name!r} need one leading axis of runs of the same length, but have lengths "
            f"{', '.join(sorted(map(str, lengths)))}: {remedy}"
        )
    return int(lengths.pop())


def _entry(x: Any, i: Any) -> jax.Array:
    """x[i]. A key is rebuilt from its bits: runs of a sweep may share a key, and JAX would report its reuse."""
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        return x[i]
    return jax.random.wrap_key_data(jax.random.key_data(x)[i], impl=jax.random.key_impl(x))


def _is_record(x: Any) -> bool:
    return isinstance(x, Record)


def _any_traced(arrays: Any) -> bool:
    return any(isinstance(x, Tracer) for x in jax.tree.leaves(arrays))


def _coordinates(x: Any) -> np.ndarray | None:
    """The coordinates of an argument's axis: the numbers themselves; None, for 0, 1, …, for anything else."""
    plain = isinstance(x, (jax.Array, np.ndarray)) and x.ndim == 1 and not jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    return np.asarray(x) if plain and not _any_traced(x) else None


def _size_that_fits(fn: Callable, shared: Any, runs: int) -> int:
    """How many runs fit side by side into half of the free memory; 1 where the backend does not tell."""
    two_runs = jax.jit(lambda index, shared: jax.vmap(lambda i: fn(i, shared))(index)).lower(jnp.arange(2), shared).compile()
    size = memory.program_bytes(two_runs)
    return 1 if size is None else max(1, min(runs, int(memory.free_bytes() / 2 / max(size / 2, 1))))
