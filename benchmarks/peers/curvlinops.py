"""curvlinops: the Hessian as a linear operator, by jvp of jacrev under vmap.

Eigenpairs by ARPACK, densities by the package's `fast_lanczos` without reorthogonalisation (Papyan 2020), Hutchinson's trace
with several probes at once.
"""

from pathlib import Path

import curvlinops
import numpy as np
import torch
from curvlinops.papyan2020traces.spectrum import fast_lanczos
from scipy.sparse.linalg import LinearOperator, eigsh

from benchmarks.peers import _network
from benchmarks.peers._network import Problem
from benchmarks.peers._state import State

PACKAGES = ("torch", "curvlinops-for-pytorch", "scipy")
SETTINGS = {
    "eigenpairs": {"a": {"tol": 1.0, "ncv": 20}, "b": {"tol": 1.0, "ncv": 21}},
    "trace": {"a": {"at_once": 10}, "b": {"at_once": 10}},
    "tracking": {"a": {"tol": 0.03, "ncv": 6}, "b": {"tol": 0.03, "ncv": 6}},
}


def operator(problem: Problem) -> curvlinops.HessianLinearOperator:
    class Counted(curvlinops.HessianLinearOperator):
        def _matmat(self, M):  # tensors with the columns along their last axis
            for column in range(M[0].shape[-1]):
                problem.note([m[..., column] for m in M])
            return super()._matmat(M)

    data = [(problem.x, problem.y)]
    return Counted(problem.model, problem.criterion, problem.params, data, check_deterministic=False, num_data=len(problem.x))


def eigenpairs(state: State, tol: float, ncv: int, seed: int = 0) -> dict:
    problem = Problem(state)
    start = np.random.default_rng(seed).normal(size=problem.size).astype(np.float32)

    def answer() -> dict:
        problem.fresh()
        values, _ = eigsh(operator(problem).to_scipy(), k=5, which="LA", tol=tol, ncv=ncv, v0=start)
        return {"values": values[::-1].tolist(), "products": problem.products}

    return {"answer": answer}


def density(state: State, probes: int, steps: int = 64, keep: Path | None = None) -> dict:
    problem = Problem(state)

    def run(probes: int) -> list[tuple]:
        found = [fast_lanczos(operator(problem), steps) for _ in range(probes)]
        return [(nodes, vectors[0] ** 2) for nodes, vectors in found]

    return _network.quadratures(problem, run, probes, steps, keep)


def trace(state: State, probes: int = 100, at_once: int = 10) -> dict:
    problem = Problem(state)

    def answer() -> dict:
        problem.fresh()
        torch.manual_seed(0)
        here = operator(problem)
        parts = torch.stack([curvlinops.hutchinson_trace(here, at_once) for _ in range(probes // at_once)])
        error = parts.std() / len(parts) ** 0.5
        return {"trace": float(parts.mean()), "error": float(error), "products": problem.products}

    return {"answer": answer}


def watcher(here: LinearOperator, start: np.ndarray, **options) -> _network.Look:
    """ARPACK from the last step's eigenvector."""

    def look() -> tuple:
        nonlocal start
        values, vectors = eigsh(here, k=1, which="LA", v0=start, **options)
        start = vectors[:, 0]
        return values[0], None

    return look


def tracking(state: State, rate: float, steps: int, every: int = 1, **options) -> dict:
    problem = Problem(state)
    here = operator(problem).to_scipy()
    start = eigsh(here, k=1, which="LA", tol=1e-3, v0=np.ones(problem.size, np.float32))[1][:, 0]
    return _network.tracking(problem, lambda: watcher(here, start, **options), rate, steps, every)
