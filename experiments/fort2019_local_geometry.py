"""Emergent local geometry: outliers, confined gradients, transient curvature and the Goldilocks zone, in a model and a network.

Fort and Ganguli 2019, "Emergent properties of the local geometry of neural loss landscapes" (arXiv 1910.05929), and Fort and
Scherlis 2018, "The Goldilocks zone" (arXiv 1807.02581). Training is growth of the logits' scale, and logit gradients cluster:
a random model of no more than that (`landscape_jax.theory.logits`) is claimed to explain why Hessians of classifiers have a
bulk and as many outliers as classes, why gradients lie in the span of the sharpest directions, why curvature rises and falls,
and why training works on random planes that meet a shell of unusual convexity.

Each is measured in the model and in a network side by side. "Exactly C outliers" and "the gradient almost entirely in the top-C
subspace" are looked at over training time × learning rate × loss × label noise, at two widths and one batch size, and what they
hang on is among the claims.

The small preset takes the digits, a 64-16-16-10 ReLU network (p = 1482) and a 64-64-64-10 one (p = 8970), Hessians over 500
examples, 13 radii in the whole space and in 20 random planes each, and maps of 8 radii × 5 dimensions × 2 draws for planes and
spheres, these with ReLU and tanh. `--data mnist` does the same on 784 pixels, where the whole Hessian is too large to write
down and densities stand for spectra.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import jax
import numpy as np

import landscape_jax as lj
from experiments import _fort2019_claims as judged
from experiments import _fort2019_claims_trained as trained
from experiments import _fort2019_figures as figures
from experiments import _fort2019_goldilocks as goldilocks
from experiments import _fort2019_model as random_model
from experiments import _fort2019_network as network
from experiments._config import check_numbers
from experiments._parts import in_parts
from landscape_jax import Record
from landscape_jax.plots import Figure
from landscape_jax.record import Claim

PARTS = ("model", "network", "conditions", "goldilocks")
SETS = {"digits": 1797, "mnist": 60_000}
PIXELS = {"digits": 64, "mnist": 784}
DRAWS = 20  # of planes: two to five are off by up to a fifth


@dataclasses.dataclass(frozen=True)
class Config:
    """What to run. Claims on parts left out are not tested."""

    parts: tuple[Literal["model", "network", "conditions", "goldilocks"], ...] = PARTS
    """Which parts."""
    data: Literal["digits", "mnist"] = "digits"
    """The data set; each pixel is standardised over the training set, with a standard deviation of 0.1 at least."""
    n_train: int = 1000
    """Training examples."""
    n_test: int = 500
    """Test examples."""
    n_curvature: int = 500
    """The Hessian is that of the first so many training examples; the gradient held against it is that of all."""
    n_clustered: int = 200
    """Logit gradients of the first so many."""
    widths: tuple[int, ...] = (16, 16)
    """Hidden units; ReLU, Glorot's uniform weights (normal ones in the Goldilocks zone), biases from 0."""
    k: int = 16
    """How many of the largest eigenvalues are followed; 15 at least, to see where 10 part from the rest."""
    num_probes: int = 60
    """Random vectors for tr H/‖H‖_F in time, and in spaces too large for a dense Hessian."""

    model_p: int = 400
    """Dimensions of the random model."""
    model_n: int = 150
    """Its examples."""
    model_repeats: int = 4
    """Draws of everything random in it."""
    transition_p: int = 1600
    """Dimensions where outliers leave the bulk: closed forms are those of infinitely many."""
    transition_n: int = 200
    """Examples there."""

    rate: float = 0.1
    """η of the run that is measured in full; cross-entropy, SGD."""
    batch_size: int = 64
    """Its minibatches."""
    segments: tuple[tuple[int, int], ...] = ((4, 10), (6, 20), (7, 40), (8, 75), (8, 250), (1, 1))
    """Its looks: (how many, steps between them), one after the other."""
    losses: tuple[Literal["cross_entropy", "square"], ...] = ("cross_entropy", "square")
    """Conditions: the losses …"""
    noises: tuple[float, ...] = (0.0, 0.3)
    """… parts of the labels that are drawn anew, ascending from 0 …"""
    rates: tuple[float, ...] = (0.01, 0.1, 0.5)
    """… and η for cross-entropy, ascending …"""
    square_rates: tuple[float, ...] = (0.01, 0.05, 0.2)
    """… and for the square loss."""
    condition_batch: int = 32
    """Their minibatches, whatever the width."""
    condition_segments: tuple[tuple[int, int], ...] = ((2, 20), (2, 40), (3, 80), (6, 200))
    """Their looks."""
    wide: tuple[int, ...] = (64, 64)
    """Hidden units of a wider network under both losses, without wrong labels and with the most; () for none."""
    wide_rates: tuple[float, ...] = (0.1, 0.5)
    """Its η under cross-entropy, ascending …"""
    wide_square_rates: tuple[float, ...] = (0.05, 0.2)
    """… and under the square loss."""
    wide_segments: tuple[tuple[int, int], ...] = ((2, 40), (2, 160), (10, 80))
    """Its looks."""

    n_zone: int = 400
    """Examples of the Hessian in the Goldilocks zone."""
    radii: tuple[float, ...] = (0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 3.0, 5.0, 10.0, 30.0)
    """Radii of initialisation in units of Xavier's; 0.1, 1.4 and 30 must be among them."""
    plane_dims: tuple[int, ...] = (20, 100)
    """Dimensions of the random planes that the Hessian is looked at in."""
    plane_draws: int = 20
    """How many planes."""
    n_map: int = 512
    """Examples that planes and spheres are trained on."""
    map_radii: tuple[float, ...] = (0.1, 0.3, 0.7, 1.0, 2.0, 5.0, 10.0, 30.0)
    """Radii of the maps; 0.1, 1, 2, 5 and 10 must be among them."""
    map_dims: tuple[int, ...] = (10, 30, 100, 300)
    """Dimensions of the planes and spheres, ascending; 100 and 300 must be among them, all of θ's space is added."""
    map_draws: int = 2
    """Initialisations, each with a plane of its own."""
    map_steps: int = 250
    """Adam steps, full batch."""
    map_rate: float = 0.01
    """Adam's rate, in units of Xavier's radius in planes and of the radius itself on spheres."""

    def __post_init__(self):
        check_numbers(self)
        if not self.parts:
            raise ValueError(f"parts must name one of {', '.join(PARTS)} at least")
        if not 1 <= self.n_train + self.n_test <= SETS[self.data]:
            raise ValueError(f"n_train={self.n_train} and n_test={self.n_test} must sum to at most {SETS[self.data]}")
        for name in ("n_curvature", "n_clustered", "n_zone", "n_map"):
            if not 2 <= getattr(self, name) <= self.n_train:
                raise ValueError(f"{name}={getattr(self, name)} must lie between 2 and n_train={self.n_train}: it is a part")
        if not self.k >= 15:
            raise ValueError(f"k={self.k} must be at least 15, to see where ten eigenvalues part from the rest")
        for name in ("num_probes", "plane_draws", "model_n", "model_repeats"):
            if getattr(self, name) < 2:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 2")
        if min(self.model_p, self.transition_p) < 100 or min(self.map_draws, self.map_steps) < 1:
            raise ValueError("model_p and transition_p must be at least 100, map_draws and map_steps at least 1")
        for name in ("segments", "condition_segments", "wide_segments"):
            if any(looks < 1 or every < 1 for looks, every in getattr(self, name)) or not getattr(self, name):
                raise ValueError(f"{name}={getattr(self, name)} must hold pairs (looks, steps between them) from 1 on")
        rates = "rates", "square_rates", "wide_rates", "wide_square_rates"
        for name in (*rates, "noises", "radii", "map_radii", "map_dims", "plane_dims"):
            values = getattr(self, name)
            least = 0 if name == "noises" else 1e-12
            if not values or min(values) < least or list(values) != sorted(set(values)):
                raise ValueError(f"{name}={values} must be positive and ascend")
        if self.noises[0] != 0 or self.noises[-1] > 1:
            raise ValueError(f"noises={self.noises} must begin with 0 and end at 1 at most: they are parts of the labels")
        for name, held in (("radii", (0.1, 1.4, 30)), ("map_radii", (0.1, 1, 2, 5, 10)), ("map_dims", (100, 300))):
            if not set(held) <= set(getattr(self, name)):
                raise ValueError(f"{name}={getattr(self, name)} must hold {held}, with which the claims are judged")
        batches = self.batch_size, self.condition_batch
        if min(self.rate, self.map_rate) <= 0 or not 1 <= min(batches) <= max(batches) <= self.n_train:
            raise ValueError("rate and map_rate must be positive, batches between 1 and n_train")
        if "goldilocks" in self.parts and self.plane_draws < DRAWS:
            raise ValueError(f"plane_draws={self.plane_draws} must be at least {DRAWS}: ratios in planes are judged by means")
        if "goldilocks" in self.parts and self.map_dims[-1] >= self.p:
            raise ValueError(
                f"map_dims={self.map_dims} must lie below p={self.p}, the number of parameters with widths={self.widths}, or "
                "planes are the whole space: give more hidden units"
            )

    @property
    def p(self) -> int:
        """Parameters of the network."""
        sizes = (PIXELS[self.data], *self.widths, trained.CLASSES)
        return sum((a + 1) * b for a, b in itertools.pairwise(sizes))


