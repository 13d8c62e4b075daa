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
SURFACES = {"plane": lj.dynamics.plane, "sphere": lj.dynamics.sphere}
DENSE = 4000  # up to so many parameters the whole Hessian is written down


def zone(config, key, model_of: Callable, data: lj.types.Batch) -> dict[str, np.ndarray]:
    """R = tr H/‖H‖_F against radius, in the whole space and in random planes, at one initialisation.

    Returns: "whole", "weights" [radius], the latter of the block of the weights alone; "plane" [d, radius], the mean R_d over
      draws, and "positive" alike, the mean fraction of positive eigenvalues; with "predicted" and "predicted_positive".
    """
    radii, dims = np.array(config.radii), config.plane_dims
    shapes = jax.eval_shape(lambda: model_of(1.0).init(key, data[0]))
    p, most = lj.tree.size(shapes), max(dims)
    is_weight = np.concatenate([np.full(np.prod(x.shape), str(path[-1].key) != "bias")
                                for path, x in jax.tree_util.tree_leaves_with_path(shapes)])  # fmt: skip
    mesh = lj.devices.dividing(len(radii))

    def one(radius: Array, whole):
        key, data = whole
        params = model_of(radius).init(key, data[0])
        loss = lj.losses.mean(model_of(1.0).apply, lj.losses.cross_entropy)
        hvp = lj.curvature.hessian(loss)(params, data)
        matrix = None
        if p <= DENSE:
            matrix = lj.curvature.dense(lj.curvature.hessian(loss))(params, data)
            block = matrix * is_weight[:, None] * is_weight[None]
            ratios = [jnp.trace(m) / jnp.linalg.norm(m) for m in (matrix, block)]
        else:  # Hutchinson's
            weights = lj.tree.select(params, lambda path: not path.endswith("bias"))
            inner = lj.curvature.restricted(lj.curvature.hessian(loss), lambda path: not path.endswith("bias"))(params, data)
            ratios = [lj.observe.hutchinson_ratio(mv, jax.random.fold_in(key, 1), like, config.num_probes).value
                      for mv, like in ((hvp, params), (inner, weights))]  # fmt: skip

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
        return jnp.stack(ratios), inside

    ratios, inside = jax.device_get(
        jax.jit(lj.sweep.over_runs(one, mesh))(jnp.asarray(radii, jnp.float32), (key, data))
    )
    measured, positive = np.empty((2, len(dims), len(radii)))
    for i, d in enumerate(dims):
        part = np.asarray(inside, np.float64)[..., :d, :d]
        measured[i] = (np.trace(part, axis1=2, axis2=3) / np.linalg.norm(part, axis=(2, 3))).mean(axis=1)
        positive[i] = (np.linalg.eigvalsh((part + part.swapaxes(2, 3)) / 2) > 0).mean(axis=(1, 2))
    return {
        "whole": ratios[:, 0], "weights": ratios[:, 1], "plane": measured, "positive": positive,
        "predicted": np.stack([logits.plane_ratio(ratios[:, 0], d, p) for d in dims]),
        "predicted_positive": np.stack([logits.positive_fraction(ratios[:, 0], d) for d in dims]),
    }  # fmt: skip


def maps(config, key, model_of: Callable, train: lj.types.Batch, test: lj.types.Batch) -> dict[str, dict[str, Any]]:
    """Accuracy after training in planes and on spheres: {"plane", "sphere"}: {"accuracy", "loss"} [radius, dimension, draw].

    One program for each surface: radius, dimension and draw are arguments. Draw i has an initialisation and a plane of its own,
    the same for all radii; planes of fewer dimensions lie within those of more, and the last is all of θ's space. Adam, full
    batch; its rate is `map_rate` times Xavier's radius in the plane, and times the radius itself on the sphere.
    """
    dims = (*config.map_dims, lj.tree.size(jax.eval_shape(lambda: model_of(1.0).init(key, train[0]))))
    cells = [(radius, d, i) for i in range(config.map_draws) for d in dims for radius in config.map_radii]
    mesh, loss = lj.devices.dividing(len(cells)), lj.losses.mean(model_of(1.0).apply, lj.losses.cross_entropy)
    found = {}
    for name, surface in SURFACES.items():

        def one(cell, whole, surface=surface):
            radius, d, i = cell
            key, train, test = whole
            init_key, basis_key = jax.random.split(jax.random.fold_in(key, i))
            params = model_of(radius).init(init_key, train[0])
            xavier = lj.tree.norm(params) / radius
            rate = config.map_rate * (xavier if surface is lj.dynamics.plane else lj.tree.norm(params))
            basis = lj.dynamics.leading(lj.dynamics.generated_basis(basis_key, params, dims[-1]), d)
            rule = lj.dynamics.subspace(loss, optax.adam(rate), lj.data.full_batch(train), basis, surface)
            run = lj.start(jax.random.clone(init_key), params, rule, {})
            run, _ = lj.advance(run, rule, {}, num_steps=config.map_steps, every=config.map_steps)
            outputs = model_of(1.0).apply(run.params, test[0])
            hits = jnp.mean((jnp.argmax(outputs, axis=1) == jnp.argmax(test[1], axis=1)).astype(outputs.dtype))
            return {"accuracy": hits, "loss": loss(run.params, train)}

        columns = [jnp.asarray(c, kind) for c, kind in zip(zip(*cells, strict=True), (jnp.float32, int, int), strict=True)]
        result = jax.device_get(jax.jit(lj.sweep.over_runs(one, mesh))(tuple(columns), (key, train, test)))
        shape = (config.map_draws, len(dims), len(config.map_radii))
        found[name] = jax.tree.map(lambda x: np.asarray(x).reshape(shape).transpose(2, 1, 0), result)  # noqa: B023
    return found


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
