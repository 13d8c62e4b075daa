"""Many runs as one array program.

A sweep says which runs (`grid`: the outer product of its arguments; `zipped`: one argument list a run) and how to go
through them (`chunked`: so many at a time; `sharded`: split over devices). They nest: `sharded(chunked(grid(fn), 8), mesh)`.
"""

import dataclasses
import functools
import inspect
import math
import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import Mesh, PartitionSpec

from landscape_jax import devices, tree
from landscape_jax.arguments import count, require
from landscape_jax.record.axes import Record, named


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A function of one run, called on arrays of arguments; made by `grid`, `zipped`, `chunked` and `sharded`.

    Records in its result know their axes by the names of the function's arguments.
    """

    fn: Callable
    product: bool  # all combinations of arguments, or one after the other in step
    size: int | None = None  # how many runs side by side, under vmap; None: as suits the machine
    fitted: bool = False  # as many as memory holds
    mesh: Mesh | None = None

    def __call__(self, /, *args, **kwargs):
        axes, index, arrays, plan = self._prepared(args, kwargs)
        result = self._compiled(index, arrays, plan)
        total = math.prod(plan.shape)
        result = result if total == len(index) else jax.tree.map(lambda x: x[:total], result)
        if len(plan.shape) > 1:  # outside of the program, where devices that don't divide the first axis may have to exchange
            result = tree.reshape_leading(result, 1, plan.shape)
        return named(result, {name: _coordinates(x) for name, x in axes.items()} if self.product else {"run": None})

    def lower(self, /, *args, **kwargs):
        """What the compiler gets, as `jax.jit(fn).lower(...)` has it: for its text, its cost and its memory."""
        return self._compiled.lower(*self._prepared(args, kwargs)[1:])

    def _prepared(self, args: tuple, kwargs: dict) -> tuple:
        """The arguments by name, run numbers [N], the arguments on the mesh if there is one, and the plan."""
        axes, positional = _bound(self.fn, args, kwargs)
        axes = {name: _arrays(name, x) for name, x in axes.items()}
        lengths = {name: _length(name, x) for name, x in axes.items()}
        if not self.product and len(set(lengths.values())) > 1:
            told = ", ".join(f"{name}: {n}" for name, n in lengths.items())
            raise ValueError(f"zipped arguments must be equally long, but have {told}; for all combinations use grid")
        shape = tuple(lengths.values())[: None if self.product else 1]
        total, count = math.prod(shape), 1 if self.mesh is None else self.mesh.size
        padded = -(-total // count) * count  # the last run once more, until the devices divide them
        index, arrays = np.minimum(np.arange(padded, dtype=np.int32), total - 1), tuple(axes.values())
        if self.mesh is not None and not _traced(arrays):
            index = devices.to_mesh(index, devices.run_sharding(self.mesh))
            arrays = devices.to_mesh(arrays, devices.replicated_sharding(self.mesh))
        plan = _Plan(shape, tuple(axes), positional, self.size)
        if self.fitted:
            plan = plan._replace(size=_fitting(self._one(plan), arrays, padded))
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
    """What is fixed when a sweep is compiled."""

    shape: tuple[int, ...]  # the sweep's axes
    names: tuple[str, ...]  # of the arguments
    positional: int  # how many of them are passed by position; the others by keyword
    size: int | None  # runs side by side


def grid(fn: Callable) -> Sweep:
    """The outer product of a function over its array arguments, compiled as one program.

    `grid(fn)(xs [a], ys [b])` has leaves [a, b, ...]: entry (i, j) is `fn(xs[i], ys[j])`. Every leaf of every argument
    needs a leading axis, one per argument; a list of numbers counts as an array. What is given by keyword reaches `fn` by
    keyword, what is not given has its default. The axes follow the order of `fn`'s parameters.

    On accelerators all runs go side by side under vmap. On a CPU they go one after the other, by a loop inside the
    compiled program: there batched small products are no faster, and in a vmapped `while` (the sharpness tracker) all runs
    wait for the slowest. `chunked` says otherwise.

    Cost: len(xs) · len(ys) · … times that of `fn`.
    """
    require("grid", fn=fn)
    return Sweep(fn, product=True)


def zipped(fn: Callable) -> Sweep:
    """`zipped(fn)(xs [n], ys [n])` has leaves [n, ...]: entry i is `fn(xs[i], ys[i])`, compiled as one program."""
    require("zipped", fn=fn)
    return Sweep(fn, product=False)


def chunked(fn: Callable | Sweep, size: int | None = None) -> Sweep:
    """`size` runs at a time side by side under vmap, chunk after chunk inside one compiled program.

    Args:
      fn: a sweep, or a function, which counts as zipped.
      size: how many; by default as many as fit into half of the memory that is free, by the compiler's own
        account of what two runs take (which costs one more compilation).
    """
    if size is not None:
        count("chunked", size=size)
    return dataclasses.replace(_sweep(fn), size=size, fitted=size is None)


def sharded(fn: Callable | Sweep, mesh: Mesh | None = None) -> Sweep:
    """Runs split over all devices of a mesh, each going through its share on its own: no communication.

    Where the devices don't divide the runs, the last run is repeated until they do, and cut off again. On several
    processes every process calls it with the same arguments; leaves of the result are then spread over all of them
    (`devices.to_host` gathers them).

    Args:
      fn: a sweep, or a function, which counts as zipped.
      mesh: default: all devices of all processes.
    """
    if mesh is not None:
        require("sharded", mesh=mesh)
    return dataclasses.replace(_sweep(fn), mesh=devices.mesh("runs") if mesh is None else mesh)


def over_runs(fn: Callable, mesh: Mesh | None = None, size: int | None = None) -> Callable:
    """(runs [N, ...], whole) ↦ fn(run, whole) for each: split over a mesh, `size` at a time. Pure.

    A mesh must divide N. By default all go side by side on accelerators, one after the other on a CPU.
    """

    def local(runs, whole):
        n = len(jax.tree.leaves(runs)[0])
        at_once = (1 if jax.default_backend() == "cpu" else n) if size is None else min(size, n)
        one = lambda run: fn(run, whole)  # noqa: E731
        if at_once == n > 1:
            return jax.vmap(one)(runs)
        return jax.lax.map(one, runs, batch_size=None if at_once == 1 else at_once)

    if mesh is None:
        return local
    split, alike = PartitionSpec(mesh.axis_names), PartitionSpec()
    return jax.shard_map(local, mesh=devices.automatic(mesh), in_specs=(split, alike), out_specs=split, check_vma=False)


def _sweep(fn: Callable | Sweep) -> Sweep:
    return fn if isinstance(fn, Sweep) else zipped(fn)


# ── arguments ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _bound(fn: Callable, args: tuple, kwargs: dict) -> tuple[dict[str, Any], int]:
    """The arguments by name, in the order of the signature, and how many of them are passed by position."""
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
    """The argument with arrays as leaves: a list of numbers, also one within a pytree, becomes an array."""

    def array(x):
        if isinstance(x, (jax.Array, jax.ShapeDtypeStruct)):
            return x
        try:
            x = _stacked(x) if _is_list(x) else np.asarray(x)
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
    """A list or tuple of scalars or of such lists, which can't be a pytree with a leading axis in each leaf."""
    scalar = lambda y: isinstance(y, (int, float, complex, np.generic, np.ndarray, jax.Array)) and np.ndim(y) == 0  # noqa: E731
    return type(x) in (list, tuple) and len(x) > 0 and all(scalar(y) or _is_list(y) for y in x)