SMALL = Config()
PAPER = Config(
    data="mnist",
    n_train=10_000,
    n_test=10_000,
    n_curvature=2000,
    n_zone=2000,
    n_map=10_000,
    widths=(200, 200),
    num_probes=800,
    model_p=1000,
    model_n=300,
    segments=((4, 10), (6, 40), (7, 200), (10, 1000)),
    map_steps=1000,
    map_draws=5,
    map_dims=(10, 30, 100, 300, 1000, 3000),
)


def load(config: Config) -> tuple[lj.types.Batch, lj.types.Batch]:
    """Training and test set, flat pixels and one-hot rows."""
    scale = functools.partial(lj.data.per_pixel, floor=0.1)
    parts = getattr(lj.data, config.data)(config.n_train, config.n_test, scale=scale)
    train, test = ((x.reshape(len(x), -1), y) for x, y in parts)
    return train, test


def run(config: Config, key: lj.types.Key, checkpoint: Path | None = None) -> Record:
    """Parts "model"; "network"; "conditions" and "wide" {loss: [noise, η, look, ...]}; "zone" and "maps" {activation: ...}."""
    keys = {name: jax.random.fold_in(key, i) for i, name in enumerate((*PARTS, "wide"))}
    train, test = load(config)
    inputs, outputs = train[0].shape[1], train[1].shape[1]

    def task(widths: tuple[int, ...]) -> network.Task:
        model = network.glorot(widths, inputs, outputs, draw=lj.models.uniform)
        return network.Task(model, lj.losses.cross_entropy, train, test, config.n_curvature, config.n_clustered)

    def in_full() -> Record:
        given = task(config.widths)
        found = network.training(
            given, keys["network"], config.rate, config.batch_size, config.segments, config.k, config.num_probes
        )
        params = found.pop("params")
        found["p"] = np.asarray(lj.tree.size(params) // len(found["norm"]))
        if found["p"] <= goldilocks.DENSE:
            looks = [0, int(np.argmax(found["hessian"]["eigenvalues"][:, 0])), len(found["norm"]) - 1]
            found["spectra"] = network.spectra(given, params, looks) | {"look": np.array(looks)}
        return found

    def conditions() -> dict[str, Record]:
        cell = trained.rates(config), config.noises, config.condition_batch, config.condition_segments, config.k
        return network.conditions(task(config.widths), keys["conditions"], *cell)

    def wide() -> dict[str, Record]:
        cell = trained.wide_rates(config), trained.wide_noises(config), config.condition_batch, config.wide_segments, config.k
        return network.conditions(task(config.wide), keys["wide"], *cell)

    def model_of(activation: Callable) -> lj.types.Model:
        return network.glorot(config.widths, inputs, outputs, activation=activation)

    def zones() -> dict:
        data = jax.tree.map(lambda x: x[: config.n_zone], train)
        return goldilocks.zones(config, keys["goldilocks"], model_of, data)

    def maps() -> dict:
        data = jax.tree.map(lambda x: x[: config.n_map], train)
        return goldilocks.maps(config, keys["goldilocks"], model_of, data, test)

    programs: dict[str, dict[str, Callable]] = {
        "conditions": {"conditions": conditions, **({"wide": wide} if config.wide else {})},
        "model": {"model": lambda: random_model.run(config, keys["model"])},
        "network": {"network": in_full},
        "goldilocks": {"zone": zones, "maps": maps},
    }
    asked = {name: program for part, several in programs.items() if part in config.parts for name, program in several.items()}
    at_once = 2 if jax.default_backend() == "cpu" else 1  # one compiles, another runs
    return in_parts(asked, config, key, checkpoint, threads=at_once)


def claims(record: Record, config: Config) -> list[Claim]:
    """Every claim on what was run."""
    parts = judged.of_the_model, judged.of_the_network, trained.of_the_conditions, trained.of_the_zone
    return [claim for part in parts for claim in part(record, config)]


def plot(record: Record, config: Config) -> dict[str, Figure]:
    """Model and network side by side; H and its parts in time; the conditions; the Goldilocks zone."""
    drawn = {}
    if "model" in record or "network" in record:
        drawn["figure"] = figures.side_by_side(record, config)
    if "network" in record:
        drawn["parts"] = figures.parts(record["network"])
    if "conditions" in record:
        drawn["conditions"] = figures.conditions(record["conditions"], trained.rates(config), config.noises)
    if "wide" in record:
        drawn["conditions-wide"] = figures.conditions(record["wide"], trained.wide_rates(config), trained.wide_noises(config))
    if "zone" in record:
        drawn["goldilocks"] = figures.goldilocks(record, config)
    return drawn
