"""Runs of a record in groups of one colour, and their thresholds; nothing here draws."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from landscape_jax.arguments import described
from landscape_jax.plots.style import number_labels
from landscape_jax.record import Record, clock

RATES = ("learning_rate", "rate", "lr", "step_size", "eta", "η")


class Curves(NamedTuple):
    """Runs in groups of one colour; NaN stands for all that is not finite."""

    step: np.ndarray  # [T]
    loss: np.ndarray  # [g, s, T]
    sharpness: np.ndarray  # [g, s, T]
    further: np.ndarray  # [g, s, T, k − 1]: further eigenvalues
    end: np.ndarray  # [g, s]: how many records there are before a run diverged; T where it didn't
    axis: int  # which axis of runs the groups are
    by: str  # its name
    over: str  # the name of the axis of runs in a group
    labels: list[str]  # [g]


def read_curves(record: Mapping, by: str | None, labels: Sequence[str] | None) -> Curves:
    """The record's loss and sharpness, grouped by the axis `by`."""
    if not isinstance(record, Mapping):
        raise TypeError(f"sharpness: record must be a Record, but is {described(record)}: give the second of what run returns")
    for name in ("step", "loss", "sharpness"):
        if name not in record:
            raise ValueError(
                f"sharpness: the record has {', '.join(sorted(record)) or 'nothing'}, but no {name!r}: run with "
                'observe={"loss": observe.loss, "sharpness": observe.sharpness(curvature)}'
            )
    loss, values = (np.asarray(record[name], float) for name in ("loss", "sharpness"))
    times = np.shape(record["step"])[-1:]
    if not 1 <= loss.ndim <= 3 or loss.shape[-1:] != times or times == (0,):
        raise ValueError(
            f"sharpness: loss has shape {loss.shape} and step {np.shape(record['step'])}: plot [T], [groups, T] or "
            "[groups, runs, T], T at least 1; of more axes take one entry"
        )
    if loss.shape not in (values.shape, values.shape[:-1]):
        raise ValueError(f"sharpness has shape {values.shape}, neither that of the loss, {loss.shape}, nor one axis more")
    axes = _axes_of_runs(record, loss.shape)
    by = _default_axis(record, axes) if by is None else by
    if by not in (axes or ("",)):
        raise ValueError(f"sharpness: by={by!r} is no axis of runs of this record: it has {', '.join(axes) or 'none'}")
    axis = list(axes).index(by) if axes else 0
    loss, values = _grouped(loss, axis), _grouped(values.reshape(*loss.shape, -1), axis, trailing=2)
    shown = _labels(axes.get(by, np.empty(1)), labels)
    loss, values = (np.where(np.isfinite(x), x, np.nan) for x in (loss, values))
    finite = np.isfinite(loss)
    end = np.where(finite.any(-1), loss.shape[-1] - finite[..., ::-1].argmax(-1), 0)
    over = next((name for name in axes if name != by), "")
    return Curves(clock(record), loss, values[..., 0], values[..., 1:], end, axis, by, over, shown)


def _axes_of_runs(record: Mapping, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    if isinstance(record, Record) and np.shape(record["step"]) == shape:
        return {name: x for name, x in record.axes.items() if name != "step"}
    return {f"axis_{i}": np.arange(n) for i, n in enumerate(shape[:-1])}


def _default_axis(record: Mapping, axes: Mapping) -> str:
    own = [name for name, x in getattr(record, "named", {}).items() if name in axes and x is not None]
    return next((name for name in RATES if name in axes), own[0] if len(own) == 1 else next(iter(axes), ""))


def _grouped(values: np.ndarray, axis: int, trailing: int = 1) -> np.ndarray:
    """[g, s, T, ...] from [T, ...], [g, T, ...] or [g, s, T, ...], where the axis of groups may be another than the first."""
    values = np.moveaxis(values, axis, 0) if values.ndim > trailing else values[None]
    return values.reshape(len(values), -1, *values.shape[-trailing:])


def _labels(coordinates: np.ndarray, labels: Sequence[str] | None) -> list[str]:
    if labels is None:
        numbers = np.issubdtype(coordinates.dtype, np.number) or coordinates.dtype.kind == "V"  # bfloat16 and kin
        return number_labels(coordinates.astype(float)) if numbers else [str(x) for x in coordinates]
    if isinstance(labels, str) or len(labels) != len(coordinates):
        raise ValueError(f"sharpness: labels={labels!r}, but there are {len(coordinates)} groups: give a list of as many")
    return [str(x) for x in labels]


def read_thresholds(threshold: ArrayLike | None, curves: Curves, shape: tuple[int, ...]) -> np.ndarray:
    """[g, s or 1, T]; no groups for None."""
    groups, _, times = curves.loss.shape
    if threshold is None:
        return np.empty((0, 1, times))
    given = np.asarray(threshold, float)
    if given.ndim > 1 and given.shape == shape:
        limits = _grouped(given, curves.axis)  # NaN, as recorded, where a run has diverged
        low, high = np.fmin.reduce(limits, axis=1), np.fmax.reduce(limits, axis=1)
        return high[:, None] if np.allclose(low, high, rtol=1e-5, atol=0, equal_nan=True) else limits
    if given.ndim == 1 and len(given) == groups == times > 1:
        raise ValueError(f"sharpness: {times} thresholds for as many groups as records: give threshold[:, None] or [None, :]")
    given = given[:, None] if given.shape == (groups,) else given
    try:
        return np.broadcast_to(given, (groups, times))[:, None]
    except ValueError:
        raise ValueError(
            f"sharpness: threshold has shape {given.shape}: give one number, one for each of the {groups} groups, one for "
            f"each of the {times} records, or [{groups}, {times}]"
        ) from None
