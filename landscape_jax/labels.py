"""What targets mean: one reading for all that takes them, by their dtype and shape against those of the outputs.

    outputs                    targets                            meaning
    [n, ..., c], c ≥ 2         integers or booleans [n, ...]      CLASSES  0 … c − 1, one per example or position
    [n, ..., c], c ≥ 2         numbers [n, ..., c]                ROWS     one number per class, the largest is the right one
    [n, ..., 1] or [n]         numbers [n, ...], [n, ..., 1]      SIGNS    one logit: 1 for its class, −1 or 0 for the other

Other shapes and dtypes raise `ValueError`. So does a value that is no class, with its place, where the targets are concrete
arrays. Where they are traced, such a value becomes class −1 here and NaN in all that is computed from it.
"""

from enum import Enum

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer


class Kind(Enum):
    """The three meanings."""

    CLASSES = "classes"
    ROWS = "rows"
    SIGNS = "signs"


class NoClass(ValueError):
    """A target whose value is no class."""


def kind(name: str, outputs: Array, targets: Array) -> Kind:
    """What targets of this dtype and shape mean for outputs of this shape; `ValueError` where they don't fit."""
    if is_number(targets.dtype):
        if outputs.ndim == 1 or outputs.ndim > 1 and outputs.shape[-1] == 1:
            if targets.shape in (_places(outputs), (*_places(outputs), 1)):
                return Kind.SIGNS
        elif targets.shape == outputs.shape:
            return Kind.ROWS
        elif is_whole(targets.dtype) and targets.shape == outputs.shape[:-1]:
            return Kind.CLASSES
    raise misfit(name, outputs, targets)


def classes(name: str, outputs: Array, targets: Array) -> Array:
    """The right class of each example or position, [n, ...] int32; −1 for a traced target that is none.

    Args:
      name: of the caller, for errors.
      outputs: [n, ..., c], [n, ..., 1] or [n]; only their shape counts.
      targets: of any kind. For one logit the classes are 1 and 0. A row of equal numbers, or with a NaN, has no class.
    """
    meaning = kind(name, outputs, targets)
    _check_values(name, meaning, outputs, targets)
    if meaning is Kind.CLASSES:
        return _in_range(targets, outputs.shape[-1])
    if meaning is Kind.ROWS:
        decided = jnp.max(targets, axis=-1) > jnp.min(targets, axis=-1)
        return jnp.where(decided, jnp.argmax(targets, axis=-1), -1).astype(jnp.int32)
    return jnp.nan_to_num(_signs(outputs, targets) / 2 + 0.5, nan=-1).astype(jnp.int32)


def signs(name: str, outputs: Array, targets: Array) -> Array:
    """Targets of one logit as signs ±1, [n, ...] of the outputs' dtype; NaN for a traced target that is neither ±1 nor 0."""
    if kind(name, outputs, targets) is not Kind.SIGNS:
        raise misfit(name, outputs, targets)
    _check_values(name, Kind.SIGNS, outputs, targets)
    return _signs(outputs, targets)


def _signs(outputs: Array, targets: Array) -> Array:
    y = targets.reshape(_places(outputs)).astype(outputs.dtype)
    y = jnp.where(y == 0, -1, y)
    return jnp.where(jnp.abs(y) == 1, y, jnp.nan)


def predicted(outputs: Array) -> Array:
    """The class that the outputs choose, [n, ...] int32: the largest of several, and 1 for one logit above 0."""
    if _places(outputs) == outputs.shape[:-1] and outputs.shape[-1] > 1:
        return jnp.argmax(outputs, axis=-1).astype(jnp.int32)
    return (outputs.reshape(_places(outputs)) > 0).astype(jnp.int32)


def correct(outputs: Array, targets: Array, name: str = "correct") -> Array:
    """1 where the outputs choose the right class and 0 elsewhere, [n, ...] float32; their mean is the accuracy."""
    right = classes(name, outputs, targets)
    return or_nan((predicted(outputs) == right).astype(jnp.float32), right)


def or_nan(values: Array, right: Array) -> Array:
    """`values`, and NaN where the class `right` is −1. Shapes are alike."""
    return jnp.where(right < 0, jnp.nan, values)


def one_hot(name: str, labels: Array, num_classes: int, dtype) -> Array:
    """Rows [n, ..., c] with a 1 at each label [n, ...]; where a traced label is no class, rows of NaN."""
    check_range(name, labels, num_classes)
    right = _in_range(labels, num_classes)
    rows = jax.nn.one_hot(right, num_classes, dtype=dtype)
    return or_nan(rows, jnp.broadcast_to(right[..., None], rows.shape))


def check_range(name: str, labels: Array | np.ndarray, num_classes: int) -> None:
    """Raise `NoClass` for the first concrete label outside of 0 … num_classes − 1."""
    host = on_host(labels)
    if host is not None:
        _refuse(name, host, (host < 0) | (host >= num_classes), f"is not one of the classes 0 … {num_classes - 1}: {REMEDY}")


