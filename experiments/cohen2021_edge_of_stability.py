"""Full-batch gradient descent trains at the edge of stability: sharpness rises to 2/η and stays there.

Cohen, Kaur, Li, Kolter and Talwalkar 2021, "Gradient descent on neural networks typically occurs at the edge of
stability" (ICLR; arXiv 2103.00065). GD with step η on a quadratic of curvature λ diverges for λ > 2/η; a network's
sharpness λ₁ grows of itself (progressive sharpening), reaches 2/η, and hovers there while the loss goes on falling, no
longer monotonically. A control with a step so small that 2/η is out of reach shows what happens without the edge.

All learning rates and all seeds are one batch of runs, vmapped through one compiled scan, with sharpness at every step.
Small preset: 12 runs of a tanh network on real digits, half a minute on two CPU cores; with --data cifar10, 3 runs of the
paper's 2 × 200 network on 1,000 images, some minutes.
"""

import dataclasses
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

import landscape_jax as lj
from experiments._config import check_numbers
from landscape_jax import Record
from landscape_jax.plots import Figure
from landscape_jax.record import Claim

SOURCE = "Cohen et al. 2021, arXiv 2103.00065"


# What a field left unset becomes, by data set: what two CPU cores do in half a minute, and in some minutes
DIGITS = dict(
    n_train=200,
    widths=(24, 24),
    init_scale=(0.3, 0.3, 0.1),
    learning_rates=(0.175, 0.2, 0.225),
    control_rate=0.05,
    num_seeds=3,
    num_steps=2000,
    every=1,
)
IMAGES = dict(
    n_train=1000,
    widths=(200, 200),
    init_scale=(1 / 3, 1 / 3, 1 / 3),
    learning_rates=(0.015, 0.02),
    control_rate=0.004,
    num_seeds=1,
    num_steps=1500,
    every=20,
)


@dataclasses.dataclass(frozen=True)
class Config:
    """What to run. Fields left unset depend on the data: a small tanh network on digits, 2 × 200 as in the paper on images."""

    data: Literal["digits", "mnist", "fashion_mnist", "cifar10"] = "digits"
    """The data set; targets are one-hot, the loss is ½ · sum over outputs / n. Images are standardised pixel by pixel."""
    n_train: int | None = None
    """How many training examples, all of them in each step."""
    widths: tuple[int, ...] | None = None
    """Hidden widths of the tanh network."""
    init_scale: tuple[float, ...] | None = None
    """Variance of the weights times fan-in, layer by layer: small, so that sharpness starts below 2/η."""
    learning_rates: tuple[float, ...] | None = None
    """Steps η whose 2/η training should reach."""
    control_rate: float | None = None
    """A step so small that training should never reach its 2/η."""
    num_seeds: int | None = None
    """Independent initialisations per learning rate."""
    num_steps: int | None = None
    """Gradient descent steps."""
    every: int | None = None
    """Cadence of the measurements, in steps."""

    def __post_init__(self):
        check_numbers(self)
        c = self._values()
        if not c["learning_rates"] or any(rate <= 0 for rate in (*c["learning_rates"], c["control_rate"])):
            raise ValueError(f"learning_rates={c['learning_rates']} and control_rate={c['control_rate']} must be positive")
        if c["num_seeds"] < 1:
            raise ValueError(f"num_seeds={c['num_seeds']} must be at least 1")
        steps, every = c["num_steps"], c["every"]
        if every < 1 or steps < 1 or steps % every:
            raise ValueError(f"num_steps={steps} must be a multiple of every={every}")
        if steps // every < 30:
            raise ValueError(f"num_steps={steps} observed every {every} gives under 30 records: too few to judge")

    def _values(self) -> dict:
        defaults = DIGITS if self.data == "digits" else IMAGES
        return {name: getattr(self, name) if getattr(self, name) is not None else value for name, value in defaults.items()}

    @property
    def filled(self) -> Any:
        """With the data set's own value in every field left unset."""
        return dataclasses.replace(self, **self._values())

    @property
    def rates(self) -> tuple[float, ...]:
        """The control first."""
        values = self._values()
        return (values["control_rate"], *values["learning_rates"])


SMALL = Config()
PAPER = Config(
    data="digits",
    n_train=1000,
    widths=(200, 200),
    init_scale=(0.3, 0.3, 0.1),
    learning_rates=(0.1, 0.2, 0.3, 0.4),
    control_rate=0.03,
    num_seeds=8,
    num_steps=10_000,
)


def training_set(config: Any) -> lj.types.Batch:
    """(inputs, one-hot targets)."""
    if config.data == "digits":
        return lj.data.digits(config.n_train)[0]
    return getattr(lj.data, config.data)(config.n_train, 0, scale=lj.data.per_pixel)[0]


