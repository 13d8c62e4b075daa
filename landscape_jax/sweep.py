"""Many runs as one array program.

A sweep says which runs (`grid`: the outer product of its arguments; `zipped`: one argument list a run) and how to go
through them (`chunked`: so many at a time; `sharded`: split over devices). They nest: `sharded(chunked(grid(fn), 8), mesh)`.
"""

import dataclasses
import functools
import inspect
import math
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import Mesh, PartitionSpec

from landscape_jax import devices, tree
from landscape_jax.arguments import count, require
from landscape_jax.record.axes import named


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

    def __call__(self, *args, **kwargs):
        names = _names(self.fn, args, kwargs)
        index, arrays, shape = self._prepared(names)
        size = _fitting(self._one(shape), arrays, len(index)) if self.fitted else self.size
        result = self._compiled(index, arrays, shape, size)
        total = math.prod(shape)
        result = result if total == len(index) else jax.tree.map(lambda x: x[:total], result)
        if len(shape) > 1:  # outside of the program, where devices that don't divide the first axis may have to exchange
            result = tree.regrouped(result, 1, shape)
        axes = names if self.product else {"run": None}
        return named(result, {name: _coordinates(x) for name, x in axes.items()})

    def lower(self, *args, **kwargs):
        """What the compiler gets, as `jax.jit(fn).lower(...)` has it: for its text, its cost and its memory."""
        index, arrays, shape = self._prepared(_names(self.fn, args, kwargs))
        return self._compiled.lower(index, arrays, shape, self.size)

    def _prepared(self, names: dict[str, Any]) -> tuple:
        """Run numbers [N], the arguments, and the shape of the sweep; on the mesh if there is one."""
        lengths = {name: _length(name, x) for name, x in names.items()}
        if not self.product and len(set(lengths.values())) > 1:
            told = ", ".join(f"{name}: {n}" for name, n in lengths.items())
            raise ValueError(f"zipped arguments must be equally long, but have {told}; for all combinations use grid")
        shape = tuple(lengths.values())[: None if self.product else 1]
        total, count = math.prod(shape), 1 if self.mesh is None else self.mesh.size
        padded = -(-total // count) * count  # the last run once more, until the devices divide them
        index, arrays = np.minimum(np.arange(padded, dtype=np.int32), total - 1), tuple(names.values())
        if self.mesh is not None and not _traced(arrays):
            index = devices.placed(index, devices.runs_over(self.mesh))
            arrays = devices.placed(arrays, devices.alike_on(self.mesh))
        return index, arrays, shape

    def _one(self, shape: tuple[int, ...]) -> Callable:
        """(i, arrays) ↦ run number i."""

        def one(i, arrays):
            places = jnp.unravel_index(i, shape) if self.product else [i] * len(arrays)
            return self.fn(*(jax.tree.map(lambda x, at=at: _entry(x, at), a) for a, at in zip(arrays, places, strict=True)))

        return one

    @functools.cached_property
    def _compiled(self):
        @functools.partial(jax.jit, static_argnums=(2, 3))
        def go(index, arrays, shape, size):
            return over_runs(self._one(shape), self.mesh, size)(index, arrays)

        return go


def grid(fn: Callable) -> Sweep:
    """The outer product of a function over its array arguments, compiled as one program.

    `grid(fn)(xs [a], ys [b])` has leaves [a, b, ...]: entry (i, j) is `fn(xs[i], ys[j])`. Every leaf of every argument
    needs a leading axis, one per argument.

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
    (`devices.fetched` gathers them).

    Args:
      fn: a sweep, or a function, which counts as zipped.
      mesh: default: all devices of all processes.
    """
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


def _names(fn: Callable, args: tuple, kwargs: dict) -> dict[str, Any]:
    """The arguments by the names that the function gives them."""
    if not args and not kwargs:
        raise ValueError("a sweep needs at least one array of arguments to go through")
    bound = inspect.signature(fn).bind(*args, **kwargs)
    by_name = {}
    for name, value in bound.arguments.items():
        several = inspect.signature(fn).parameters[name].kind == inspect.Parameter.VAR_POSITIONAL
        by_name |= {f"{name}_{i}": x for i, x in enumerate(value)} if several else {name: value}
    return by_name


def _length(name: str, arrays: Any) -> int:
    lengths = {x.shape[0] if np.ndim(x) else "none" for x in jax.tree.leaves(arrays)}
    if len(lengths) != 1 or "none" in lengths:
        raise ValueError(
            f"sweep: all leaves of the argument {name!r} need one leading axis of runs of the same length, but have lengths "
            f"{', '.join(sorted(map(str, lengths)))}: stack what differs between runs, close over what doesn't"
        )
    n = int(lengths.pop())
    if n == 0:
        raise ValueError(f"sweep: the argument {name!r} holds no runs: give at least one")
    return n


def _entry(x: Any, i: Any) -> jax.Array:
    """x[i]. A key is made anew of its bits: that runs share one is what a sweep is for, not a slip to be reported."""
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        return x[i]
    return jax.random.wrap_key_data(jax.random.key_data(x)[i], impl=jax.random.key_impl(x))


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
