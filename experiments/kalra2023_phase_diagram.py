"""Early training has a phase diagram: what the first steps do at η = c/λ₀, by c, depth and width.

Kalra and Barkeshli 2023, "Phase diagram of early training dynamics in deep neural networks: effect of the learning rate,
depth, and width" (NeurIPS; arXiv 2302.12250). λ₀ is the sharpness at initialisation. With growing c the first ten steps
reduce sharpness, then also raise the loss for a while (c > c_loss), then raise the sharpness too (c > c_sharp), then diverge
(c > c_max); c_loss is 2 for wide shallow networks and grows with depth over width, and it is 2 for all whose output starts at
zero. After that transient comes a plateau, flat in c up to c_crit ≈ 2, then progressive sharpening, then the edge of
stability. The uv model (`landscape_jax.theory.uv`) has the first phases, and with a target a period-doubling route to chaos
(Kalra, He and Barkeshli 2023, arXiv 2311.02076).

The loss is ½ · mean over examples *and* outputs, as the authors have it. The small preset takes 128 digits, nine networks
(depth is the number of weight layers), ten initialisations and eight from a zero last layer, 21 values of c and their
bisections: two and a half minutes on two CPU cores, programs compiled anew. `--data mnist` and `--data cifar10` do the same
on real images, `--criterion cross_entropy` with the other loss.
"""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import landscape_jax as lj
from experiments import _kalra2023_figures as figures
from experiments import _kalra2023_first_steps as early
from experiments import _kalra2023_uv as orbits
from experiments import _kalra2023_verdicts as verdicts
from experiments._config import check_numbers
from experiments._kalra2023_first_steps import BOUNDARIES, Task
from experiments._kalra2023_verdicts import EVERY, SATURATION_CS
from experiments._parts import in_parts
from landscape_jax import Record
from landscape_jax.plots import Figure
from landscape_jax.record import Claim

SETS = {"digits": 1797, "mnist": 60_000, "fashion_mnist": 60_000, "cifar10": 50_000}


