"""A record on disk that grows along time, so that memory does not.

<entry>.npy    time first: numpy.load(file, mmap_mode="r") reads it, whatever wrote it
<entry>.crc    a checksum of each `BLOCK` bytes of its rows, uint32: they tell where an entry is damaged
"""

import math
import os
import re
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from landscape_jax.record import disk
from landscape_jax.record.axes import Record, flat, nested

HEADER = 256  # bytes: room for the shape to grow
BLOCK = 512  # bytes


class Entry(NamedTuple):
    """What the first rows of an entry must be; JSON makes a list of it."""

    checksum: int  # of all their bytes
    last: int  # of those beyond the last whole block
    dtype: str
    shape: list[int]  # of a row
    cadence: int = 1  # it has a row at every so many-th entry of "step"

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    def rows(self, length: int) -> int:
        """How many rows there are beside `length` entries of "step"."""
        return length // self.cadence


class Growing:
    """Appends chunks of a record; rows once written are never written again.

    Args:
      folder: where its files are; made at the first append.
      ndim: how many leading axes the entries have before time, one for a batch of runs.
    """

    def __init__(self, folder: Path, ndim: int = 0):
        self.folder, self.ndim, self.length = Path(folder), ndim, 0
        self.checksums: dict[str, Entry] = {}  # of all rows so far, entry by entry
        self.holes: dict[str, list[slice]] = {}  # rows that were damaged on disk

    def append(self, record: Mapping) -> None:
        """Add entries [*runs, t, ...] at the end."""
        length = self.length + np.shape(record["step"])[self.ndim]
        cadence = record.cadence if isinstance(record, Record) else {}
        for name, value in flat(record).items():
            rows = np.moveaxis(value, self.ndim, 0)  # [t, *runs, ...]
            entry = Entry(0, 0, rows.dtype.str, list(rows.shape[1:]), cadence.get(name.split("/")[0], 1))
            before = self.checksums.get(name, entry)
            if before[2:] != entry[2:]:
                raise ValueError(f"{self.folder / name}.npy holds rows of {before[2:]}, not of {entry[2:]}: give a new folder")
            content = rows.tobytes()
            path = self.folder / f"{name}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "r+b", opener=disk.no_link) as file:
                done = entry.rows(self.length) * entry.row_bytes
                file.seek(HEADER + done - done % BLOCK)
                began = file.read(done % BLOCK).ljust(done % BLOCK, b"\0")  # the block that goes on
                file.seek(HEADER + done)
                file.write(content)
                file.truncate()  # what an earlier, interrupted append left behind
                file.seek(0)
                file.write(_header(rows.dtype, (entry.rows(length), *rows.shape[1:])))
                file.flush()
                os.fsync(file.fileno())
            if name in self.holes and self.holes[name][-1].stop == entry.rows(self.length):
                began = bytes(255 - x for x in began)  # a damaged block stays one
            new = began + content
            _append_blocks(path, done // BLOCK, new)
            last = zlib.crc32(new[len(new) - len(new) % BLOCK :])
            self.checksums[name] = before._replace(checksum=zlib.crc32(content, before.checksum), last=last)
        self.length = length

    def damage(self, length: int, checksums: Mapping[str, list]) -> dict[str, list[slice]]:
        """Which of the first `length` rows are not what was written, by entry. It only looks."""
        entries = {name: Entry(*entry) for name, entry in checksums.items()}
        found = {name: _damage(self.folder / f"{name}.npy", entry.rows(length), entry) for name, entry in entries.items()}
        return {name: rows for name, rows in found.items() if rows}

    def resumed(self, length: int, checksums: Mapping[str, list], holes: Mapping[str, list[slice]] | None = None) -> None:
        """Go on from the first `length` rows.

        Args:
          holes: damaged rows, by entry, to go on with all the same. By default there may be none.
        Raises: `ValueError` where the rows are not what they were, `FileNotFoundError` where a file is gone.
        """
        if holes is None and (holes := self.damage(length, checksums)):
            path = self.folder / f"{min(holes)}.npy"
            path.stat()  # where it is gone: a FileNotFoundError
            raise ValueError(f"{path} is damaged: its first {length} rows are not what was written ({describe(holes)})")
        self.length, self.holes = length, dict(holes)
        self.checksums = {name: Entry(*entry) for name, entry in checksums.items()}

    def mend_headers(self) -> None:
        """Write anew what is damaged in front of the rows, where dtype and shape stand, and say so."""
        for name, entry in self.checksums.items():
            path = self.folder / f"{name}.npy"
            header = _header(np.dtype(entry.dtype), (entry.rows(self.length), *entry.shape))
            if _is_header(_head(path, header), entry, entry.rows(self.length)):
                continue
            disk.warn(f"the header of {path} was damaged and is written anew; its rows are checked apart")
            try:
                with open(path, "r+b", opener=disk.no_link) as file:
                    file.write(header)
            except OSError as error:
                raise disk.Unwritable(f"the header of {path} is damaged and can't be mended: {error.strerror}") from error

    def read(self) -> Record:
        """All rows so far, entries [*runs, T, ...], as memory maps: they take up memory as they are looked at.

        An entry with damaged rows is a copy in memory, with NaN in their place (0 and False where there is no NaN).
        """

        def entry(name: str) -> np.ndarray:
            path, entry = self.folder / f"{name}.npy", self.checksums[name]
            if name in self.holes and not path.exists():
                rows = np.zeros((0, *entry.shape), entry.dtype)
            else:
                rows = _rows(path, entry.rows(self.length), entry)
            if name in self.holes:
                rows = _filled(rows, entry.rows(self.length), self.holes[name])
            return np.moveaxis(rows, 0, self.ndim)

        cadence = {name.split("/")[0]: entry.cadence for name, entry in self.checksums.items()}
        return Record(nested({name: entry(name) for name in self.checksums}), cadence=cadence)


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


def _rows(path: Path, length: int, entry: Entry) -> np.ndarray:
    """A memory map of the first `length` rows, or of those that are there. The file's own header isn't asked."""
    with disk.reading(path), open(path, "rb") as file:
        there = (os.fstat(file.fileno()).st_size - HEADER) // max(1, entry.row_bytes)
        count = length if entry.row_bytes == 0 else max(0, min(length, there))
        if count * entry.row_bytes == 0:
            return np.zeros((count, *entry.shape), entry.dtype)
        return np.asarray(np.memmap(file, entry.dtype, "r", HEADER, (count, *entry.shape)))


def _damage(path: Path, length: int, entry: Entry) -> list[slice]:
    """The damaged ones of its first `length` rows."""
    try:
        rows = _rows(path, length, entry)
    except (FileNotFoundError, NotADirectoryError):
        return [slice(0, length)]
    content = rows.reshape(-1).view(np.uint8).data
    if len(rows) == length and zlib.crc32(content) == entry.checksum:
        return []
    whole = length * entry.row_bytes // BLOCK
    known, now = _blocks(path.with_suffix(".crc"))[:whole], _block_checksums(content)[:whole]
    both = min(len(known), len(now))
    bad = [*(int(i) for i in np.flatnonzero(known[:both] != now[:both])), *range(both, whole)]
    if zlib.crc32(content[whole * BLOCK :]) != entry.last:
        bad.append(whole)
    if not bad:  # and yet not what it was: the blocks' checksums are damaged too
        return [slice(0, length)]
    return _joined([slice(i * BLOCK // entry.row_bytes, min(length, -(-(i + 1) * BLOCK // entry.row_bytes))) for i in bad])


def _joined(slices: list[slice]) -> list[slice]:
    """Those that touch as one."""
    out = slices[:1]
    for rows in slices[1:]:
        touching = rows.start <= out[-1].stop
        out[-1:] = [slice(out[-1].start, rows.stop)] if touching else [out[-1], rows]
    return out


def _filled(rows: np.ndarray, length: int, holes: list[slice]) -> np.ndarray:
    """A copy of all rows, with NaN or 0 in the damaged ones."""
    copy = np.zeros((length, *rows.shape[1:]), rows.dtype)
    copy[: len(rows)] = rows
    for hole in holes:
        copy[hole] = np.nan if rows.dtype.kind in "fc" else 0
    return copy


def describe(holes: Mapping[str, list[slice]]) -> str:
    """Which rows of which entries, in words."""

    def rows(slices: list[slice]) -> str:
        more = f" and {len(slices) - 3} places more" if len(slices) > 3 else ""
        return "rows " + ", ".join(f"{x.start} to {x.stop - 1}" for x in slices[:3]) + more

    return "; ".join(f"{name}.npy, {rows(slices)}" for name, slices in holes.items())


def _block_checksums(content) -> np.ndarray:
    """Of each whole block."""
    view = memoryview(content)
    return np.array([zlib.crc32(view[i : i + BLOCK]) for i in range(0, len(view) - BLOCK + 1, BLOCK)], np.uint32)


def _append_blocks(path: Path, done: int, content: bytes) -> None:
    """Note the checksums of blocks number `done` and on. They are an aid, which may be lost: nothing waits for the disk."""
    with open(path.with_suffix(".crc"), "r+b", opener=disk.no_link) as file:
        file.seek(4 * done)
        file.write(_block_checksums(content).tobytes())
        file.truncate()


def _blocks(path: Path) -> np.ndarray:
    try:
        with disk.reading(path):
            content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        content = b""
    return np.frombuffer(content[: len(content) // 4 * 4], np.uint32)


def _head(path: Path, missing: bytes) -> bytes:
    """What stands in front of the rows; `missing` for a file that isn't there."""
    try:
        with disk.reading(path), open(path, "rb") as file:
            return file.read(HEADER)
    except (FileNotFoundError, NotADirectoryError):
        return missing


def _is_header(found: bytes, entry: Entry, length: int) -> bool:
    """Whether it is one of ours, for this entry, of at least so many rows."""
    shape = re.search(rb"'shape': \((\d+),", found)
    rows = int(shape[1]) if shape else -1
    return rows >= length and found == _header(np.dtype(entry.dtype), (rows, *entry.shape))


def _header(dtype: np.dtype, shape: tuple[int, ...]) -> bytes:
    told = repr({"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape})
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", HEADER - 10) + told.ljust(HEADER - 11).encode() + b"\n"
