"""hessian-eigenthings: Lanczos of a given length with full reorthogonalisation; its product builds the gradient graph anew.

`lanczos` has no start vector; sharpness from step to step goes by the package's `lanczos_tridiagonal`, which has one.
"""

from pathlib import Path

import hessian_eigenthings as eigenthings
import torch

from benchmarks.peers import _network
from benchmarks.peers._network import Problem
from benchmarks.peers._state import State

PACKAGES = ("torch", "hessian-eigenthings")
SETTINGS = {
    "eigenpairs": {"a": {"steps": 19}, "b": {"steps": 25}},
    "tracking": {"a": {"length": 7}, "b": {"length": 7}},
}


def operator(problem: Problem) -> eigenthings.CurvatureOperator:
    loss = eigenthings.supervised_loss(problem.criterion)
    hessian = eigenthings.HessianOperator(problem.model, [(problem.x, problem.y)], loss)

    def product(v: torch.Tensor) -> torch.Tensor:
        problem.note(v)
        return hessian.matvec(v)

    return eigenthings.LambdaOperator(product, problem.size)


def eigenpairs(state: State, steps: int, seed: int = 0) -> dict:
    problem = Problem(state)

    def answer() -> dict:
        problem.fresh()
        found = eigenthings.lanczos(operator(problem), k=5, max_iter=steps, which="LA", seed=seed, reorthogonalize=True)
        return {"values": found.eigenvalues.tolist(), "products": problem.products}

    return {"answer": answer}


def density(state: State, probes: int, steps: int = 64, keep: Path | None = None) -> dict:
    problem = Problem(state)

    def run(probes: int) -> list[tuple]:
        found = eigenthings.spectral_density(
            operator(problem), num_runs=probes, lanczos_steps=steps, num_grid_points=100, seed=0
        )
        return list(zip(found.raw_eigenvalues, found.raw_weights, strict=True))

    return _network.quadratures(problem, run, probes, steps, keep)


def trace(state: State, probes: int = 100) -> dict:
    problem = Problem(state)

    def answer() -> dict:
        problem.fresh()
        found = eigenthings.hutchinson(operator(problem), num_samples=probes, seed=0)
        return {"trace": found.estimate, "error": found.stderr, "products": problem.products}

    return {"answer": answer}


def watcher(here: eigenthings.CurvatureOperator, start: torch.Tensor, length: int) -> _network.Look:
    """Lanczos of a few steps from the last step's Ritz vector."""

    def look() -> tuple:
        nonlocal start
        found = eigenthings.lanczos_tridiagonal(here, start, length)
        matrix = torch.diag(found.alphas) + torch.diag(found.betas, 1) + torch.diag(found.betas, -1)
        values, vectors = torch.linalg.eigh(matrix)
        start = sum(weight * q for weight, q in zip(vectors[:, -1], found.basis, strict=True))
        return values[-1], None

    return look


def tracking(state: State, rate: float, steps: int, every: int = 1, **options) -> dict:
    problem = Problem(state)
    here = operator(problem)
    start = eigenthings.lanczos(here, k=1, max_iter=30, which="LA", seed=0).eigenvectors[0]
    return _network.tracking(problem, lambda: watcher(here, start, **options), rate, steps, every)