@dataclasses.dataclass(frozen=True)
class Config:
    """What to run. Without `saturation_at`, `regimes_c` or `uv_widths` that part is left out and its claims are not tested."""

    data: Literal["digits", "mnist", "fashion_mnist", "cifar10"] = "digits"
    """The data set; each example is standardised over its own pixels, targets are one-hot."""
    n_train: int = 128
    """How many training examples."""
    network: Literal["fcn", "myrtle", "resnet18"] = "fcn"
    """ReLU networks: fully connected without biases, Myrtle CNN, or ResNet-18 without normalisation (depth 18 alone)."""
    criterion: Literal["square", "cross_entropy"] = "square"
    """½ · mean over examples and outputs of (f − y)², or mean cross-entropy."""
    depths: tuple[int, ...] = (2, 4, 8)
    """Numbers of weight layers."""
    widths: tuple[int, ...] = (64, 128, 256)
    """Hidden units, or filters."""
    zero_depths: tuple[int, ...] = (2, 4, 8)
    """Depths, among `depths`, that are run again from a zero last layer, without sharpness and barriers."""
    last_scale: float = 1.0
    """Variance of the last layer's weights times fan-in (fcn)."""
    output_scale: float = 1.0
    """Factor on the outputs (fcn)."""
    parametrisation: Literal["standard", "ntk", "mup"] = "standard"
    """How width enters (fcn)."""
    num_inits: int = 10
    """Initialisations of each network."""
    num_zero: int = 8
    """And from a zero last layer."""
    num_sharp: int = 8
    """Of how many of them sharpness is measured at every step, which makes a training two to four times as long: as many as
    the claims on c_sharp ask for."""
    sharp_every: int = 2
    """And at each how manieth c of the grid; c_sharp is then bracketed between these, and bisected."""
    sharp_beyond: bool = False
    """Whether sharpness is still measured at c beyond that at which it first rose."""
    num_steps: int = 10
    """How many first steps."""
    log_c: float = 5.0
    """The grid of c runs from 1 to 2 to this power …"""
    log_step: float = 0.25
    """… by factors of 2 to this power."""
    halvings: int = 4
    """Bisections of the grid's interval around each boundary."""
    num_between: int = 41
    """Places on the line from the first to the last of these steps; the paper's preset has 101. With 11, half of the
    initialisations at d = 2, w = 64 seem to have no barrier."""
    ceiling: float = 1e5
    """The loss above which a run counts as diverged."""
    batch_size: int | None = None
    """Examples in a step of SGD; None is full-batch gradient descent."""
    num_measured: int | None = None
    """Examples that the Hessian is taken over, the first so many; None is all."""
    together: int = 4
    """Values of c in one call of the compiled program: the four of a bisection on a CPU, more on an accelerator."""
    side_by_side: int | None = None
    """How many trainings side by side in memory; by default all on an accelerator, one after the other on a CPU. Side by side
    all wait for the slowest, and measure what only one of them needs: large networks are better off with 1."""
    saturation_at: tuple[tuple[int, int], ...] = ((2, 256), (4, 256), (8, 64))
    """(depth, width) of the networks whose plateau is measured."""
    saturation_inits: int = 2
    """Initialisations of each."""
    saturation_time: float = 100.0
    """K: the plateau is measured at the step τ with c τ = K."""
    long_examples: int = 256
    """Training examples there."""
    regimes_at: tuple[int, int] = (8, 128)
    """(depth, width) of the network that is trained for long."""
    regimes_c: tuple[float, ...] = (1.0, 3.0, 5.0, 8.0, 11.0)
    """At these c; at which of them the edge is reached differs from initialisation to initialisation, as λ₀ does."""
    regimes_steps: int = 2000
    """For so many steps."""
    regimes_examples: int = 64
    """On so many training examples: few, for the edge is reached only once most of the loss is gone."""
    uv_widths: tuple[int, ...] = (8, 16, 32, 64, 128, 256)
    """Widths of the uv models with random initialisations."""

    def __post_init__(self):
        check_numbers(self)
        known = SETS[self.data]
        for name in ("n_train", "long_examples", "regimes_examples"):
            if not 1 <= getattr(self, name) <= known:
                raise ValueError(f"{name}={getattr(self, name)} must lie between 1 and {known}, the size of {self.data}")
        for name in ("depths", "widths"):
            values = getattr(self, name)
            if not values or min(values) < (2 if name == "depths" else 1) or list(values) != sorted(set(values)):
                raise ValueError(f"{name}={values} must ascend, from {2 if name == 'depths' else 1}; give at least one")
        allowed = {"myrtle": (5, 7, 10), "resnet18": (18,)}.get(self.network)
        for name, depths in self._depths_of().items():
            if allowed and not set(depths) <= set(allowed):
                raise ValueError(f"network={self.network} comes in depths {allowed}, but --{name} has {depths}: set it")
        if allowed and self.data == "digits":
            raise ValueError(f"network={self.network} needs images of 28 pixels or more: set --data to other than digits")
        if not set(self.zero_depths) <= set(self.depths):
            raise ValueError(f"zero_depths={self.zero_depths} must be among depths={self.depths}")
        if not 0 <= self.num_sharp <= self.num_inits or self.num_inits < 1:
            raise ValueError(f"num_inits={self.num_inits} must be at least 1, and num_sharp={self.num_sharp} at most that")
        if self.log_step <= 0 or self.log_c < self.log_step:
            raise ValueError(f"log_step={self.log_step} must be positive and at most log_c={self.log_c}")
        counts = ("num_zero", "num_steps", "sharp_every", "together", "side_by_side", "saturation_inits", "regimes_steps")
        for name in counts:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} must be at least 1")
        if self.halvings < 0 or self.num_between < 2:
            raise ValueError(f"halvings={self.halvings} must be at least 0 and num_between={self.num_between} at least 2")
        for name in ("batch_size", "num_measured"):
            value = getattr(self, name)
            if value is not None and not 1 <= value <= self.n_train:
                raise ValueError(f"{name}={value} must lie between 1 and n_train={self.n_train}, or be left out")
        if self.regimes_c and (min(self.regimes_c) <= 0 or self.regimes_steps % EVERY):
            raise ValueError(
                f"regimes_c={self.regimes_c} must be positive and regimes_steps={self.regimes_steps} a multiple of {EVERY}"
            )
        if not self.saturation_time > 0:
            raise ValueError(f"saturation_time={self.saturation_time} must be positive")
        for name in ("uv_widths", "saturation_at", "regimes_at"):
            if min(np.ravel(getattr(self, name)), default=2) < 2:
                raise ValueError(f"{name}={getattr(self, name)} must hold numbers from 2 on")

    def _depths_of(self) -> dict[str, tuple[int, ...]]:
        """The depths that each option asks for."""
        long = {"regimes-at": self.regimes_at[:1]} if self.regimes_c else {}
        return {"depths": self.depths, "saturation-at": tuple(depth for depth, _ in self.saturation_at)} | long

    @property
    def cs(self) -> np.ndarray:
        """[c]: the grid."""
        return 2.0 ** (self.log_step * np.arange(round(self.log_c / self.log_step) + 1))


