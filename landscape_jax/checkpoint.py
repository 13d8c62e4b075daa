"""Checkpoints: a run on disk, from which it goes on bit for bit.

    FOLDER/
      config.json            what run this is: refused for another one
      record/<entry>.npy     the record so far, growing
      <steps>/run/           the `Run` after that many steps, as orbax writes it
      <steps>/manifest.json  checksums of that folder and of the record up to there; written last: without it, it doesn't count
"""

import contextlib
import hashlib
import json
import math
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from landscape_jax import devices, tree
from landscape_jax.record import Growing, Record, Unwritable, held
from landscape_jax.record import folder as results

FORMAT = 1
Fields = dict[str, Any]  # what tells one run from another: JSON values by name


class Checkpoints:
    """The checkpoints of one run in one folder; made by `opened`.

    Saving goes on in the background while the next chunk is computed; `finish` waits for it.
    """

    def __init__(self, folder: Path, ndim: int, keep: int):
        self.folder, self.keep = folder, keep
        self.record = Growing(folder / "record", ndim)
        import orbax.checkpoint  # here: half a second that only those pay who save

        self._orbax = orbax.checkpoint.StandardCheckpointer()
        self._pending: tuple[int, dict] | None = None  # (steps, manifest) being saved

    def save(self, steps: int, run: Any, record: Record) -> None:
        """The run after `steps` steps, and the record of the last of them."""
        self.finish()
        with self._told(steps):
            if devices.first():
                self.record.append(record)
                (self.folder / str(steps)).mkdir(exist_ok=True)
            devices.together(f"checkpoint {steps}")
            # copies: the buffers of the run itself are handed on to the next chunk
            self._orbax.save(self.folder.absolute() / str(steps) / "run", tree.regrouped(_arrays(run), 0, ()), force=True)
        self._pending = steps, {"record": dict(self.record.checksums), "length": self.record.length}

    def finish(self) -> None:
        """Wait for the last checkpoint, seal it, and remove those beyond the newest `keep`."""
        if self._pending is None:
            return
        (steps, manifest), self._pending = self._pending, None
        with self._told(steps):
            self._orbax.wait_until_finished()
            if devices.first():
                at = self.folder / str(steps)
                manifest = {"format": FORMAT, "steps": steps, "files": _checksums(at / "run"), **manifest}
                results.replace(at / "manifest.json", json.dumps(manifest, indent=1).encode())
                for old in self._steps()[self.keep :]:
                    shutil.rmtree(self.folder / str(old))

    def whole_record(self) -> Record:
        """All of it so far. All processes call it together."""
        self.finish()
        devices.together(f"record in {self.folder}")
        if not devices.first() and (steps := self._steps()):
            self.record.resumed(**_record_of(_manifest(self.folder / str(steps[0]))))
        return self.record.read()

    def newest(self, like: Any) -> tuple[int, Any] | None:
        """(steps, run) of the newest checkpoint that is whole; those after it are told of and removed.

        Args:
          like: a run of the same structure, for shapes, dtypes and shardings: devices may be others than at saving.
        """
        steps = devices.agreed(self._newest_whole() if devices.first() else 0)
        if steps < 0:
            return None
        if not devices.first():
            self.record.resumed(**_record_of(_manifest(self.folder / str(steps))))
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), _arrays(like))
        arrays = self._orbax.restore(self.folder.absolute() / str(steps) / "run", abstract)
        return steps, _run(arrays, like)

    def _newest_whole(self) -> int:
        """Its steps, −1 without any."""
        for steps in self._steps():
            at = self.folder / str(steps)
            try:
                manifest = _manifest(at)
                if _checksums(at / "run") != manifest["files"]:
                    raise ValueError("its files are not what was written")
                self.record.resumed(**_record_of(manifest))
                return steps
            except (OSError, ValueError, KeyError, TypeError) as error:
                warnings.warn(
                    f"the checkpoint {at} is incomplete or damaged ({error}): going back to the one before", stacklevel=5
                )
                shutil.rmtree(at)
        return -1

    def _steps(self) -> list[int]:
        """Newest first."""
        return sorted((int(p.name) for p in self.folder.iterdir() if p.is_dir() and p.name.isdigit()), reverse=True)

    @contextlib.contextmanager
    def _told(self, steps: int) -> Iterator[None]:
        """Whatever a file system or orbax says, as an error that says what is left."""
        try:
            yield
        except Exception as error:
            left = [n for n in self._steps() if n != steps and (self.folder / str(n) / "manifest.json").exists()]
            intact = f"the checkpoint after {left[0]} steps is intact" if left else "there is no earlier one"
            raise Unwritable(
                f"the checkpoint after {steps} steps could not be written to {self.folder} ({_first_line(error)}); {intact}. "
                "Make room, or choose another folder, and start the same run again: it goes on from there"
            ) from error


@contextlib.contextmanager
def opened(folder: str | Path, fields: Fields, *, ndim: int = 0, keep: int = 3) -> Iterator[Checkpoints]:
    """The folder of one run's checkpoints, held against other processes, made if it isn't there.

    Args:
      fields: what tells this run from others.
      ndim: how many leading axes of runs there are.
      keep: how many checkpoints stay.
    Raises: `ValueError` where the folder holds other things, or the checkpoints of another run (it names the fields that
      differ); `record.Unwritable` where it can't be written, or another process writes to it.
    """
    if keep < 1:
        raise ValueError(f"keep={keep} checkpoints must be at least 1")
    folder = Path(folder)
    with contextlib.ExitStack() as stack:
        refused = None
        try:
            if devices.first():
                stack.enter_context(held(folder))
                _claimed(folder, fields)
        except (OSError, ValueError) as error:
            refused = error
        if devices.agreed(refused is not None):  # no process may wait for one that has gone
            raise refused or ValueError(f"the first process refused the folder {folder}: see what it says")
        checkpoints = Checkpoints(folder, ndim, keep)
        yield checkpoints
        checkpoints.finish()


