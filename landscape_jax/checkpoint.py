"""Checkpoints: a run on disk, from which it goes on bit for bit.

    FOLDER/
      config.json            which run this is: refused for another one
      record/<entry>.npy     the record so far, growing
      <steps>/run/*.npz      the `Run` after that many steps, one file a process
      <steps>/manifest.json  checksums of those and of the record up to there; a copy of config.json

A checkpoint has a name of its own once all of it is safely on disk. One that is not what was written is set aside as
<steps>.damaged.
"""

import contextlib
import hashlib
import itertools
import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from landscape_jax import devices, identity, shards
from landscape_jax.identity import Fields
from landscape_jax.record import Growing, Record, Unreadable, Unwritable, disk, held
from landscape_jax.record.folder import versions
from landscape_jax.record.growing import told

FORMAT = 2


class Damaged(ValueError):
    """A file is not what was written."""


class Checkpoints:
    """The checkpoints of one run in one folder; made by `opened`.

    Saving goes on in the background while the next chunk is computed; `finish` waits for it.
    """

    def __init__(self, folder: Path, ndim: int, keep: int = 1):
        self.folder, self.keep = folder, keep
        self.config: dict | None = None  # config.json, of which each checkpoint has a copy
        self.record = Growing(folder / "record", ndim)
        self._background = ThreadPoolExecutor(1, "checkpoint")
        self._pending: tuple[dict, Future] | None = None  # (manifest, its checkpoint being written)

    def save(self, steps: int, run: Any, record: Record) -> None:
        """The run after `steps` steps, and the record of the last of them."""
        self.finish()
        at = self._unfinished(steps) / "run"
        with self._told(steps):
            if devices.first():
                self.record.append(record)
                at.mkdir(parents=True, exist_ok=True)
            devices.together(f"checkpoint {steps}")
        parts, alone = shards.copied(run), jax.process_count() == 1
        manifest = {"format": FORMAT, "steps": steps, "leaves": shards.kinds(run), "config": self.config}
        manifest |= {"length": self.record.length, "record": dict(self.record.checksums)}

        def write() -> None:
            shards.write(at, parts)
            if alone:
                self._seal(manifest)

        self._pending = manifest, self._background.submit(write)

    def finish(self) -> None:
        """Wait for the last checkpoint."""
        if self._pending is None:
            return
        (manifest, writing), self._pending = self._pending, None
        with self._told(manifest["steps"]):
            writing.result()
            if jax.process_count() > 1:
                devices.together(f"checkpoint {manifest['steps']} written")
                if devices.first():
                    self._seal(manifest)

    def _seal(self, manifest: Mapping) -> None:
        """Give a checkpoint its name, now that all of it is written, and remove those beyond the newest `keep`."""
        steps = manifest["steps"]
        at = self._unfinished(steps)
        disk.write(at / "manifest.json", _sealed({**manifest, "files": _checksums(at / "run")}))
        for folder in (at / "run", at):
            disk.sync(folder)
        os.replace(at, self.folder / str(steps))
        disk.sync(self.folder)
        for old in _steps(self.folder)[self.keep :]:
            disk.discard(self.folder / str(old))

    def close(self) -> None:
        """Wait for the file that is being written."""
        self._background.shutdown()

    def whole_record(self) -> Record:
        """All of it so far. All processes call it together."""
        self.finish()
        devices.together(f"record in {self.folder}")
        if not devices.first() and (steps := _steps(self.folder)):
            manifest = _manifest(self.folder, steps[0])
            self.record.resumed(manifest["length"], manifest["record"], self.record.holes)
        return self.record.read()

    def newest(self, like: Any, look: bool = False) -> tuple[int, Any] | None:
        """(steps, run) of the newest checkpoint that is whole, None without any.

        Those after it are told of and set aside. Where the run is whole and no checkpoint has the record that belongs to it,
        the run counts: what is damaged of the record is told of, and reads as NaN.

        Args:
          like: a run of the same structure, for shapes, dtypes and shardings: devices may be others than at saving.
          look: change nothing on disk.
        Raises: `record.Unreadable` where a file can't be read: that is no sign of damage.
        """
        steps = _first_decides(lambda: self._newest_whole(look))
        if steps < 0:
            return None
        manifest = _manifest(self.folder, steps)
        if not devices.first():
            self.record.resumed(**_record_of(manifest), holes=self.record.damage(**_record_of(manifest)))
        elif not look:
            self.record.mend_headers()
        at = self.folder / str(steps)
        _check_leaves(at, manifest["leaves"], shards.kinds(like))
        with disk.reading(at):
            return steps, shards.read(at / "run", like)

    def _newest_whole(self, look: bool) -> int:
        """Its steps, −1 without any. The record goes on from there."""
        problems, holed = {}, None
        for steps in _steps(self.folder):
            try:
                record = _record_of(_checked(self.folder, steps))
            except Damaged as error:
                problems[steps] = str(error)
                continue
            holes = self.record.damage(**record)
            if not holes:
                break
            problems[steps] = "the record up to there is damaged: " + told(holes)
            holed = holed or (steps, record, holes)
        else:
            if holed is None:
                self._tell(problems, look)
                return -1
            steps, record, holes = holed
            warnings.warn(
                f"the record in {self.folder} is damaged: {told(holes)}. The run goes on after {steps} steps; what is damaged "
                "reads as NaN, or as 0",
                stacklevel=6,
            )
        self._tell({n: problem for n, problem in problems.items() if n > steps}, look)
        self.record.resumed(**record, holes=holes)
        return steps

    def _tell(self, problems: Mapping[int, str], look: bool) -> None:
        """Of checkpoints that are passed over; they are kept under another name."""
        for steps, problem in problems.items():
            at = self.folder / str(steps)
            if look and not at.exists():
                continue  # its writer has removed it meanwhile
            kept = "" if look else f". It is kept as {_set_aside(at).name}"
            warnings.warn(
                f"the checkpoint {at} is incomplete or damaged ({problem}): going back to the one before{kept}", stacklevel=7
            )

    def _unfinished(self, steps: int) -> Path:
        return self.folder / f"{steps}{disk.PARTIAL}"

    @contextlib.contextmanager
    def _told(self, steps: int) -> Iterator[None]:
        """What a file system says, as an error that says what is left."""
        try:
            yield
        except OSError as error:
            left = [n for n in _steps(self.folder) if n != steps]
            intact = f"the checkpoint after {left[0]} steps is intact" if left else "there is no earlier one"
            raise Unwritable(
                f"the checkpoint after {steps} steps could not be written to {self.folder} ({_first_line(error)}); {intact}. "
                "Make room, or choose another folder, and start the same run again: it goes on from there"
            ) from error


