"""Near a minimum the loss grows more slowly than a quadratic, on several scales: the edge of stability and decaying rates.

Ma, Kunin, Wu and Ying 2022, "Beyond the quadratic approximation: the multiscale structure of neural network loss landscapes"
(J. Mach. Learn. 1(3); arXiv 2204.11326). Subquadratic growth lets gradient descent stay where λ₁ > 2/η, on a cycle whose secant
curvature is 2/η; several separate scales make the loss stick at a plateau for each rate, so that decaying rates help; both come
from a model that is not convex together with data that are not uniform. The phenomena are tested here, on settings of our own;
none of the paper's figures is redrawn. A subquadratic loss is not necessary for the edge: depth-2 diagonal linear networks
have it too.

Four parts. toys: gradient descent on one-dimensional losses against closed forms. origin: the growth exponent p(r) of a
two-layer network around its teacher, by magnitudes of data and activation. networks: digits networks trained at the edge, p(r)
along the sharpest direction, random ones and the gradient, and what dividing the rate does. landscape: planes and lines through
the end of one of them, to look at. All in float64. Under two minutes on two CPU cores.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax

from experiments import _ma2022_claims as judged
from experiments import _ma2022_figures as figures
from experiments import _ma2022_landscape as landscape
from experiments import _ma2022_networks as networks
from experiments import _ma2022_toys as toys
from experiments._config import check_numbers
from experiments._float64 import float64
from experiments._parts import in_parts
from landscape_jax import Record
from landscape_jax.plots import Figure
from landscape_jax.record import Claim
from landscape_jax.types import Key


@dataclasses.dataclass(frozen=True)
class Config:
    """What to run."""

    parts: tuple[Literal["toys", "origin", "networks", "landscape"], ...] = ("toys", "origin", "networks", "landscape")
    """Which parts to run; claims about the others are "not tested"."""
    num_seeds: int = 3
    """Independent draws of data and teacher, and initialisations of each training."""
    scales: tuple[tuple[float, float, float], ...] = ((1.0, 1.0, 1.0), (1.0, 10.0, 100.0), (1.0, 30.0, 1000.0))
    """Magnitudes of the two-layer network's three groups of data: first the control, last the most spread."""
    n_train: int = 300
    """Digits, standardised pixel by pixel."""
    widths: tuple[int, ...] = (32, 32)
    """Hidden widths of the networks on digits."""
    rates: tuple[float, float, float] = (0.1, 0.3, 0.6)
    """Learning rates η of the tanh network with square loss: one that never reaches the edge, and two that do."""
    relu_rate: float = 0.3
    """η of the ReLU network with square loss."""
    cross_entropy_rate: float = 1.0
    """η of the tanh network with cross-entropy."""
    num_steps: int = 3000
    """Full-batch gradient descent steps, a multiple of 15."""

    def __post_init__(self):
        check_numbers(self)
        if not self.parts:
            raise ValueError("parts is empty: name at least one of toys, origin, networks, landscape")
        if self.num_seeds < 1:
            raise ValueError(f"num_seeds={self.num_seeds} must be at least 1")
        if len(self.scales) < 2 or min(map(min, self.scales)) <= 0 or len(set(self.scales[0])) > 1:
            raise ValueError(f"scales={self.scales} must be positive, at least two sets, the first of equal magnitudes")
        if min(*self.rates, self.relu_rate, self.cross_entropy_rate) <= 0 or list(self.rates) != sorted(self.rates):
            raise ValueError(f"rates={self.rates} must be positive and increase, and the other two be positive")
        if self.num_steps < 1 or self.num_steps % networks.CHECKS:
            raise ValueError(f"num_steps={self.num_steps} must be a multiple of the {networks.CHECKS} looks at the sharpness")


SMALL = Config()
PAPER = Config(widths=(200, 200), n_train=1000, num_steps=6000, num_seeds=10)  # the paper's own scale is not known to us


def run(config: Config, key: Key, checkpoint: Path | None = None) -> Record:
    """By part: "toys"; "origin", leaves [scales, seed, ...] by activation; "networks", leaves [rate, seed, ...] by task;
    "landscape"."""
    of_origin, of_networks, of_landscape = jax.random.split(key, 3)
    tasks = {
        "tanh": networks.Task("tanh", "square", 1.0, config.rates),
        "relu": networks.Task("relu", "square", 2.0, (config.relu_rate,)),
        "cross_entropy": networks.Task("tanh", "cross_entropy", 1.0, (config.cross_entropy_rate,)),
    }

    def in_float64(fn: Callable, *args) -> Callable[[], Any]:
        def part():
            with float64():
                return fn(*args)

        return part

    work = {
        "toys": toys.measured,
        "origin": in_float64(networks.teachers, config.scales, of_origin, config.num_seeds),
        "networks": in_float64(networks.trained, tasks, config, of_networks),
        "landscape": in_float64(landscape.pictured, config, of_landscape),
    }
    return in_parts({name: part for name, part in work.items() if name in config.parts}, config, key, checkpoint)


def claims(record: Record, config: Config) -> list[Claim]:
    """See `_ma2022_claims`."""
    return judged.claims(record, config)


def plot(record: Record, config: Config) -> dict[str, Figure]:
    """A row or two for each part that was run, and the landscape."""
    drawn = {"figure": figures.whole(record, config)} if figures.ROWS.keys() & record.keys() else {}
    return drawn | ({"landscape": landscape.drawn(record["landscape"], config)} if "landscape" in record else {})
