"""The Goldilocks zone: where the Hessian leans to the positive side, and where planes and spheres can be trained on."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.flatten_util import ravel_pytree

import landscape_jax as lj
from landscape_jax.theory import logits

ACTIVATIONS = {"relu": jax.nn.relu, "tanh": jnp.tanh}
SURFACES = "plane", "sphere"
DENSE = 4000  # up to so many parameters the whole Hessian is written down


def either(which: Array) -> Callable:
    """ReLU or tanh, by number, which may be traced: one program serves both."""
    relu, tanh = ACTIVATIONS.values()
    return lambda x: jnp.where(which == 0, relu(x), tanh(x))


def ratios(loss: lj.types.Loss, params: Any, data: lj.types.Batch, key, num_probes: int, dense: int = DENSE) -> tuple:
    """R = tr H/‖H‖_F of the whole Hessian and of the block of the weights alone [2]; and H [p, p], or None where p > dense.

    There both are Hutchinson's, from `num_probes` products each.
    """
    hessian, weight = lj.curvature.hessian(loss), _is_weight
    if lj.tree.size(params) <= dense:
        matrix = lj.curvature.dense(hessian)(params, data)
        ones = lj.tree.select(jax.tree.map(jnp.ones_like, params), weight)
        kept = ravel_pytree(lj.tree.fill_zeros(ones, params))[0]  # [p], 0 for biases
        block = matrix * kept[:, None] * kept[None]
        return jnp.stack([jnp.trace(m) / jnp.linalg.norm(m) for m in (matrix, block)]), matrix
    inner = lj.curvature.restricted(hessian, weight)
    pairs = (hessian(params, data), params), (inner(params, data), lj.tree.select(params, weight))
    return jnp.stack([lj.observe.hutchinson_ratio(matvec, key, like, num_probes).value for matvec, like in pairs]), None


def _is_weight(path: str) -> bool:
    return not path.endswith("bias")


def zones(config, key, model_of: Callable, data: lj.types.Batch) -> dict[str, dict[str, np.ndarray]]:
    """R = tr H/‖H‖_F against radius, in the whole space and in random planes, at one initialisation: {activation: ...}.

    Args:
      model_of: activation ↦ network at Xavier's radius.
    Returns: "whole", "weights" [radius], the latter of the block of the weights alone; "plane" [d, radius], the mean R_d over
      draws, and "positive" alike, the mean fraction of positive eigenvalues; with "predicted" and "predicted_positive".
    """
    radii, dims, most = np.array(config.radii), config.plane_dims, max(config.plane_dims)
    p = _size(model_of, data)
    which = np.repeat(np.arange(len(ACTIVATIONS)), len(radii))
    mesh = lj.devices.mesh_for_runs(len(which))

    def one(cell, whole):
        (which, radius), (key, data) = cell, whole
        model = model_of(either(which))
        params = lj.tree.scale(radius, model.init(key, data[0]))
        loss = lj.losses.mean(model.apply, lj.losses.cross_entropy)
        found, matrix = ratios(loss, params, data, jax.random.fold_in(key, 1), config.num_probes)
        hvp = lj.curvature.hessian(loss)(params, data)

        def drawn(i):
            basis = lj.dynamics.generated_basis(jax.random.fold_in(key, 2 + i), params, most)
            frame = jax.vmap(basis.embed)(jnp.eye(most))  # leaves [d, ...]
            if matrix is None:
                inside = jax.lax.map(lambda v: basis.project(hvp(v)), frame)  # PᵀHP  [d, d]
            else:
                flat = jax.vmap(lambda v: ravel_pytree(v)[0])(frame)  # [d, p]
                inside = jnp.linalg.multi_dot([flat, matrix, flat.T], precision="highest")
            return inside

        inside = jax.lax.map(drawn, jnp.arange(config.plane_draws))  # [draw, d, d]; its first d' directions are a plane, too
        return found, inside

    cells = jnp.asarray(which), jnp.asarray(np.tile(radii, len(ACTIVATIONS)), jnp.float32)
    found, inside = jax.device_get(jax.jit(lj.sweep.over_runs(one, mesh))(cells, (key, data)))
    return {name: _zone(found[which == i], inside[which == i], dims, p) for i, name in enumerate(ACTIVATIONS)}


def _zone(ratios: np.ndarray, inside: np.ndarray, dims: tuple[int, ...], p: int) -> dict[str, np.ndarray]:
    """From ratios [radius, 2] and PᵀHP [radius, draw, d, d]."""
    measured, positive = np.empty((2, len(dims), len(ratios)))
    for i, d in enumerate(dims):
        part = np.asarray(inside, np.float64)[..., :d, :d]
        measured[i] = (np.trace(part, axis1=2, axis2=3) / np.linalg.norm(part, axis=(2, 3))).mean(axis=1)
        positive[i] = (np.linalg.eigvalsh((part + part.swapaxes(2, 3)) / 2) > 0).mean(axis=(1, 2))
    return {
        "whole": ratios[:, 0],
        "weights": ratios[:, 1],
        "plane": measured,
        "positive": positive,
        "predicted": np.stack([logits.plane_ratio(ratios[:, 0], d, p) for d in dims]),
        "predicted_positive": np.stack([logits.positive_fraction(ratios[:, 0], d) for d in dims]),
    }


def maps(config, key, model_of: Callable, train: lj.types.Batch, test: lj.types.Batch) -> dict[str, Any]:
    """Accuracy after training in planes and on spheres.

    Returns: {activation: {surface: {"accuracy", "loss"} [radius, dimension, draw]}}, and "p" [].

    The whole map is one program, over activation, surface, draw, dimension and radius: side by side on an accelerator, one
    after the other on a CPU, where batches of small products gain nothing. Draw i has an initialisation and a plane of its own,
    the same for all radii; planes of fewer dimensions lie within those of more, and the last is all of θ's space. Adam, full
    batch; its rate is `map_rate` times Xavier's radius in the plane, and times the radius itself on the sphere.
    """
    p = _size(model_of, train)
    dims, radii = (*config.map_dims, p), config.map_radii
    shape = len(ACTIVATIONS), len(SURFACES), config.map_draws, len(dims), len(radii)
    which, on_sphere, draw, d, radius = np.indices(shape).reshape(len(shape), -1)
    cells = which, on_sphere == 1, draw, np.array(dims)[d], np.array(radii, np.float32)[radius]
    mesh = lj.devices.mesh_for_runs(len(which))

    def one(cell, whole):
        (which, on_sphere, draw, d, radius), (key, train, test) = cell, whole
        init_key, basis_key = jax.random.split(jax.random.fold_in(key, draw))
        model = model_of(either(which))
        loss = lj.losses.mean(model.apply, lj.losses.cross_entropy)
        xavier = model.init(init_key, train[0])
        params = lj.tree.scale(radius, xavier)

        def surface(origin, shift):
            beside = lj.dynamics.plane(origin, shift)
            return lj.tree.where(on_sphere, lj.dynamics.sphere(origin, shift), beside)

        rate = config.map_rate * lj.tree.norm(xavier) * jnp.where(on_sphere, radius, 1)
        basis = lj.dynamics.leading(lj.dynamics.generated_basis(basis_key, params, p), d)
        rule = lj.dynamics.subspace(loss, optax.adam(rate), lj.data.full_batch(train), basis, surface)
        run = lj.start(jax.random.clone(init_key), params, rule, {})
        run, _ = lj.advance(run, rule, {}, num_steps=config.map_steps, every=config.map_steps)
        hits = lj.labels.correct(model.apply(run.params, test[0]), test[1])
        return {"accuracy": jnp.mean(hits), "loss": loss(run.params, train)}

    result = jax.device_get(jax.jit(lj.sweep.over_runs(one, mesh))(jax.tree.map(jnp.asarray, cells), (key, train, test)))
    found = jax.tree.map(lambda x: np.asarray(x).reshape(shape).swapaxes(2, 4), result)
    return {
        name: {surface: jax.tree.map(lambda x: x[i, j], found) for j, surface in enumerate(SURFACES)}  # noqa: B023
        for i, name in enumerate(ACTIVATIONS)
    } | {"p": np.asarray(p)}


def _size(model_of: Callable, data: lj.types.Batch) -> int:
    return lj.tree.size(jax.eval_shape(lambda: model_of(jnp.tanh).init(jax.random.key(0), data[0])))


def needed(accuracy: np.ndarray, dims: np.ndarray, part: float = 0.9) -> np.ndarray:
    """The dimension at which accuracy first reaches `part` of that in all dimensions: [radius] from [radius, dimension].

    Linear in log d between the dimensions that were run; the smallest of them where that is enough already, and NaN where
    even all dimensions don't reach an accuracy of 0.7.
    """
    wanted = part * accuracy[:, -1]
    found = []
    for row, goal in zip(accuracy, wanted, strict=True):
        i = int(np.argmax(row >= goal))
        before = max(i - 1, 0)
        step = (goal - row[before]) / (row[i] - row[before]) if i else 0.0
        found.append(dims[before] * (dims[i] / dims[before]) ** step if row[-1] >= 0.7 else np.nan)
    return np.array(found)
