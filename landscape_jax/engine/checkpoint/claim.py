"""config.json of a folder of checkpoints: which run they are of."""

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from landscape_jax.engine.checkpoint import identity, manifest
from landscape_jax.engine.checkpoint.identity import Fields
from landscape_jax.record import Unreadable, Unwritable, disk
from landscape_jax.record.folder import versions


def claim_folder(folder: Path, fields: Fields, on: str, accept: Sequence[str]) -> dict:
    """Write config.json into an empty folder, or check that the one there is this run's. Returns its content."""
    disk.refuse_links(folder)
    ours = json.loads(json.dumps(fields))
    config = {"format": manifest.FORMAT, "versions": versions(), "on": on, "fields": ours, "sha256": manifest.digest(ours)}
    try:
        known = _read_config(folder)
        if known is None:
            disk.replace(folder / "config.json", json.dumps(config, indent=1).encode())
            return config
    except OSError as error:
        if isinstance(error, (Unwritable, Unreadable)):
            raise
        line = manifest.first_line(error)
        raise Unwritable(f"{folder} can't be written ({line}): make room, or choose another folder") from error
    _check_same(folder, known, config, accept)
    return known


def _read_config(folder: Path) -> dict | None:
    """The content of config.json; of its copy in a checkpoint where the file is damaged; None for an empty folder."""
    path = folder / "config.json"
    try:
        return _load_config(path)
    except manifest.Damaged as error:
        problem = str(error)
    except FileNotFoundError:
        foreign = sorted(p.name for p in folder.iterdir() if p.name != ".lock")
        if not foreign:
            return None
        problem = f"{folder} is not empty and holds no checkpoints of ours (it has {', '.join(foreign[:3])}): give a new folder"
    for steps in manifest.saved_steps(folder):
        with contextlib.suppress(ValueError):
            copy = manifest.read_manifest(folder, steps)["config"]
            disk.warn(f"{path} is missing or damaged, and is written anew from its copy in {steps}")
            disk.replace(path, json.dumps(copy, indent=1).encode())
            return copy
    raise ValueError(problem)


def _load_config(path: Path) -> dict:
    try:
        known = manifest.load_json(path)
    except manifest.Damaged as error:
        raise manifest.Damaged(f"{path}: {error}. Choose another folder, or delete this one to start anew") from error
    if not isinstance(known, dict) or "fields" not in known:
        raise manifest.Damaged(f"{path} is not the configuration of a run's checkpoints: give a new folder")
    if known.get("format") != manifest.FORMAT:
        raise manifest.Damaged(manifest.describe_format(path.parent, known))
    if known.get("sha256") != manifest.digest(known["fields"]):
        raise manifest.Damaged(f"{path} is damaged: choose another folder, or delete this one to start anew")
    return known


def _check_same(folder: Path, theirs: Mapping, ours: Mapping, accept: Sequence[str]) -> None:
    """Raise `ValueError` for another run. Warn of other versions and devices, and of last bits that differ."""
    differing, close = identity.compare(theirs["fields"], ours["fields"])
    refused = [name for name in differing if not name.startswith(tuple(accept))]
    versions = _changes(theirs.get("versions") or {}, ours["versions"])
    if refused:
        raise ValueError(_describe_difference(folder, refused, theirs["fields"], ours["fields"], versions))
    words = versions + ([] if theirs.get("on") == ours["on"] else [f"{theirs.get('on')}, now {ours['on']}"])
    warnings = [f"{folder} was begun with {'; '.join(words)}: the last bits may differ"] if words else []
    warnings += [f"{folder}: the last bits of {', '.join(close)} differ"] if close else []
    warnings += [f"{folder} was begun with another {', another '.join(differing)}, which is accepted"] if differing else []
    for text in warnings:
        disk.warn(text)


def _changes(theirs: Mapping, ours: Mapping) -> list[str]:
    names = sorted(theirs.keys() | ours.keys())
    return [f"{n} {theirs.get(n)}, now {ours.get(n)}" for n in names if theirs.get(n) != ours.get(n)]


def _describe_field(name: str, there: Any, here: Any) -> str:
    """Where a field differs. Of long lists in the caller's identity it is the first entry that does."""
    listed = name.startswith("identity.")
    while listed and isinstance(there, list) and isinstance(here, list) and len(there) == len(here) and len(str(here)) > 80:
        i = next(i for i, (a, b) in enumerate(zip(there, here, strict=True)) if a != b)
        name, there, here = f"{name}[{i}]", there[i], here[i]
    return f"{name}: {identity.short(there)[:200]} there, {identity.short(here)[:200]} here"


def _describe_difference(folder: Path, names: list[str], theirs: Mapping, ours: Mapping, versions: list[str]) -> str:
    parts = [_describe_field(n, theirs.get(n), ours.get(n)) for n in names[:6]]
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    why = " (other functions, or other numbers in them, such as a learning rate)" if "program" in names else ""
    if "program" in names and versions:
        why += (
            f". It was begun with {'; '.join(versions)}: another version may write the same functions as another program, "
            "and which of the two it is can't be seen. If you know that nothing else has changed, go on with "
            'Saving(..., accept=("program",))'
        )
    return (
        f"{folder} holds the checkpoints of another run. It differs in {'; '.join(parts)}{more}{why}. Choose another folder, "
        "or delete this one to start anew"
    )
