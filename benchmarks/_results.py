"""Where the benchmarks keep their figures: results/<device>.json, one entry a benchmark, beside what they ran on.

JAX is imported where it is needed: some benchmarks want a process without it.
"""

import argparse
import contextlib
import datetime
import json
import os
import platform
import re
from importlib import metadata
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
LIBRARIES = (
    "jax", "jaxlib", "numpy", "scipy", "flax", "optax", "landscape_jax",
    "torch", "pyhessian", "curvlinops-for-pytorch", "hessian-eigenthings", "matfree",
)  # fmt: skip
BUSY = os.getloadavg()[0]  # of others: a benchmark has not begun to work when it imports this


def options(doc: str) -> argparse.ArgumentParser:
    """A benchmark's command line: its docstring, and whether to keep the figures."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="keep the figures in benchmarks/results/<device>.json")
    return parser


def device() -> str:
    """The name of this machine's results: what JAX computes on, and how many cores there are."""
    import jax

    kind = jax.devices()[0].device_kind
    return re.sub(r"\W+", "-", f"{_processor() if kind == 'cpu' else kind}-{os.cpu_count()}-cores").lower()


def keep(benchmark: str, figures: dict, *, add: bool = False) -> None:
    """Replace a benchmark's entry, by the name of its file, in the device's results; other entries stay as they are.

    With `add` so do other parts of its own: a benchmark of several tasks can be run for one of them.
    """
    path = RESULTS / f"{device()}.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    known.pop("machine", None)
    name = Path(benchmark).stem
    known[name] = (known.get(name, {}) if add else {}) | figures | {
        "jax": metadata.version("jax"),
        "date": datetime.date.today().isoformat(),
        "load average before and after": [round(BUSY, 1), round(os.getloadavg()[0], 1)],
    }
    path.write_text(json.dumps({"machine": machine()} | known, indent=2, ensure_ascii=False) + "\n")


def machine() -> dict:
    """What the latest entry ran on, and with."""
    import jax

    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "device": jax.devices()[0].device_kind, "processor": _processor(), "cores": os.cpu_count(),
        "memory, GiB": round(memory), "system": f"{platform.system()} {platform.machine()}", "versions": versions,
    }  # fmt: skip


def _processor() -> str:
    """The maker's name for it, without marks."""
    name = platform.processor() or "cpu"
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2]
                break
    return " ".join(re.sub(r"\((R|TM)\)|\b(Processor|CPU)\b|@.*", " ", name).split())
