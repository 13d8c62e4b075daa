"""An experiment in parts: each is kept on disk once it is finished, and Ctrl-C stops what is under way."""

import dataclasses
import functools
import hashlib
import json
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np

import landscape_jax as lj
from landscape_jax import Record
from landscape_jax.engine import defer_interrupts
from landscape_jax.record.folder import plain

THREADS = "part of an experiment"
Work = Mapping[str, Callable[..., Any]]


def in_parts(
    work: Work,
    config: Any,
    key: lj.types.Key,
    folder: Path | None = None,
    *,
    ahead: Work | None = None,
    threads: int = 1,
    helpers: int = 1,
    assemble: Callable[[dict[str, Any]], Record] = Record,
) -> Record:
    """The results of all parts, one part after the other.

    Args:
      work: by name, a function that does the part and gives a pytree of arrays in dicts.
      config, key: what all parts follow from.
      folder: where finished parts are kept; those that are there already are read and not done again.
      ahead: by name, what may be done while earlier parts run, such as compiling; `work[name]` is called with its result.
      threads, helpers: how many parts at a time, and how many of `ahead`.
      assemble: the record of the parts that are finished, by name; it must bear that others are missing.
    Raises: `Interrupted` at once at a Ctrl-C, with the record of the finished parts. What was under way is lost; its thread
      goes on until its compiled program ends, or the process (`abandoned`).

    Several processes do the parts in step and in turn; they keep none, and stop between two.
    """
    ahead = ahead or {}
    if jax.process_count() > 1:
        return _in_step(work, ahead, assemble)
    kept = _Kept(folder, config, key)
    found = {name: kept.read(name) for name in work if name in kept}
    pool, before = ThreadPoolExecutor(threads, THREADS), ThreadPoolExecutor(helpers, THREADS)
    with defer_interrupts() as interrupted:
        try:
            prepared = {name: before.submit(fn) for name, fn in ahead.items() if name not in found}
            parts = {name: functools.partial(_done, fn, prepared, name, kept) for name, fn in work.items() if name not in found}
            doing = {pool.submit(part): name for name, part in parts.items()}
            pending = set(doing)
            while pending and not interrupted():
                finished, pending = wait(pending, 0.1, FIRST_COMPLETED)
                found |= {doing[future]: future.result() for future in finished}
        finally:
            for each in (pool, before):
                each.shutdown(wait=False, cancel_futures=True)
    found = {name: found[name] for name in work if name in found}
    if len(found) < len(work):
        raise _stopped(found, len(work), assemble)
    return assemble(found)


def abandoned() -> bool:
    """Whether a part that was given up is still under way, and Python would wait for it before it ends."""
    return any(thread.name.startswith(THREADS) for thread in threading.enumerate())


def differences(theirs: Any, ours: Any, at: str = "") -> list[str]:
    """What differs between two JSON values, entry by entry."""
    if isinstance(theirs, Mapping) and isinstance(ours, Mapping):
        names = [*ours, *(name for name in theirs if name not in ours)]
        return [d for n in names for d in differences(theirs.get(n), ours.get(n), f"{at}.{n}" if at else n)]
    return [] if theirs == ours else [f"{at}: {_short(theirs)} there, {_short(ours)} here"]


class _Kept:
    """Finished parts in a folder, and what they are parts of."""

    def __init__(self, folder: Path | None, config: Any, key: lj.types.Key):
        self.folder = folder
        if folder is None:
            return
        versions = lj.record.circumstances()["versions"]
        ours = {"config": dataclasses.asdict(config), "key": jax.random.key_data(key), "versions": versions}
        ours, path = plain(ours | {"source": _source()}), folder / "config.json"
        if not path.is_file():
            lj.record.write(folder, **ours)
            return
        theirs = read_json(path)
        if differing := differences(theirs, ours):
            told = "; ".join(differing[:6])
            raise ValueError(
                f"{folder} holds finished parts of another run. It differs in {told}. Delete it to start anew, or choose "
                "another --out"
            )

    def __contains__(self, name: str) -> bool:
        return self.folder is not None and (self.folder / name / "record.npz").is_file()

    def read(self, name: str) -> Any:
        assert self.folder is not None
        try:
            return lj.record.read(self.folder / name)[1]
        except Exception as error:  # whatever zipfile, NumPy or JSON say
            raise ValueError(f"{self.folder / name} is damaged ({error}): delete it, and this part is done again") from error

    def write(self, name: str, found: Any) -> Any:
        """What `read` will give, so that a run that was stopped is judged as one that was not."""
        if self.folder is None:
            return found
        lj.record.write(self.folder / name, found if isinstance(found, Record) else Record(found), part=name)
        return self.read(name)


def read_json(path: Path) -> dict[str, Any]:
    """An object from a file of ours. Raises `ValueError` by the file's name."""
    try:
        known = json.loads(path.read_bytes())
        if isinstance(known, dict):
            return known
        error = f"it holds a {type(known).__name__}, not an object"
    except ValueError as failure:
        error = "it is empty" if path.stat().st_size == 0 else str(failure)
    raise ValueError(f"{path} is damaged ({error}): delete the folder {path.parent}, or choose another --out")


@functools.cache
def _source() -> str:
    """A digest of the code that parts are made by."""
    digest = hashlib.sha256()
    for top in (Path(__file__).parent, Path(lj.__file__).parent):
        for path in sorted(top.rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _done(fn: Callable, prepared: dict[str, Future], name: str, kept: _Kept) -> Any:
    return kept.write(name, fn(prepared.pop(name).result()) if name in prepared else fn())  # popped: it may be large


def _in_step(work: Work, ahead: Work, assemble: Callable) -> Record:
    found: dict[str, Any] = {}
    with defer_interrupts() as interrupted:
        for name, fn in work.items():
            if lj.devices.any_process(interrupted()):
                raise _stopped(found, len(work), assemble)
            found[name] = fn(ahead[name]()) if name in ahead else fn()
    return assemble(found)


def _stopped(found: dict[str, Any], total: int, assemble: Callable) -> lj.Interrupted:
    told = f"stopped by Ctrl-C with {len(found)} of {total} parts finished"
    return lj.Interrupted(told + (f" ({', '.join(found)})" if found else ""), cast(Any, None), assemble(found))


def _short(x: Any) -> str:
    return "nothing" if x is None else np.array2string(np.array(x), threshold=6) if isinstance(x, list) else str(x)