SMALL = Config()
PAPER = Config(
    data="cifar10",
    n_train=50_000,
    depths=(4, 8, 16),
    widths=(256, 512, 1024, 2048),
    zero_depths=(8,),
    num_inits=10,
    num_sharp=10,
    sharp_every=1,
    sharp_beyond=True,
    log_c=6.0,
    log_step=0.1,
    num_between=101,
    batch_size=512,
    num_measured=4096,
    side_by_side=1,
    saturation_time=200.0,  # d = 16, w = 2048 takes 8 GiB for λ₀
    saturation_at=((4, 2048), (8, 512)),
    long_examples=50_000,
    regimes_at=(4, 512),
    regimes_c=(0.5, 1.0, 2.0, 4.0),
    regimes_examples=50_000,
)


def mean_square(outputs: Array, targets: Array) -> Array:
    """½ mean_c (f_ic − y_ic)²: over the outputs too, a tenth of `losses.square` for ten classes."""
    return lj.losses.square(outputs, targets) / outputs.shape[-1]


def task(config: Config, train: lj.types.Batch, depth: int, width: int, last: Array | float = 1.0) -> Task:
    """One network, its last layer times `last` at initialisation, and how it is trained and measured."""
    outputs = train[1].shape[1]
    if config.network == "fcn":
        network = lj.models.mlp(
            (width,) * (depth - 1),
            outputs,
            activation=jax.nn.relu,
            bias=False,
            init_scale=(2.0,) * (depth - 1) + (config.last_scale,),
            output_scale=config.output_scale,
            parametrisation=getattr(lj.models, config.parametrisation),
        )
    elif config.network == "myrtle":
        network = lj.models.myrtle(depth, width, outputs, pools=5 if train[0].shape[1] >= 32 else 4)
    else:
        network = lj.models.resnet18(outputs, width=width, large=True)
    begun = lj.types.Model(lambda key, inputs: with_last(network.init(key, inputs), last), network.apply)
    model = lj.models.flat(begun, train[0][:1])
    criterion = mean_square if config.criterion == "square" else lj.losses.cross_entropy
    return Task(model, lj.losses.mean(model.apply, criterion), train, config.batch_size, config.num_measured)


def with_last(params: lj.types.Params, factor: Array | float) -> lj.types.Params:
    """θ with its last layer times `factor`."""
    last = "outputs" if "outputs" in params else f"layer{len(params) - 1}"
    return params | {last: lj.tree.scale(factor, params[last])}


def training_set(config: Config, n_train: int) -> lj.types.Batch:
    """(inputs, one-hot targets)."""
    return getattr(lj.data, config.data)(n_train, 0, scale=lj.data.per_sample)[0]


def begin(config: Config, depth: int, width: int, train, keys, factors):
    """Initialisations [s] with their λ₀, their last layers times `factors` [s]."""

    def one(entry):
        key, factor = entry
        return early.started(task(config, train, depth, width, factor), key)

    return split(config, one)((keys, factors))


