"""A result on disk: one folder a run, readable without this package.

    config.json    what was run: config, seed, versions, device, command, commit
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
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np

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


def write(folder: str | Path, record: Mapping | None = None, claims: Sequence[Claim] | None = None, **config) -> None:
    """Write the parts of a result that are given; `config` holds the entries of config.json.

    Each file appears whole or not at all: it is written beside its place and moved there.
    """
    folder = prepare(folder)
    if config:
        _replace(folder / "config.json", json.dumps(_plain(config), indent=2).encode())
    if record is not None:
        with tempfile.TemporaryFile() as file:
            np.savez_compressed(file, **_flat(record))
            file.seek(0)
            _replace(folder / "record.npz", file.read())
    if claims is not None:
        rows = [
            {**{f: _plain(getattr(c, f)) for f in ("id", "statement", "source", "criterion", "measured")},
             "verdict": c.verdict}
            for c in claims
        ]
        _replace(folder / "claims.json", json.dumps(rows, indent=2).encode())


def read(folder: str | Path) -> tuple[dict, dict | None, list[dict] | None]:
    """What a folder holds: (config, record, claims), the last two None where they are missing."""
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} holds no config.json: it is not a result folder")
    config = json.loads((folder / "config.json").read_text())
    record, claims = None, None
    if (folder / "record.npz").is_file():
        with np.load(folder / "record.npz") as file:
            record = _nested({name: file[name] for name in file.files})
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


def _replace(path: Path, content: bytes) -> None:
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(content)
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)


def _flat(record: Mapping, prefix: str = "") -> dict[str, np.ndarray]:
    flat = {}
    for name, value in record.items():
        if "/" in name:
            raise ValueError(f'the name {name!r} in a record holds "/", which joins nested names on disk: rename it')
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}/")
        elif hasattr(value, "_asdict"):
            flat |= _flat(value._asdict(), f"{prefix}{name}/")
        else:
            flat[prefix + name] = np.asarray(value)
    return flat


def _nested(flat: Mapping[str, np.ndarray]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for name, value in flat.items():
        *path, last = name.split("/")
        at = nested
        for part in path:
            at = at.setdefault(part, {})
        at[last] = value
    return nested


def _plain(x: Any) -> Any:
    """JSON's own types; arrays become lists, and numbers JSON has no name for become null."""
    if isinstance(x, Mapping):
        return {str(name): _plain(value) for name, value in x.items()}
    if isinstance(x, (np.ndarray, np.generic, jax.Array)):
        return _plain(x.tolist())
    if isinstance(x, (list, tuple)):
        return [_plain(value) for value in x]
    if isinstance(x, float) and not np.isfinite(x):
        return None
    if isinstance(x, Path):
        return str(x)
    return x
