"""landscape_jax, asked as its peers are."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

import landscape_jax as lj
from benchmarks._tasks import loss
from benchmarks.peers._quadrature import moments
from benchmarks.peers._state import State
from landscape_jax import tree

PACKAGES = ("jax", "landscape_jax")
HESSIAN = lj.curvature.linearized_hessian(loss)
FEW, MANY = 8, 40  # products, to tell what one more costs


def point(state: State):
    return jax.tree.map(jnp.asarray, (state.params, state.batch))


@jax.jit
def five(params, batch):
    # the loosest tolerance that was right for four start vectors, as for the peers; 2e-2 is not
    start = tree.scattered_like(0, params)
    return lj.spectrum.eigsh(HESSIAN(params, batch), start, k=5, tol=1e-2, depth=28, confirm=0)


@jax.jit
def repeated(params, batch, count, size):
    """`count` products, one after another, each divided by `size` to stay finite."""
    matvec = HESSIAN(params, batch)
    return jax.lax.fori_loop(0, count, lambda _, v: tree.scale(1 / size, matvec(v)), tree.scattered_like(1, params))


def products(params, batch, size) -> dict:
    """A few products and many: the difference is that of the products alone."""
    return {
        f"{count} products": lambda count=count: jax.block_until_ready(repeated(params, batch, count, size)) and None
        for count in (FEW, MANY)
    }


def eigenpairs(state: State) -> dict:
    params, batch = point(state)

    def answer() -> dict:
        eigs = jax.block_until_ready(five(params, batch))
        return {"values": eigs.values.tolist(), "products": int(eigs.products), "residuals": eigs.residuals.tolist()}

    return {"answer": answer} | products(params, batch, 100.0)


def density(state: State, probes: int, steps: int = 64, keep: Path | None = None) -> dict:
    params, batch = point(state)
    key = jax.random.key(0)

    @jax.jit
    def quadratures(params, batch, key):
        return lj.spectrum.density(HESSIAN(params, batch), key, params, num_probes=probes, num_steps=steps)

    def answer() -> dict:
        return {"moments": moments(*jax.block_until_ready(quadratures(params, batch, key))), "products": probes * steps}

    def keeping() -> None:
        if keep:  # the probes as `density` draws them
            drawn = [tree.normal_like(jax.random.fold_in(key, i), params) for i in range(probes)]
            rows = np.stack([np.asarray(ravel_pytree(z)[0], np.float64) for z in drawn])
            np.savez(keep, probes=rows / np.linalg.norm(rows, axis=1, keepdims=True))

    return {"answer": answer, "keeping": keeping} | products(params, batch, 100.0)


def trace(state: State, probes: int = 100) -> dict:
    params, batch = point(state)

    @jax.jit
    def estimated(params, batch, key):
        return lj.spectrum.trace(HESSIAN(params, batch), key, params, num_probes=probes)

    def answer() -> dict:
        found = estimated(params, batch, jax.random.key(0))
        return {"trace": float(found.value), "error": float(found.error), "products": probes}

    return {"answer": answer}
