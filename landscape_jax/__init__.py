"""Loss-landscape dynamics in JAX: sharpness, Hessian spectra and training, carried by one compiled scan."""

from landscape_jax import (
    checkpoint,
    curvature,
    data,
    devices,
    dynamics,
    labels,
    landscape,
    losses,
    models,
    observe,
    plots,
    record,
    spectrum,
    sweep,
    theory,
    tree,
    types,
)
from landscape_jax.driver import Interrupted, drive
from landscape_jax.engine import Run, Status, advance, check, pace, paced, run, start, warmed
from landscape_jax.record import Record

__version__ = "0.1.0"

__all__ = [
    "Interrupted",
    "Record",
    "Run",
    "Status",
    "advance",
    "check",
    "checkpoint",
    "curvature",
    "data",
    "devices",
    "drive",
    "dynamics",
    "labels",
    "landscape",
    "losses",
    "models",
    "observe",
    "pace",
    "paced",
    "plots",
    "record",
    "run",
    "spectrum",
    "start",
    "sweep",
    "theory",
    "tree",
    "types",
    "warmed",
]
