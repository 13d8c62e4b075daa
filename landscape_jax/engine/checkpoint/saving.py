"""Checkpoints: a run on disk, from which it goes on bit for bit.

    FOLDER/
      config.json            which run this is: refused for another one
      record/<entry>.npy     the record so far, growing
      <steps>/run/*.npz      the `Run` after that many steps, one file a process
      <steps>/manifest.json  checksums of those and of the record up to there; a copy of config.json

A checkpoint gets its name once all of it is safely on disk. A damaged one is renamed to <steps>.damaged.
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from landscape_jax import devices
from landscape_jax.arguments import described
from landscape_jax.engine.checkpoint import claim, shards
from landscape_jax.engine.checkpoint.identity import Fields
from landscape_jax.engine.checkpoint.manifest import (
    FORMAT,
    Damaged,
    check,
    checksums,
    first_line,
    read_manifest,
    saved_steps,
    set_aside,
    to_sealed_json,
)
from landscape_jax.engine.checkpoint.settings import Saving
from landscape_jax.record import Growing, Record, Unwritable, disk, held
from landscape_jax.record.growing import describe


class Checkpoints:
    """The checkpoints of one run in one folder; see `open_checkpoints`.

    Files are written in the background while the next chunk is computed; `finish` waits for them.
    """

    def __init__(self, folder: Path, ndim: int, keep: int = 1):
        self.folder, self.keep = folder, keep
        self.config: dict | None = None  # config.json, of which each checkpoint has a copy
        self.record = Growing(folder / "record", ndim)
        self._background = ThreadPoolExecutor(1, "checkpoint")
        self._pending: tuple[dict, Future] | None = None  # (manifest, its checkpoint being written)

    def save(self, steps: int, run: Any, record: Record) -> None:
        """Save the run after `steps` steps, and the record since the last call."""
        self.finish()
        at = self._unfinished(steps) / "run"
        with self._explain_errors(steps):
            if devices.is_first_process():
                self.record.append(record)
                at.mkdir(parents=True, exist_ok=True)
            devices.barrier(f"checkpoint {steps}")
        parts, alone = shards.copy_to_host(run), jax.process_count() == 1
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
        with self._explain_errors(manifest["steps"]):
            writing.result()
            if jax.process_count() > 1:
                devices.barrier(f"checkpoint {manifest['steps']} written")
                if devices.is_first_process():
                    self._seal(manifest)

    def _seal(self, manifest: Mapping) -> None:
        """Rename a checkpoint that is completely written to its final name, and remove all but the newest `keep`."""
        steps = manifest["steps"]
        at = self._unfinished(steps)
        disk.write(at / "manifest.json", to_sealed_json({**manifest, "files": checksums(at / "run")}))
        for folder in (at / "run", at):
            disk.sync(folder)
        os.replace(at, self.folder / str(steps))
        disk.sync(self.folder)
        for old in saved_steps(self.folder)[self.keep :]:
            disk.discard(self.folder / str(old))

    def close(self) -> None:
        """Wait for the file that is being written, and stop the background thread."""
        self._background.shutdown()

    def whole_record(self) -> Record:
        """The record so far. All processes call it together."""
        self.finish()
        devices.barrier(f"record in {self.folder}")
        if not devices.is_first_process() and (steps := saved_steps(self.folder)):
            manifest = read_manifest(self.folder, steps[0])
            self.record.resumed(manifest["length"], manifest["record"], self.record.holes)
        return self.record.read()

    def newest(self, like: Any, look: bool = False) -> tuple[int, Any] | None:
        """(steps, run) of the newest checkpoint that is whole, None without any.

        A warning names those after it, which are renamed. Where the run is whole, but no checkpoint has an undamaged record,
        the run is taken, and the damaged rows of the record read as NaN.

        Args:
          like: a run of the same structure, for shapes, dtypes and shardings: devices may be others than at saving.
          look: change nothing on disk.
        Raises: `record.Unreadable` where a file can't be read, which is no sign of damage.
        """
        steps = _decide_on_first(lambda: self._find_newest(look))
        if steps < 0:
            return None
        manifest = read_manifest(self.folder, steps)
        if not devices.is_first_process():
            self.record.resumed(**_record_of(manifest), holes=self.record.damage(**_record_of(manifest)))
        elif not look:
            self.record.mend_headers()
        at = self.folder / str(steps)
        _check_leaves(at, manifest["leaves"], shards.kinds(like))
        with disk.reading(at):
            return steps, shards.read(at / "run", manifest["files"], like)

    def _find_newest(self, look: bool) -> int:
        """The steps of the newest whole checkpoint, −1 without any. The record is set to go on from there."""
        problems, holed = {}, None
        for steps in saved_steps(self.folder):
            try:
                record = _record_of(check(self.folder, steps))
            except Damaged as error:
                problems[steps] = str(error)
                continue
            holes = self.record.damage(**record)
            if not holes:
                break
            problems[steps] = "the record up to there is damaged: " + describe(holes)
            holed = holed or (steps, record, holes)
        else:
            if holed is None:
                self._warn_of_skipped(problems, look)
                return -1
            steps, record, holes = holed
            disk.warn(
                f"the record in {self.folder} is damaged: {describe(holes)}. The run goes on after {steps} steps; "
                "what is damaged reads as NaN, or as 0"
            )
        self._warn_of_skipped({n: problem for n, problem in problems.items() if n > steps}, look)
        self.record.resumed(**record, holes=holes)
        return steps

    def _warn_of_skipped(self, problems: Mapping[int, str], look: bool) -> None:
        """Warn of checkpoints that are passed over, and rename them."""
        for steps, problem in problems.items():
            at = self.folder / str(steps)
            if look and not at.exists():
                continue  # its writer has removed it meanwhile
            kept = "" if look else f". It is kept as {set_aside(at).name}"
            disk.warn(f"the checkpoint {at} is incomplete or damaged ({problem}): going back to the one before{kept}")

    def _unfinished(self, steps: int) -> Path:
        return self.folder / f"{steps}{disk.PARTIAL}"

    @contextlib.contextmanager
    def _explain_errors(self, steps: int) -> Iterator[None]:
        """Turns an `OSError` into `Unwritable`, which says what is left."""
        try:
            yield
        except OSError as error:
            left = [n for n in saved_steps(self.folder) if n != steps]
            intact = f"the checkpoint after {left[0]} steps is intact" if left else "there is no earlier one"
            raise Unwritable(
                f"the checkpoint after {steps} steps could not be written to {self.folder} ({first_line(error)}); {intact}. "
                "Make room, or choose another folder, and start the same run again: it goes on from there"
            ) from error


@contextlib.contextmanager
def open_checkpoints(saving: Saving, fields: Fields, *, ndim: int = 0, on: str = "") -> Iterator[Checkpoints]:
    """The folder of one run's checkpoints, locked against other processes and threads, and made if it isn't there.

    Args:
      fields: what tells this run from others.
      ndim: how many leading axes of runs there are.
      on: the devices it runs on, in words; a warning says where they differ.
    Raises: `ValueError` where the folder holds other things, or the checkpoints of another run (it names the fields that
      differ); `record.Unwritable` where it can't be written, or another process writes to it.
    """
    folder = disk.expand(saving.folder)
    with contextlib.ExitStack() as stack:
        checkpoints = Checkpoints(folder, ndim, saving.keep)

        def take() -> int:
            stack.enter_context(held(folder))
            checkpoints.config = claim.claim_folder(folder, fields, on, saving.accept)
            return 0

        _decide_on_first(take)
        stack.callback(checkpoints.close)
        yield checkpoints
        checkpoints.finish()


def load(folder: str | Path, like: Any) -> tuple[int, Any, Record]:
    """(steps, run, record) of the newest whole checkpoint, to look at or to go on from. It changes nothing on disk.

    Args:
      folder: that of a `drive`, which may be under way.
      like: a run of the same structure, e.g. from `start`.
    Raises: `FileNotFoundError` where there is none; `record.Unreadable` where it can't be read.

    >>> steps, run, record = lj.checkpoint.load(folder, like=run)  # doctest: +SKIP
    """
    if not hasattr(like, "step") or not hasattr(like, "memory"):
        raise TypeError(f"load: like must be a Run, but is {described(like)}: write lj.start(key, params, dynamics, observe)")
    folder = disk.expand(folder)
    if not saved_steps(folder) and not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} holds no checkpoints: give the folder of an earlier drive's Saving")
    while True:
        before = saved_steps(folder)
        checkpoints = Checkpoints(folder, jnp.ndim(like.step))
        try:
            if (found := checkpoints.newest(like, look=True)) is not None:
                return *found, checkpoints.record.read()
        except (FileNotFoundError, Damaged):
            if saved_steps(folder) == before:
                raise
        if saved_steps(folder) == before:  # else its writer has gone on meanwhile
            raise FileNotFoundError(f"{folder} holds no checkpoint that is whole: the run was stopped before its first")


def _check_leaves(at: Path, there: Mapping[str, str], here: Mapping[str, str]) -> None:
    names = [name for name in sorted(there.keys() | here.keys()) if there.get(name) != here.get(name)]
    if names:
        differing = "; ".join(f"{n[4:]}: {there.get(n, 'nothing')} there, {here.get(n, 'nothing')} here" for n in names[:4])
        raise ValueError(f"{at} holds a run of another structure ({differing}): give a run that was started as that one was")


def _record_of(manifest: Mapping) -> dict:
    return {"length": manifest["length"], "checksums": manifest["record"]}


def _decide_on_first(act: Callable[[], int]) -> int:
    """The first process's result, for all. Where it raises all raise, so that none waits for one that has gone."""
    found, refused = 0, None
    try:
        found = act() if devices.is_first_process() else 0
    except (OSError, ValueError) as error:
        refused = error
    if devices.broadcast_from_first(refused is not None):
        raise refused or ValueError("the first process refused the folder of checkpoints: see what it says")
    return devices.broadcast_from_first(found)
