"""Ctrl-C, noted while compiled programs run."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator


class _Note:
    """A handler of SIGINT that sets `seen`; at a second Ctrl-C it restores the handler before it and calls that."""

    def __init__(self, before):
        self.before, self.seen = before, False

    def __call__(self, signum, frame):
        if self.seen:
            signal.signal(signal.SIGINT, self.before)
            signal.raise_signal(signal.SIGINT)
        self.seen = True


@contextlib.contextmanager
def defer_interrupts() -> Iterator[Callable[[], bool]]:
    """A context in which Ctrl-C is noted and not raised, so that it can't break a compilation or lose a chunk.

    It yields a function that returns whether Ctrl-C came. `drive` asks it after each chunk. Put around `drive`, the context
    also covers what comes before, such as compilations. A second Ctrl-C is raised as usual. Off the main thread, where Python
    handles no signals, it does nothing.

    >>> with lj.engine.defer_interrupts() as interrupted:
    ...     interrupted()
    False
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = signal.getsignal(signal.SIGINT)
    note = before if isinstance(before, _Note) else _Note(before)
    signal.signal(signal.SIGINT, note)
    try:
        yield lambda: note.seen
    finally:
        if signal.getsignal(signal.SIGINT) is note:
            signal.signal(signal.SIGINT, before)