@contextlib.contextmanager
def opened(
    folder: str | Path, fields: Fields, *, ndim: int = 0, keep: int = 3, on: str = "", accept: Sequence[str] = ()
) -> Iterator[Checkpoints]:
    """The folder of one run's checkpoints, held against other processes and threads, made if it isn't there.

    Args:
      fields: what tells this run from others.
      ndim: how many leading axes of runs there are.
      keep: how many checkpoints stay.
      on: the devices it runs on, in words; other ones are told of.
      accept: names of fields, or how they begin, that may differ.
    Raises: `ValueError` where the folder holds other things, or the checkpoints of another run (it names the fields that
      differ); `record.Unwritable` where it can't be written, or another process writes to it.
    """
    if keep < 1:
        raise ValueError(f"keep={keep} checkpoints must be at least 1")
    if isinstance(accept, str):
        raise ValueError(f'accept={accept!r} must be a sequence of names: accept=("{accept}",)')
    folder = disk.located(folder)
    with contextlib.ExitStack() as stack:
        checkpoints = Checkpoints(folder, ndim, keep)

        def claim() -> int:
            stack.enter_context(held(folder))
            checkpoints.config = _claimed(folder, fields, on, accept)
            return 0

        _first_decides(claim)
        stack.callback(checkpoints.close)
        yield checkpoints
        checkpoints.finish()


