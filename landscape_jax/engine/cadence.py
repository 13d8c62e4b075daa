"""When a run is recorded: every so many steps, with a cadence for each observable, or at gaps that are given."""

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from landscape_jax.arguments import count, described, number
from landscape_jax.backend.slow_convolutions import warn_of_slow_convolutions
from landscape_jax.record.axes import Record


class Cadence(NamedTuple):
    """At each multiple of `every` steps, all of `names` are measured."""

    every: int
    names: tuple[str, ...]  # the observables of this cadence and of all finer ones


Cadences = tuple[Cadence, ...]  # from the finest to the coarsest; each divides the next
Look = Callable[[Any, tuple[str, ...], Any], tuple[Any, dict]]  # (run, names, rest) ↦ (run, record), see `core._recorder`


def read_cadences(by: str, every: int | Mapping[str, int], names: Iterable[str]) -> Cadences:
    """The cadences of observables called `names`.

    Args:
      by: the function that asks, for errors.
      every: one cadence for all, or one for each by name.
    """
    names = tuple(sorted(names))
    if not isinstance(every, Mapping):
        count(by, every=every)
        return (Cadence(int(every), names),)
    if set(every) != set(names) or not names:
        missing, unknown = sorted(set(names) - set(every)), sorted(map(str, set(every) - set(names)))
        found = [f"lacks {', '.join(missing)}"] * bool(missing) + [f"has {', '.join(unknown)} besides"] * bool(unknown)
        raise ValueError(
            f"{by}: every {' and '.join(found) or 'is empty'}: give a cadence for each observable in observe, "
            f"{', '.join(names) or 'of which there is none'}, or one number for all"
        )
    count(by, **{f"every[{name!r}]": n for name, n in every.items()})
    distinct = sorted({int(n) for n in every.values()})
    for fine, coarse in itertools.pairwise(distinct):
        if coarse % fine:
            raise ValueError(
                f"{by}: cadences must divide one another, but {coarse} is no multiple of {fine}: take for example "
                f"{coarse - coarse % fine} or {coarse - coarse % fine + fine}"
            )
    return tuple(Cadence(n, tuple(name for name in names if every[name] <= n)) for n in distinct)


def check_steps(by: str, num_steps: int, cadences: Cadences, at_least: int = 0) -> None:
    """Raise unless the coarsest cadence divides `num_steps`."""
    count(by, at_least, num_steps=num_steps)
    if num_steps % cadences[-1].every:
        raise ValueError(
            f"{by}: num_steps={num_steps} must be a multiple of every={cadences[-1].every}: take for example "
            f"{-(-num_steps // cadences[-1].every) * cadences[-1].every}"
        )


def describe_cadences(cadences: Cadences) -> int | dict[str, int]:
    """`every` as it was given: a number, or names and numbers where they differ."""
    return cadences[0].every if len(cadences) == 1 else _every_of(cadences)


def record_interval(look: Look, run: Any, cadences: Cadences) -> tuple[Any, Record]:
    """The steps from one record of the coarsest cadence to the next.

    With one cadence that is one recorded step, then `every` − 1 unrecorded ones.

    Args:
      look: (run, names, rest) ↦ (run, record): one step, measured by the observables `names`, then `rest` unrecorded ones.
    Returns: the run and its record. With one cadence the entries have no axis of time, else they are [rows, ...].
    Cost: compiles `look` once for one cadence, and twice as often with each further one.
    """
    finest, *coarser = cadences
    if not coarser:
        run, record = look(run, finest.names, finest.every - 1)
        return run, Record(record)
    ratios = {name: n // finest.every for name, n in _every_of(cadences).items()}
    run, record = _block(look, run, cadences, cadences[-1].names)
    return run, Record(record, cadence=ratios)


def _every_of(cadences: Cadences) -> dict[str, int]:
    return {name: next(c.every for c in cadences if name in c.names) for name in cadences[-1].names}


def _block(look: Look, run: Any, cadences: Cadences, names: tuple[str, ...]) -> tuple[Any, dict]:
    """The steps of the last of `cadences`, of which the first is observed by `names`; entries [rows, ...]."""
    run, record = look(run, names, cadences[0].every - 1)
    record = jax.tree.map(lambda x: jnp.asarray(x)[None], record)
    for i, (fine, coarse) in enumerate(itertools.pairwise(cadences), 1):
        body = lambda run, _, i=i, fine=fine: _block(look, run, cadences[:i], fine.names)  # noqa: E731
        run, rest = jax.lax.scan(body, run, length=coarse.every // fine.every - 1)  # [blocks, rows, ...]
        record |= {name: jax.tree.map(_append, record[name], rest[name]) for name in rest}
    return run, record


def _append(rows: Array, blocks: Array) -> Array:
    return jnp.concatenate([rows, _merge_blocks(blocks)])


def _merge_blocks(blocks: Array) -> Array:
    return blocks.reshape(-1, *blocks.shape[2:])


def scan_intervals(to_next: Callable[[Any], tuple[Any, Record]], run: Any, cadences: Cadences, num: int) -> tuple[Any, Record]:
    """`num` intervals of the coarsest cadence in one compiled loop; `to_next` makes one, as `record_interval` does."""
    body = lambda run, _: to_next(run)  # noqa: E731
    warn_of_slow_convolutions(body, run)
    run, record = jax.lax.scan(body, run, length=num)
    return run, record if len(cadences) == 1 else jax.tree.map(_merge_blocks, record)


def scan_gaps(look: Look, run: Any, names: tuple[str, ...], gaps: Array) -> tuple[Any, Record]:
    """A record at the first step of each gap."""
    body = lambda run, gap: look(run, names, gap - 1)  # noqa: E731
    warn_of_slow_convolutions(body, run, gaps)
    run, record = jax.lax.scan(body, run, gaps)
    return run, Record(record)


def check_gaps(by: str, gaps: Any) -> None:
    """Raise unless the gaps are one row of integers."""
    if not hasattr(gaps, "dtype"):
        raise TypeError(f"{by}: gaps must be a row of integers, but is {described(gaps)}: write jnp.array([10, 10])")
    if jnp.ndim(gaps) != 1 or not jnp.issubdtype(jnp.result_type(gaps), jnp.integer):
        raise ValueError(f"{by}: gaps must be one row of integers, [records], not {jnp.shape(gaps)} {jnp.result_type(gaps)}")


def pace(num_steps: Array | int, records: int, growth: float = 1.0) -> Array:
    """Gaps between records that sum to `num_steps`: [records] int32, each at least 1. For `advance(..., gaps=...)`.

    Args:
      num_steps: [], at least `records`; it may be traced.
      growth: the last gap over the first. The gaps are in geometric progression, but for rounding to whole steps; 1 makes them
        even.

    >>> lj.pace(100, 4).tolist()
    [25, 25, 25, 25]
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
