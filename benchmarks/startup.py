"""How long does `import landscape_jax` take beyond `import jax`, and how much sooner does an experiment start again?

    python -m benchmarks.startup [--rounds 5] [--write]

Imports: fresh processes in turns, wall time of each less that of an empty one, medians; and each package's own seconds, those
of its modules alone, as `python -X importtime` has them (which slows them by a fifth or so). Starts: `python -m experiments
cohen2021_edge_of_stability` with an empty cache of compiled programs, and again; whole runs once, and runs of 30 steps, which
are hardly more than a start, in three rounds. Fails when the second run's record is not the first's. Two minutes on two cores.
"""

import collections
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks._results import keep, options

ROOT = Path(__file__).parents[1]
EXPERIMENT, FEW = "cohen2021_edge_of_stability", ("--num-steps", "30")
IMPORTS = {
    "nothing": "pass",
    "jax": "import jax",
    "landscape_jax": "import landscape_jax",
    "the experiment": f"import experiments.__main__, experiments.{EXPERIMENT}",
}


def seconds(*arguments: str, **environment: str) -> float:
    """Of one process of this Python."""
    begun = time.perf_counter()
    subprocess.run([sys.executable, *arguments], cwd=ROOT, env=os.environ | environment, check=True, capture_output=True)
    return time.perf_counter() - begun


def imported(rounds: int) -> dict:
    took: dict[str, list[float]] = {name: [] for name in IMPORTS}
    for _ in range(rounds + 1):
        for name, line in IMPORTS.items():
            took[name].append(seconds("-c", line))
    took = {name: times[1:] for name, times in took.items()}  # the first reads the disk
    middle = {name: statistics.median(times) for name, times in took.items()}
    return {
        "seconds beyond an empty process": {name: round(middle[name] - middle["nothing"], 2) for name in list(IMPORTS)[1:]},
        "from, to": {name: [round(min(times), 2), round(max(times), 2)] for name, times in took.items()},
        "landscape_jax beyond jax": round(middle["landscape_jax"] - middle["jax"], 2),
        "own seconds of each package": {name: packages(IMPORTS[name]) for name in list(IMPORTS)[2:]},
    }


def packages(line: str, most: int = 12) -> dict[str, float]:
    """The slowest to import, each without what it imports of others."""
    command = [sys.executable, "-X", "importtime", "-c", line]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    own: dict[str, float] = collections.Counter()
    for entry in told.stderr.splitlines():
        # import time:   own [µs] |   with what it imports |   module, indented
        alone, _, module = entry.removeprefix("import time:").split("|")
        if alone.strip().isdigit():
            own[module.strip().partition(".")[0]] += int(alone) / 1e6
    return {name: round(value, 3) for name, value in own.most_common(most)}


def started(options: tuple[str, ...]) -> tuple[list[float], bool]:
    """Seconds of the first and the second run, and whether their records are the same."""
    import numpy as np

    with tempfile.TemporaryDirectory() as folder:
        cache = {"JAX_COMPILATION_CACHE_DIR": f"{folder}/cache"}
        took, records = [], []
        for turn in ("first", "second"):
            took.append(seconds("-m", "experiments", EXPERIMENT, "--out", f"{folder}/{turn}", *options, **cache))
            (path,) = Path(folder, turn).glob("**/record.npz")
            with np.load(path) as record:
                records.append({name: record[name] for name in record})
        same = all(np.array_equal(value, records[1][name], equal_nan=True) for name, value in records[0].items())
        return took, same


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    told: dict = {"import": imported(asked.rounds)}
    short, whole = [started(FEW) for _ in range(min(asked.rounds, 3))], started(())
    first, second = (statistics.median(took[i] for took, _ in short) for i in (0, 1))
    told |= {
        "experiment": EXPERIMENT,
        "30 steps": {
            "first": round(first, 1),
            "second": round(second, 1),
            "ratio": round(second / first, 2),
            "each": [[round(x, 1) for x in took] for took, _ in short],
        },
        "all steps": {
            "first": round(whole[0][0], 1),
            "second": round(whole[0][1], 1),
            "ratio": round(whole[0][1] / whole[0][0], 2),
        },
    }
    print(json.dumps(told, indent=2, ensure_ascii=False))
    if asked.write:
        keep(__file__, told)
    if not all(same for _, same in (*short, whole)):
        raise SystemExit("the second run's record differs from the first's")


def row(figures: dict) -> tuple[str, str]:
    imports, few, whole = figures["import"], figures["30 steps"], figures["all steps"]
    beyond = imports["seconds beyond an empty process"]
    return (
        f"Start-up: `import landscape_jax`; `python -m experiments {figures['experiment']}` with an empty cache of compiled "
        "programs and again, of 30 steps and whole",
        f"{beyond['landscape_jax']:.2f} s, {imports['landscape_jax beyond jax']:.2f} s beyond `import jax`; 30 steps "
        f"{few['first']:.1f} s, then {few['second']:.1f} s ({few['ratio']:.2f}); whole {whole['first']:.1f} s, then "
        f"{whole['second']:.1f} s ({whole['ratio']:.2f})",
    )


if __name__ == "__main__":
    main()
