"""A task's network in torch: the same weights and the same loss, for the peers that live there; products are counted."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.peers._quadrature import moments
from benchmarks.peers._state import State

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
Look = Callable[[], tuple[float, Sequence[Tensor] | None]]  # the sharpness here, and the gradient if it came along


class Square(nn.Module):
    """½ Σ_c (f_c − y_c)², averaged over the examples."""

    reduction = "mean"  # curvlinops asks a criterion for it

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.mse_loss(outputs, targets, reduction="sum") * (0.5 / outputs.shape[0])


class Problem:
    """The network on its data, and a count of the Hessian products made."""

    def __init__(self, state: State):
        layers: list[nn.Module] = []
        for w, b in state.params:
            layers += [nn.Linear(*w.shape), nn.Tanh()]
            with torch.no_grad():
                layers[-2].weight.copy_(torch.from_numpy(w.T))
                layers[-2].bias.copy_(torch.from_numpy(b))
        self.model, self.criterion = nn.Sequential(*layers[:-1]).to(DEVICE), Square()
        self.x, self.y = (torch.from_numpy(part).to(DEVICE) for part in state.batch)
        self.params = list(self.model.parameters())
        self.size = sum(p.numel() for p in self.params)
        self.fresh()

    def fresh(self, period: int = 0) -> None:
        """Count anew, and keep the first vector of every `period`: those that Lanczos runs start from."""
        self.products, self.period, self.probes = 0, period, []

    def note(self, v: Tensor | Sequence[Tensor]) -> None:
        if self.period and self.products % self.period == 0:
            flat = v if isinstance(v, Tensor) else torch.cat([part.reshape(-1) for part in v])
            self.probes.append(flat.detach().clone())
        self.products += 1

    def gradient(self, graph: bool = False) -> Sequence[Tensor]:
        return torch.autograd.grad(self.criterion(self.model(self.x), self.y), self.params, create_graph=graph)

    def split(self, v: Tensor) -> list[Tensor]:
        """A vector [p] as tensors shaped like the parameters."""
        parts = v.split([p.numel() for p in self.params])
        return [part.view_as(p) for part, p in zip(parts, self.params, strict=True)]

    def keep_probes(self, path: Path) -> None:
        """In the order that the task has its parameters in, with weights [fan in, fan out]; rows of unit length."""
        rows = []
        for v in self.probes:
            row = np.concatenate([part.t().reshape(-1).cpu().numpy() for part in self.split(v)]).astype(np.float64)
            rows.append(row / np.linalg.norm(row))
        np.savez(path, probes=np.stack(rows))


def flat(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat([part.reshape(-1) for part in parts])


def quadratures(problem: Problem, run: Callable[[int], list[tuple]], probes: int, steps: int, keep: Path | None) -> dict:
    """`run(probes)` gives nodes and weights of each Lanczos run."""

    def answer() -> dict:
        problem.fresh(steps)
        torch.manual_seed(0)
        found = run(probes)
        return {"moments": moments(*zip(*found, strict=True)), "products": problem.products}

    def kept() -> None:
        if keep:
            problem.keep_probes(keep)

    return {"answer": answer, "keeping": kept}


def tracking(problem: Problem, watcher: Callable[[], Look], rate: float, steps: int, every: int = 1) -> dict:
    """Gradient descent from the problem's parameters: plain, and with a look at every `every`-th step."""
    start = [p.detach().clone() for p in problem.params]

    def descended(look: Look | None) -> list[float]:
        problem.fresh()
        torch.manual_seed(0)
        values = []
        with torch.no_grad():
            torch._foreach_copy_(problem.params, start)
        for step in range(steps):
            gradient = None
            if look is not None and step % every == 0:
                value, gradient = look()
                values.append(float(value))
            if gradient is None:
                gradient = problem.gradient()
            with torch.no_grad():
                torch._foreach_add_(problem.params, [g.detach() for g in gradient], alpha=-rate)
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        return values

    def plain() -> None:
        descended(None)

    def watched() -> dict:
        return {"sharpness": descended(watcher()), "products": problem.products}

    return {"plain": plain, "watched": watched}
