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
    "jax",
    "jaxlib",
    "numpy",
    "scipy",
    "flax",
    "optax",
    "landscape_jax",
    "torch",
    "pyhessian",
    "curvlinops-for-pytorch",
    "hessian-eigenthings",
    "matfree",
)
BUSY = os.getloadavg()[0]  # of others: a benchmark has not begun to work when it imports this


def options(doc: str) -> argparse.ArgumentParser:
    """A benchmark's command line: its docstring, and whether to keep the figures."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="keep the figures in benchmarks/results/<device>.json")
    return parser


def large_pages(kept: bool = False) -> dict[str, str]:
    """What to add to a new process's environment for arrays in pages of 2 MiB and not of 4 KiB, where Linux and its C library
    give them when asked: five eigenpairs of 656,810 numbers take a twelfth less time, the gradient of a small CNN a third.

    With `kept`, what is freed stays the process's, in one heap for all threads, so that a program called again finds the pages
    it had, and does not depend on whether large ones can be had at that moment.
    """
    wanted = ["hugetlb=1"] + (["arena_max=1", "mmap_max=0", f"trim_threshold={1 << 40}"] if kept else [])
    return {"GLIBC_TUNABLES": os.environ.get("GLIBC_TUNABLES", ":".join(f"glibc.malloc.{x}" for x in wanted))}


def device() -> str:
    """The name of this machine's results: what JAX computes on, and how many cores there are."""
    import jax

    kind = jax.devices()[0].device_kind
    return re.sub(r"\W+", "-", f"{_processor() if kind == 'cpu' else kind}-{os.cpu_count()}-cores").lower()


def keep(benchmark: str, figures: dict, *, add: bool = False) -> None:
    """Replace a benchmark's entry, by the name of its file, in the device's results; other entries stay as they are.

    With `add` so do other parts of its own: a benchmark of several tasks can be run for one of them.
    """
    path, results = _known()
    results.pop("machine", None)
    name = Path(benchmark).stem
    results[name] = (
        (results.get(name, {}) if add else {})
        | figures
        | {
            "jax": metadata.version("jax"),
            "date": datetime.date.today().isoformat(),
            "load average before and after": [round(BUSY, 1), round(os.getloadavg()[0], 1)],
        }
    )
    path.write_text(json.dumps({"machine": machine()} | results, indent=2, ensure_ascii=False) + "\n")


def before(benchmark: str) -> dict:
    """A benchmark's entry in the device's results as it stands."""
    return _known()[1].get(Path(benchmark).stem, {})


def _known() -> tuple[Path, dict]:
    path = RESULTS / f"{device()}.json"
    return path, json.loads(path.read_text()) if path.exists() else {}


def machine() -> dict:
    """What the latest entry ran on, and with."""
    import jax

    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "device": jax.devices()[0].device_kind,
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory, GiB": round(memory),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": versions,
    }


def _processor() -> str:
    """The maker's name for it, without marks."""
    name = platform.processor() or "cpu"
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2]
                break
    return " ".join(re.sub(r"\((R|TM)\)|\b(Processor|CPU)\b|@.*", " ", name).split())
