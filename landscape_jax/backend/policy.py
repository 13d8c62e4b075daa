"""Choices between two ways to do the same, made by the backend.

Why: a CPU gains nothing from batched small products and waits for the slowest run of a vmapped `while` loop; an accelerator
needs many runs at once to be busy. On a CPU `jax.device_put` compiles a program for each array that it splits. And a CPU has
one precision of matrix products, so a training step may call it by the name that curvatures use.
Found with: jaxlib 0.10.
No longer needed when: on a CPU, with the function in question taking its other branch, `python -m benchmarks.sweep` (runs),
`python -m benchmarks.plane` (points), `python -m benchmarks.tracking` (gradient) and `python -m benchmarks.startup` (copies)
are no slower.
"""

import contextlib

import jax


def on_cpu() -> bool:
    """Whether JAX runs on a CPU by default."""
    return jax.default_backend() == "cpu"


def on_gpu() -> bool:
    """Whether JAX runs on a GPU by default."""
    return jax.default_backend() == "gpu"


def runs_at_once(runs: int, size: int | None = None) -> int:
    """How many runs of a sweep go side by side under vmap: `size`, or by default one on a CPU and all elsewhere."""
    if size is None:
        return 1 if on_cpu() else runs
    return min(size, runs)


def points_at_once(size: int | None = None) -> int:
    """How many points of a slice go side by side under vmap: `size`, or by default one on a CPU and 16 elsewhere."""
    if size is None:
        return 1 if on_cpu() else 16
    return size


def shared_gradient_precision() -> contextlib.AbstractContextManager:
    """The precision under which a training step takes its gradient.

    Curvatures ask for "highest". On a CPU that is the only precision, and under the same name the compiler recognises the
    gradient inside a step's first Hessian product as the step's own and computes it once. Elsewhere: the caller's precision.
    """
    return jax.default_matmul_precision("highest") if on_cpu() else contextlib.nullcontext()


def splits_on_host() -> bool:
    """Whether arrays are split over local devices by NumPy rather than by `jax.device_put`."""
    return on_cpu()