def load(folder: str | Path, like: Any) -> tuple[int, Any, Record]:
    """(steps, run, record) of the newest whole checkpoint, to look at or to go on from. It changes nothing on disk.

    Args:
      like: a run of the same structure, e.g. from `start`.
    Raises: `FileNotFoundError` where there is none; `record.Unreadable` where it can't be read.
    """
    folder = disk.located(folder)
    if not _steps(folder) and not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} holds no checkpoints: give the folder that was checkpoint= of an earlier drive")
    while True:
        before = _steps(folder)
        checkpoints = Checkpoints(folder, jnp.ndim(like.step))
        try:
            if (found := checkpoints.newest(like, look=True)) is not None:
                return *found, checkpoints.record.read()
        except FileNotFoundError:
            if _steps(folder) == before:
                raise
        if _steps(folder) == before:  # else its writer has gone on meanwhile
            raise FileNotFoundError(f"{folder} holds no checkpoint that is whole: the run was stopped before its first")


# ── whose folder it is ────────────────────────────────────────────────────────────────────────────────────────────────


def _claimed(folder: Path, fields: Fields, on: str, accept: Sequence[str]) -> dict:
    """Take an empty folder for this run, or see that it is this run's already. Returns what config.json holds."""
    disk.refuse_links(folder)
    ours = json.loads(json.dumps(fields))
    config = {"format": FORMAT, "versions": versions(), "on": on, "fields": ours, "sha256": _digest(ours)}
    try:
        known = _known(folder)
        if known is None:
            disk.replace(folder / "config.json", json.dumps(config, indent=1).encode())
            return config
    except OSError as error:
        if isinstance(error, (Unwritable, Unreadable)):
            raise
        raise Unwritable(f"{folder} can't be written ({_first_line(error)}): make room, or choose another folder") from error
    _check_same(folder, known, config, accept)
    return known


def _known(folder: Path) -> dict | None:
    """What config.json holds, or, where that is damaged, its copy in a checkpoint; None for an empty folder."""
    path = folder / "config.json"
    try:
        return _config(path)
    except Damaged as error:
        problem = str(error)
    except FileNotFoundError:
        foreign = sorted(p.name for p in folder.iterdir() if p.name != ".lock")
        if not foreign:
            return None
        problem = (
            f"{folder} is not empty and holds no checkpoints of ours (it has {', '.join(foreign[:3])}): give a new folder"
        )
    for steps in _steps(folder):
        with contextlib.suppress(ValueError):
            copy = _manifest(folder, steps)["config"]
            warnings.warn(f"{path} is missing or damaged, and is written anew from its copy in {steps}", stacklevel=6)
            disk.replace(path, json.dumps(copy, indent=1).encode())
            return copy
    raise ValueError(problem)


def _config(path: Path) -> dict:
    known = _json(path)
    if not isinstance(known, dict) or "fields" not in known:
        raise Damaged(f"{path} is not the configuration of a run's checkpoints: give a new folder")
    if known.get("format") != FORMAT:
        raise Damaged(_other_format(path.parent, known))
    if known.get("sha256") != _digest(known["fields"]):
        raise Damaged(f"{path} is damaged: choose another folder, or delete this one to start anew")
    return known


def _check_same(folder: Path, theirs: Mapping, ours: Mapping, accept: Sequence[str]) -> None:
    """Raise `ValueError` for another run; tell of other circumstances."""
    differing, close = identity.compared(theirs["fields"], ours["fields"])
    refused = [name for name in differing if not name.startswith(tuple(accept))]
    versions = [
        f"{name} {theirs['versions'].get(name)}, now {ours['versions'].get(name)}"
        for name in sorted(theirs["versions"].keys() | ours["versions"].keys())
        if theirs["versions"].get(name) != ours["versions"].get(name)
    ]
    if refused:
        raise ValueError(_difference(folder, refused, theirs["fields"], ours["fields"], versions))
    words = versions + ([f"{theirs['on']}, now {ours['on']}"] if theirs["on"] != ours["on"] else [])
    begun = [f"{folder} was begun with {'; '.join(words)}: the last bits may differ"] if words else []
    begun += [f"{folder}: the last bits of {', '.join(close)} differ"] if close else []
    begun += [f"{folder} was begun with another {', another '.join(differing)}, which is accepted"] if differing else []
    for word in begun:
        warnings.warn(word, stacklevel=7)


