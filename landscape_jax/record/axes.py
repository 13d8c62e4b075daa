"""What a run recorded: arrays by name, whose leading axes have names and coordinates."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np


@jax.tree_util.register_pytree_with_keys_class
class Record(dict):
    """A dict of arrays [*axes, ...], as the engine fills it, that knows what its leading axes are.

    A sweep puts its own axes before the last one, "step": `record.axes` is {"seed": [...], "learning_rate": [...],
    "step": [...]}, each name with its coordinates. A run that diverged has its clock, record["step"], stand still; the
    coordinates of the axis "step" go on.

    `sel` takes coordinates of axes and `isel` positions along them; what they give, and `copy` and `|`, keep the axes. As a
    pytree it is a dict of its entries. What a `tree.map` makes of it is a new record whose axes nobody has named: all but
    "step" count as "axis_0", "axis_1", …; it keeps `cadence`.

    Args:
      entries: arrays, or pytrees of them, by name.
      named: the leading axes before "step", outermost first, each with its coordinates [n] (None: 0, 1, …). "step" may be
        among them, where its coordinates are not those of the entry.
      cadence: of entries that have a row only at every so many-th entry of "step": how many, by name.

    >>> runs = lj.Record({"step": np.array([[0, 10], [0, 10]]), "loss": np.ones((2, 2))}, {"learning_rate": [0.1, 0.5]})
    >>> runs.sel(learning_rate=0.5).axes
    {'step': array([ 0, 10])}
    """

    def __init__(self, entries=(), named: Mapping[str, Any] | None = None, *, cadence: Mapping[str, int] | None = None):
        super().__init__(entries)
        self.named = dict(named or {})
        self._coarse = {name: n for name, n in (cadence or {}).items() if n > 1}

    @property
    def cadence(self) -> dict[str, int]:
        """For each entry, n where it has a row at every n-th entry of "step"; 1 for most."""
        return {name: self._coarse.get(name, 1) for name in self}

    def steps(self, name: str) -> np.ndarray:
        """The steps at which an entry was recorded, [T] or fewer: coordinates of its own axis of time."""
        return self.axes["step"][:: self.cadence[name]]

    @property
    def axes(self) -> dict[str, np.ndarray]:
        """The leading axes that all entries share, outermost first: their names and coordinates."""
        shape = np.shape(self["step"]) if "step" in self else ()
        if not shape:
            first = np.shape(next(iter(jax.tree.leaves(dict(self))), ()))
            counted = {name: np.arange(n) for name, n in zip(self.named, first, strict=False)}
            known = {name: np.asarray(x) for name, x in self.named.items() if x is not None}
            return {name: (counted | known)[name] for name in self.named if name in counted | known}
        runs = {name: x for name, x in self.named.items() if name != "step"}
        names = [*runs, *(f"axis_{i}" for i in range(len(runs), len(shape) - 1))]
        coordinates = (runs.get(name) for name in names)
        lead = [np.arange(n) if x is None else np.asarray(x) for x, n in zip(coordinates, shape, strict=False)]
        step = self.named.get("step")
        return dict(zip(names, lead, strict=True)) | {"step": clock(self) if step is None else np.asarray(step)}

    def sel(self, /, **coordinates: Any) -> "Record":
        """The part of the record at these coordinates: `record.sel(seed=3, learning_rate=0.1)`. For the host.

        An axis with one coordinate is gone from the result; one with a list of them stays, in the list's order.

        Args:
          coordinates: by axis. Integers and strings must be equal to one of the axis; a float is the nearest one, which must
            lie within a relative 1e-6 of it.
        Raises: `ValueError` for an axis that there is not, and for a coordinate that none or several of its places have.
        """
        axes = self._with_axes(coordinates)
        places = {}
        for name, wanted in coordinates.items():
            several = np.ndim(wanted) > 0
            places[name] = [_place(name, axes[name], x) for x in wanted] if several else _place(name, axes[name], wanted)
        return self.isel(**places)

    def isel(self, /, **places: Any) -> "Record":
        """The part of the record at these positions: `record.isel(seed=0, step=slice(100, None))`. For the host.

        An axis with one position is gone from the result; with a slice or a list of positions it stays. This holds for
        "step" too: without its axis the record has no entry "step". The coordinates of "step" are the clock of the runs that
        are left; where these stand still, because they diverged, they remain those of the whole record.

        An entry with a cadence n of its own has rows at every n-th position of "step". At one position it is left out of the
        result if it has no row there. With several, its rows must again be at every m-th of them, beginning with the first.

        Args:
          places: by axis, an integer (negative ones count from the end), a slice, or a list of integers.
        Raises: `ValueError` for an axis that there is not, and for positions of "step" that leave an entry without a regular
          cadence; `IndexError` for a position beyond its end.
        """
        axes = self._with_axes(places)
        for name, place in places.items():
            _check_place(name, place, len(axes[name]))
        left = {name: x[places[name]] if name in places else x for name, x in axes.items()}
        left = {name: x for name, x in left.items() if np.ndim(x)}
        timeless = "step" in axes and "step" not in left
        cadence, entries = {}, {}
        for name, x in self.items():
            own = dict(places)
            if self.cadence[name] > 1 and "step" in places:
                rows, cadence[name] = _coarse_rows(name, self.cadence[name], np.arange(len(axes["step"]))[places["step"]])
                own["step"] = rows
            else:
                cadence[name] = self.cadence[name]
            if not (timeless and name == "step") and own.get("step", 0) is not None:
                entries[name] = jax.tree.map(functools.partial(_part, name, list(axes), own), x)
        record = Record(entries, left, cadence={} if timeless else cadence)
        if "step" in left and np.size(record["step"]) and _goes_on(clock(record), left["step"]):
            del record.named["step"]
        return record

    def _with_axes(self, asked: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The axes, among which all those asked for must be."""
        axes = self.axes
        if missing := [name for name in asked if name not in axes]:
            told = ", ".join(axes) or "none that is known: what `tree.map` makes of a record has lost their names"
            raise ValueError(f"the record has no axis {missing[0]!r}; its axes are {told}")
        return axes

    def copy(self) -> "Record":
        """The same entries in a new record, with the same axes."""
        return Record(self, self.named, cadence=self.cadence)

    __copy__ = copy

    def __or__(self, other: Any) -> "Record":  # pyright: ignore[reportIncompatibleMethodOverride]  # dict's overloads
        """The entries of both, those of `other` where both have a name; the axes of the first that has any."""
        if not isinstance(other, Mapping):
            return NotImplemented
        return Record({**self, **other}, self.named or _named_of(other), cadence=self.cadence | _cadence_of(other))

    def __ror__(self, other: Any) -> "Record":  # pyright: ignore[reportIncompatibleMethodOverride]
        if not isinstance(other, Mapping):
            return NotImplemented
        return Record({**other, **self}, self.named, cadence=_cadence_of(other) | self.cadence)

    def __ior__(self, other: Any) -> "Record":  # pyright: ignore[reportIncompatibleMethodOverride]
        joined = self | dict(other) if not isinstance(other, Mapping) else self | other
        self.update(joined)
        self.named, self._coarse = joined.named, joined._coarse
        return self

    def to_xarray(self):
        """A labelled `xarray.Dataset`: one variable an entry (nested names joined by "."), the axes as dimensions.

        An entry that is recorded at every n-th entry of "step" has the dimension "step_<n>" in its place. Further dimensions of
        an entry are called <entry>_0, <entry>_1, …; runs' own clocks are the variable "clock". Needs
        `pip install "landscape_jax[xarray]"`.
        """
        try:
            import xarray
        except ImportError as error:
            raise ImportError('to_xarray needs xarray: pip install "landscape_jax[xarray]"') from error
        axes, cadence = self.axes, self.cadence
        every = {name: cadence[entry] for entry, value in self.items() for name in flat({entry: value}, ".")}
        coordinates, variables = dict(axes), {}
        for name, value in flat(self, ".").items():
            if name == "step" and value.ndim == 1 and "step" not in self.named:
                continue  # the axis itself
            lead = list(axes)[: value.ndim]
            if every[name] > 1 and "step" in lead:
                lead[-1] = f"step_{every[name]}"
                coordinates[lead[-1]] = axes["step"][:: every[name]]
            name = "clock" if name == "step" else name
            variables[name] = ([*lead, *(f"{name}_{i}" for i in range(value.ndim - len(lead)))], value)
        return xarray.Dataset(variables, coords={name: ([name], x) for name, x in coordinates.items()})

    def tree_flatten_with_keys(self):
        names = sorted(self)
        entries = [(jax.tree_util.DictKey(name), self[name]) for name in names]
        return entries, (tuple(names), tuple(sorted(self._coarse.items())))

    @classmethod
    def tree_unflatten(cls, names_and_cadence, entries):
        names, cadence = names_and_cadence
        return cls(zip(names, entries, strict=True), cadence=dict(cadence))


