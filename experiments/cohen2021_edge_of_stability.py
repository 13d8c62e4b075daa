"""Full-batch gradient descent trains at the edge of stability: sharpness rises to 2/η and stays there.

Cohen, Kaur, Li, Kolter and Talwalkar 2021, "Gradient descent on neural networks typically occurs at the edge of
stability" (ICLR; arXiv 2103.00065). GD with step η on a quadratic of curvature λ diverges for λ > 2/η; a network's
sharpness λ₁ grows of itself (progressive sharpening), reaches 2/η, and hovers there while the loss goes on falling, no
longer monotonically. A control with a step so small that 2/η is out of reach shows what happens without the edge.

All learning rates and all seeds are one batch of runs, vmapped through one compiled scan, with sharpness at every step.
Small preset: 12 runs of a tanh network on real digits, under a minute on two CPU cores.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

import landscape_jax as lj
from landscape_jax import Record
from landscape_jax.record import Claim

SOURCE = "Cohen et al. 2021, arXiv 2103.00065"


@dataclasses.dataclass(frozen=True)
class Config:
    """What to run."""

    data: Literal["digits"] = "digits"
    """The data set; targets are one-hot, the loss is ½ · sum over outputs / n."""
    n_train: int = 200
    """How many training examples, all of them in each step."""
    widths: tuple[int, ...] = (24, 24)
    """Hidden widths of the tanh network."""
    init_scale: tuple[float, ...] = (0.3, 0.3, 0.1)
    """Variance of the weights times fan-in, layer by layer: small, so that sharpness starts below 2/η."""
    learning_rates: tuple[float, ...] = (0.15, 0.175, 0.2)
    """Steps η whose 2/η training should reach."""
    control_rate: float = 0.05
    """A step so small that training should never reach its 2/η."""
    num_seeds: int = 3
    """Independent initialisations per learning rate."""
    num_steps: int = 2000
    """Gradient descent steps."""
    every: int = 1
    """Cadence of the measurements, in steps."""

    def __post_init__(self):
        rates = (*self.learning_rates, self.control_rate)
        if not self.learning_rates or any(rate <= 0 for rate in rates):
            raise ValueError(f"learning_rates={self.learning_rates} and control_rate={self.control_rate} must be positive")
        if self.num_seeds < 1:
            raise ValueError(f"num_seeds={self.num_seeds} must be at least 1")
        if self.every < 1 or self.num_steps < 1 or self.num_steps % self.every:
            raise ValueError(f"num_steps={self.num_steps} must be a multiple of every={self.every}")
        if self.num_steps // self.every < 30:
            raise ValueError(f"num_steps={self.num_steps} observed every {self.every} gives under 30 records: too few to judge")

    @property
    def rates(self) -> tuple[float, ...]:
        """The control first."""
        return (self.control_rate, *self.learning_rates)


SMALL = Config()
PAPER = Config(
    n_train=1000, widths=(200, 200), init_scale=(0.3, 0.3, 0.1), learning_rates=(0.1, 0.2, 0.3, 0.4),
    control_rate=0.03, num_seeds=8, num_steps=10_000,
)


def run(config: Config, key: lj.types.Key) -> Record:
    """Leaves [rate, seed, time]: "step", "loss", "sharpness"; the control is rate 0."""
    train, _ = lj.data.digits(config.n_train)
    model = lj.models.mlp(config.widths, train[1].shape[1], init_scale=config.init_scale)
    loss = lj.losses.mean(model.apply, lj.losses.square)
    watch = {"loss": lj.observe.loss, "sharpness": lj.observe.sharpness(lj.curvature.hessian(loss))}

    def descent(rate):
        return lj.dynamics.gradient(loss, optax.inject_hyperparams(optax.sgd)(rate), lj.data.full_batch(train))

    def begin(rate, key):
        init_key, run_key = jax.random.split(key)
        return lj.start(run_key, model.init(init_key, train[0]), descent(rate), watch)

    runs = lj.sweep.grid(begin, looped=0)(jnp.array(config.rates), jax.random.split(key, config.num_seeds))
    _, record = lj.drive(runs, descent(config.control_rate), watch, num_steps=config.num_steps, every=config.every)
    return record


def claims(record: Record, config: Config) -> list[Claim]:
    """Each claim, judged run by run; a rate counts when every one of its seeds does."""
    loss, sharp = np.asarray(record["loss"]), np.asarray(record["sharpness"])  # [rate, seed, time]
    edge = 2 / np.array(config.rates)[:, None]  # [rate, 1]
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
        return {f"{rate:g}": values[i].tolist() for i, rate in list(enumerate(config.rates))[where]}

    at_edge = (finite & (np.abs(ratio - 1) <= 0.02))[rest].all(axis=1)  # [rate]
    sharpened = (finite & (first < 0.9) & (peak >= 0.98))[rest].all(axis=1)
    restless = (finite & (at_edge_rises >= 0.01) & (fall < 0.2))[rest].all(axis=1)
    quiet = (finite & (peak < 0.9) & (rises == 0))[control].all()
    enough = max(1, min(3, len(config.learning_rates)))
    return [
        Claim(
            "progressive-sharpening", "Sharpness rises of itself until it reaches 2/η.", SOURCE,
            "every rate and seed starts below 0.9 · 2/η and later reaches at least 0.98 · 2/η",
            {"start / (2/η)": table(first), "peak / (2/η)": table(peak)}, bool(sharpened.all()),
        ),
        Claim(
            "equilibrates-at-the-edge", "Sharpness settles at 2/η, for each learning rate that reaches it.", SOURCE,
            f"median over the last third within 2 % of 2/η for every seed of every rate, at least {enough} rates",
            {"median / (2/η)": table(ratio)}, bool(at_edge.all() and at_edge.sum() >= enough),
        ),
        Claim(
            "loss-non-monotone", "At the edge the loss is not monotone over short spans, yet falls over long ones.", SOURCE,
            "from where sharpness first reaches 2/η on, the loss rises between at least 1 % of neighbouring records, and its "
            "mean over the last third is under 0.2 of the start, for every rate and seed",
            {"rising fraction": table(at_edge_rises), "late / start": table(fall)}, bool(restless.all()),
        ),
        Claim(
            "control-below-the-edge", "With a step so small that 2/η is out of reach, sharpness stays below it and the "
            "loss never rises.", SOURCE,
            "peak sharpness under 0.9 · 2/η and no rise of the loss between neighbouring records, for every seed",
            {"peak / (2/η)": table(peak, slice(0, 1)), "rising fraction": table(rises, slice(0, 1))}, bool(quiet),
        ),
    ]


def plot(record: Record, config: Config) -> Figure:
    """Loss and sharpness, one colour per learning rate, 2/η dashed."""
    labels = [f"η = {rate:g}" + (" (control)" if i == 0 else "") for i, rate in enumerate(config.rates)]
    return lj.plots.sharpness(record, threshold=[2 / rate for rate in config.rates], labels=labels)