def run(config: Config, key: lj.types.Key, checkpoint: Path | None = None) -> Record:
    """Leaves [learning_rate, seed, step]: "step", "loss", "sharpness"; the control is rate 0."""
    filled = config.filled
    train = training_set(filled)
    model = lj.models.mlp(filled.widths, train[1].shape[1], init_scale=filled.init_scale)
    loss = lj.losses.mean(model.apply, lj.losses.square)
    watch = {"loss": lj.observe.loss, "sharpness": lj.observe.sharpness(lj.curvature.hessian(loss))}

    def descent(rate):
        return lj.dynamics.gradient(loss, optax.inject_hyperparams(optax.sgd)(rate), lj.data.full_batch(train))

    def begin(rate, key):
        init_key, run_key = jax.random.split(key)
        return lj.start(run_key, model.init(init_key, train[0]), descent(rate), watch)

    rates, keys = jnp.array(filled.rates), jax.random.split(key, filled.num_seeds)
    _, record = lj.drive(
        lj.sweep.grid(begin)(rates, keys),
        descent(filled.control_rate),
        watch,
        num_steps=filled.num_steps,
        every=filled.every,
        axes={"learning_rate": rates, "seed": None},
        mesh=lj.devices.mesh_for_runs(len(rates) * len(keys)),
        saving=checkpoint and lj.Saving(checkpoint, identity=dataclasses.asdict(filled)),
    )
    return record


def claims(record: Record, config: Config) -> list[Claim]:
    """Each claim, judged run by run; a rate counts when every one of its seeds does."""
    filled = config.filled
    loss, sharp = np.asarray(record["loss"]), np.asarray(record["sharpness"])  # [rate, seed, time]
    edge = 2 / np.array(filled.rates)[:, None]  # [rate, 1]
    third = sharp.shape[-1] // 3
    finite = np.isfinite(loss).all(axis=-1)  # [rate, seed]
    ratio = np.median(sharp[..., -third:], axis=-1) / edge
    first, peak = sharp[..., 0] / edge, sharp.max(axis=-1) / edge
    rises = np.mean(np.diff(loss, axis=-1) > 0, axis=-1)  # fraction of measured intervals over which the loss rose
    there = np.maximum.accumulate(sharp, axis=-1)[..., :-1] >= edge[..., None]  # since it first reached 2/η
    at_edge_rises = (there & (np.diff(loss, axis=-1) > 0)).sum(axis=-1) / np.maximum(there.sum(axis=-1), 1)
    fall = loss[..., -third:].mean(axis=-1) / loss[..., 0]
    control, rest = 0, slice(1, None)

    def table(values, where=rest):
        return {f"{rate:g}": values[i].tolist() for i, rate in list(enumerate(filled.rates))[where]}

    at_edge = (finite & (np.abs(ratio - 1) <= 0.02))[rest].all(axis=1)  # [rate]
    sharpened = (finite & (first < 0.9) & (peak >= 0.98))[rest].all(axis=1)
    restless = (finite & (at_edge_rises >= 0.01) & (fall < 0.2))[rest].all(axis=1)
    quiet = (finite & (peak < 0.9) & (rises == 0))[control].all()
    enough = max(1, min(3, len(filled.learning_rates)))
    return [
        Claim(
            "progressive-sharpening",
            "Sharpness rises of itself until it reaches 2/η.",
            SOURCE,
            "every rate and seed starts below 0.9 · 2/η and later reaches at least 0.98 · 2/η",
            {"start / (2/η)": table(first), "peak / (2/η)": table(peak)},
            bool(sharpened.all()),
        ),
        Claim(
            "equilibrates-at-the-edge",
            "Sharpness settles at 2/η, for each learning rate that reaches it.",
            SOURCE,
            f"median over the last third within 2 % of 2/η for every seed of every rate, at least {enough} rates",
            {"median / (2/η)": table(ratio)},
            bool(at_edge.all() and at_edge.sum() >= enough),
        ),
        Claim(
            "loss-non-monotone",
            "At the edge the loss is not monotone over short spans, yet falls over long ones.",
            SOURCE,
            "from where sharpness first reaches 2/η on, the loss rises between at least 1 % of neighbouring records, and its "
            "mean over the last third is under 0.2 of the start, for every rate and seed",
            {"rising fraction": table(at_edge_rises), "late / start": table(fall)},
            bool(restless.all()),
        ),
        Claim(
            "control-below-the-edge",
            "With a step so small that 2/η is out of reach, sharpness stays below it and the loss never rises.",
            SOURCE,
            "peak sharpness under 0.9 · 2/η and no rise of the loss between neighbouring records, for every seed",
            {"peak / (2/η)": table(peak, slice(0, 1)), "rising fraction": table(rises, slice(0, 1))},
            bool(quiet),
        ),
    ]


def plot(record: Record, config: Config) -> Figure:
    """Loss and sharpness, one colour per learning rate, 2/η dashed."""
    filled = config.filled
    labels = [f"η = {rate:g}" + (" (control)" if i == 0 else "") for i, rate in enumerate(filled.rates)]
    return lj.plots.sharpness(record, threshold=[2 / rate for rate in filled.rates], labels=labels, threshold_label="2/η")