def split(config: Config, fn) -> lj.sweep.Sweep:
    """A sweep split over all devices."""
    sweep = lj.sweep.zipped(fn) if config.side_by_side is None else lj.sweep.chunked(fn, config.side_by_side)
    return sweep if jax.device_count() == 1 else lj.sweep.sharded(sweep)


def train_all(config: Config, depth: int, width: int, train, starts, cs, sharp, line) -> dict[str, Array]:
    """The first steps from each start, [s], at its own row of cs [s, m]: leaves [s, m, ...]."""
    options = dict(num_steps=config.num_steps, ceiling=config.ceiling, num_between=config.num_between)

    def one(entry):
        i, *at = entry
        start = jax.tree.map(lambda x: x[i], starts)
        return early.first_steps(task(config, train, depth, width), start, *at, **options)

    each = jnp.repeat(jnp.arange(len(cs)), cs.shape[1]), cs.ravel(), sharp.ravel(), line.ravel()  # [s · m]
    return jax.tree.map(lambda x: x.reshape(*cs.shape, *x.shape[1:]), split(config, one)(each))


def prepared(config: Config, depth: int, width: int, train, keys, factors):
    """The initialisations of one network, and the program of their first steps, compiled."""
    starts = jax.jit(functools.partial(begin, config, depth, width))(train, keys, factors)
    trained = jax.jit(functools.partial(train_all, config, depth, width))
    if config.together == len(BOUNDARIES):  # else the grid and the bisections have a program each
        size = (len(factors), config.together)
        trained = trained.lower(train, starts, jnp.zeros(size), *[jnp.zeros(size, bool)] * 2).compile()
    return starts, trained


def run(config: Config, key: lj.types.Key, checkpoint: Path | None = None) -> Record:
    """Parts "phases" and "zero" (leaves [depth, width, init, c, ...]), "saturation", "regimes", "uv" and "uv_target"."""
    keys = {name: jax.random.fold_in(key, i) for i, name in enumerate(("phases", "saturation", "regimes", "uv"))}
    work, ahead, gathered = diagram(config, keys["phases"])
    networks = list(work)
    if config.saturation_at:
        work["saturation"] = lambda: {"ratio": saturation(config, keys["saturation"])}
    if config.regimes_c:
        work["regimes"] = lambda: regimes(config, keys["regimes"])
    if config.uv_widths:
        work["uv"] = lambda: orbits.thresholds(config.uv_widths, keys["uv"])
        work["uv_target"] = orbits.bifurcation

    def assemble(found: dict[str, Any]) -> Record:
        cells = {name: found[name] for name in networks if name in found}
        others = {name: part for name, part in found.items() if name not in cells}
        return Record({**(gathered(list(cells.values())) if len(cells) == len(networks) else cells), **others})

    return in_parts(work, config, key, checkpoint, ahead=ahead, assemble=assemble)


