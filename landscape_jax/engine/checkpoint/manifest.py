"""Manifests: which files a checkpoint has, with their checksums and one of the manifest itself."""

import hashlib
import itertools
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from landscape_jax.record import Unwritable, disk

FORMAT = 3


class Damaged(ValueError):
    """A file is not what was written."""


def saved_steps(folder: Path) -> list[int]:
    """The steps after which there are checkpoints, newest first."""
    with disk.reading(folder):
        names = [p.name for p in folder.iterdir()] if folder.is_dir() else []
    return sorted((int(name) for name in names if name.isascii() and name.isdigit() and str(int(name)) == name), reverse=True)


def check(folder: Path, steps: int) -> dict:
    """The manifest of a checkpoint, after its files are compared with it. Raises `Damaged`."""
    manifest = read_manifest(folder, steps)
    found = checksums(folder / str(steps) / "run")
    if any(found.get(name) != known for name, known in manifest["files"].items()):
        raise Damaged("its files are not what was written")
    return manifest


def read_manifest(folder: Path, steps: int) -> dict:
    """The manifest of a checkpoint, without a look at its files. Raises `Damaged`."""
    try:
        manifest = load_json(folder / str(steps) / "manifest.json")
    except FileNotFoundError:
        raise Damaged("it has no manifest") from None
    if not isinstance(manifest, dict):
        raise Damaged("its manifest is not what was written")
    if "sha256" not in manifest and manifest.get("format") != FORMAT:
        raise ValueError(describe_format(folder, manifest))
    if manifest.pop("sha256", None) != digest(manifest):
        raise Damaged("its manifest is not what was written")
    if manifest["steps"] != steps:
        raise Damaged(f"its manifest is that of the checkpoint after {manifest['steps']} steps")
    return manifest


def to_sealed_json(content: Mapping) -> bytes:
    """JSON with a digest of the content."""
    return json.dumps({**content, "sha256": digest(content)}, indent=1).encode()


def digest(content: Any) -> str:
    """SHA-256 of JSON values, in hexadecimal; the order of names does not count."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def load_json(path: Path) -> Any:
    """The content of a JSON file. Raises `Damaged` where it is none, `record.Unreadable` where it can't be read."""
    with disk.reading(path):
        content = path.read_bytes()
    try:
        return json.loads(content.decode())
    except ValueError as error:
        raise Damaged(f"{path.name} is damaged or not JSON ({error})") from error


def checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of every file in a folder, by name."""
    digests = {}
    with disk.reading(folder):
        for path in sorted(p for p in folder.iterdir() if p.is_file()) if folder.is_dir() else ():
            with open(path, "rb") as file:
                digests[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


def set_aside(at: Path) -> Path:
    """Rename a damaged checkpoint, so that it is not read again. Returns its new place."""
    names = (at.with_name(f"{at.name}.damaged{f'-{i}' if i > 1 else ''}") for i in itertools.count(1))
    aside = next(path for path in names if not path.exists())
    try:
        os.replace(at, aside)
    except OSError as error:
        raise Unwritable(f"{at} is damaged and can't be renamed ({first_line(error)}): choose another folder") from error
    return aside


def describe_format(folder: Path, known: Mapping) -> str:
    """The error's text for checkpoints of another format."""
    return (
        f"{folder} holds checkpoints of format {known.get('format')}, written by another version of landscape_jax; this one "
        f"has format {FORMAT}: finish that run with the version that began it, or choose another folder"
    )


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its type where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
