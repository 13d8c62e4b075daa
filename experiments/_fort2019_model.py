"""The random logit-gradient model, drawn and measured; `landscape_jax.theory.logits` has its closed forms."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import landscape_jax as lj
from experiments._float64 import float64
from experiments._fort2019_network import hasty
from landscape_jax.theory import logits

CLASSES = (3, 5, 10, 20)
FACTORS = (0.5, 1.25, 2.0, 4.0, 16.0)  # l/l_c
SPREADS = (0.5, 1.0, 2.0, 3.0, 5.0, 8.0)  # σ_E/σ_c
FROZEN_CLASSES = (10, 100, 10_000)
FROZEN_AT = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0)  # σ_z/√(2 ln C)
SIGMA_Z = (0.1, 0.2, 0.3, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0, 15.0, 30.0)
POWERS = (0.0, 0.5, 1.0, 2.0)  # |J|² = (1 + σ_z)^power
MARGIN, MARGIN_POWER = 3.0, 1.3  # right logits ahead by MARGIN · σ_z
BEYOND = 5  # eigenvalues that are looked at beyond those wanted


def top(rows: Array, key, k: int, num_steps: int) -> lj.types.Eigs:
    """The k largest eigenvalues [k] of MᵀM, their vectors [k, p], and residuals [k]."""

    def product(v: Array) -> Array:
        return jnp.matmul(rows.T, jnp.matmul(rows, v, precision="highest"), precision="highest")

    steps = min(num_steps, rows.shape[1])
    return lj.spectrum.eigsh(product, jax.random.normal(key, (rows.shape[1],)), k, num_steps=steps)


def doubt(eigs: lj.types.Eigs, wanted: int) -> Array:
    """The largest residual of the first so many, as a part of λ₁."""
    return jnp.max(eigs.residuals[:wanted]) / eigs.values[0]


def repeated(fn, key, repeats: int, *settings: Array) -> Any:
    """`fn(key, *settings)` for each of `repeats` keys, split over devices: leaves [repeat, ...], as NumPy arrays."""
    mesh = lj.devices.mesh_for_runs(repeats)

    def one(i, whole):
        key, *settings = whole
        return fn(jax.random.fold_in(key, i), *settings)

    return jax.device_get(hasty(lj.sweep.over_runs(one, mesh))(jnp.arange(repeats), (key, *settings)))


def run(config, key) -> dict[str, Any]:
    """Parts "outliers", "transition", "confinement", "freezing", "transient", "spectrum", "clusters"."""
    parts = outliers, transition, confinement, freezing, transient, example
    found = [part(config, jax.random.fold_in(key, i)) for i, part in enumerate(parts)]
    return {part.__name__: each for part, each in zip(parts, found, strict=True)}


def outliers(config, key) -> dict[str, Any]:
    """The largest eigenvalues for each C, with clusters of equal and of unequal length, and under the square loss.

    "equal", "unequal", "square": {C: [repeat, C + BEYOND]}; "rank": {C: [repeat]} without noise, to 1e-8 of λ₁ in float64;
    "residual": {C: [repeat, 3]}, the largest among the C outliers and the next, relative to λ₁.
    """
    p, n = config.model_p, config.model_n
    found: dict[str, dict] = {"equal": {}, "unequal": {}, "square": {}, "rank": {}, "residual": {}}
    for i, classes in enumerate(CLASSES):
        lengths = jnp.stack([jnp.ones(classes), jnp.linspace(0.5, 2, classes)])

        def one(key, lengths, classes=classes):
            def of(lengths):
                draw_key, start_key = jax.random.split(jax.random.clone(key))
                made = logits.draw(draw_key, classes, p, n, sigma_c=lengths)
                softmax, square = logits.rows(made.gradients, made.logits), logits.square_rows(made.gradients)
                k = classes + BEYOND
                eigs = [top(m, jax.random.clone(start_key), k, 3 * k + 20) for m in (softmax, square)]
                return *(e.values for e in eigs), *(doubt(e, classes + 1) for e in eigs)

            return jax.lax.map(of, lengths)

        softmax, square, *doubts = repeated(one, jax.random.fold_in(key, i), config.model_repeats, lengths)
        found["equal"][f"{classes}"], found["unequal"][f"{classes}"] = softmax[:, 0], softmax[:, 1]
        found["square"][f"{classes}"] = square[:, 0]
        found["residual"][f"{classes}"] = np.stack([doubts[0][:, 0], doubts[0][:, 1], doubts[1][:, 0]], axis=1)
        found["rank"][f"{classes}"] = np.array([_rank(key, 100 * i + j, classes) for j in range(config.model_repeats)])
    return found


def _rank(key, i: int, classes: int) -> int:
    with float64():
        made = logits.draw(jax.random.fold_in(key, i), classes, 200, 50, sigma_e=0.0)
        values = np.linalg.svd(np.asarray(logits.rows(made.gradients, made.logits)), compute_uv=False) ** 2
    return int(np.sum(values > 1e-8 * values[0]))


def transition(config, key) -> dict[str, np.ndarray]:
    """Mean of the top C − 1 eigenvalues, "largest" of them, their mean squared overlap with the clusters, and the largest
    residual relative to λ₁, at uniform p: [factor, repeat]; with what the closed forms say [factor]."""
    classes, p, n = 10, config.transition_p, config.transition_n
    sigma = (np.array(FACTORS) * logits.threshold(classes, n, p)) ** 0.5

    def one(key, sigma):
        def at(sigma):
            draw_key, start_key = jax.random.split(jax.random.clone(key))
            made = logits.draw(draw_key, classes, p, n, sigma_c=sigma, sigma_z=0.0)
            eigs = top(logits.rows(made.gradients, made.logits), start_key, classes - 1, 128)
            centred = made.centres - made.centres.mean(axis=0)[None]
            span = jnp.linalg.svd(centred, full_matrices=False)[2][: classes - 1]  # [C − 1, p]
            overlap = jnp.sum(jnp.matmul(span, eigs.vectors.T, precision="highest") ** 2) / (classes - 1)
            return {
                "position": eigs.values.mean(),
                "largest": eigs.values[0],
                "overlap": overlap,
                "residual": doubt(eigs, classes - 1),
            }

        return jax.lax.map(at, sigma)

    found = repeated(one, key, config.model_repeats, jnp.asarray(sigma, jnp.float32))
    return {name: x.T for name, x in found.items()} | {
        "edge": np.asarray(logits.bulk_edge(1.0, classes, n, p)),
        "predicted_position": logits.outlier(sigma, 1.0, classes, n, p),
        "predicted_overlap": logits.overlap(sigma, 1.0, classes, n, p),
    }


def confinement(config, key) -> dict[str, np.ndarray]:
    """Part of the gradient's energy in the top C − 1 and C eigenvectors, by σ_E/σ_c: [spread, repeat]; p = 1000, n = 300."""
    classes, p, n = 10, 1000, 300

    def one(key, spreads):
        def at(spread):
            draw_key, start_key = jax.random.split(jax.random.clone(key))
            made = logits.draw(draw_key, classes, p, n, sigma_e=spread)
            g = logits.gradient(made.gradients, made.logits, made.labels)
            vectors = top(logits.rows(made.gradients, made.logits), start_key, classes, 40).vectors
            power = jnp.matmul(vectors, g, precision="highest") ** 2 / jnp.sum(g**2)
            return power[:-1].sum(), power.sum()

        return jax.lax.map(at, spreads)

    less, whole = repeated(one, key, config.model_repeats, jnp.asarray(SPREADS, jnp.float32))
    return {"one_less": less.T, "energy": whole.T}


