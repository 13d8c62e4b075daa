"""A process that dies, or a disk that fills up, at any one of the operations that change something on disk."""

import builtins
import contextlib
import errno
import io
import os
from pathlib import Path

OPERATIONS = ("replace", "rename", "mkdir", "unlink", "remove", "rmdir", "fsync", "fchmod", "chmod")
NEED_ROOM = ("mkdir", "fsync", "open", "write")  # what a full disk refuses


class Death(BaseException):
    """Nothing of the process happens after it; no clean-up succeeds."""


class _File:
    """A file being written: each write and truncation counts."""

    def __init__(self, file, happens):
        self._file, self._happens = file, happens

    def write(self, content):
        self._happens("write", lambda: (self._file.write(content[: len(content) // 2]), self._file.flush()))
        return self._file.write(content)

    def truncate(self, *args):
        self._happens("truncate")
        return self._file.truncate(*args)

    def __getattr__(self, name):
        return getattr(self._file, name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()


@contextlib.contextmanager
def dying(folder: Path, at: int | None, full: bool = False):
    """Yields the list of the operations so far. From number `at` on each one fails: as after a kill, or for want of room."""
    happened = []
    real = {name: getattr(os, name) for name in OPERATIONS}
    real_open, real_io = builtins.open, io.open

    def happens(name, half=lambda: None):
        happened.append(name)
        if at is None or len(happened) <= at or (full and name not in NEED_ROOM):
            return
        if len(happened) == at + 1:
            half()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) if full else Death(f"{name}, operation {at}")

    def counted(name):
        def operation(*args, **kwargs):
            happens(name)
            return real[name](*args, **kwargs)

        return operation

    def opened(path, mode="r", *args, **kwargs):
        ours = isinstance(path, int) or Path(os.fsdecode(path)).is_relative_to(folder)
        if not ours or not set(mode) & set("wax+"):
            return real_open(path, mode, *args, **kwargs)
        happens("open")
        return _File(real_open(path, mode, *args, **kwargs), happens)

    try:
        for name in OPERATIONS:
            setattr(os, name, counted(name))
        builtins.open = io.open = opened
        yield happened
    finally:
        for name in OPERATIONS:
            setattr(os, name, real[name])
        builtins.open, io.open = real_open, real_io
