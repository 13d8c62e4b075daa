"""The settings of checkpoints."""

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from landscape_jax.arguments import count, described, number


@dataclasses.dataclass(frozen=True)
class Saving:
    """Where and how often `drive` saves a run.

    Args:
      folder: a folder that is new, empty, or of the same run.
      identity: what else tells this run from others, beside its start, data, program and cadence: JSON values by name, e.g.
        `dataclasses.asdict(config)`.
      keep: how many checkpoints stay on disk.
      pause: the least time between two checkpoints, in seconds; 0 makes one at the end of each chunk. The last chunk, Ctrl-C,
        and 8 MiB of unsaved record do not wait for it.
      accept: names of differences, or how they begin, as the error that refuses another run gives them. The run goes on in
        spite of these. ("program",) after an update of jax, which may write the same functions as another program.

    >>> saving = lj.Saving(folder, identity={"widths": (32,)}, keep=1)
    >>> run, record = lj.drive(run, gd, {"loss": lj.observe.loss}, num_steps=20, saving=saving, progress=False)
    """

    folder: str | Path
    identity: Mapping[str, Any] | None = None
    keep: int = 3
    pause: float = 1.0
    accept: Sequence[str] = ()

    def __post_init__(self):
        if not isinstance(self.folder, (str, os.PathLike)):
            raise TypeError(f"Saving: folder must be a path, but is {described(self.folder)}: write Saving('results/run')")
        if self.identity is not None and not isinstance(self.identity, Mapping):
            raise TypeError(
                f"Saving: identity must be a mapping of names to JSON values, but is {described(self.identity)}: write "
                "dataclasses.asdict(config)"
            )
        count("Saving", keep=self.keep)
        number("Saving", at_least=0, pause=self.pause)
        names = self.accept if isinstance(self.accept, Iterable) and not isinstance(self.accept, str) else (None,)
        if not all(isinstance(name, str) for name in names):
            raise ValueError(f'Saving: accept={self.accept!r} must be a sequence of names: write accept=("program",)')
