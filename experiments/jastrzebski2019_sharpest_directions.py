"""SGD steers to where its step is too long for the sharpest directions, and a shorter step along these ends sharper.

Jastrzębski, Kenton, Ballas, Fischer, Bengio and Storkey 2019, "On the relation between the sharpest directions of DNN loss
and the SGD step length" (ICLR; arXiv 1807.05031). Along SGD the top eigenvalues of the Hessian rise, peak, and fall; a
larger learning rate η or a smaller batch S lowers the peak. Minibatch gradients are aligned with the sharpest directions,
and past the peak the step along them overshoots: twice of it raises the loss. Nudged-SGD multiplies the step along the K
sharpest directions by γ: γ < 1 trains into sharper, γ > 1 into flatter regions.

Three parts, each its own batch of runs: a grid of (η, S), the step taken apart, and Nudged-SGD over γ and K.
Small preset: digits in place of CIFAR-10, their labels drawn anew with probability 0.3, as the right ones are learnt too
easily to show the transient; a 64-64 ReLU network; under two minutes on two CPU cores. Presets `cifar`: a narrow SimpleCNN
on real CIFAR-10 images, under four minutes on two cores; `paper`, `paper_resnet`: the source's networks and settings, for an
accelerator.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import Partial

import landscape_jax as lj
from experiments import _jastrzebski2019_claims as judged
from experiments import _jastrzebski2019_figures as figures
from experiments._config import check_numbers
from experiments._parts import in_parts
from landscape_jax import Record
from landscape_jax.plots import Figure
from landscape_jax.record import Claim


@dataclasses.dataclass(frozen=True)
class Config:
    """What to run. Cadences and lengths are explicit: every cell of the grid has its own."""

    parts: tuple[Literal["grid", "step", "nudged"], ...] = ("grid", "step", "nudged")
    """Which parts to run; claims about the others are "not tested"."""
    data: Literal["digits", "cifar10"] = "digits"
    """Digits are standardised pixel by pixel (std at least 0.1), CIFAR-10 is centred."""
    n_train: int = 1024
    """Training examples."""
    n_validation: int = 0
    """Examples after these that choose the best epoch of Nudged-SGD; with 0 the test set does, and so is no clean test."""
    n_test: int = 360
    """Test examples, with their true labels."""
    n_curvature: int = 512
    """Curvature and the loss along directions are those of the first so many training examples, the same for all runs."""
    label_noise: float = 0.3
    """Each training label is drawn anew from all classes with this probability."""
    augment: bool = False
    """Shifts by up to 4 pixels and mirror images; the curvature's sample is augmented once."""
    model: Literal["mlp", "simple_cnn", "resnet32"] = "mlp"
    """ReLU networks without normalisation; Glorot weights, for resnet32 He's over the number of blocks."""
    widths: tuple[int, ...] = (64, 64)
    """mlp: hidden widths. simple_cnn: filters, filters, dense units. resnet32: filters of the first stage."""
    kernel: int = 3
    """simple_cnn: the side of its filters."""
    num_seeds: int = 1
    """Initialisations of the grid and of the step's part."""
    k: int = 5
    """K, how many sharpest directions are looked at, and nudged."""
    grid: tuple[tuple[float, int, int, int], ...] = (
        (0.3, 32, 960, 97),
        (0.1, 32, 2880, 97),
        (0.03, 32, 9600, 97),
        (0.1, 8, 2880, 97),
        (0.1, 128, 2880, 97),
        (0.1, 512, 2880, 97),
    )
    """Runs: (η, S, steps, checks), the first check before any step and the last after all of them."""
    growth: float = 100.0
    """How many times as long the last gap between these checks is as the first: they are dense in the first epochs."""
    step_runs: tuple[tuple[float, int, int], ...] = ((0.1, 1600, 21), (0.01, 16_000, 21))
    """Runs whose step is taken apart: (η, steps, checks), evenly spaced."""
    step_batch: int = 32
    """S of these."""
    num_draws: int = 10
    """Minibatch gradients drawn at each check."""
    multiples: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 4.0)
    """α, multiples of the step; 1 and 2 must be among them."""
    gammas: tuple[float, ...] = (0.01, 0.1, 1.0, 5.0)
    """γ of Nudged-SGD, ascending; 1 is plain SGD."""
    nudged_rate: float = 0.1
    """η of Nudged-SGD."""
    nudged_batch: int = 32
    """S of Nudged-SGD."""
    nudged_epochs: int = 50
    """Its length, with a check at the start of each epoch and one at the end."""
    num_pairs: int = 4
    """Initialisations of Nudged-SGD; each starts, and draws its minibatches, alike for all γ."""
    refresh: int | None = None
    """Steps between looks at the sharpest directions; None: an epoch, as in the source; 1: tracked at every step."""
    ablation: tuple[int, ...] = (1, 3, 10, 20)
    """Further K, at the smallest γ."""
    tracked: bool = True
    """Also a run at the smallest γ whose directions are followed at every step."""
    early: tuple[int, int] = (3, 25)
    """Epochs whose loss tells how fast training is."""
    num_probes: int = 30
    """Random vectors for the Frobenius norm of the Hessian."""
    side_by_side: int | None = None
    """How many runs side by side in memory; by default all on an accelerator, one after the other on a CPU. Convolutions side
    by side, each run with its own filters, are slower there than one after the other."""

    def __post_init__(self):
        check_numbers(self)
        counts = ("n_train", "n_test", "n_curvature", "num_seeds", "k", "step_batch", "num_draws", "nudged_batch", "num_pairs")
        for name in counts:
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.n_curvature > self.n_train:
            raise ValueError(f"n_curvature={self.n_curvature} must be at most n_train={self.n_train}: it is a part of them")
        if not 0 <= self.label_noise <= 1:
            raise ValueError(f"label_noise={self.label_noise} must lie in [0, 1]: it is a probability")
        if self.n_validation < 0:
            raise ValueError(f"n_validation={self.n_validation} must be at least 0, which is none")
        sizes = {"mlp": None, "simple_cnn": 3, "resnet32": 1}[self.model]
        if sizes is not None and len(self.widths) != sizes:
            raise ValueError(f"widths={self.widths} has {len(self.widths)} numbers, but {self.model} takes {sizes}")
        if (self.data == "digits") != (self.model == "mlp"):
            raise ValueError(f"model={self.model} does not fit data={self.data}: digits take mlp, cifar10 the others")
        if self.augment and self.data == "digits":
            raise ValueError("augment=True needs images: digits are vectors of pixels here")
        cells = [*self.grid, *((rate, 1, steps, checks) for rate, steps, checks in self.step_runs)]
        if any(rate <= 0 or batch < 1 or not 3 <= checks <= steps for rate, batch, steps, checks in cells):
            raise ValueError("grid and step_runs: rates must be positive, batches at least 1, checks 3 at least, steps as many")
        if self.growth <= 0:
            raise ValueError(f"growth={self.growth} must be positive: it is a ratio of gaps")
        names = [(rate, batch) for rate, batch, *_ in self.grid], [rate for rate, *_ in self.step_runs]
        if any(len(set(each)) < len(each) for each in names):
            raise ValueError("grid and step_runs: each (rate, batch), and each rate, may stand there once")
        if not {1.0, 2.0} <= set(self.multiples):
            raise ValueError(f"multiples={self.multiples} must hold 1 and 2, with which the step is judged")
        if self.gammas != tuple(sorted(set(self.gammas))) or 1.0 not in self.gammas or self.gammas[0] < 0:
            raise ValueError(f"gammas={self.gammas} must be ascending, at least 0, and hold 1: the others are compared with it")
        if self.nudged_rate <= 0 or self.nudged_epochs < 2:
            raise ValueError(f"nudged_rate={self.nudged_rate} must be positive, nudged_epochs={self.nudged_epochs} at least 2")
        if not all(0 < epoch <= self.nudged_epochs for epoch in self.early):
            raise ValueError(f"early={self.early} must lie between 1 and nudged_epochs={self.nudged_epochs}")
        if self.side_by_side is not None and self.side_by_side < 1:
            raise ValueError(f"side_by_side={self.side_by_side} must be at least 1, or be left out")
        if self.num_probes < 2 or any(k < 1 for k in self.ablation) or (self.refresh is not None and self.refresh < 1):
            raise ValueError("num_probes must be at least 2, every K of ablation and refresh at least 1")

    @property
    def epoch(self) -> int:
        """Steps in an epoch of Nudged-SGD."""
        return -(-self.n_train // self.nudged_batch)


SMALL = Config()
CIFAR = Config(
    parts=("nudged",),
    data="cifar10",
    n_train=2000,
    n_validation=2000,
    n_test=1000,
    n_curvature=128,
    label_noise=0.0,
    model="simple_cnn",
    widths=(8, 16, 32),
    nudged_rate=0.1,
    nudged_batch=32,
    nudged_epochs=16,
    gammas=(0.01, 1.0),
    num_pairs=4,
    ablation=(),
    tracked=False,
    early=(3, 8),
    num_probes=5,
)
PAPER = Config(
    data="cifar10",
    n_train=45_000,
    n_validation=5_000,
    n_test=10_000,
    n_curvature=2560,
    label_noise=0.0,
    augment=True,
    model="simple_cnn",
    widths=(32, 64, 128),
    num_seeds=2,
    grid=(
        (0.1, 128, 17_600, 400),
        (0.01, 128, 17_600, 400),
        (0.001, 128, 17_600, 400),
        (0.05, 1024, 2200, 200),
        (0.05, 128, 17_600, 400),
        (0.05, 32, 70_400, 400),
    ),
    step_runs=((0.05, 21_120, 61), (0.01, 105_600, 301)),
    step_batch=128,
    multiples=(0.25, 0.33, 0.5, 1.0, 2.0, 3.0, 4.0),
    nudged_rate=0.01,
    nudged_batch=128,
    nudged_epochs=300,
    num_pairs=2,
    ablation=(1, 3, 10, 20, 50),
    tracked=False,
    early=(5, 50),
    side_by_side=1,
)
PAPER_RESNET = dataclasses.replace(PAPER, model="resnet32", widths=(16,), ablation=(1, 3, 7, 10, 20))


# ── the runs ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class Problem(NamedTuple):
    train: lj.types.Batch
    held: dict[str, lj.types.Batch]  # "validation", where there is one, and "test"
    sample: lj.types.Batch  # where curvature is measured
    model: lj.types.Model
    loss: lj.types.Loss
    hessian: lj.types.Curvature
    batches: Callable  # (train, S) ↦ Batches


def problem(config: Config, key: lj.types.Key) -> Problem:
    """Data, network and loss; the key draws the wrong labels."""
    noise_key, sample_key = jax.random.split(key)
    floor = functools.partial(lj.data.per_pixel, floor=0.1)
    load, scale = (lj.data.digits, floor) if config.data == "digits" else (lj.data.cifar10, lj.data.centred)
    whole, test = load(config.n_train + config.n_validation, config.n_test, scale=scale)
    x, y = (part[: config.n_train] for part in whole)
    train = x, drawn_anew(noise_key, y, config.label_noise)
    held = {"test": test} | ({"validation": tuple(p[config.n_train :] for p in whole)} if config.n_validation else {})
    changes = (lj.data.shifted, lj.data.flipped) if config.augment else ()
    sample = tuple(part[: config.n_curvature] for part in train)
    if changes:
        sample = lj.data.augmented(lj.data.full_batch(sample), *changes)(sample_key, jnp.int32(0))
    model = lj.models.flat(network(config), x[:1])
    loss = lj.losses.mean(model.apply, lj.losses.cross_entropy)

    def batches(train: lj.types.Batch, size: int) -> lj.types.Batches:
        drawn = lj.data.independent(train, size)
        return lj.data.augmented(drawn, *changes) if changes else drawn

    return Problem(train, held, sample, model, loss, lj.curvature.hessian(loss), batches)


def drawn_anew(key: lj.types.Key, y: jax.Array, probability: float) -> jax.Array:
    """One-hot labels [n, c], each replaced with this probability by one drawn from all c classes."""
    which, what = jax.random.split(key)
    classes = jax.random.randint(what, (len(y),), 0, y.shape[1])
    replaced = jax.random.bernoulli(which, probability, (len(y), 1))
    return jnp.where(replaced, jax.nn.one_hot(classes, y.shape[1], dtype=y.dtype), y)


def network(config: Config) -> lj.types.Model:
    if config.model == "resnet32":
        return lj.models.resnet(32, width=config.widths[0], init_scale=1 / 15)
    if config.model == "simple_cnn":
        one, two, dense = config.widths
        return lj.models.simple_cnn(kernel=config.kernel, filters=(one, two), dense=dense)
    sizes = (64, *config.widths, 10)
    glorot = tuple(2 * a / (a + b) for a, b in zip(sizes, sizes[1:], strict=False))  # variances times fan-in
    return lj.models.mlp(config.widths, 10, activation=jax.nn.relu, init_scale=glorot, draw=lj.models.uniform)


def run(config: Config, key: lj.types.Key, checkpoint: Path | None = None) -> Record:
    """{"p", "grid": {cell: leaves [seed, check, ...]}, "step": {rate: alike}, "nudged": {K: leaves [γ, pair, check, ...]}}."""
    data_key, *keys = jax.random.split(key, 4)
    given = problem(config, data_key)
    part = {"nudged": _nudged, "step": _step, "grid": _grid}
    shapes = jax.eval_shape(given.model.init, key, given.train[0][:1])
    programs = {
        (name, cells): program
        for name, own in zip(part, reversed(keys), strict=True)
        if name in config.parts
        for cells, program in part[name](config, given, own).items()
    }
    names = {f"{name}-{cells if isinstance(cells, str) else cells[0]}": (name, cells) for name, cells in programs}

    def assemble(found: dict) -> Record:
        record = Record({"p": np.asarray(lj.tree.size(shapes))})
        for which, result in found.items():
            name, cells = names[which]
            rows = {cells: result} if isinstance(cells, str) else {cell: result.sel(cell=cell) for cell in cells}
            record.setdefault(name, {}).update(rows)
        return record

    compiles = {which: programs[at] for which, at in names.items()}  # two at a time, while one runs
    runs = dict.fromkeys(names, lambda compiled: compiled())
    return in_parts(runs, config, key, checkpoint, ahead=compiles, helpers=2, assemble=assemble)


def _program(
    config: Config,
    given: Problem,
    one_run: Callable[..., Record],
    num: int,
    key: lj.types.Key,
    axes: dict[str, Any],
    *settings: Sequence[float],
) -> Callable[[], Callable[[], Record]]:
    """One program for all of `settings`, each with each of `num` seeds: compiled when it is called, and run when what comes
    back is called; leaves [setting, num, check, ...], the first two axes called as in `axes`.

    Data go in as arguments: `one_run` has them of the problem that it is given, with the start θ₀ and the run's key.
    """
    arrays, fixed, mesh = (given.train, given.held, given.sample), given, lj.devices.mesh_for_runs(len(settings[0]) * num)

    @jax.jit
    def all_runs(arrays, key, settings, seeds):
        given = fixed._replace(train=arrays[0], held=arrays[1], sample=arrays[2])

        def one(setting, seed):
            init_key, run_key = jax.random.split(jax.random.fold_in(key, seed))
            params = given.model.init(init_key, given.train[0])
            return one_run(given, run_key, params, *setting)

        sweep = lj.sweep.grid(one)
        sweep = sweep if config.side_by_side is None else lj.sweep.chunked(sweep, config.side_by_side)
        return (sweep if mesh is None else lj.sweep.sharded(sweep, mesh))(settings, seeds)

    def compiled() -> Callable[[], Record]:
        given = arrays, key, tuple(map(jnp.asarray, settings)), jnp.arange(num)
        program = all_runs.lower(*given).compile()
        return lambda: Record(lj.devices.to_host(program(*given)), axes)

    return compiled


def on(given: Problem, data: lj.types.Batch) -> lj.types.Observable:
    """The loss on some data, whatever batch is trained on."""
    return lj.observe.stateless(Partial(lambda data, m: given.loss(m.params, data), data))


def products(k: int) -> int:
    """Hessian products of a look at the k sharpest directions, by Lanczos: 22 for five, as errors below 1e-3 take."""
    return 2 * k + 12


def _sgd(given: Problem, rate, size: int) -> lj.types.Dynamics:
    return lj.dynamics.gradient(given.loss, optax.sgd(rate), given.batches(given.train, size))


def _cells(config: Config, given: Problem, key, watch: Callable, cells: list, growth: float = 1.0) -> dict[tuple, Callable]:
    """SGD in cells (name, η, S, steps, checks); those alike in S and number of checks share a program."""
    programs = {}
    for size, checks in dict.fromkeys((size, checks) for _, _, size, _, checks in cells):
        names, rates, lengths = zip(*((n, r, t) for n, r, s, t, c in cells if (s, c) == (size, checks)), strict=True)

        def one_run(given, key, params, rate, length, size=size, checks=checks):
            rule, seen = _sgd(given, rate, size), watch(given, rate)
            gaps = jnp.append(lj.pace(length, checks - 1, growth), 1)  # the last check makes the step that it looks at
            _, record = lj.advance(lj.start(key, params, rule, seen), rule, seen, gaps=gaps)
            return record | record.pop("sharpest", {})

        axes = {"cell": names, "seed": None}
        programs[names] = _program(config, given, one_run, config.num_seeds, key, axes, rates, lengths)
    return programs


def _grid(config: Config, given: Problem, key) -> dict:
    def watch(given, rate):
        values = lj.observe.sharpness(given.hessian, config.k, products(config.k), given.sample, tol=None)
        return {"loss": on(given, given.sample), "eigenvalues": values}

    return _cells(config, given, key, watch, [(judged.cell(*at[:2]), *at) for at in config.grid], config.growth)


def _step(config: Config, given: Problem, key) -> dict:
    def watch(given, rate):
        drawn = lj.observe.redrawn(given.loss, given.batches(given.train, config.step_batch), config.num_draws, rate)
        seen: dict[str, Any] = dict(steps=drawn, batch=given.sample)
        sharpest = {
            "alignment": lj.observe.overlaps(drawn),
            "change": lj.observe.changes(given.loss, config.multiples, **seen),
            "sections": lj.observe.sections(given.loss, **seen),
        }
        return {
            "accuracy": lj.observe.accuracy(given.model.apply, given.sample),
            "sharpest": lj.observe.eigenpairs(given.hessian, config.k, sharpest, products(config.k), given.sample, tol=None),
        }

    cells = [(f"rate{rate:g}", rate, config.step_batch, steps, checks) for rate, steps, checks in config.step_runs]
    return _cells(config, given, key, watch, cells)


def _nudged(config: Config, given: Problem, key) -> dict:
    programs, usual = {}, config.refresh or config.epoch

    def frobenius(hessian, sample, key, memory, moment):
        norm = lj.spectrum.frobenius_norm(hessian(moment.params, sample), key, moment.params, num_probes=config.num_probes)
        return memory, norm.value

    def watch(given):
        norm = lj.types.Observable(Partial(lambda key, params: ()), Partial(frobenius, given.hessian, given.sample))
        return {
            "loss": on(given, given.train if config.n_train <= 2000 else given.sample),
            "eigenvalues": lj.observe.stateless(lambda m: m.state.values),
            "frobenius": norm,
            "distance": lj.observe.distance,
            **{name: lj.observe.accuracy(given.model.apply, data) for name, data in given.held.items()},
        }

    least = config.gammas[:1]
    runs = [(f"k{config.k}", config.k, config.gammas, usual), *((f"k{k}", k, least, usual) for k in config.ablation)]
    for name, k, gammas, refresh in [*runs, *([(judged.TRACKED, config.k, least, 1)] if config.tracked else [])]:
        look: dict[str, Any] = dict(num_steps=products(k), tol=None) if refresh > 1 else {}

        def one_run(given, key, params, gamma, k=k, refresh=refresh, look=look):
            sgd = _sgd(given, config.nudged_rate, config.nudged_batch)
            rule = lj.dynamics.nudged(sgd, given.hessian, gamma, k, refresh=refresh, batch=given.sample, **look)
            steps = config.epoch * (config.nudged_epochs + 1)
            return lj.run(key, params, rule, watch(given), num_steps=steps, every=config.epoch)[1]

        programs[name] = _program(config, given, one_run, config.num_pairs, key, {"gamma": gammas, "pair": None}, gammas)
    return programs


# ── what is made of them ─────────────────────────────────────────────────────────────────────────────────────────────────


def claims(record: Record, config: Config) -> list[Claim]:
    """Each claim, judged on every seed of the record by itself; the two about Nudged-SGD's merits by paired differences."""
    parts = judged.of_the_grid, judged.of_the_step, judged.of_nudging
    return [claim for part in parts for claim in part(record, config)]


def plot(record: Record, config: Config) -> Figure:
    """λ₁ over the grid and its first epochs; the step against the curvature, in two rows; Nudged-SGD in three."""
    return figures.whole(record, config)
