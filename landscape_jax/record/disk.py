"""Files that a kill, a full disk or a power cut leaves whole or not at all."""

import contextlib
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

PARTIAL = ".lj-partial"  # ends the name of what is being written or removed; the folder's next holder removes it


class Unwritable(OSError):
    """The folder for the results can't be written."""


class Unreadable(OSError):
    """A file can't be read, though it may be sound: nothing was changed because of it."""


def expand(folder: str | Path) -> Path:
    """A folder as a user gives it: `~` is the home folder."""
    return Path(folder).expanduser()


def write(path: Path, content: bytes) -> None:
    """Write a file, safely on disk. For one that doesn't count yet: a kill leaves half of it."""
    with open(path, "w+b", opener=no_link) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def stage(path: Path, content: bytes) -> Path:
    """Write a file beside its place, safely on disk: `os.replace` then moves it there."""
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.", suffix=PARTIAL)
    os.close(handle)
    try:
        write(Path(part), content)
        os.chmod(part, 0o644)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(part)
        raise
    return Path(part)


def replace(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: a reader, a kill or a power cut never meets half of it."""
    os.replace(stage(path, content), path)
    sync(path.parent)


def sync(folder: Path) -> None:
    """Put a folder's list of names safely on disk, where the file system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def discard(path: Path) -> None:
    """Remove a folder. It has no name that counts from the first moment on: half of it is never taken for the whole."""
    part = path.with_name(path.name + PARTIAL)
    if part.exists():
        shutil.rmtree(part)
    os.replace(path, part)
    shutil.rmtree(part)


def sweep(folder: Path) -> None:
    """Remove what a kill left half written or half removed. Only for the folder's one writer."""
    for part in folder.glob(f"*{PARTIAL}"):
        if part.is_dir() and not part.is_symlink():
            shutil.rmtree(part)
        else:
            part.unlink()


def no_link(path, flags: int) -> int:
    """As `opener` of `open`: make the file if need be, and never go through a symbolic link."""
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
    return os.open(path, flags | (os.O_CREAT if flags & os.O_RDWR else 0), 0o644)


def refuse_links(folder: Path) -> None:
    """Raise `Unwritable` for a symbolic link inside a folder: writing through it would change somebody's other file."""
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            if os.path.islink(path := os.path.join(parent, name)):
                raise Unwritable(f"{path} is a symbolic link, and nothing is written through links: choose another folder")


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """A read that fails is no sign of damage: `Unreadable` says so. A file that is missing stays missing."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        raise Unreadable(
            f"{path} can't be read ({error.strerror or error}). Nothing was changed: make it readable, and start again"
        ) from error


def warn(message: str) -> None:
    """A warning that shows the line that called this package."""
    ours, frame, level = (str(Path(__file__).parents[1]), contextlib.__file__), sys._getframe(), 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith(ours):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)
