"""Where the benchmarks keep their figures: results/<device>.json, one entry a benchmark."""

import json
import os
import re
from pathlib import Path

import jax


def keep(benchmark: str, figures: dict) -> None:
    """Replace a benchmark's entry, by the name of its file, in the device's results."""
    device = re.sub(r"\W+", "-", f"{jax.devices()[0].device_kind}-{os.cpu_count()}-cores").lower()
    path = Path(__file__).parent / "results" / f"{device}.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    known[Path(benchmark).stem] = figures | {"jax": jax.__version__}
    path.write_text(json.dumps(known, indent=2, ensure_ascii=False) + "\n")
