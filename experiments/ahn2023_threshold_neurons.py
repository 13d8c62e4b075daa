"""Only steps past a critical size teach a ReLU network its threshold: gradient descent on sparse coding.

Ahn, Bubeck, Chewi, Lee, Suarez and Zhang 2023, "Learning threshold neurons via the 'edge of stability'" (NeurIPS; arXiv
2212.07469). A network f(x) = a⁻ Σ relu(−xᵢ + b) + a⁺ Σ relu(xᵢ + b) is to tell the sign of one signal among d noisy coordinates
and would have to learn a negative bias b for it. For equal times η · steps, b is the same at all small steps, and has a sharp
knee at η_c = 8π/d²: above it the start is unstable, a⁻ + a⁺ bounces, and b falls until the sharpness is below 2/η.

Three models, from the exactly solvable to the trained: the single neuron ℓ(xy) and the mean model, held against closed forms
(`landscape_jax.theory.neuron`, `.sparse_coding`), and the network itself with its sharpness. Network, initialisation and time
budget are as we understand them from the paper; its other figures (ResNet-18 on CIFAR-10 among them) are not covered. A last,
exploratory part trains all weights of a two-layer network: that is not in the paper, and not sharp.

All 255 trainings of the small preset (at fifteen η, from 838 to 63,662 steps long, five draws; and for five pairs of d and λ)
are one compiled program; everything together takes about a minute of core time, compilation included.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import landscape_jax as lj
from experiments import _ahn2023_figures as figures
from experiments import _ahn2023_mean as mean
from experiments import _ahn2023_network as networks
from experiments import _ahn2023_neuron as neurons
from experiments import _ahn2023_verdicts as verdicts
from experiments._config import check_numbers
from experiments._parts import in_parts
from landscape_jax import Record
from landscape_jax.plots import Figure
from landscape_jax.record import Claim
from landscape_jax.theory import hinges, sparse_coding


@dataclasses.dataclass(frozen=True)
class Config:
    """What to run. Without `theory`, `scaling` or `whole_rates` that part is left out and its claims are not tested."""

    dim: int = 200
    """d: coordinates of an example."""
    n_train: int = 300
    """How many training examples."""
    signal: float = 3.0
    """λ: the size of the signal among noise of size 1."""
    time: float = 10.0
    """η · steps, the same for every η."""
    ratios: tuple[float, ...] = (0.25, 0.5, 0.7, 0.8, 0.9, 1.0, 1.15, 1.3, 1.6, 2.0, 3.0, 5.0, 8.0, 12.0, 19.0)
    """The steps, η over 8π/d²."""
    num_seeds: int = 5
    """Independent data and initialisations."""
    n_test: int = 5000
    """Fresh examples that accuracy is measured on."""
    records: int = 100
    """How many looks at loss, sharpness and bias in a training."""
    scaling: tuple[tuple[int, float], ...] = ((100, 3.0), (200, 3.0), (400, 3.0), (200, 1.5), (200, 5.0))
    """Pairs (d, λ) for the scaling of the knee."""
    scaling_ratios: tuple[float, ...] = (0.4, 0.5, 0.7, 0.8, 0.9, 0.95, 1.05, 1.15, 1.2, 1.3, 1.6, 2.0)
    """Their steps, η over 8π/d²."""
    scaling_steps: int = 2000
    """Their time, in steps of 8π/d²."""
    scaling_seeds: int = 3
    """Draws of data for each; the initialisation is a⁻ = a⁺ = √(1/(2d))."""
    theory: bool = True
    """Whether to simulate the single neuron and the mean model."""
    whole_rates: tuple[float, ...] = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0)
    """Steps of the two-layer network with all its weights (exploratory)."""
    whole_time: float = 60.0
    """Its η · steps."""
    whole_seeds: int = 3
    """Its initialisations and data."""

    def __post_init__(self):
        check_numbers(self)
        for name in ("dim", "n_train", "num_seeds", "n_test", "records", "scaling_seeds", "whole_seeds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        for name in ("ratios", "scaling_ratios", "whole_rates"):
            values = getattr(self, name)
            if (not values and name == "ratios") or list(values) != sorted({x for x in values if x > 0}):
                raise ValueError(f"{name}={values} must ascend, from above 0" + "; give at least one" * (name == "ratios"))
        if any(d < 1 or d != int(d) for d, _ in self.scaling) or (self.scaling and not self.scaling_ratios):
            raise ValueError(f"scaling={self.scaling} must hold pairs (d, λ) with d a whole number, and scaling_ratios steps")
        least = {"time": self.time / (self.ratios[-1] * sparse_coding.critical_rate(self.dim))}
        if self.scaling:
            least["scaling_steps"] = self.scaling_steps / self.scaling_ratios[-1]
        for name, steps in least.items():
            if round(steps) < self.records:
                raise ValueError(
                    f"{name}={getattr(self, name)} leaves the largest step {steps:.0f} steps, fewer than "
                    f"records={self.records}: raise {name}, lower records, or leave out the largest steps"
                )
        if self.whole_rates and round(self.whole_time / self.whole_rates[-1]) < verdicts.WHOLE_RECORDS:
            raise ValueError(
                f"whole_time={self.whole_time} must be at least {verdicts.WHOLE_RECORDS} steps of the largest of whole_rates"
            )


SMALL = Config()
RATIOS = (
    0.1, 0.25, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 1.0, 1.05, 1.1, 1.15, 1.2, 1.3, 1.4, 1.5, 1.6, 1.8, 2.0, 2.5, 3.0, 4.0, 5.0,
    6.0, 8.0, 10.0, 12.0, 14.0, 16.0, 19.0,
)  # fmt: skip
PAPER = Config(
    ratios=RATIOS,
    num_seeds=20,
    n_test=20_000,
    scaling=tuple((d, s) for d in (100, 200, 400, 800) for s in (0.0, 1.5, 3.0, 5.0)),
    scaling_seeds=10,
    whole_seeds=10,
)


def run(config: Config, key: lj.types.Key, checkpoint: Path | None = None) -> Record:
    """Parts "neuron", "mean", "network" ([seed, ratio, ...]), "scaling" ([cell, seed, ratio]), "whole" ([seed, rate])."""
    of_theory, of_networks, of_whole = jax.random.split(key, 3)
    work: dict[str, Callable] = {}
    if config.theory:
        work["neuron"] = lambda: neurons.simulate(of_theory)
        work["mean"] = lambda: mean.simulate(config.dim)
    work["three_parameters"] = lambda: three_parameters(config, of_networks)
    if config.whole_rates:
        work["whole"] = lambda: all_weights(config, of_whole)

    def assemble(found: dict) -> Record:
        return Record({**found.pop("three_parameters", {}), **found})

    return in_parts(work, config, key, checkpoint, assemble=assemble)


def drawn(config: Config, of_data, of_init, of_scaling) -> tuple[list[lj.types.Batch], networks.Runs]:
    """From three keys: data sets, those of figure 1 before those of the scaling, each at every one of its rates a run."""
    cells = [(config.dim, config.signal, k) for k in jax.random.split(of_data, config.num_seeds)]
    again = jax.random.split(of_scaling, (max(len(config.scaling), 1), config.scaling_seeds))
    cells += [(d, s, k) for (d, s), row in zip(config.scaling, again, strict=False) for k in row]
    draws = [lj.data.sparse_coding(k, config.n_train, d, s) for d, s, k in cells]

    random = jax.random.normal(of_init, (config.num_seeds, 2)) / np.sqrt(2 * config.dim)  # a⁻ and a⁺
    even = [[(0.5 / d) ** 0.5] * 2 for d, _, _ in cells[config.num_seeds :]]
    starts = np.concatenate([random, np.reshape(even, (-1, 2))]).astype(np.float32)
    critical = np.array([sparse_coding.critical_rate(d) for d, _, _ in cells])

    of_fig1, of_scaling = range(config.num_seeds), range(config.num_seeds, len(cells))
    runs = [(i, r, config.time) for i in of_fig1 for r in config.ratios]
    runs += [(i, r, config.scaling_steps * critical[i]) for i in of_scaling for r in config.scaling_ratios]
    table, ratio, time = (np.array(column) for column in zip(*runs, strict=True))
    rate = ratio * critical[table]
    params = {"minus": starts[table, 0], "plus": starts[table, 1], "bias": np.zeros(len(table), np.float32)}
    return draws, networks.Runs(table.astype(np.int32), params, rate.astype(np.float32), networks.steps_within(time, rate))


def three_parameters(config: Config, key: lj.types.Key) -> dict[str, dict]:
    """Figure 1 and the scaling of its knee, trained together."""
    of_data, of_init, of_test, of_scaling = jax.random.split(key, 4)
    draws, runs = drawn(config, of_data, of_init, of_scaling)
    tables = hinges.stacked([networks.tabulated(x) for x, _ in draws]), np.stack([y for _, y in draws])
    found, record = networks.train_all(runs, tables, config.records)

    count = config.num_seeds * len(config.ratios)
    shape = config.num_seeds, len(config.ratios)
    final = jax.tree.map(lambda x: jnp.asarray(x[:count]).reshape(shape), found)
    keys = jax.random.split(of_test, config.num_seeds)
    parts = {
        "network": {
            **jax.tree.map(lambda x: x[:count].reshape(*shape, -1), record),
            "final_bias": np.asarray(final["bias"]),
            "accuracy": np.asarray(networks.accuracy(final, keys, config.n_test, config.dim, config.signal)),
            "mean_label": np.array([y.mean() for _, y in draws[: config.num_seeds]]),
        }
    }
    if config.scaling:
        shape = len(config.scaling), config.scaling_seeds, len(config.scaling_ratios)
        edge = record["sharpness"][count:, -1] * runs.rate[count:] / 2
        parts["scaling"] = {"final_bias": found["bias"][count:].reshape(shape), "edge": edge.reshape(shape)}
    return parts


def all_weights(config: Config, key: lj.types.Key) -> dict[str, np.ndarray]:
    """The two-layer network at every one of its rates, [seed, rate, ...]."""
    keys = jax.random.split(key, config.whole_seeds)
    rates = np.array(config.whole_rates)
    seed, which = (x.ravel() for x in np.indices((config.whole_seeds, len(rates))))
    num_steps = networks.steps_within(config.whole_time, rates)[which]
    found = networks.train_whole_all(keys, seed, rates[which].astype(np.float32), num_steps, verdicts.WHOLE_RECORDS)
    return jax.tree.map(lambda x: x.reshape(config.whole_seeds, len(rates), *x.shape[1:]), found)


def claims(record: Record, config: Config) -> list[Claim]:
    """Every claim on what was run; those on parts left out are not tested."""
    return verdicts.claims(record, config)


def plot(record: Record, config: Config) -> dict[str, Figure]:
    """Bias, loss and sharpness of the network; its knee and accuracy; and where they were run the other parts."""
    parts = {"figure": figures.transition(record, config), "knee": figures.knee(record, config)}
    if "scaling" in record:
        parts["scaling"] = figures.scaling(record, config)
    if "neuron" in record:
        parts["neuron"] = figures.single_neuron(record["neuron"])
        parts["mean"] = figures.mean_model(record["mean"], config.dim)
    if "whole" in record:
        parts["exploratory"] = figures.whole(record["whole"], config)
    return parts
