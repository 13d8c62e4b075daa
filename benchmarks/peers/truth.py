"""What the answers are held against: the same loss in float64."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from scipy.sparse.linalg import LinearOperator, eigsh

import landscape_jax as lj
from benchmarks._tasks import loss
from benchmarks.peers._state import State

jax.config.update("jax_enable_x64", True)

PACKAGES = ("jax", "scipy")


def point(state: State):
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), (state.params, state.batch))


def product(state: State):
    """v [p] ↦ H v, on numpy's side."""
    params, batch = point(state)
    shaped = ravel_pytree(params)[1]
    compiled = jax.jit(lambda params, batch, v: ravel_pytree(lj.curvature.hessian(loss)(params, batch)(shaped(v)))[0])
    size = lj.tree.size(params)
    return size, lambda v: np.asarray(compiled(params, batch, v.reshape(-1)))


def eigenpairs(state: State, k: int = 6, tol: float = 1e-10) -> dict:
    """One more than asked for, by ARPACK; each within its residual ‖H v − λ v‖ of an eigenvalue."""

    def answer() -> dict:
        p, matvec = product(state)
        start = np.random.default_rng(0).normal(size=p)
        values, vectors = eigsh(LinearOperator((p, p), matvec, dtype=np.float64), k=k, which="LA", tol=tol, v0=start, ncv=40)
        pairs = zip(values[::-1], vectors.T[::-1], strict=True)
        residuals = [float(np.linalg.norm(matvec(v) - value * v)) for value, v in pairs]
        return {"values": values[::-1].tolist(), "residuals": residuals}

    return {"answer": answer}


def moments(state: State, keep: Path) -> dict:
    """zᵀ Hʲ z for j = 1 … 4 of the probes z in each file of a folder, by two products each."""

    def answer() -> dict:
        _, matvec = product(state)

        def exact(z) -> list[float]:
            one = matvec(z)
            two = matvec(one)
            return [float(x) for x in (z @ one, one @ one, one @ two, two @ two)]

        return {"moments": {path.stem: [exact(z) for z in np.load(path)["probes"]] for path in keep.glob("*.npz")}}

    return {"answer": answer}


def trace(state: State) -> dict:
    """Exactly: with z = a W + b a layer's input, ∂²ℓ/∂W_jk² = a_j² ∂²ℓ/∂z_k², hence

    tr H = (1/n) Σ_i Σ_layers (‖a_i‖² + 1) tr ∇²_z ℓ_i.
    """

    def onwards(z, layers: list, y):  # ℓ of one example from the input of a layer on
        for w, b in layers:
            z = jnp.tanh(z) @ w + b
        return 0.5 * jnp.sum((z - y) ** 2)

    @jax.jit
    def exact(params, batch):
        a, y = batch
        total = 0.0
        for i, (w, b) in enumerate(params):
            z = a @ w + b
            bend = lambda one, rest=params[i + 1 :]: jnp.trace(jax.hessian(onwards)(one[0], rest, one[1]))  # noqa: E731
            curved = jax.lax.map(bend, (z, y))  # [n]
            total += jnp.mean((jnp.sum(a**2, axis=1) + 1) * curved)
            a = jnp.tanh(z)
        return total

    return {"answer": lambda: {"trace": float(exact(*point(state)))}}