def check_probabilities(name: str, rows: Array | np.ndarray) -> None:
    """Raise `NoClass` for the first concrete row [..., c] that has a negative number, or does not sum to 1."""
    host = on_host(rows)
    if host is None:
        return
    sums = host.astype(np.float64).sum(axis=-1)
    bad = (host < 0).any(axis=-1) | ~(np.abs(sums - 1) <= 1e-2)
    _refuse(name, host, bad, "are no probabilities, at least 0 and of sum 1: pass one-hot rows, or use square")


REMEDY = "count classes from 0, and leave examples without a label out of the batch"


def without_outputs(name: str, targets: Array) -> tuple[np.ndarray, int]:
    """The class of each example, [n], and how many there are, of concrete targets alone.

    Integers [n] are classes, or signs where all are ±1; [n, 1], and floats [n], belong to one logit; floats [n, c] are rows.
    """
    host = on_host(targets)
    if host is None:
        raise ValueError(f"{name}: the targets are traced, but the sizes of classes are shapes: call it outside of jit")
    host = host.astype(np.int64) if host.dtype.kind == "u" else host
    alone, whole = host.ndim == 1 or host.shape[1:] == (1,), is_whole(host.dtype)
    if alone and (not whole or host.ndim == 2 or host.min(initial=0) < 0 and np.all(np.abs(host) == 1)):
        _check_values(name, Kind.SIGNS, host, host)
        return (host.reshape(-1) > 0).astype(np.int32), 2
    if alone:
        count = int(host.max(initial=-1)) + 1
        check_range(name, host, count)
        return host.astype(np.int32), count
    if host.ndim != 2 or whole:
        raise ValueError(
            f"{name}: {host.dtype} targets {host.shape} do not give each example one class: pass integer classes [n], or "
            "float rows [n, c]"
        )
    _check_values(name, Kind.ROWS, host, host)
    return host.argmax(axis=1), host.shape[1]


def is_whole(dtype) -> bool:
    """Whether targets of this dtype can be classes: integers, and booleans as 0 and 1."""
    return jnp.issubdtype(dtype, jnp.integer) or jnp.issubdtype(dtype, jnp.bool_)


def is_number(dtype) -> bool:
    """Whether targets can have this dtype at all."""
    return is_whole(dtype) or jnp.issubdtype(dtype, jnp.floating)


def misfit(name: str, outputs: Array, targets: Array) -> ValueError:
    """The error for targets that don't fit the outputs: what came, and what would fit."""
    which, logits, dtype = tuple(targets.shape), tuple(outputs.shape), jnp.dtype(targets.dtype).name
    if _places(outputs) != logits[:-1] or logits[-1] == 1:
        told = f"{name}: {dtype} targets {which} do not fit outputs {logits}, one logit for each example"
        return ValueError(f"{told}: pass signs ±1 or labels 0 and 1, shape {_places(outputs)}")
    if is_whole(targets.dtype):
        told = f"{name}: integer targets {which} do not fit outputs {logits}: pass one class per example"
        return ValueError(f"{told} or position, shape {logits[:-1]}, or rows of floats, shape {logits} (these are {dtype})")
    cast = "targets[..., 0].astype(int)" if which == (*logits[:-1], 1) else "targets.astype(int)"
    return ValueError(
        f"{name}: outputs {logits} and targets {which} differ in shape: {dtype} targets are rows of one number per class, "
        f"shape {logits}; classes are integers, shape {logits[:-1]}: write {cast}"
    )


def on_host(x: Array | np.ndarray) -> np.ndarray | None:
    """The values of a concrete array; None for a traced one, or one of which other processes hold a part."""
    if isinstance(x, Tracer) or isinstance(x, jax.Array) and not x.is_fully_addressable:
        return None
    return np.asarray(jax.device_get(x))


def _places(outputs: Array) -> tuple[int, ...]:
    """[n, ...]: the shape of examples and positions."""
    return tuple(outputs.shape[:-1]) if outputs.ndim > 1 else tuple(outputs.shape)


def _in_range(labels: Array, num_classes: int) -> Array:
    if labels.dtype.itemsize < 4:
        labels = labels.astype(jnp.int32)  # 8 bits don't hold 200 classes
    return jnp.where((labels >= 0) & (labels < num_classes), labels.astype(jnp.int32), -1)


def _check_values(name: str, meaning: Kind, outputs: Array | np.ndarray, targets: Array | np.ndarray) -> None:
    host = on_host(targets)
    if host is None:
        return
    if meaning is Kind.CLASSES:
        check_range(name, host, outputs.shape[-1])
    elif meaning is Kind.ROWS:
        decided = host.max(axis=-1) > host.min(axis=-1)
        _refuse(name, host, ~decided, "has no largest number, so it names no class: leave such examples out of the batch")
    else:
        says = "is neither a sign ±1 nor a label 0 or 1: pass one of these for each example"
        _refuse(name, host, ~np.isin(host, (-1, 0, 1)), says)
        mixed = (host == -1) & np.any(host == 0)
        _refuse(name, host, mixed, "stands beside labels 0: pass signs ±1 or labels 0 and 1, not both")


def _refuse(name: str, targets: np.ndarray, bad: np.ndarray, says: str) -> None:
    if np.any(bad):
        place = tuple(map(int, np.argwhere(bad)[0]))
        raise NoClass(f"{name}: targets[{', '.join(map(str, place))}] = {targets[place]} {says}")