def clock(record: Mapping) -> np.ndarray:
    """The common time axis [T] of a record: a diverged run's own clock stands still, the latest of all goes on.

    >>> lj.record.clock({"step": np.array([[0, 10, 20], [0, 7, 7]])})  # the second run diverged
    array([ 0, 10, 20])
    """
    step = np.asarray(record["step"])
    return step.reshape(-1, step.shape[-1]).max(axis=0)


def named(result: Any, axes: Mapping[str, Any]) -> Any:
    """The same pytree, whose records know these leading axes, outermost first."""

    def with_axes(x):
        return Record(x, {**axes, **x.named}, cadence=x.cadence) if isinstance(x, Record) else x

    return jax.tree.map(with_axes, result, is_leaf=lambda x: isinstance(x, Record))


def _goes_on(step: np.ndarray, common: np.ndarray) -> bool:
    """Whether the clock of some runs [T] never stands still. One that falls back at its last record alone has diverged."""
    fell = step[-1] != common[-1] and np.array_equal(step[:-1], common[:-1])
    return not fell and bool(np.all(np.diff(step) > 0))


def _named_of(x: Any) -> dict[str, Any]:
    return dict(x.named) if isinstance(x, Record) else {}


def _cadence_of(x: Mapping) -> dict[str, int]:
    """Of each entry; those of a plain dict have a row at each step."""
    return x.cadence if isinstance(x, Record) else dict.fromkeys(x, 1)


