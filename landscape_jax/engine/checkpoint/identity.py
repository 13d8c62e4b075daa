"""The identity of a run: short JSON values for its start, its data and its program.

Data are the same on all devices: they are compared by a digest of all bits. Arrays that a program has computed, such as θ₀,
may have other last bits on another number of devices: they are compared by projections, up to a tolerance.
"""

import functools
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr

from landscape_jax import devices
from landscape_jax.engine.checkpoint import shards
from landscape_jax.record.values import plain

Fields = dict[str, Any]  # what tells one run from another: JSON values by name

ON_HOST = 1 << 26  # bytes: larger arrays are hashed where they lie, be they split over many devices
WIDTH = 1 << 12  # weights that serve for all rows of a long array
PROJECTIONS = 4


def fingerprint(arrays: Any, computed: Callable[[Any], bool] = lambda x: False) -> Fields:
    """By the name of each leaf: [dtype and shape, digest and first number].

    For floats that are `computed` it is [dtype and shape, [tolerance, ‖x‖, projections]]. All processes call it together.

    Args:
      computed: leaf ↦ whether its last bits may differ.
    """
    leaves = [(_name(path), x) for path, x in jax.tree_util.tree_leaves_with_path(arrays)]
    leaves = [(name, x if hasattr(x, "dtype") else np.asarray(x)) for name, x in leaves]
    unique = list({id(x): x for _, x in leaves}.values())  # one array may have several names
    # in this order, the same in all processes, for fetching is theirs together
    here = devices.to_host([shards.bits(x) if _bytes(x) <= ON_HOST else None for x in unique])
    values = {}
    for x, fetched in zip(unique, here, strict=True):
        loose = jnp.issubdtype(x.dtype, jnp.floating) and computed(x)
        values[id(x)] = [shards.kind(x), _digest_or_projections(x if fetched is None else fetched, loose)]
    return {name: values[id(x)] for name, x in leaves}


def run_fields(
    run: Any, dynamics: Any, observe: Any, ceiling: float, jaxpr: ClosedJaxpr, every: int | dict[str, int], caller: Any
) -> Fields:
    """The fields by which a run is recognised: its start, data, program, and the caller's identity.

    Args:
      jaxpr: one interval of the run's program.
      caller: names and values, or None.
    """
    ndim = run.step.ndim
    # what observers remember at the start follows from the key; numbers in the state, such as rates, count to their last bit
    start = fingerprint({"key": run.key, "step": run.step, "status": run.status})
    start |= fingerprint({"params": run.params}, lambda x: True)
    start |= fingerprint({"state": run.state}, lambda x: x.ndim > ndim)
    data = fingerprint({"dynamics": dynamics, "observe": observe, "constant": constants(jaxpr)})
    return {
        "every": every,
        "ceiling": str(float(ceiling)),
        "observe": sorted(observe),
        "program": program(jaxpr.jaxpr),
        **{f"start{name}": x for name, x in start.items()},
        **{re.sub(r"^\['(\w+)'\]", r"\1", name): x for name, x in data.items()},
        **{f"identity.{name}": x for name, x in plain(caller or {}, "identity", nonfinite=str).items()},
    }


def program(jaxpr: Jaxpr) -> str:
    """A digest of a traced program, without the addresses of functions, which change from process to process."""
    return hashlib.sha256(re.sub(r"0x[0-9a-f]+", "", str(jaxpr)).encode()).hexdigest()[:16]


def constants(closed: ClosedJaxpr) -> list[Any]:
    """All arrays that a traced program and the programs inside of it hold."""

    def inside(x: Any) -> Iterator[Any]:
        if isinstance(x, ClosedJaxpr):
            yield from x.consts
            x = x.jaxpr
        if isinstance(x, Jaxpr):
            for equation in x.eqns:
                for value in equation.params.values():
                    yield from inside(value)
        elif isinstance(x, (list, tuple)):
            for value in x:
                yield from inside(value)
        elif isinstance(x, (jax.Array, np.ndarray)):
            yield x

    return list(inside(closed))


