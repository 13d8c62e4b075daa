"""The same products in other people's hands: SciPy's ARPACK and matfree, which the package itself never uses."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse.linalg
from jax.flatten_util import ravel_pytree

import landscape_jax as lj
from landscape_jax import spectrum, tree
from landscape_jax.spectrum.rayleigh_ritz import solve_projected


def hessian_of_a_network(seed, dtype):
    """(matvec on trees, matvec on flat vectors, θ)"""
    model = lj.models.mlp((7,), 3)
    generator = np.random.default_rng(seed)
    batch = jnp.asarray(generator.normal(size=(30, 5)), dtype), jnp.arange(30) % 3
    params = tree.normal_like(jax.random.key(seed), jax.eval_shape(model.init, jax.random.key(0), batch[0]))
    hvp = jax.jit(lj.curvature.hessian(lj.losses.mean(model.apply, lj.losses.cross_entropy))(params, batch))
    unravel = ravel_pytree(params)[1]
    return hvp, lambda v: ravel_pytree(hvp(unravel(v)))[0], params


def cases():
    for dtype in ("float32", "float64"):
        for seed in range(3):
            yield pytest.param((seed, dtype), marks=[pytest.mark.slow] if seed or dtype == "float32" else [])


@pytest.fixture(params=cases(), ids=str)
def problem(request):
    seed, dtype = request.param
    with jax.enable_x64(dtype == "float64"):
        yield *hessian_of_a_network(seed, dtype), seed, dtype


def test_eigsh_equals_arpack(problem):
    hvp, flat, params, seed, dtype = problem
    p = tree.size(params)
    operator = scipy.sparse.linalg.LinearOperator((p, p), lambda v: np.asarray(flat(v.ravel().astype(dtype))), dtype=dtype)
    eigs = spectrum.eigsh(hvp, tree.normal_like(jax.random.key(9), params), k=4, smallest=3)
    assert eigs.converged
    largest = np.sort(scipy.sparse.linalg.eigsh(operator, 4, which="LA", return_eigenvectors=False))[::-1]
    smallest = np.sort(scipy.sparse.linalg.eigsh(operator, 3, which="SA", return_eigenvectors=False))[::-1]
    tol = {"float32": 1e-5, "float64": 1e-10}[dtype]
    np.testing.assert_allclose(eigs.values, np.r_[largest, smallest], rtol=0, atol=tol * largest[0])


def test_lanczos_and_quadrature_equal_matfree(problem):
    """One start vector, fifteen steps: the same tridiagonal matrix, Ritz values and quadrature of exp."""
    from matfree import decomp, funm

    hvp, flat, params, seed, dtype = problem
    start = tree.normal_like(jax.random.key(seed), params)
    vector = ravel_pytree(start)[0]
    theirs = decomp.tridiag_sym(15, materialize=True)(flat, vector / jnp.linalg.norm(vector))
    krylov = jax.jit(lambda s: spectrum.lanczos(hvp, jax.tree.map(lambda x: x[None], s), 15))(start)
    scale = np.abs(krylov.gram).max()
    tol = {"float32": 2e-4, "float64": 1e-9}[dtype]  # the last of fifteen coefficients has seen much cancellation
    np.testing.assert_allclose(np.abs(krylov.gram[:15]), np.abs(theirs.J_small), rtol=0, atol=tol * scale)
    eigs = spectrum.ritz(krylov, 3)
    mine = np.linalg.eigvalsh(np.float64(theirs.J_small))[::-1][:3]
    np.testing.assert_allclose(eigs.values, mine, rtol=0, atol=tol * scale)

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        integrand = funm.monte_carlo_funm_sym(funm.dense_funm_sym_eigh(jnp.exp), decomp.tridiag_sym(15, materialize=True))
        quadratic = integrand(flat, vector)
    values, rotation, *_ = solve_projected(krylov, 15)
    np.testing.assert_allclose(vector @ vector * (rotation[0] ** 2 @ jnp.exp(values)), quadratic, rtol=10 * tol)


@pytest.mark.slow
def test_vectors_that_are_kept_as_one_array_have_the_same_spectrum(monkeypatch):
    """As on a GPU: a Krylov space, a tracker's memory through five looks and a quadrature, against leaves of their own."""
    hvp, _, params = hessian_of_a_network(0, "float32")
    follow = spectrum.tracker(2)

    def seen():
        def look(memory, _):
            memory, eigs = follow.update(hvp, memory)
            return memory, (eigs.values, eigs.vectors)

        memory = follow.init(params)
        largest = spectrum.eigsh(hvp, tree.scattered_like(0, params), k=3, smallest=2)
        held = spectrum.density(hvp, jax.random.key(1), params, num_probes=2, num_steps=12)
        values, vectors = jax.lax.scan(look, memory, length=5)[1]
        numbers = largest.values, held.nodes, held.weights, values
        return memory.vectors, numbers, (largest.vectors, vectors)

    apart, numbers, vectors = jax.jit(lambda: seen())()  # a program of its own each
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    one, same, joined = jax.jit(lambda: seen())()
    assert len(jax.tree.leaves(apart)) == len(jax.tree.leaves(params)) > len(jax.tree.leaves(one)) == 1
    chex.assert_trees_all_close(same, numbers, rtol=2e-5, atol=2e-6)
    signless = lambda x: jax.tree.map(jnp.abs, x)  # noqa: E731
    chex.assert_trees_all_close(signless(joined), signless(vectors), rtol=0, atol=5e-3)
