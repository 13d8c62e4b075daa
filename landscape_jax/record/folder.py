"""A result on disk: one folder a run, readable without this package.

    config.json    what was run: config, seed, versions, device, command, commit; axes of the record, with coordinates
    record.npz     the record, its nested names joined by "/"
    claims.json    [{"id", "statement", "source", "criterion", "measured", "verdict"}]
    *.png          figures
"""

import contextlib
import dataclasses
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np

try:
    import fcntl
except ImportError:  # not a POSIX system: nothing guards a folder there
    fcntl = None

from landscape_jax.record.axes import Record, flat, nested

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


class Unwritable(OSError):
    """The folder for the results can't be written."""


def prepare(folder: str | Path) -> Path:
    """Make the folder and try to write into it, before any work is done. Raises `Unwritable`."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise Unwritable(f"can't write results to {folder}: {error.strerror}; choose another folder") from error
    return folder


@contextlib.contextmanager
def held(folder: str | Path) -> Iterator[Path]:
    """A prepared folder that no other process can hold at the same time. Raises `Unwritable`.

    The lock goes with the process, however that ends.
    """
    folder = prepare(folder)
    if fcntl is None:
        yield folder
        return
    path = folder / ".lock"
    with open(path, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            ours = path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat())
        except BlockingIOError:
            ours = False
        if not ours:
            file.seek(0)
            holder = file.read() or "another process"
            raise Unwritable(f"{folder} is being written by {holder}: wait for it, or choose another folder")
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}")
        file.flush()
        try:
            yield folder
        finally:
            path.unlink(missing_ok=True)


def write(folder: str | Path, record: Mapping | None = None, claims: Sequence[Claim] | None = None, **config) -> None:
    """Write the parts of a result that are given; `config` holds the entries of config.json.

    Each file appears whole or not at all: it is written beside its place and moved there.
    """
    folder = prepare(folder)
    axes = {} if record is None else _axes(record)
    if axes:
        known = json.loads((folder / "config.json").read_text()) if (folder / "config.json").is_file() else {}
        config = known | config | {"axes": axes}
    if config:
        replace(folder / "config.json", json.dumps(plain(config), indent=2).encode())
    if record is not None:
        with tempfile.TemporaryFile() as file:
            np.savez_compressed(file, **flat(record))
            file.seek(0)
            replace(folder / "record.npz", file.read())
    if claims is not None:
        rows = [
            {**{f: plain(getattr(c, f)) for f in ("id", "statement", "source", "criterion", "measured")},
             "verdict": c.verdict}
            for c in claims
        ]
        replace(folder / "claims.json", json.dumps(rows, indent=2).encode())


def read(folder: str | Path) -> tuple[dict, dict | None, list[dict] | None]:
    """What a folder holds: (config, record, claims), the last two None where they are missing."""
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} holds no config.json: it is not a result folder")
    config = json.loads((folder / "config.json").read_text())
    record, claims = None, None
    if (folder / "record.npz").is_file():
        with np.load(folder / "record.npz") as file:
            record = _with_axes(nested({name: file[name] for name in file.files}), config.get("axes", {}))
    if (folder / "claims.json").is_file():
        claims = json.loads((folder / "claims.json").read_text())
    return config, record, claims


def circumstances() -> dict[str, Any]:
    """Versions, device, command line and commit: what a number needs beside it to be compared."""
    names = ("landscape_jax", "jax", "jaxlib", "flax", "optax", "numpy")
    versions = {"python": platform.python_version()}
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    devices = jax.devices()
    return {
        "versions": versions,
        "device": {"kind": devices[0].device_kind, "count": len(devices), "cores": os.cpu_count()},
        "command": " ".join(["python -m experiments", *sys.argv[1:]]),
        "commit": _commit(),
    }


def _commit() -> str | None:
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        where = Path(__file__).resolve().parent
        told = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=where, capture_output=True, text=True, check=True, timeout=10,
        )
        return told.stdout.strip()
    return None


def replace(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: a reader, or a kill, never meets half of it."""
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(content)
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)


def _axes(record: Mapping, at: str = "") -> dict[str, dict]:
    """The named axes of a record and of those nested in it: {place: {name: coordinates}}."""
    named = {at: plain(record.named)} if isinstance(record, Record) and record.named else {}
    for name, value in record.items():
        named |= _axes(value, f"{at}/{name}" if at else name) if isinstance(value, Mapping) else {}
    return named


def _with_axes(record: dict, axes: Mapping[str, dict], at: str = "") -> Record:
    """The inverse."""
    entries = {n: _with_axes(x, axes, f"{at}/{n}" if at else n) if isinstance(x, dict) else x for n, x in record.items()}
    return Record(entries, axes.get(at))


def plain(x: Any) -> Any:
    """JSON's own types; arrays become lists, and numbers JSON has no name for become null."""
    if isinstance(x, Mapping):
        return {str(name): plain(value) for name, value in x.items()}
    if isinstance(x, (np.ndarray, np.generic, jax.Array)):
        return plain(x.tolist())
    if isinstance(x, (list, tuple)):
        return [plain(value) for value in x]
    if isinstance(x, float) and not np.isfinite(x):
        return None
    if isinstance(x, Path):
        return str(x)
    return x
