"""Where the files of a data set are: `$LANDSCAPE_JAX_DATA`, else the user's cache, else the set's mirrors on the internet."""

import contextlib
import hashlib
import importlib.util
import os
import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import NamedTuple

VARIABLE = "LANDSCAPE_JAX_DATA"


class File(NamedTuple):
    """A file as its authors published it."""

    name: str
    md5: str | None  # None: only the archive that holds it has a published sum
    length: int | None = None  # bytes, where files of another length may be in use


class Source(NamedTuple):
    """A published data set."""

    title: str
    folder: str  # below $LANDSCAPE_JAX_DATA and below the cache
    files: dict[str, File]  # by name
    mirrors: tuple[str, ...]  # each a folder on the internet, ending in /
    archive: File | None = None  # a tar.gz that holds folder/name for every file; None where a mirror has the files themselves


def located(source: Source, name: str) -> Path:
    """The path of one file of a set, downloaded if it is in neither folder.

    Errors: `FileNotFoundError` when no mirror gives it, `ValueError` when the file has its full length and another md5.
    """
    own = os.environ.get(VARIABLE)
    places = [Path(own).expanduser() / source.folder] if own else []
    if not places or not (places[0] / name).is_file():
        places.append(cache() / source.folder)
    for folder in places:
        if (folder / name).is_file():
            return _checked(folder / name, source.files[name])
    kept, failures = places[-1], []
    for mirror in source.mirrors:
        try:
            if source.archive is None:
                _fetched(mirror, source.files[name], kept)
            else:
                _unpacked(_fetched(mirror, source.archive, kept.parent), source, kept)
            return _checked(kept / name, source.files[name])
        except (OSError, ValueError, tarfile.TarError) as error:  # the exceptions of requests are OSErrors
            failures.append((mirror, error))
    raise FileNotFoundError(_advice(source, places, failures)) from failures[-1][1]


def cache() -> Path:
    """The user's cache folder for this package."""
    import pooch

    return Path(pooch.os_cache("landscape_jax"))


def _checked(path: Path, file: File) -> Path:
    # a shorter file may hold the examples that are asked for: its reader will see
    if file.md5 is not None and path.stat().st_size == file.length:
        with path.open("rb") as stream:
            md5 = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        if md5 != file.md5:
            raise ValueError(f"{path} is corrupt: its md5 is {md5}, not {file.md5}; delete it, and it will be downloaded")
    return path


def _fetched(mirror: str, file: File, folder: Path) -> Path:
    """One whole file of a mirror: it takes its name in `folder` only once its md5 has been checked."""
    import pooch

    bar = importlib.util.find_spec("tqdm") is not None
    return Path(pooch.retrieve(mirror + file.name, f"md5:{file.md5}", file.name, folder, progressbar=bar))


def _unpacked(archive: Path, source: Source, folder: Path) -> None:
    """Every file of the set out of its archive, each whole before it has its name; then the archive goes."""
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive) as tar:
        for name in source.files:
            try:
                content = tar.extractfile(f"{source.folder}/{name}")
            except KeyError:
                content = None
            if content is None:
                raise ValueError(f"{archive.name} holds no file {source.folder}/{name}")
            handle, part = tempfile.mkstemp(dir=folder, prefix=f"{name}.", suffix=".part")
            try:
                with os.fdopen(handle, "wb") as stream:
                    shutil.copyfileobj(content, stream)
                os.replace(part, folder / name)
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.remove(part)
    archive.unlink()


def _advice(source: Source, places: list[Path], failures: list[tuple[str, Exception]]) -> str:
    missing = [file for file in source.files.values() if not any((folder / file.name).is_file() for folder in places)]
    lines = [f"{source.title} is not, or not wholly, on this machine and could not be downloaded. Missing:"]
    lines += [f"  {file.name}" + (f"  md5 {file.md5}" if file.md5 else "") for file in missing]
    if source.archive is not None:
        lines += [f"They are in the folder {source.folder} of {source.archive.name}, md5 {source.archive.md5}."]
    lines += ["Put them into " + " or ".join(map(str, places)) + ("." if len(places) > 1 else f", or set {VARIABLE}.")]
    lines += [f"Tried {mirror}: {type(error).__name__}: {error}" for mirror, error in failures]
    return "\n".join(lines)
