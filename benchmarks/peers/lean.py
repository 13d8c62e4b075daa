"""What an expert would write: plain torch, one retained gradient graph, ARPACK for eigenpairs."""

from pathlib import Path

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor

from benchmarks.peers import _network
from benchmarks.peers._network import DEVICE, Problem, flat
from benchmarks.peers._state import State

PACKAGES = ("torch", "scipy")
FIVE = {"a": {"tol": 1.0, "ncv": 20}, "b": {"tol": 1.0, "ncv": 21}}
SETTINGS = {
    "eigenpairs": FIVE,
    "starts": FIVE,
    "tracking": {"a": {"tol": 0.03, "ncv": 6}, "b": {"tol": 0.03, "ncv": 6}},
}


def hessian(problem: Problem):
    """The gradient with its graph, and v [p] ↦ H v."""
    gradient = problem.gradient(graph=True)

    def product(v: Tensor) -> Tensor:
        problem.note(v)
        return flat(torch.autograd.grad(gradient, problem.params, problem.split(v), retain_graph=True))

    return gradient, product


def largest(problem: Problem, product, k: int, start: np.ndarray, **options) -> tuple[np.ndarray, np.ndarray]:
    """Values [k] descending, and vectors [p, k]."""
    matvec = lambda v: product(torch.from_numpy(v.reshape(-1)).to(DEVICE)).cpu().numpy()  # noqa: E731
    operator = LinearOperator((problem.size,) * 2, matvec=matvec, dtype=np.float32)
    values, vectors = eigsh(operator, k=k, which="LA", v0=start, **options)
    return values[::-1], vectors[:, ::-1]


def eigenpairs(state: State, tol: float, ncv: int, seed: int = 0) -> dict:
    problem = Problem(state)
    start = np.random.default_rng(seed).normal(size=problem.size).astype(np.float32)

    def answer() -> dict:
        problem.fresh()
        _, product = hessian(problem)
        values, _ = largest(problem, product, 5, start, tol=tol, ncv=ncv)
        return {"values": values.tolist(), "products": problem.products}

    return {"answer": answer}


def starts(state: State, tol: float, ncv: int, count: int) -> dict:
    def answer() -> dict:
        each = [eigenpairs(state, tol, ncv, seed)["answer"]() for seed in range(count)]
        return {name: [one[name] for one in each] for name in ("values", "products")}

    return {"answer": answer}


def orthogonalised(product, start: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Lanczos with each new vector orthogonalised once against all before it."""
    basis = torch.empty(steps, len(start), device=DEVICE)  # [m, p]
    basis[0] = start / torch.linalg.vector_norm(start)
    diagonal, beside = torch.empty(steps), torch.empty(steps)
    for i in range(steps):
        known, w = basis[: i + 1], product(basis[i])
        overlaps = known @ w
        diagonal[i] = overlaps[i]
        w = torch.addmv(w, known.T, overlaps, alpha=-1)
        beside[i] = torch.linalg.vector_norm(w)
        if i + 1 < steps:
            torch.div(w, beside[i], out=basis[i + 1])
    return gauss(diagonal, beside[:-1])


def three_terms(product, start: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Lanczos with no basis kept."""
    before, q = torch.zeros_like(start), start / torch.linalg.vector_norm(start)
    diagonal, beside = torch.empty(steps), torch.zeros(steps)
    for i in range(steps):
        w = product(q).sub_(before, alpha=float(beside[i - 1]))
        diagonal[i] = torch.dot(q, w)
        w = w.sub_(q, alpha=float(diagonal[i]))
        beside[i] = torch.linalg.vector_norm(w)
        before, q = q, w.div_(beside[i])
    return gauss(diagonal, beside[:-1])


def gauss(diagonal: Tensor, beside: Tensor) -> tuple[Tensor, Tensor]:
    """Nodes and weights of a tridiagonal matrix."""
    nodes, vectors = torch.linalg.eigh(torch.diag(diagonal) + torch.diag(beside, 1) + torch.diag(beside, -1))
    return nodes, vectors[0] ** 2


def density(state: State, probes: int, steps: int = 64, keep: Path | None = None, reorthogonalise: int = 1) -> dict:
    problem = Problem(state)
    quadrature = orthogonalised if reorthogonalise else three_terms

    def run(probes: int) -> list[tuple]:
        _, product = hessian(problem)
        return [quadrature(product, torch.randn(problem.size, device=DEVICE), steps) for _ in range(probes)]

    return _network.quadratures(problem, run, probes, steps, keep)


def trace(state: State, probes: int = 100) -> dict:
    problem = Problem(state)

    def answer() -> dict:
        problem.fresh()
        torch.manual_seed(0)
        _, product = hessian(problem)
        signs = (torch.randint(2, (problem.size,), device=DEVICE) * 2.0 - 1 for _ in range(probes))
        samples = torch.stack([torch.dot(z, product(z)) for z in signs])
        error = samples.std() / probes**0.5
        return {"trace": float(samples.mean()), "error": float(error), "products": problem.products}

    return {"answer": answer}


def watcher(problem: Problem, start: np.ndarray, **options) -> _network.Look:
    """ARPACK from the last step's eigenvector, on the graph of the step's own gradient."""

    def look() -> tuple:
        nonlocal start
        gradient, product = hessian(problem)
        values, vectors = largest(problem, product, 1, start, **options)
        start = vectors[:, 0]
        return values[0], gradient

    return look


def tracking(state: State, rate: float, steps: int, every: int = 1, **options) -> dict:
    problem = Problem(state)
    start = largest(problem, hessian(problem)[1], 1, np.ones(problem.size, np.float32), tol=1e-3)[1][:, 0]
    return _network.tracking(problem, lambda: watcher(problem, start, **options), rate, steps, every)