def freezing(config, key) -> dict[str, np.ndarray]:
    """Mean of Σ p² over 300 examples, twice: [C, ratio, 2]."""

    def mean(key, classes, ratio):
        def one(i, whole):
            z = ratio * logits.freezing(classes) * jax.random.normal(jax.random.fold_in(whole, i), (classes,))
            return jnp.sum(jax.nn.softmax(z) ** 2)

        return jnp.mean(lj.sweep.over_runs(one)(jnp.arange(300), key))

    @hasty
    def all_of_it(key):
        seeds = [jax.random.fold_in(key, i) for i in range(2 * len(FROZEN_CLASSES))]
        cells = [
            jax.lax.map(lambda ratio, i=i, j=j, c=c: mean(jax.random.clone(seeds[2 * i + j]), c, ratio), jnp.array(FROZEN_AT))
            for i, c in enumerate(FROZEN_CLASSES)
            for j in range(2)
        ]
        return jnp.stack(cells).reshape(len(FROZEN_CLASSES), 2, -1)

    return {"participation": np.moveaxis(jax.device_get(all_of_it(key)), 1, 2)}


def transient(config, key) -> dict[str, np.ndarray]:
    """λ₁ against σ_z for fixed J and one direction of z, p = 200, n = 60: "fixed" [σ_z] is what multiplies |J|², "margin" the
    same with the right logits ahead by MARGIN · σ_z; "freedom" [σ_z] is the mean of 1 − Σp². Means over the repeats."""
    sizes = jnp.asarray(SIGMA_Z, jnp.float32)

    def one(key, sizes):
        draw_key, start_key = jax.random.split(key)
        made = logits.draw(draw_key, 10, 200, 60)
        ahead = made.logits + MARGIN * jax.nn.one_hot(made.labels, 10)

        def at(sigma):
            value = [
                top(logits.rows(made.gradients, sigma * z), jax.random.clone(start_key), 1, 60).values[0]
                for z in (made.logits, ahead)
            ]
            return *value, jnp.mean(1 - jnp.sum(jax.nn.softmax(sigma * made.logits) ** 2, axis=1))

        return jax.lax.map(at, sizes)

    names = ("fixed", "margin", "freedom")
    return {name: x.mean(axis=0) for name, x in zip(names, repeated(one, key, config.model_repeats, sizes), strict=True)}


def example(config, key) -> dict[str, np.ndarray]:
    """One model with C = 10 for the figure: all eigenvalues "values" [p], and its clustering measures."""
    made = logits.draw(key, 10, config.model_p, config.model_n)
    rows = np.asarray(logits.rows(made.gradients, made.logits), np.float64)
    clusters = jax.jit(lambda made: lj.observe.mean_cosines(lambda j: j, made.gradients, made.labels))(made)
    return {"values": np.linalg.eigvalsh(rows.T @ rows)[::-1], **{name: np.asarray(x) for name, x in clusters.items()}}