def _stacked(x: list | tuple) -> jax.Array:
    keys = any(isinstance(y, jax.Array) and jnp.issubdtype(y.dtype, jax.dtypes.prng_key) for y in x)
    return jnp.stack(x) if keys else jnp.asarray(x)  # which takes no keys


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
    """x[i]. A key is made anew of its bits: that runs share one is what a sweep is for, not a slip to be reported."""
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        return x[i]
    return jax.random.wrap_key_data(jax.random.key_data(x)[i], impl=jax.random.key_impl(x))


def _is_record(x: Any) -> bool:
    return isinstance(x, Record)


def _traced(arrays: Any) -> bool:
    return any(isinstance(x, Tracer) for x in jax.tree.leaves(arrays))


def _coordinates(x: Any) -> np.ndarray | None:
    """An argument as the coordinates of its axis: numbers as they are, anything else by number."""
    plain = isinstance(x, (jax.Array, np.ndarray)) and x.ndim == 1 and not jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    return np.asarray(x) if plain and not _traced(x) else None


def _fitting(fn: Callable, whole: Any, runs: int) -> int:
    """How many runs fit side by side into half of the free memory."""
    two = jax.jit(lambda index, whole: jax.vmap(lambda i: fn(i, whole))(index)).lower(jnp.arange(2), whole).compile()
    memory = two.memory_analysis()
    if memory is None:  # a backend that does not tell
        return 1
    each = (memory.temp_size_in_bytes + memory.output_size_in_bytes) / 2
    return max(1, min(runs, int(_free() / 2 / max(each, 1))))


def _free() -> int:
    """Bytes free on a device; on a CPU, of the machine."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"] - stats["bytes_in_use"]
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # a system that does not tell
        return 1 << 32