def diagram(config: Config, key: lj.types.Key) -> tuple[dict[str, Callable], dict[str, Callable], Callable]:
    """A part for each network, ordinary and from zero last layers together; what may be done ahead of it, its compilation among
    that; and a function that makes "phases" and "zero" of all parts."""
    train = training_set(config, config.n_train)
    networks = [(depth, width) for depth in config.depths for width in config.widths]

    def mixed(depth: int) -> np.ndarray:
        """Ordinary initialisations (≥ 0) and those from a zero last layer (< 0) by turns: devices share the work evenly."""
        ordinary, zero = np.arange(config.num_inits), -1 - np.arange(config.num_zero if depth in config.zero_depths else 0)
        return np.append(ordinary, zero)[np.argsort(np.append(ordinary, -1 - zero + 0.5))]

    def begun(i: int):
        numbers = mixed(networks[i][0])
        keys = jax.random.split(jax.random.fold_in(key, i), len(numbers))
        return prepared(config, *networks[i], train, keys, jnp.where(numbers < 0, 0.0, 1.0))

    def measured(depth: int, begun) -> dict[str, dict]:
        starts, trained = begun

        def at(cs: np.ndarray, *wanted: np.ndarray):
            return trained(train, starts, jnp.asarray(cs, jnp.float32), *map(jnp.asarray, wanted))

        numbers = mixed(depth)
        both = early.phases(
            at,
            config.cs,
            (numbers >= 0) & (numbers < config.num_sharp),
            numbers >= 0,
            halvings=config.halvings,
            together=config.together,
            sharp_every=config.sharp_every,
            sharp_beyond=config.sharp_beyond,
        )
        found = {"phases": jax.tree.map(lambda x: x[numbers >= 0], both)}
        return found | ({"zero": jax.tree.map(lambda x: x[numbers < 0], both)} if depth in config.zero_depths else {})

    def gathered(cells: list[dict]) -> dict[str, dict]:
        def grid(part: str) -> dict[str, np.ndarray]:
            stacked = jax.tree.map(lambda *cell: np.stack(cell), *(cell[part] for cell in cells if part in cell))
            return jax.tree.map(lambda x: x.reshape(-1, len(config.widths), *x.shape[1:]), stacked)

        return {part: grid(part) for part in ("phases", "zero") if any(part in cell for cell in cells)}

    names = [f"depth{depth}-width{width}" for depth, width in networks]
    work = {name: functools.partial(measured, depth) for name, (depth, _) in zip(names, networks, strict=True)}
    ahead = {name: functools.partial(begun, i) for i, name in enumerate(names)}
    return work, ahead, gathered


def saturation(config: Config, key: lj.types.Key) -> np.ndarray:
    """λ_τ/λ₀ at c τ = K, [network, init, c]."""
    train = training_set(config, config.long_examples)

    def measured(network, train, keys, cs):
        def one(key):
            start = early.started(task(config, train, *network), key)
            plateau = functools.partial(early.saturated, task(config, train, *network), start)
            return lj.sweep.grid(lambda c: plateau(c, config.saturation_time, config.ceiling))(cs)

        return split(config, one)(keys)

    cs = jnp.asarray(SATURATION_CS, jnp.float32)
    keys = [jax.random.split(jax.random.fold_in(key, i), config.saturation_inits) for i in range(len(config.saturation_at))]
    return np.stack(
        [jax.jit(functools.partial(measured, at))(train, ks, cs) for at, ks in zip(config.saturation_at, keys, strict=True)]
    )


def regimes(config: Config, key: lj.types.Key) -> dict[str, Array]:
    """Long runs from one initialisation: "step", "loss" and "sharpness" [c, time], sharpness in units of λ₀."""
    train = training_set(config, config.regimes_examples)

    @jax.jit
    def trained(train, key, cs):
        network = task(config, train, *config.regimes_at)
        start = early.started(network, key)
        tracker = lj.observe.sharpness(lj.curvature.hessian(network.loss), batch=network.measured)
        watch = {"loss": network.total(), "sharpness": tracker}

        def one(c):
            dynamics = network.descent(c / start.sharpness)
            begun = lj.start(jax.random.clone(start.key), start.params, dynamics, watch)
            _, record = lj.advance(begun, dynamics, watch, num_steps=config.regimes_steps, every=EVERY, ceiling=config.ceiling)
            return record | {"sharpness": record["sharpness"] / start.sharpness}

        return split(config, one)(cs)

    return trained(train, key, jnp.asarray(config.regimes_c, jnp.float32))


def claims(record: Record, config: Config) -> list[Claim]:
    """Every claim on what was run; those on parts left out are not tested."""
    return verdicts.claims(record, config)


def plot(record: Record, config: Config) -> dict[str, Figure]:
    """The phase diagram, and where they were run the plateau, the four regimes and the uv models."""
    parts = {"figure": figures.phase_diagram(record, config.depths, config.widths, config.cs, config.num_sharp)}
    if "saturation" in record:
        parts["saturation"] = figures.saturation(record, config.saturation_at, SATURATION_CS, config.saturation_time)
    if "regimes" in record:
        parts["regimes"] = figures.regimes(record, config.regimes_at, config.regimes_c, EVERY, config.saturation_time)
    if "uv" in record:
        parts["uv"] = figures.uv_models(record)
    return parts
