"""Growth of a network's loss: around a teacher that fits data of several magnitudes, and where training ends. In float64."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

import landscape_jax as lj
from landscape_jax import tree
from landscape_jax.landscape import multiscale
from landscape_jax.spectrum import eigsh
from landscape_jax.types import Batch, Key, Loss, Params

ACTIVATIONS: dict[str, Callable] = {"tanh": jnp.tanh, "relu": jax.nn.relu, "linear": lambda u: u}
CRITERIA: dict[str, Callable] = {"square": lj.losses.square, "cross_entropy": lj.losses.cross_entropy}
TEACHER_RADII = np.geomspace(10**-4.5, 1e2, 66)
CORE_RADII = np.geomspace(1e-7, 1e-4, 31)
RADII = np.geomspace(10**-3.5, 10, 28)
CHECKS = 15  # of the sharpness along a training
DROP_STEPS = 200  # steps after each drop of the rate


def picked(table: dict[str, Callable], which: Array) -> Callable:
    """The function numbered `which` in a table; traced, so that one program serves them all."""
    return lambda *args: jax.lax.switch(which, list(table.values()), *args)


def unit_like(key: Key, params: Params) -> Params:
    """A uniform unit direction."""
    v = tree.normal_like(key, params)
    return tree.scale(1 / tree.norm(v), v)


# ── origin: a two-layer network at its teacher ────────────────────────────────────────────────────────────────────────


def at_teacher(activation: Callable, scales: Array, key: Key, *, dim=20, width=64, group=32, num_random=8) -> dict[str, Array]:
    """f = Σ_j a_j φ(w_j·x) with a = ±1/√width, data in groups of magnitudes `scales`, labels from the teacher W* ~ N(0, 1):
    p(r) about W* along the top Gauss–Newton direction, and of the mean over random directions.

    "core": p at `CORE_RADII`. Data of magnitude s saturate nearly all units; the top direction is that of the few which they do
    not. Such a unit, tanh u with τ = tanh u, has (tanh(u + ε) − tanh u)² ∝ ε² (1 + (3τ² − ⅔) ε²) in its even part, so that

        p(r) − 2 = (6τ² − 4/3) ε²,   ε ≤ s r,       between −4/3 (s r)² and 14/3 (s r)²:

    at r = 1e-4 and s = 1000, from −0.013 to 0.047; within 0.02 for certain only at r ≤ 6.5e-5.
    """
    of_x, of_w, of_v = jax.random.split(key, 3)
    x = lj.data.magnitudes(of_x, group, dim, (1.0,) * scales.size) * jnp.repeat(scales, group)[:, None]  # [n, d]
    signs = jnp.where(jnp.arange(width) % 2 == 0, 1.0, -1.0) / width**0.5

    def apply(w: Array, x: Array) -> Array:
        return activation(x @ w) @ signs[:, None]  # [n, 1]

    teacher = jax.random.normal(of_w, (dim, width))
    batch, radii = (x, apply(teacher, x)), jnp.asarray(TEACHER_RADII)
    loss, matrix = lj.losses.mean(apply, lj.losses.square), lj.curvature.ggn(apply, lj.losses.square)(teacher, batch)
    top = tree.row(eigsh(matrix, tree.scattered_like(0, teacher), num_steps=60).vectors, 0)
    vs = jax.vmap(lambda k: unit_like(k, teacher))(jax.random.split(of_v, num_random))
    along = multiscale.profile(loss, teacher, top, radii, batch)
    core = multiscale.profile(loss, teacher, top, jnp.asarray(CORE_RADII), batch)
    random = multiscale.averaged(jax.lax.map(lambda v: multiscale.profile(loss, teacher, v, radii, batch), vs))
    return {"top": along.exponent, "rise": along.rise, "random": random.exponent, "core": core.exponent}


def teachers(scales: tuple[tuple[float, ...], ...], key: Key, num_seeds: int) -> dict[str, Any]:
    """For each activation, leaves [scales, seed, ...]: what `at_teacher` finds."""
    keys, numbers = jax.random.split(key, num_seeds), jnp.arange(len(ACTIVATIONS))
    sweep = lj.sweep.grid(lambda which, s, k: at_teacher(picked(ACTIVATIONS, which), s, k))
    found = dict(lj.devices.to_host(lj.sweep.sharded(sweep, lj.devices.mesh("runs"))(numbers, jnp.array(scales), keys)))
    return {name: {part: x[i] for part, x in found.items()} for i, name in enumerate(ACTIVATIONS)}


# ── a network trained at the edge ─────────────────────────────────────────────────────────────────────────────────────


class Task(NamedTuple):
    """What to train, and how fast."""

    activation: str
    criterion: str
    init_scale: float
    rates: tuple[float, ...]


class Cell(NamedTuple):
    """A task at one of its rates, in numbers: places in the tables above."""

    activation: Array
    criterion: Array
    init_scale: Array
    rate: Array


def network(cell: Cell, config: Any, train: Batch) -> tuple[lj.types.Model, Loss]:
    model = lj.models.mlp(config.widths, 10, activation=picked(ACTIVATIONS, cell.activation), init_scale=1.0)
    model = lj.models.flat(model, train[0])
    return model, lj.losses.mean(model.apply, picked(CRITERIA, cell.criterion))


def trained(tasks: dict[str, Task], config: Any, key: Key) -> dict[str, lj.Record]:
    """For each task, leaves [rate, seed, ...]: "step", "loss" and "sharpness" at fifteen looks, and what `_afterwards` finds at
    the end. All tasks, rates and seeds are one compiled program, split over all devices."""
    train, _ = lj.data.digits(config.n_train, 0, scale=lj.data.per_pixel)

    def one(cell: Cell, key: Key) -> dict[str, Array]:
        model, loss = network(cell, config, train)
        hessian = lj.curvature.hessian(loss)

        def top(params: Params) -> Array:
            return eigsh(hessian(params, train), tree.scattered_like(0, params), num_steps=30).values[0]

        init_key, run_key = jax.random.split(key)
        params = tree.scale(cell.init_scale**0.5, model.init(init_key, train[0]))  # biases are 0
        watch = {"loss": lj.observe.loss, "sharpness": lj.observe.stateless(lambda m: top(m.params))}
        descent = lj.dynamics.gradient(loss, optax.sgd(cell.rate), lj.data.full_batch(train))
        run = lj.start(run_key, params, descent, watch)
        run, record = lj.advance(run, descent, watch, num_steps=config.num_steps, every=config.num_steps // CHECKS)
        return dict(record) | _afterwards(loss, run.params, cell.rate, run_key, train)

    place = {name: i for table in (ACTIVATIONS, CRITERIA) for i, name in enumerate(table)}
    cells = [(place[t.activation], place[t.criterion], t.init_scale, rate) for t in tasks.values() for rate in t.rates]
    keys = jax.random.split(key, (len(cells), config.num_seeds))
    flat = Cell(*(jnp.repeat(jnp.array(column), config.num_seeds) for column in zip(*cells, strict=True)))
    sweep = lj.sweep.sharded(lj.sweep.zipped(one), lj.devices.mesh("runs"))
    found = dict(lj.devices.to_host(sweep(flat, keys.ravel())))
    found = {name: x.reshape(keys.shape + x.shape[1:]) for name, x in found.items()}
    ends = np.cumsum([len(t.rates) for t in tasks.values()])
    return {
        name: lj.Record(
            {part: x[end - len(task.rates) : end] for part, x in found.items()} | {"rate": np.array(task.rates)},
            {"rate": task.rates, "seed": None},
        )
        for (name, task), end in zip(tasks.items(), ends, strict=True)
    }


def edge(record: lj.Record) -> lj.Record:
    """The tanh runs with rates at the edge: all but the first, the control."""
    return record["networks"]["tanh"].isel(rate=slice(1, None))


def _afterwards(loss: Loss, params: Params, rate: Array, key: Key, train: Batch) -> dict[str, Array]:
    """Growth around θ_T along the sharpest direction v, along random ones and along the gradient; how far θ swings along v; and
    the loss when η is divided by 4, and by 4 again, against the loss when it is not.

    "swing": a = ½ |⟨v, θ_{t+1} − θ_t⟩|, the mean over 20 steps; "curvature" λ₁; "secant": ΔL'(a)/a; "slope" ‖∇L(θ_T)‖².
    "dropped", "kept" [2 · DROP_STEPS + 1]: losses.
    """
    gradient, radii = jax.grad(loss), jnp.asarray(RADII)

    def descended(params: Params, rates: Array) -> tuple[Params, Array, Array]:
        """θ and the way along v after each stretch of `DROP_STEPS`, leaves [stretch, ...]; all losses, the last θ's too."""

        def step(params: Params, rate: Array):
            grads = gradient(params, train)
            return tree.axpy(-rate, grads, params), (tree.vdot(grads, v) * rate, loss(params, train))

        def stretch(params: Params, rate: Array):
            params, (moved, losses) = jax.lax.scan(lambda theta, _: step(theta, rate), params, length=DROP_STEPS)
            return params, (params, moved, losses)

        end, (places, moved, losses) = jax.lax.scan(stretch, params, rates)
        return places, moved, jnp.append(losses, loss(end, train))

    def grown(at: tuple[Params, Params, Array]) -> multiscale.Profile:
        start, v, radii = at
        return multiscale.profile(loss, multiscale.line_minimum(loss, start, v, train), v, radii, train)

    hessian = lj.curvature.hessian(loss)(params, train)
    eigs = eigsh(hessian, tree.scattered_like(0, params), num_steps=100)
    v = tree.row(eigs.vectors, 0)
    rates = rate * jnp.array([[1.0, 1.0], [1 / 4, 1 / 16]])
    places, moved, losses = jax.lax.map(lambda stretches: descended(params, stretches), rates)
    swing = jnp.mean(jnp.abs(moved[0, 0, :20])) / 2
    once = jax.tree.map(lambda x: x[1, 0], places)
    starts = jax.tree.map(lambda a, b: jnp.stack([a, a, a, a, b, a]), params, once)
    slopes = jax.lax.map(lambda theta: gradient(theta, train), jax.tree.map(lambda x: x[3:5], starts))
    steep = tree.vdot(tree.row(slopes, 0), tree.row(slopes, 0))
    slopes = jax.vmap(lambda g: tree.scale(1 / tree.norm(g), g))(slopes)
    others = jax.vmap(lambda k: unit_like(k, params))(jax.random.split(jax.random.fold_in(key, 1), 2))
    directions = jax.tree.map(lambda v, g, o: jnp.concatenate([v[None], o, g, v[None]]), v, slopes, others)
    near = swing * jnp.linspace(0.9, 1.1, len(radii) | 1)[: len(radii)]
    profiles = jax.lax.map(grown, (starts, directions, jnp.stack([*[radii] * 5, near])))
    random = multiscale.averaged(jax.tree.map(lambda x: x[1:3], profiles))
    middle = len(radii) // 2
    return {
        "top": profiles.exponent[0],
        "rise": profiles.rise[0],
        "gradient": profiles.exponent[3],
        "gradient_after": profiles.exponent[4],
        "random": random.exponent,
        "swing": swing,
        "curvature": eigs.values[0],
        "slope": steep,
        "secant": (profiles.exponent * profiles.rise / profiles.radii**2)[5, middle],
        "dropped": losses[1],
        "kept": losses[0],
    }