def compare(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """The names of the fields that differ, and of those that differ in their last bits only."""
    differing, close = [], []
    for name in sorted(theirs.keys() | ours.keys()):
        match theirs.get(name), ours.get(name):
            case a, b if a == b and (name in theirs) == (name in ours):
                pass
            case [str(a), [*p]], [str(b), [*q]] if a == b and _close(p, q):
                close.append(name)
            case _:
                differing.append(name)
    return differing, close


def short(x: Any) -> str:
    """A field's value as an error prints it."""
    match x:
        case [str(kind), [_, norm, *projections]]:
            return f"{kind} of norm {norm:.6g}, projected {', '.join(f'{p:.6g}' for p in projections[:2])}, …"
        case [str(kind), str(digest)]:
            return f"{kind} {digest}"
    return "nothing" if x is None else str(x)


def _name(path: tuple) -> str:
    """A leaf's name. The children of a `Partial` are called args and keywords."""
    return jax.tree_util.keystr(path).replace("[<flat index 0>]", ".args").replace("[<flat index 1>]", ".keywords")


def _close(p: list, q: list) -> bool:
    return len(p) == len(q) and all(abs(a - b) <= p[0] * p[1] for a, b in zip(p, q, strict=True))


def _bytes(x: Any) -> int:
    return x.size * (4 if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x.dtype.itemsize)


def _digest_or_projections(x: Any, loose: bool) -> Any:
    """The digest, or [tolerance, norm, projections] where `loose`. Large arrays are not moved to the host."""
    host = isinstance(x, np.ndarray)
    if loose:
        numbers = _projections(x) if host else [float(v) for v in np.asarray(_device_projections(x))]
        if np.all(np.isfinite(numbers)):
            eps = float(jnp.finfo(x.dtype).eps)
            return [min(100 * eps, 1e-5 + eps / 16) if host else 1e-4, *numbers]
    if host:
        digest = hashlib.sha256(np.ascontiguousarray(x).reshape(-1).view(np.uint8).data).hexdigest()[:16]
        return f"{digest}, first {x.flat[0]!s}" if x.size and jnp.issubdtype(x.dtype, jnp.floating) else digest
    return "".join(f"{int(word):08x}" for word in np.asarray(_device_hash(shards.bits(x))))


# ── projections: norm and Σ wᵢ xᵢ with fixed weights of size ½ to 1½ and random sign ──────────────────────────────────


def _projections(x: np.ndarray) -> list[float]:
    """[‖x‖, projections]. In blocks of WIDTH numbers: w = (weight within the block) · (weight of the block)."""
    x = x.astype(np.float64).reshape(-1)
    if x.size == 0:
        return [0.0]
    blocks = -(-x.size // WIDTH)
    rows = np.zeros((blocks, min(WIDTH, x.size)) if blocks == 1 else (blocks, WIDTH))
    rows.reshape(-1)[: x.size] = x
    width, outer = rows.shape[1], _weights(blocks, 2)
    with np.errstate(all="ignore"):  # sums without BLAS, whose threads are slow to start and round as they come
        within = [np.einsum("ij,j->i", rows, w[:width]) for w in _weights(WIDTH, 1)]  # PROJECTIONS times [blocks]
        return [float(np.sqrt(np.sum(x * x))), *(float(np.sum(a * w)) for a, w in zip(within, outer, strict=True))]


@functools.lru_cache(maxsize=4)
def _weights(count: int, salt: int) -> np.ndarray:
    """Fixed weights, [PROJECTIONS, count]."""
    index = np.arange(count * PROJECTIONS, dtype=np.uint32).reshape(PROJECTIONS, count)
    return _weight(_mix(index + np.uint32(salt << 28), np), np).astype(np.float64)


def _weight(mixed: Any, numpy: Any) -> Any:
    """A weight from random bits: the lowest bit is its sign, the upper 24 its size."""
    size = (mixed >> 8).astype(numpy.float32) * numpy.float32(2.0**-24) + numpy.float32(0.5)
    return numpy.where(mixed & 1 == 1, size, -size)


def _mix(x: Any, numpy: Any) -> Any:
    """Uniform bits of uint32. Each output bit depends on all input bits.

    Source: C. Wellons 2018, "Prospecting for hash functions", lowbias32.
    """
    x = (x ^ (x >> 16)) * numpy.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * numpy.uint32(0x846CA68B)
    return x ^ (x >> 16)


# ── large arrays, on their devices ────────────────────────────────────────────────────────────────────────────────────


@jax.jit
def _device_hash(x: jax.Array) -> jax.Array:
    """[2] uint32: Σ mix(bits of xᵢ, i) mod 2³², the same however the array is split, because integer sums are exact."""
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        x = jnp.stack([x.real, x.imag], axis=-1)
    width = x.dtype.itemsize
    x = x.astype(jnp.uint8) if x.dtype == bool else x
    words = jax.lax.bitcast_convert_type(x, jnp.dtype(f"uint{8 * min(width, 4)}")).astype(jnp.uint32)
    index = _index(words.shape)

    def word(salt):
        return jnp.sum(_mix(words ^ _mix(index + jnp.uint32(salt), jnp), jnp), dtype=jnp.uint32)

    return jnp.stack([word(salt) for salt in (0x9E3779B9, 0x7F4A7C15)])


@jax.jit
def _device_projections(x: jax.Array) -> jax.Array:
    """[1 + PROJECTIONS]: ‖x‖ and the projections, with weights of their own."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    index = _index(x.shape)
    weights = (_weight(_mix(index + jnp.uint32(k << 28), jnp), jnp) for k in range(PROJECTIONS))

    def total(y):
        while y.ndim:  # axis by axis: a sum of sums is more exact than one long sum
            y = jnp.sum(y, axis=-1)
        return y

    return jnp.stack([jnp.sqrt(total(x * x)), *(total(x * w.astype(x.dtype)) for w in weights)])


def _index(shape: tuple[int, ...]) -> jax.Array:
    """Each entry's place in the whole array, mod 2³²."""
    index = jnp.zeros(shape, jnp.uint32)
    for axis, n in enumerate(shape):
        index = index * jnp.uint32(n % (1 << 32)) + jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
    return index
