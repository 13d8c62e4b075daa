"""A result on disk: one folder a run.

    config.json    what was run: config, seed, versions, device, command, commit; axes of the record, with coordinates, and
                   cadences of its entries
    record.npz     the record, its nested names joined by "/"
    claims.json    [{"id", "statement", "source", "criterion", "measured", "verdict"}]
    *.png          figures

No file needs JAX, or this package, to be read.
"""

import contextlib
import dataclasses
import errno
import functools
import io
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, TextIO

import jax
import numpy as np

try:
    import fcntl
except ImportError:  # not a POSIX system: nothing guards a folder there
    fcntl = None

from landscape_jax.record import disk
from landscape_jax.record.axes import Record, flat, nested
from landscape_jax.record.disk import Unwritable
from landscape_jax.record.values import plain

HOLDER = "process"  # begins the text of a lock file
NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP}
REPRODUCED, NOT_REPRODUCED, NOT_TESTED = "reproduced", "not reproduced", "not tested"


@dataclasses.dataclass(frozen=True)
class Claim:
    """One statement of a paper, and what a record says of it."""

    id: str
    statement: str
    source: str  # author year, arXiv id, figure or section
    criterion: str  # what must hold, in words and numbers
    measured: Any  # what was found: numbers, or a dict of them
    passed: bool | None  # None: the record can't tell

    @property
    def verdict(self) -> str:
        """Computed, never typed."""
        return NOT_TESTED if self.passed is None else REPRODUCED if self.passed else NOT_REPRODUCED


def prepare(folder: str | Path) -> Path:
    """Make the folder and try to write into it, before any work is done. Raises `Unwritable`.

    >>> lj.record.prepare("results").is_dir()
    True
    """
    folder = disk.expand(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix="probe.", suffix=disk.PARTIAL) as file:
            file.write(b"a disk that is full is found at once")
    except OSError as error:
        raise Unwritable(f"can't write results to {folder}: {error.strerror}; choose another folder") from error
    return folder


@contextlib.contextmanager
def held(folder: str | Path) -> Iterator[Path]:
    """A prepared folder that no other process or thread can hold at the same time. Raises `Unwritable`.

    The lock goes with the process, however that ends. What a killed holder left half written is removed. Where the file
    system has no locks, a warning says so and nothing guards the folder.

    >>> with lj.record.held("results") as folder:
    ...     lj.record.write(folder, {"loss": np.ones(3)}, seed=0)
    """
    folder = prepare(folder)
    path = folder / ".lock"
    with _lock_file(path) as file:
        locked = _locked(file, path)
        try:
            _begin(folder, file if locked else None)
            yield folder
        finally:
            with contextlib.suppress(OSError):
                path.unlink()


def _begin(folder: Path, lock: TextIO | None) -> None:
    """Say whose folder it is, and remove what a kill left behind."""
    try:
        if lock is not None:
            lock.truncate(0)
            lock.write(f"{HOLDER} {os.getpid()} on {platform.node()}")
            lock.flush()
        disk.sweep(folder)
    except OSError as error:
        raise Unwritable(f"can't write to {folder}: {error.strerror}; make room, or choose another folder") from error


def _lock_file(path: Path) -> TextIO:
    try:
        file = open(path, "a+", opener=disk.no_link)
    except OSError as error:
        what = "is a symbolic link" if error.errno == errno.ELOOP else f"can't be opened ({error.strerror})"
        raise Unwritable(f"{path} {what}: choose another folder") from error
    file.seek(0)
    if (told := file.read(100)) and not told.startswith(HOLDER):
        file.close()
        raise Unwritable(f"{path} is not a lock of ours: choose another folder")
    return file


def _locked(file: TextIO, path: Path) -> bool:
    """Whether the lock is ours; False where there are no locks."""
    try:
        if fcntl is None:
            raise OSError(errno.ENOSYS, "this system has no flock")
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        ours = path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat())
    except BlockingIOError:
        ours = False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise Unwritable(f"{path} can't be locked ({error.strerror}): choose another folder") from error
        disk.warn(f"{path.parent} can't be locked ({error.strerror}): see that nothing else writes there")
        return False
    if not ours:
        file.seek(0)
        holder = file.read() or "another process"
        raise Unwritable(f"{path.parent} is being written by {holder}: wait for it, or choose another folder")
    return True