def _difference(folder: Path, names: list[str], theirs: Mapping, ours: Mapping, versions: list[str]) -> str:
    parts = [f"{n}: {identity.short(theirs.get(n))} there, {identity.short(ours.get(n))} here" for n in names[:6]]
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    why = " (other functions, or other numbers in them, such as a learning rate)" if "program" in names else ""
    if "program" in names and versions:
        why += (
            f". It was begun with {'; '.join(versions)}: another version may write the same functions as another program, "
            'and which of the two it is can\'t be seen. If you know that nothing else has changed, go on with accept=("program",)'
        )
    return (
        f"{folder} holds the checkpoints of another run. It differs in {'; '.join(parts)}{more}{why}. Choose another folder, or "
        "delete this one to start anew"
    )


# ── on disk ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _steps(folder: Path) -> list[int]:
    """Newest first."""
    with disk.reading(folder):
        names = [p.name for p in folder.iterdir()] if folder.is_dir() else []
    return sorted((int(name) for name in names if name.isascii() and name.isdigit() and str(int(name)) == name), reverse=True)


def _checked(folder: Path, steps: int) -> dict:
    """The manifest of a checkpoint whose run is what was written."""
    manifest = _manifest(folder, steps)
    if _checksums(folder / str(steps) / "run") != manifest["files"]:
        raise Damaged("its files are not what was written")
    return manifest


def _manifest(folder: Path, steps: int) -> dict:
    try:
        manifest = _json(folder / str(steps) / "manifest.json")
    except FileNotFoundError:
        raise Damaged("it has no manifest") from None
    if not isinstance(manifest, dict):
        raise Damaged("its manifest is not what was written")
    if "sha256" not in manifest and manifest.get("format") != FORMAT:
        raise ValueError(_other_format(folder, manifest))
    seal = manifest.pop("sha256", None)
    if seal != _digest(manifest):
        raise Damaged("its manifest is not what was written")
    if manifest["steps"] != steps:
        raise Damaged(f"its manifest is that of the checkpoint after {manifest['steps']} steps")
    return manifest


def _record_of(manifest: Mapping) -> dict:
    return {"length": manifest["length"], "checksums": manifest["record"]}


def _sealed(content: Mapping) -> bytes:
    return json.dumps({**content, "sha256": _digest(content)}, indent=1).encode()


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _json(path: Path) -> Any:
    with disk.reading(path):
        content = path.read_bytes()
    try:
        return json.loads(content.decode())
    except ValueError as error:
        raise Damaged(f"{path} is damaged or not JSON ({error}): choose another folder, or delete this one") from error


def _checksums(folder: Path) -> dict[str, str]:
    """Of every file in a folder."""
    digests = {}
    with disk.reading(folder):
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            with open(path, "rb") as file:
                digests[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


def _check_leaves(at: Path, there: Mapping[str, str], here: Mapping[str, str]) -> None:
    names = [name for name in sorted(there.keys() | here.keys()) if there.get(name) != here.get(name)]
    if names:
        told = "; ".join(f"{n[4:]}: {there.get(n, 'nothing')} there, {here.get(n, 'nothing')} here" for n in names[:4])
        raise ValueError(f"{at} holds a run of another structure ({told}): give a run that was started as that one was")


def _set_aside(at: Path) -> Path:
    """Give a damaged checkpoint a name under which it doesn't count."""
    names = (at.with_name(f"{at.name}.damaged{f'-{i}' if i > 1 else ''}") for i in itertools.count(1))
    aside = next(path for path in names if not path.exists())
    try:
        os.replace(at, aside)
    except OSError as error:
        raise Unwritable(f"{at} is damaged and can't be renamed ({_first_line(error)}): choose another folder") from error
    return aside


def _other_format(folder: Path, known: Mapping) -> str:
    return (
        f"{folder} holds checkpoints of format {known.get('format')}, written by another version of landscape_jax; this one has "
        f"format {FORMAT}: finish that run with the version that began it, or choose another folder"
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def _first_decides(act: Callable[[], int]) -> int:
    """What the first process finds, for all: no process may wait for one that has gone."""
    found, refused = 0, None
    try:
        found = act() if devices.first() else 0
    except (OSError, ValueError) as error:
        refused = error
    if devices.agreed(refused is not None):
        raise refused or ValueError("the first process refused the folder of checkpoints: see what it says")
    return devices.agreed(found)
