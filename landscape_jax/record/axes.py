"""What a run recorded: arrays by name, whose leading axes have names and coordinates."""

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

    As a pytree it is a dict of its entries. What a `tree.map` makes of it is a new record whose axes nobody has named: all
    but "step" count as "axis_0", "axis_1", …; it keeps `cadence`.

    Args:
      entries: arrays, or pytrees of them, by name.
      named: the leading axes before "step", outermost first, each with its coordinates [n] (None: 0, 1, …).
      cadence: of entries that have a row only at every so many-th entry of "step": how many, by name.
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
            return {name: np.asarray(x) for name, x in self.named.items() if x is not None}
        names = [*self.named, *(f"axis_{i}" for i in range(len(self.named), len(shape) - 1))]
        coordinates = (self.named.get(name) for name in names)
        lead = [np.arange(n) if x is None else np.asarray(x) for x, n in zip(coordinates, shape, strict=False)]
        return dict(zip(names, lead, strict=True)) | {"step": clock(self)}

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
            if name == "step" and value.ndim == 1:
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
    """The common time axis [T] of a record: a diverged run's own clock stands still, the latest of all goes on."""
    step = np.asarray(record["step"])
    return step.reshape(-1, step.shape[-1]).max(axis=0)


def named(result: Any, axes: Mapping[str, Any]) -> Any:
    """The same pytree, whose records know these leading axes, outermost first."""

    def with_axes(x):
        return Record(x, {**axes, **x.named}, cadence=x.cadence) if isinstance(x, Record) else x

    return jax.tree.map(with_axes, result, is_leaf=lambda x: isinstance(x, Record))


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