def write(folder: str | Path, record: Mapping | None = None, claims: Sequence[Claim] | None = None, **config) -> None:
    """Write the parts of a result that are given; `config` holds the entries of config.json.

    A result is whole once it has claims.json, which goes first and comes back last: a kill never leaves claims beside
    another run's record. All is on disk before the first file takes its place, so that a full disk changes nothing.

    >>> lj.record.write("results", {"loss": np.ones(3)}, seed=0)
    >>> sorted(path.name for path in lj.record.prepare("results").iterdir())
    ['config.json', 'record.npz']
    """
    folder = prepare(folder)
    described = {} if record is None else {"axes": _axes(record), "cadence": _cadences(record)}
    if described := {name: x for name, x in described.items() if x}:
        known = _loaded(folder / "config.json") if (folder / "config.json").is_file() else {}
        config = known | config | described
    contents = {}
    if record is not None:
        with io.BytesIO() as file:
            np.savez_compressed(file, **flat(record))  # pyright: ignore[reportArgumentType]  # its stub: one might be allow_pickle
            contents["record.npz"] = file.getvalue()
    if config or not (folder / "config.json").is_file():
        contents["config.json"] = json.dumps(plain(config), indent=2).encode()
    if claims is not None:
        rows = [
            {
                **{f: plain(getattr(c, f), f) for f in ("id", "statement", "source", "criterion", "measured")},
                "verdict": c.verdict,
            }
            for c in claims
        ]
        contents["claims.json"] = json.dumps(rows, indent=2).encode()
    _put(folder, contents)


def _put(folder: Path, contents: Mapping[str, bytes]) -> None:
    """All files of a result, or, where they can't be written, none."""
    parts = {}
    try:
        for name, content in contents.items():
            parts[name] = disk.stage(folder / name, content)
        if "claims.json" in parts:
            (folder / "claims.json").unlink(missing_ok=True)
            disk.sync(folder)
        for name, part in parts.items():
            os.replace(part, folder / name)
        disk.sync(folder)
    except OSError as error:
        for part in parts.values():
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
        why = f"can't write the result to {folder}: {error.strerror}"
        raise Unwritable(f"{why}; make room, or choose another folder") from error


def read(folder: str | Path) -> tuple[dict, dict | None, list[dict] | None]:
    """What a folder holds: (config, record, claims), the last two None where they are missing.

    >>> lj.record.write("results", {"loss": np.ones(3)}, seed=0)
    >>> config, record, claims = lj.record.read("results")
    >>> config, record["loss"], claims
    ({'seed': 0}, array([1., 1., 1.]), None)
    """
    folder = disk.expand(folder)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} holds no config.json: it is not a result folder")
    config = _loaded(folder / "config.json")
    record, claims = None, None
    if (folder / "record.npz").is_file():
        with np.load(folder / "record.npz") as file:
            entries = nested({name: file[name] for name in file.files})
        record = _with_axes(entries, config.get("axes", {}), config.get("cadence", {}))
    if (folder / "claims.json").is_file():
        claims = _loaded(folder / "claims.json", list)
    return config, record, claims


def _loaded(path: Path, kind: type = dict) -> Any:
    """A JSON file of ours."""
    with disk.reading(path):
        content = path.read_bytes()
    try:
        found = json.loads(content.decode())
    except ValueError as error:
        raise ValueError(f"{path} is damaged or not JSON ({error}): delete it, and run again what wrote it") from error
    if not isinstance(found, kind):
        raise ValueError(f"{path} holds a {type(found).__name__}, not a {kind.__name__}: it is not a file of a result")
    return found


@functools.cache
def versions() -> dict[str, str]:
    """Of Python and of the packages that a number depends on."""
    told = {"python": platform.python_version()}
    for name in ("landscape_jax", "jax", "jaxlib", "flax", "optax", "numpy"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            told[name] = metadata.version(name)
    return told


def circumstances() -> dict[str, Any]:
    """Versions, device, command line and commit: what a number needs beside it to be compared.

    >>> sorted(lj.record.circumstances())
    ['command', 'commit', 'device', 'versions']
    """
    devices = jax.devices()
    return {
        "versions": dict(versions()),
        "device": {"kind": devices[0].device_kind, "count": len(devices), "cores": os.cpu_count()},
        "command": " ".join(["python -m experiments", *sys.argv[1:]]),
        "commit": _commit(),
    }


def _commit() -> str | None:
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        where = Path(__file__).resolve().parent
        told = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=where,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
        return told.stdout.strip()
    return None


def _axes(record: Mapping, at: str = "") -> dict[str, dict]:
    """The named axes of a record and of those nested in it: {place: {name: coordinates}}."""
    named = {at: plain(record.named)} if isinstance(record, Record) and record.named else {}
    for name, value in record.items():
        named |= _axes(value, f"{at}/{name}" if at else name) if isinstance(value, Mapping) else {}
    return named


def _cadences(record: Mapping, at: str = "") -> dict[str, dict]:
    """The same of entries that are coarser than "step": {place: {name: cadence}}."""
    coarse = {name: n for name, n in record.cadence.items() if n > 1} if isinstance(record, Record) else {}
    found = {at: coarse} if coarse else {}
    for name, value in record.items():
        found |= _cadences(value, f"{at}/{name}" if at else name) if isinstance(value, Mapping) else {}
    return found


def _with_axes(record: dict, axes: Mapping[str, dict], cadence: Mapping[str, dict], at: str = "") -> Record:
    """The inverse of both."""
    place = lambda name: f"{at}/{name}" if at else name  # noqa: E731
    entries = {n: _with_axes(x, axes, cadence, place(n)) if isinstance(x, dict) else x for n, x in record.items()}
    return Record(entries, axes.get(at), cadence=cadence.get(at))
