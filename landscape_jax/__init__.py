"""Loss-landscape dynamics in JAX: sharpness, Hessian spectra and training, carried by one compiled scan."""

from landscape_jax import (
    curvature,
    data,
    dynamics,
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
from landscape_jax.engine import Interrupted, Record, Run, Status, advance, check, drive, run, start

__version__ = "0.1.0"

__all__ = [
    "Interrupted",
    "Record",
    "Run",
    "Status",
    "advance",
    "check",
    "curvature",
    "data",
    "drive",
    "dynamics",
    "losses",
    "models",
    "observe",
    "plots",
    "record",
    "run",
    "spectrum",
    "start",
    "sweep",
    "theory",
    "tree",
    "types",
]