def _coarse_rows(entry: str, n: int, places: Any) -> tuple[Any, int]:
    """Which rows of an entry are at these positions of "step", where it has every n-th: and at every how many-th they are."""
    if np.ndim(places) == 0:
        return (int(places) // n if places % n == 0 else None), 1
    at = np.flatnonzero(places % n == 0)
    every = int(at[1]) if len(at) > 1 else max(1, len(places))
    if len(places) and not np.array_equal(at, np.arange(0, len(places), every)):
        raise ValueError(
            f"the entry {entry!r} has a row at every {n}-th position of 'step', and none at regular places among those taken: "
            f"begin with a multiple of {n}, or take the entry out first"
        )
    return (places[at] // n).tolist(), every


def _part(entry: str, axes: list[str], places: Mapping[str, Any], x: Any) -> Any:
    """x [*axes, ...] at positions along some of them."""
    x = x if hasattr(x, "ndim") else np.asarray(x)
    for axis, name in reversed(list(enumerate(axes))):  # the last first, so that those still to come are where they were
        if name not in places:
            continue
        if x.ndim <= axis:
            raise ValueError(f"the entry {entry!r}, of shape {x.shape}, has no axis {name!r}: take the entry out first")
        place = places[name]
        x = x[(slice(None),) * axis + (np.asarray(place, int) if np.ndim(place) else place,)]
    return x


def _place(name: str, coordinates: np.ndarray, wanted: Any) -> int:
    """Where an axis has a coordinate: the one that is equal, of floats the nearest within a relative 1e-6."""
    same, kind = coordinates == wanted, coordinates.dtype.kind
    if kind in "fV" and not np.any(same) and np.asarray(wanted).dtype.kind in "iuf":  # V: bfloat16
        away = np.abs(coordinates.astype(np.float64) - float(wanted))
        near = away <= 1e-6 * abs(float(wanted))
        same = near & (away == np.min(away, where=near, initial=np.inf))
    found = np.flatnonzero(same)
    if len(found) == 1:
        return int(found[0])
    if len(found) > 1:
        at = ", ".join(map(str, found[:5])) + (", …" if len(found) > 5 else "")
        raise ValueError(f"{name}={wanted!r} is the coordinate of several places: {at}; take one by isel({name}=…)")
    there = ", ".join(map(str, coordinates[:10])) + (f", … ({len(coordinates)})" if len(coordinates) > 10 else "")
    raise ValueError(f"the axis {name!r} has no coordinate {wanted!r}; it has {there or 'none'} (for positions use isel)")


def _check_place(name: str, place: Any, length: int) -> None:
    if isinstance(place, slice):
        return
    for i in np.ravel(place).tolist():
        if np.ndim(place) > 1 or isinstance(i, bool) or not isinstance(i, int):
            told = f"isel: {name}={place!r} must be an integer, a slice or a list of integers"
            raise TypeError(f"{told}; for coordinates use sel")
        if not -length <= i < length:
            raise IndexError(f"isel: {name}={i} is beyond the {length} places of the axis {name!r}")


def check_name(name: Any, where: str = "a record") -> None:
    """Raise `ValueError` for a name that can't be that of an entry, which is a file on disk, nested in folders."""
    if not isinstance(name, str) or name in ("", ".", "..") or "/" in name or "\0" in name:
        raise ValueError(
            f"{where}: the name {name!r} can't be that of an entry: names are strings, not empty, '.' or '..', and without "
            "'/', which joins nested names on disk: rename it, or measure a dict for nested entries"
        )


def check_names(value: Any, where: str) -> None:
    """The same for all names in a measured value."""
    value = value._asdict() if hasattr(value, "_asdict") else value
    for name, inner in value.items() if isinstance(value, Mapping) else ():
        check_name(name, where)
        check_names(inner, f"{where}[{name!r}]")


def flat(record: Mapping, joint: str = "/", prefix: str = "") -> dict[str, np.ndarray]:
    """Nested names joined into one."""
    out = {}
    for name, value in record.items():
        check_name(name)
        value = value._asdict() if hasattr(value, "_asdict") else value
        inside = flat(value, joint, f"{prefix}{name}{joint}") if isinstance(value, Mapping) else {prefix + name: _array(value)}
        if twice := out.keys() & inside.keys():
            raise ValueError(f"two entries of a record are called {min(twice)!r}, nested names being joined by {joint!r}")
        out |= inside
    return out


def _array(value: Any) -> np.ndarray:
    value = np.asarray(value)
    if value.dtype.kind == "O":
        raise TypeError("a record holds arrays of numbers, booleans or text, but an entry is an array of Python objects")
    return value.astype(np.float32) if value.dtype.kind == "V" else value  # bfloat16 and kin: not NumPy's own


def nested(flattened: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flat`."""
    out: dict[str, Any] = {}
    for name, value in flattened.items():
        *path, last = name.split("/")
        at = out
        for part in path:
            at = at.setdefault(part, {})
        at[last] = value
    return out
