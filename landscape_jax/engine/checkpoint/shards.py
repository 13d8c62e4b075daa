"""A pytree of arrays on disk: one `.npz` for each process, with the shards on its devices.

A member is named after its leaf and the place of its first entry: `0003.params['w']@0,0`. numpy.load reads it. Keys are stored
as their bits, and dtypes that NumPy lacks, such as bfloat16, as integers.
"""

import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from landscape_jax.record import disk


def bits(x: Any) -> Any:
    """Keys as their bits; other arrays as they are."""
    return jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x


def kind(x: Any) -> str:
    """The dtype and shape of an array, as text."""
    return f"{x.dtype}{list(x.shape)}"


def kinds(tree: Any) -> dict[str, str]:
    """Each leaf's dtype and shape."""
    return {name: kind(x) for name, x in _leaves(tree).items()}


def copy_to_host(tree: Any) -> dict[str, np.ndarray]:
    """This process's shards, copied to the host, so that the buffers on the devices may be donated."""
    parts = {}
    for name, x in _leaves(tree).items():
        for shard in jnp.asarray(x).addressable_shards:
            if shard.replica_id == 0:
                parts[f"{name}@{','.join(str(s.start or 0) for s in shard.index)}"] = shard.data
    return {name: np.array(_as_native(x)) for name, x in jax.device_get(parts).items()}


def write(folder: Path, parts: Mapping[str, np.ndarray]) -> Path:
    """Write this process's file into an existing folder, and wait until it is on disk."""
    path = folder / f"{jax.process_index()}.npz"
    with open(path, "w+b", opener=disk.no_link) as file:
        np.savez(file, **parts)  # pyright: ignore[reportArgumentType]  # its stub: one might be allow_pickle
        file.flush()
        os.fsync(file.fileno())
    return path


def read(folder: Path, files: Iterable[str], like: Any) -> Any:
    """The pytree, with the structure and the shardings of `like`; it may have been saved from other devices."""
    opened = [np.load(folder / name) for name in files]
    try:
        parts: dict[str, list] = {}
        for file in opened:
            for member in file.files:
                name, _, begin = member.rpartition("@")
                parts.setdefault(name, []).append((tuple(map(int, begin.split(","))) if begin else (), file, member))
        leaves = {name: _restore(x, parts[name]) for name, x in _leaves(like).items()}
    finally:
        for file in opened:
            file.close()
    old, treedef = jax.tree.flatten(like)
    names = [_name(i, path) for i, (path, _) in enumerate(jax.tree_util.tree_leaves_with_path(like))]
    return treedef.unflatten([_wrap_key(x, leaves[name]) if name in leaves else x for name, x in zip(names, old, strict=True)])


def _leaves(tree: Any) -> dict[str, Any]:
    """The leaves by name, without empty ones."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {_name(i, path): bits(jnp.asarray(x)) for i, (path, x) in enumerate(leaves) if math.prod(jnp.shape(x))}


def _name(i: int, path) -> str:
    return f"{i:04d}{jax.tree_util.keystr(path)}"


def _wrap_key(x: Any, leaf: jax.Array) -> jax.Array:
    key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    return jax.random.wrap_key_data(leaf, impl=jax.random.key_impl(x)) if key else leaf


def _restore(x: jax.Array, parts: list) -> jax.Array:
    """One leaf from its saved shards."""
    content = [(begin, file[member]) for begin, file, member in parts]
    dtype = np.dtype(x.dtype)

    def at(index: tuple[slice, ...]) -> np.ndarray:
        bounds = [s.indices(n)[:2] for s, n in zip(index, x.shape, strict=True)]
        out = np.empty([stop - start for start, stop in bounds], dtype)
        for begin, part in content:
            part = part.view(dtype) if part.ndim else part.reshape(1).view(dtype).reshape(())
            common = [(max(start, b), min(stop, b + n)) for (start, stop), b, n in zip(bounds, begin, part.shape, strict=True)]
            if all(low < high for low, high in common):
                there = tuple(slice(low - b, high - b) for (low, high), b in zip(common, begin, strict=True))
                here = tuple(slice(low - start, high - start) for (low, high), (start, _) in zip(common, bounds, strict=True))
                out[here] = part[there]
        return out

    # JAX's stub says that the index may be None, which it never is
    return jax.make_array_from_callback(x.shape, x.sharding, at)  # pyright: ignore[reportArgumentType]


def _as_native(x: np.ndarray) -> np.ndarray:
    return x.view(f"u{x.dtype.itemsize}") if x.dtype.kind == "V" else x
