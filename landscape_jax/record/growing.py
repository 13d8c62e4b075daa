"""A record on disk that grows along time, so that memory does not.

One `.npy` file an entry, time first: numpy.load(file, mmap_mode="r") reads it, whatever wrote it.
"""

import math
import os
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np

from landscape_jax.record.axes import Record, flat, nested

HEADER = 256  # bytes: room for the shape to grow


class Growing:
    """Appends chunks of a record; rows once written are never written again.

    Args:
      folder: where its files are; made at the first append.
      ndim: how many leading axes the entries have before time, one for a batch of runs.
    """

    def __init__(self, folder: Path, ndim: int = 0):
        self.folder, self.ndim, self.length = Path(folder), ndim, 0
        self.checksums: dict[str, int] = {}  # of all rows so far, entry by entry

    def append(self, record: Mapping) -> None:
        """Add entries [*runs, t, ...] at the end."""
        length = self.length + np.shape(record["step"])[self.ndim]
        for name, value in flat(record).items():
            rows = np.moveaxis(value, self.ndim, 0)  # [t, *runs, ...]
            content = rows.tobytes()
            path = self.folder / f"{name}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "r+b" if path.exists() else "w+b") as file:
                file.seek(HEADER + self.length * len(content) // len(rows))
                file.write(content)
                file.truncate()  # what an earlier, interrupted append left behind
                file.seek(0)
                file.write(_header(rows.dtype, (length, *rows.shape[1:])))
                file.flush()
                os.fsync(file.fileno())
            self.checksums[name] = zlib.crc32(content, self.checksums.get(name, 0))
        self.length = length

    def resumed(self, length: int, checksums: Mapping[str, int]) -> None:
        """Go on from the first `length` rows, which must be what they were. Raises `ValueError` where they aren't."""
        for name, checksum in checksums.items():
            path = self.folder / f"{name}.npy"
            rows = _rows(path)[:length]
            if len(rows) < length or zlib.crc32(memoryview(rows.reshape(-1)).cast("B")) != checksum:
                raise ValueError(f"{path} is damaged: its first {length} rows are not what was written")
        self.length, self.checksums = length, dict(checksums)

    def read(self) -> Record:
        """All rows so far, entries [*runs, T, ...], as memory maps: they take up memory as they are looked at."""

        def entry(name: str) -> np.ndarray:
            return np.moveaxis(_rows(self.folder / f"{name}.npy")[: self.length], 0, self.ndim)

        return Record(nested({name: entry(name) for name in self.checksums}))


class Gathered:
    """The same in memory, for runs whose record fits there."""

    def __init__(self, ndim: int = 0):
        self.ndim, self.parts = ndim, []

    def append(self, record: Mapping) -> None:
        self.parts.append(record)

    def read(self) -> Record:
        if not self.parts:
            return Record()
        return jax.tree.map(lambda *parts: np.concatenate(parts, axis=self.ndim), *self.parts)


def _rows(path: Path) -> np.ndarray:
    """A memory map of the rows that are there, be they fewer than the header says."""
    with open(path, "rb") as file:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        there = (os.fstat(file.fileno()).st_size - HEADER) // max(1, math.prod(shape[1:]) * dtype.itemsize)
        count = min(shape[0], there)
        if count * math.prod(shape[1:]) == 0:
            return np.zeros((count, *shape[1:]), dtype)
        return np.asarray(np.memmap(file, dtype, "r", HEADER, (count, *shape[1:])))


def _header(dtype: np.dtype, shape: tuple[int, ...]) -> bytes:
    told = repr({"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape})
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", HEADER - 10) + told.ljust(HEADER - 11).encode() + b"\n"
