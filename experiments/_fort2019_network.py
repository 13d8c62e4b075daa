"""A network in training: its spectrum, where its gradient lies, how its logit gradients cluster."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.tree_util import Partial

import landscape_jax as lj
from landscape_jax.record import Record

LOSSES = {"cross_entropy": lj.losses.cross_entropy, "square": lj.losses.square}
Segments = tuple[tuple[int, int], ...]  # (looks, steps between them), one after the other


class Task(NamedTuple):
    """One network, and what it is measured on. Data are arguments of the programs, not constants in them."""

    model: lj.types.Model
    criterion: Callable
    train: lj.types.Batch
    test: lj.types.Batch
    sample: int  # the Hessian is that of the first so many training examples; the gradient held against it, of all of them
    clustered: int  # logit gradients of the first so many

    @property
    def loss(self) -> lj.types.Loss:
        return lj.losses.mean(self.model.apply, self.criterion)

    def first(self, n: int) -> lj.types.Batch:
        return jax.tree.map(lambda x: x[:n], self.train)


def glorot(widths: tuple[int, ...], inputs: int, outputs: int, activation: Callable = jax.nn.relu, **kwargs) -> lj.types.Model:
    """A multilayer perceptron with weights of variance 2/(fan_in + fan_out) and zero biases; more arguments go to `mlp`."""
    sizes = (inputs, *widths, outputs)
    scales = tuple(2 * a / (a + b) for a, b in zip(sizes, sizes[1:], strict=False))  # variances times fan-in
    return lj.models.mlp(widths, outputs, activation=activation, init_scale=scales, **kwargs)


def hasty(fn: Callable, **kwargs) -> Callable:
    """`jax.jit`, which on a CPU leaves its machine code unpolished: half the time to compile, and the runs are as fast, which
    spend theirs on products of matrices."""
    options: Any = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    return jax.jit(fn, compiler_options=options, **kwargs)


def gaps(segments: Segments) -> Array:
    """Steps from each look to the next [looks]."""
    return jnp.array([every for looks, every in segments for _ in range(looks)])


def geometry(task: Task, k: int) -> dict[str, lj.types.Observable]:
    """The k largest eigenvalues of the Hessian, and the cosines of the full training gradient with their vectors."""
    sample = task.first(task.sample)

    def whole_gradient(train, key, moment):
        return jax.tree.map(lambda g: g[None], jax.grad(task.loss)(moment.params, train))

    def on(data, moment):
        outputs, y = task.model.apply(moment.params, data[0]), data[1]
        return {"loss": jnp.mean(task.criterion(outputs, y)), "accuracy": jnp.mean(lj.labels.correct(outputs, y))}

    hessian, taken = lj.curvature.hessian(task.loss), Partial(whole_gradient, task.train)
    return {
        "hessian": lj.observe.alignment(hessian, k, vectors=taken, batch=sample, num_steps=4 * k, tol=None),
        "train": lj.observe.stateless(Partial(on, task.train)),
        "test": lj.observe.stateless(Partial(on, task.test)),
    }


def everything(task: Task, k: int, num_probes: int) -> dict[str, lj.types.Observable]:
    """And what the model speaks of: clusters, logits, weights; and the spectrum's density, its parts and tr/‖·‖_F.

    "density", "h_term" hold Lanczos nodes and weights, the outermost nodes being the ends of the spectrum of H and of H − G.
    """
    sample, apply = task.first(task.sample), task.model.apply
    hessian = lj.curvature.hessian(task.loss)
    ggn, h_term = (curvature(apply, task.criterion) for curvature in (lj.curvature.ggn, lj.curvature.h_term))
    return geometry(task, k) | {
        "ggn": lj.observe.sharpness(ggn, k, 3 * k, sample, tol=None),
        "density": lj.observe.spectral_density(hessian, batch=sample, num_steps=40),
        "h_term": lj.observe.spectral_density(h_term, batch=sample, num_steps=40),
        "ratio": lj.observe.trace_ratio(hessian, batch=sample, num_probes=num_probes),
        "clusters": lj.observe.clustering(apply, task.first(task.clustered)),
        "softmax": lj.observe.confidence(apply, sample),
        "norm": lj.observe.param_norm,
        "params": lj.observe.stateless(lambda m: m.params),
    }


def descent(task: Task, rate, batch_size: int | None) -> lj.types.Dynamics:
    batches = lj.data.full_batch(task.train) if batch_size is None else lj.data.minibatch(task.train, batch_size)
    return lj.dynamics.gradient(task.loss, optax.sgd(rate), batches)


def training(task: Task, key, rate: float, batch_size: int | None, segments: Segments, k: int, num_probes: int) -> Record:
    """One run, everything measured: leaves [look, ...]."""
    arrays, fixed = (task.train, task.test), task

    @hasty
    def go(arrays, key):
        task = fixed._replace(train=arrays[0], test=arrays[1])
        init_key, run_key = jax.random.split(key)
        rule, watch = descent(task, rate, batch_size), everything(task, k, num_probes)
        run = lj.start(run_key, task.model.init(init_key, task.train[0]), rule, watch)
        return lj.advance(run, rule, watch, gaps=gaps(segments))[1]

    return jax.device_get(go(arrays, key))


def conditions(
    task: Task,
    key,
    rates: dict[str, tuple[float, ...]],
    noises: tuple[float, ...],
    batch_size: int | None,
    segments: Segments,
    k: int,
) -> dict[str, Record]:
    """Runs from one initialisation over loss × label noise × η, measured by `geometry`: {loss: leaves [noise, η, look, ...]}.

    One program: the loss is Σ_i w_i L_i with weights w that are arguments. `task`'s own criterion does not matter.
    """
    noise_key, init_key, run_key = jax.random.split(key, 3)
    x, y = task.train
    parts = [q * (1 - 1 / y.shape[1]) for q in noises]  # a label drawn anew may be the right one
    wrong = jnp.stack([lj.data.with_label_noise(jax.random.clone(noise_key), y, q) for q in parts])  # [q, n, C], nested
    fixed, criteria = task, [LOSSES[name] for name in rates]
    cells = [(i, j, rate) for i, name in enumerate(rates) for j in range(len(noises)) for rate in rates[name]]
    mesh = lj.devices.mesh_for_runs(len(cells))

    def one(cell, whole):
        weights, j, rate = cell
        x, wrong, test, init_key, run_key = whole

        def criterion(outputs, targets):
            return sum(w * of(outputs, targets) for w, of in zip(weights, criteria, strict=True))

        task = fixed._replace(criterion=criterion, train=(x, wrong[j]), test=test)
        rule, watch = descent(task, rate, batch_size), geometry(task, k)
        run = lj.start(run_key, task.model.init(init_key, x), rule, watch)
        return lj.advance(run, rule, watch, gaps=gaps(segments))[1]

    which, noise, rate = (np.array(column) for column in zip(*cells, strict=True))
    columns = np.eye(len(criteria), dtype=np.float32)[which], noise, rate.astype(np.float32)
    record = jax.device_get(hasty(lj.sweep.over_runs(one, mesh))(columns, (x, wrong, task.test, init_key, run_key)))
    return {
        name: jax.tree.map(lambda a: a[which == i].reshape(len(noises), -1, *a.shape[1:]), record)  # noqa: B023
        for i, name in enumerate(rates)
    }


def spectra(task: Task, params: Any, looks: list[int]) -> dict[str, np.ndarray]:
    """All eigenvalues of H, its Gauss–Newton part and the rest, descending: "hessian", "ggn", "h_term" [look, p].

    In float64 from matrices in float32, made symmetric.
    """
    apply = task.model.apply
    curvatures = {"hessian": lj.curvature.hessian(task.loss), "ggn": lj.curvature.ggn(apply, task.criterion)}
    sample = task.first(task.sample)

    @functools.partial(hasty, static_argnums=2)
    def dense(params, sample, name) -> Array:
        return lj.curvature.dense(curvatures[name])(params, sample)

    found: dict[str, list] = {name: [] for name in (*curvatures, "h_term")}
    for look in looks:
        at = jax.tree.map(lambda x: x[look], params)  # noqa: B023
        matrices = {name: np.asarray(dense(at, sample, name), np.float64) for name in curvatures}
        matrices["h_term"] = matrices["hessian"] - matrices["ggn"]
        for name, matrix in matrices.items():
            found[name].append(np.linalg.eigvalsh((matrix + matrix.T) / 2)[::-1])
    return {name: np.stack(values) for name, values in found.items()}