def load(folder: str | Path, like: Any) -> tuple[int, Any, Record]:
    """(steps, run, record) of the newest whole checkpoint, to look at or to go on from.

    Args:
      like: a run of the same structure, e.g. from `start`.
    Raises: `FileNotFoundError` where there is none.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} holds no checkpoints: give the folder that was checkpoint= of an earlier drive")
    checkpoints = Checkpoints(folder, jnp.ndim(like.step), keep=1)
    found = checkpoints.newest(like)
    if found is None:
        raise FileNotFoundError(f"{folder} holds no checkpoint that is whole: the run was stopped before its first")
    return *found, checkpoints.record.read()


# ── which run it is ───────────────────────────────────────────────────────────────────────────────────────────────────


def fingerprint(arrays: Any) -> Fields:
    """Arrays by name: keys and integers by a digest, floats by norm and first number, which are blind to the last bits
    that another number of devices may change."""
    leaves = [(jax.tree_util.keystr(path), x) for path, x in jax.tree_util.tree_leaves_with_path(arrays)]
    floats = {name: x for name, x in leaves if jnp.issubdtype(x.dtype, jnp.floating)}
    exact = devices.fetched({name: _bits(x) for name, x in leaves if name not in floats})
    sizes = devices.fetched(_sizes(floats))
    return {
        name: [
            f"{x.dtype}{list(x.shape)}",
            *(map(float, sizes[name]) if name in floats else [hashlib.sha256(exact[name].tobytes()).hexdigest()[:16]]),
        ]
        for name, x in leaves
    }


def program(jaxpr: Any) -> str:
    """A digest of a traced program. Addresses of functions, which change from process to process, don't count."""
    return hashlib.sha256(re.sub(r"0x[0-9a-f]+", "", str(jaxpr)).encode()).hexdigest()[:16]


@jax.jit
def _sizes(arrays: dict[str, jax.Array]) -> dict[str, jax.Array]:
    def size(x):
        x = x.astype(jnp.float32).ravel()
        return jnp.stack([jnp.sqrt(jnp.sum(x * x)), x[0] if x.size else jnp.float32(0)])

    return jax.tree.map(size, arrays)


def _claimed(folder: Path, fields: Fields) -> None:
    """Take an empty folder for this run, or see that it is this run's already."""
    path = folder / "config.json"
    versions = results.circumstances()["versions"]
    if not path.is_file():
        foreign = sorted(p.name for p in folder.iterdir() if p.name != ".lock")
        if foreign:
            raise ValueError(
                f"{folder} is not empty and holds no checkpoints of ours (it has {', '.join(foreign[:3])}): give a new folder"
            )
        results.replace(path, json.dumps({"format": FORMAT, "versions": versions, "fields": fields}, indent=1).encode())
        return
    known = json.loads(path.read_text())
    if known.get("format") != FORMAT or "fields" not in known:
        raise ValueError(f"{path} is not the configuration of a run's checkpoints: give a new folder")
    theirs, ours = known["fields"], json.loads(json.dumps(fields))
    differing = [name for name in sorted(theirs.keys() | ours.keys()) if not _same(theirs.get(name), ours.get(name))]
    if differing == ["program"] and known["versions"] != versions:
        warnings.warn(f"{folder} was begun with {known['versions']}, now {versions}: the last bits may differ", stacklevel=5)
        return
    if differing:
        told = "; ".join(f"{n}: {_short(theirs.get(n))} there, {_short(ours.get(n))} here" for n in differing[:6])
        more = f" and {len(differing) - 6} more" if len(differing) > 6 else ""
        why = " (other functions, or other numbers in them, such as a learning rate)" if "program" in differing else ""
        raise ValueError(
            f"{folder} holds the checkpoints of another run. It differs in {told}{more}{why}. Choose another folder, or "
            "delete this one to start anew"
        )


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=1e-4, abs_tol=1e-12) or (math.isnan(a) and math.isnan(b))
    return a == b


def _short(x: Any) -> str:
    match x:
        case [str(kind), float(norm), float(first)]:
            return f"{kind} of norm {norm:.5g}, first {first:.5g}"
        case [str(kind), str(digest)]:
            return f"{kind} {digest}"
    return "nothing" if x is None else str(x)


# ── on disk ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _bits(x: jax.Array) -> jax.Array:
    return jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x


def _arrays(run: Any) -> dict[str, jax.Array]:
    """A run as plain arrays by name: keys as their bits, and without empty ones, which orbax refuses."""
    return {f"{i:04d}": _bits(jnp.asarray(x)) for i, x in enumerate(jax.tree.leaves(run)) if jnp.size(x)}


def _run(arrays: Mapping[str, jax.Array], like: Any) -> Any:
    """The inverse."""

    def restored(x, bits):
        if bits is None:
            return x
        key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
        return jax.random.wrap_key_data(bits, impl=jax.random.key_impl(x)) if key else bits

    leaves, treedef = jax.tree.flatten(like)
    return treedef.unflatten([restored(x, arrays.get(f"{i:04d}")) for i, x in enumerate(leaves)])


def _manifest(at: Path) -> dict:
    if not (at / "manifest.json").is_file():
        raise ValueError("it has no manifest")
    return json.loads((at / "manifest.json").read_text())


def _record_of(manifest: Mapping) -> dict:
    return {"length": manifest["length"], "checksums": manifest["record"]}


def _checksums(folder: Path) -> dict[str, str]:
    """Of every file below a folder."""
    digests = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        with open(path, "rb") as file:
            digests[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
