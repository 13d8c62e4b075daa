"""PyHessian: power iteration with deflation, Hutchinson, stochastic Lanczos, on one retained gradient graph.

It has no start vector for its power iteration, and its density calls `torch.eig`, which torch no longer has; here it gets
one made of `torch.linalg.eigh`.
"""

import sys
import warnings
from pathlib import Path

import numpy as np
import pyhessian
import torch

from benchmarks.peers import _network
from benchmarks.peers._network import DEVICE, Problem
from benchmarks.peers._state import State

PACKAGES = ("torch", "pyhessian")
SETTINGS = {
    "eigenpairs": {"a": {"tol": 7e-5}, "b": {"tol": 7e-5}},
    "tracking": {"a": {"tol": 1e-3}, "b": {"tol": 1e-3}},
}


def eig(matrix: torch.Tensor, eigenvectors: bool) -> tuple[torch.Tensor, torch.Tensor]:
    values, vectors = torch.linalg.eigh(matrix)
    return torch.stack([values, torch.zeros_like(values)], dim=1), vectors


torch.eig = eig
warnings.filterwarnings("ignore", "Using backward")  # the cycle it warns of is cut at the next `operator`


def counted(problem: Problem) -> None:
    inside = sys.modules["pyhessian.hessian"]
    product = pyhessian.hessian_vector_product

    def noted(gradient, params, v):
        problem.note(v)
        return product(gradient, params, v)

    inside.hessian_vector_product = noted


def operator(problem: Problem) -> "pyhessian.hessian":
    problem.model.zero_grad()  # or gradients add up
    return pyhessian.hessian(problem.model, problem.criterion, data=(problem.x, problem.y), cuda=DEVICE == "cuda")


def prepared(state: State) -> Problem:
    problem = Problem(state)
    counted(problem)
    return problem


def eigenpairs(state: State, tol: float, iterations: int = 1000, seed: int = 0) -> dict:
    problem = prepared(state)

    def answer() -> dict:
        problem.fresh()
        torch.manual_seed(seed)
        values, _ = operator(problem).eigenvalues(maxIter=iterations, tol=tol, top_n=5)
        return {"values": sorted(values, reverse=True), "products": problem.products}

    return {"answer": answer}


def density(state: State, probes: int, steps: int = 64, keep: Path | None = None) -> dict:
    problem = prepared(state)
    run = lambda probes: list(zip(*operator(problem).density(iter=steps, n_v=probes), strict=True))  # noqa: E731
    return _network.quadratures(problem, run, probes, steps, keep)


def trace(state: State, probes: int = 100) -> dict:
    problem = prepared(state)

    def answer() -> dict:
        problem.fresh()
        torch.manual_seed(0)
        samples = operator(problem).trace(maxIter=probes, tol=0)
        error = np.std(samples, ddof=1) / len(samples) ** 0.5
        return {"trace": float(np.mean(samples)), "error": float(error), "products": problem.products}

    return {"answer": answer}


def watcher(problem: Problem, tol: float, iterations: int = 100) -> _network.Look:
    def look() -> tuple:
        here = operator(problem)
        (value,), _ = here.eigenvalues(maxIter=iterations, tol=tol)
        return value, here.gradsH

    return look


def tracking(state: State, rate: float, steps: int, every: int = 1, **options) -> dict:
    problem = prepared(state)
    return _network.tracking(problem, lambda: watcher(problem, **options), rate, steps, every)
