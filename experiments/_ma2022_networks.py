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
TEACHER_RADII = np.geomspace(10**-4.5, 1e2, 66)
RADII = np.geomspace(10**-3.5, 10, 28)
CHECKS = 15  # of the sharpness along a training
DROP_STEPS = 200  # steps after each drop of the rate


def unit_like(key: Key, params: Params) -> Params:
    """A uniform unit direction."""
    v = tree.normal_like(key, params)
    return tree.scale(1 / tree.norm(v), v)


# ── origin: a two-layer network at its teacher ────────────────────────────────────────────────────────────────────────


def at_teacher(activation: Callable, scales: Array, key: Key, *, dim=20, width=64, group=32, num_random=8) -> dict[str, Array]:
    """f = Σ_j a_j φ(w_j·x) with a = ±1/√width, data in groups of magnitudes `scales`, labels from the teacher W* ~ N(0, 1):
    p(r) about W* along the top Gauss–Newton direction, and of the mean over random directions."""
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
    random = multiscale.averaged(jax.lax.map(lambda v: multiscale.profile(loss, teacher, v, radii, batch), vs))
    return {"top": along.exponent, "rise": along.rise, "random": random.exponent}


def teachers(scales: tuple[tuple[float, ...], ...], key: Key, num_seeds: int) -> dict[str, Any]:
    """For each activation, leaves [scales, seed, ...]: "top", "random" and "rise" of `at_teacher`."""
    keys = jax.random.split(key, num_seeds)
    mesh = lj.devices.dividing(len(scales) * num_seeds)

    def found(activation: Callable) -> dict:
        sweep = lj.sweep.grid(lambda s, k: at_teacher(activation, s, k))
        sweep = sweep if mesh is None else lj.sweep.sharded(sweep, mesh)
        return lj.devices.fetched(sweep(jnp.array(scales), keys))

    return {name: found(activation) for name, activation in ACTIVATIONS.items()}


# ── a network trained at the edge ─────────────────────────────────────────────────────────────────────────────────────


class Task(NamedTuple):
    """What to train, and how fast."""

    activation: str
    criterion: str
    init_scale: float
    rates: tuple[float, ...]


def trained(task: Task, config: Any, key: Key) -> dict[str, Any]:
    """Leaves [rate, seed, ...]: "step", "loss" and "sharpness" at fifteen looks, and what `_afterwards` finds at the end."""
    train, _ = lj.data.digits(config.n_train, 0, scale=lj.data.per_pixel)
    model = lj.models.mlp(config.widths, 10, activation=ACTIVATIONS[task.activation], init_scale=task.init_scale)
    loss = lj.losses.mean(model.apply, getattr(lj.losses, task.criterion))
    hessian = lj.curvature.hessian(loss)

    def top(params: Params) -> Array:
        return eigsh(hessian(params, train), tree.scattered_like(0, params), num_steps=30).values[0]

    watch = {"loss": lj.observe.loss, "sharpness": lj.observe.stateless(lambda m: top(m.params))}

    def descent(rate) -> lj.types.Dynamics:
        return lj.dynamics.gradient(loss, optax.inject_hyperparams(optax.sgd)(rate), lj.data.full_batch(train))

    def begin(rate: Array, key: Key) -> lj.Run:
        init_key, run_key = jax.random.split(key)
        return lj.start(run_key, model.init(init_key, train[0]), descent(rate), watch)

    rates, keys = jnp.array(task.rates), jax.random.split(key, config.num_seeds)
    shape = len(rates), len(keys)
    mesh = lj.devices.dividing(len(rates) * len(keys))
    final, record = lj.drive(
        lj.sweep.grid(begin)(rates, keys), descent(task.rates[0]), watch, num_steps=config.num_steps,
        every=config.num_steps // CHECKS, chunk=config.num_steps // 3, mesh=mesh,
    )  # fmt: skip
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), final.params)
    ends = lj.sweep.zipped(lambda params, rate, key: _afterwards(loss, params, rate, key, train))
    ends = ends if mesh is None else lj.sweep.sharded(ends, mesh)
    found = lj.devices.fetched(ends(flat, jnp.repeat(rates, len(keys)), jnp.tile(keys, len(rates))))
    found = jax.tree.map(lambda x: x.reshape(*shape, *x.shape[1:]), dict(found))
    return {name: np.asarray(x) for name, x in record.items()} | {"rate": np.asarray(rates)} | found


def _afterwards(loss: Loss, params: Params, rate: Array, key: Key, train: Batch) -> dict[str, Array]:
    """Growth around θ_T along the sharpest direction v, along random ones and along the gradient; how far θ swings along v; and
    the loss when η is divided by 4, and by 4 again, against the loss when it is not.

    "swing": a = ½ |⟨v, θ_{t+1} − θ_t⟩|, the mean over 20 steps; "curvature" λ₁; "secant": ΔL'(a)/a.
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
    slopes = jax.vmap(lambda g: tree.scale(1 / tree.norm(g), g))(slopes)
    others = jax.vmap(lambda k: unit_like(k, params))(jax.random.split(jax.random.fold_in(key, 1), 2))
    directions = jax.tree.map(lambda v, g, o: jnp.concatenate([v[None], o, g, v[None]]), v, slopes, others)
    near = swing * jnp.linspace(0.9, 1.1, len(radii) | 1)[: len(radii)]
    profiles = jax.lax.map(grown, (starts, directions, jnp.stack([*[radii] * 5, near])))
    random = multiscale.averaged(jax.tree.map(lambda x: x[1:3], profiles))
    middle = len(radii) // 2
    return {
        "top": profiles.exponent[0], "rise": profiles.rise[0], "gradient": profiles.exponent[3],
        "gradient_after": profiles.exponent[4], "random": random.exponent,
        "swing": swing, "curvature": eigs.values[0],
        "secant": (profiles.exponent * profiles.rise / profiles.radii**2)[5, middle],
        "dropped": losses[1], "kept": losses[0],
    }  # fmt: skip
