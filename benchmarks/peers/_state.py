"""A task's weights and data as one file of arrays, which a process without JAX can read."""

import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np


class State(NamedTuple):
    """One network on its data; float32."""

    params: list  # [(W [fan in, fan out], b [fan out])]
    batch: tuple  # (x [n, fan in], y [n, c])
    source: str


def save(path: Path, params: list, batch: tuple, source: str) -> None:
    weights = {f"{letter}{i}": np.asarray(a) for i, layer in enumerate(params) for letter, a in zip("wb", layer, strict=True)}
    np.savez(path, x=np.asarray(batch[0]), y=np.asarray(batch[1]), source=source, **weights)


def load(path: Path) -> State:
    with np.load(path) as file:
        depth = sum(name.startswith("w") for name in file.files)
        params = [(file[f"w{i}"], file[f"b{i}"]) for i in range(depth)]
        return State(params, (file["x"], file["y"]), str(file["source"]))


if __name__ == "__main__":
    from benchmarks._tasks import task

    save(Path(sys.argv[3]), *task(sys.argv[1], int(sys.argv[2])))
