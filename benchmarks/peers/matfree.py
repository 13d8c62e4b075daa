"""matfree: tridiagonalisation of a JAX function with full reorthogonalisation, compiled, from a given start vector."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from matfree import decomp, eig, stochtrace

from benchmarks._tasks import loss
from benchmarks.peers._quadrature import moments
from benchmarks.peers._state import State

PACKAGES = ("jax", "matfree")
SETTINGS = {
    "eigenpairs": {"a": {"steps": 18}, "b": {"steps": 26}},
    "tracking": {"a": {"length": 7}, "b": {"length": 7}},
}


def point(state: State):
    """θ [p], its shape as parameters, and the batch."""
    theta, shaped = ravel_pytree(jax.tree.map(jnp.asarray, state.params))
    return theta, shaped, jax.tree.map(jnp.asarray, state.batch)


def gradient(shaped, theta, batch):
    return jax.grad(lambda t: loss(shaped(t), batch))(theta)


def product(shaped, theta, batch):
    return jax.linearize(lambda t: gradient(shaped, t, batch), theta)[1]


def eigenpairs(state: State, steps: int, seed: int = 0) -> dict:
    theta, shaped, batch = point(state)
    start = jax.random.normal(jax.random.key(seed), theta.shape)
    partial = eig.eigh_partial(decomp.tridiag_sym(steps, custom_vjp=False))

    @jax.jit
    def largest(theta, batch, start):
        values, vectors = partial(product(shaped, theta, batch), start)
        return values[:-6:-1], vectors[:-6:-1]

    def answer() -> dict:
        values, _ = jax.block_until_ready(largest(theta, batch, start))
        return {"values": values.tolist(), "products": steps}

    return {"answer": answer}


def density(state: State, probes: int, steps: int = 64, keep: Path | None = None, reorthogonalise: int = 1) -> dict:
    theta, shaped, batch = point(state)
    starts = jax.random.normal(jax.random.key(0), (probes, *theta.shape))
    tridiagonal = decomp.tridiag_sym(steps, custom_vjp=False, reortho="full" if reorthogonalise else "none")

    @jax.jit
    def quadratures(theta, batch, starts):
        matvec = product(shaped, theta, batch)

        def one(start):
            nodes, vectors = jnp.linalg.eigh(tridiagonal(matvec, start).J_small)
            return nodes, vectors[0] ** 2

        return jax.lax.map(one, starts)

    def answer() -> dict:
        found = jax.block_until_ready(quadratures(theta, batch, starts))
        return {"moments": moments(*found), "products": probes * steps}

    def keeping() -> None:
        if keep:
            rows = np.asarray(starts, np.float64)
            np.savez(keep, probes=rows / np.linalg.norm(rows, axis=1, keepdims=True))

    return {"answer": answer, "keeping": keeping}


def trace(state: State, probes: int = 100, at_once: int = 1) -> dict:
    theta, shaped, batch = point(state)
    sampler = stochtrace.sampler_signs(theta, num=at_once)
    estimate = stochtrace.estimator_monte_carlo(stochtrace.monte_carlo_trace(), sampler)

    @jax.jit
    def parts(theta, batch, keys):
        matvec = product(shaped, theta, batch)
        return jax.lax.map(lambda key: estimate(matvec, key), keys)

    def answer() -> dict:
        found = parts(theta, batch, jax.random.split(jax.random.key(0), probes // at_once))
        error = jnp.std(found, ddof=1) / len(found) ** 0.5
        return {"trace": float(found.mean()), "error": float(error), "products": probes}

    return {"answer": answer}


def tracking(state: State, rate: float, steps: int, length: int, every: int = 1) -> dict:
    """A Python loop of compiled steps; Lanczos of a few products from the last look's Ritz vector."""
    theta, shaped, batch = point(state)
    partial = eig.eigh_partial(decomp.tridiag_sym(length, custom_vjp=False))
    cold = eig.eigh_partial(decomp.tridiag_sym(30, custom_vjp=False))
    start = jax.jit(lambda theta, batch: cold(product(shaped, theta, batch), jnp.ones_like(theta))[1][-1])(theta, batch)

    @jax.jit
    def step(theta, batch):
        return theta - rate * gradient(shaped, theta, batch)

    @jax.jit
    def looked(theta, batch, v):
        grad, matvec = jax.linearize(lambda t: gradient(shaped, t, batch), theta)
        values, vectors = partial(matvec, v)
        return theta - rate * grad, vectors[-1], values[-1]

    def descended(watching: bool) -> list:
        t, v, values = theta, start, []
        for i in range(steps):
            if watching and i % every == 0:
                t, v, value = looked(t, batch, v)
                values.append(value)
            else:
                t = step(t, batch)
        jax.block_until_ready(t)
        return [float(value) for value in values]

    def watched() -> dict:
        return {"sharpness": descended(True), "products": length * len(range(0, steps, every))}

    return {"plain": lambda: None if descended(False) else None, "watched": watched}
