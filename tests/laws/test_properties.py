"""Laws of curvature and spectrum on examples that hypothesis looks for."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import landscape_jax as lj
from landscape_jax import curvature as cv
from landscape_jax import losses, spectrum, tree

few = settings(max_examples=25, deadline=None, derandomize=True)
N, P = 13, 12

MODEL = lj.models.mlp((3,), 2)
X = np.random.default_rng(0).normal(size=(N, 3)).astype(np.float32)
BATCH = X, np.arange(N) % 2
PARAMS = tree.scattered_like(1, jax.eval_shape(MODEL.init, jax.random.key(0), X))
LOSS = losses.mean(MODEL.apply, losses.cross_entropy)
CURVATURES = {
    "hessian": cv.hessian(LOSS),
    "reverse": cv.reverse_hessian(LOSS),
    "ggn": cv.ggn(MODEL.apply, losses.cross_entropy),
    "h_term": cv.h_term(MODEL.apply, losses.cross_entropy),
    "fisher": cv.fisher(MODEL.apply, losses.cross_entropy),
}
names = st.sampled_from(sorted(CURVATURES))
seeds = st.integers(0, 2**31 - 1)
scales = st.floats(-3, 3, width=32)


def vector(seed, scale=1.0):
    draw = np.random.default_rng(seed).normal
    return jax.tree.map(lambda x: jnp.asarray(scale * draw(size=x.shape), jnp.float32), PARAMS)


@functools.cache
def product(name):
    return jax.jit(lambda theta, v: CURVATURES[name](theta, BATCH)(v))


@functools.cache
def in_chunks(name, num_chunks):
    return jax.jit(lambda theta, v: cv.chunked(CURVATURES[name], num_chunks)(theta, BATCH)(v))


@few
@given(names, seeds, seeds, seeds, scales, scales, st.floats(0, 10, width=32))
def test_linear_and_symmetric(name, at, first, second, a, b, size):
    theta, v, w = vector(at, size), vector(first), vector(second)
    av, aw = product(name)(theta, v), product(name)(theta, w)
    scale = float(tree.norm(av) + tree.norm(aw)) * float(tree.norm(v) + tree.norm(w)) * (1 + abs(a) + abs(b))
    both = product(name)(theta, tree.axpy(a, v, tree.scale(b, w)))
    off = tree.sub(both, tree.axpy(a, av, tree.scale(b, aw)))
    assert tree.norm(off) <= 1e-5 * scale
    assert abs(tree.vdot(w, av) - tree.vdot(v, aw)) <= 1e-5 * scale


@pytest.mark.slow
@few
@given(names, st.integers(1, N), seeds)
def test_chunked_is_the_whole_for_any_chunking(name, num_chunks, seed):
    whole, chunked = product(name)(PARAMS, vector(seed)), in_chunks(name, num_chunks)(PARAMS, vector(seed))
    assert tree.norm(tree.sub(whole, chunked)) <= 2e-6 * tree.norm(whole) + 1e-7


# float32 flushes what is below 1e-38, and products of matrices need room above that
numbers = st.floats(-100, 100, width=32).map(lambda x: x if abs(x) > 1e-25 else 0.0)
values = arrays(np.float32, P, elements=numbers)


@jax.jit
def ritz_values(matrix, start):
    krylov = spectrum.lanczos(lambda v: jnp.matmul(matrix, v, precision="highest"), start[None], 5)
    eigs = spectrum.ritz(krylov, 3, smallest=2)
    return eigs, spectrum.eigsh(lambda v: jnp.matmul(matrix, v, precision="highest"), start, k=2, smallest=1, depth=8)


@settings(few, max_examples=100)
@given(values, seeds)
def test_ritz_values_lie_in_the_range_and_near_an_eigenvalue(eigenvalues, seed):
    generator = np.random.default_rng(seed)
    q = np.linalg.qr(generator.normal(size=(P, P)))[0]
    matrix = ((q * eigenvalues) @ q.T).astype(np.float32)
    matrix = (matrix + matrix.T) / 2
    true = np.linalg.eigvalsh(matrix.astype(np.float64))
    for eigs in ritz_values(matrix, generator.normal(size=P).astype(np.float32)):
        rounding = 1e-5 * np.abs(true).max() + 1e-30
        assert (eigs.values >= true[0] - rounding).all()
        assert (eigs.values <= true[-1] + rounding).all()
        near = np.abs(np.float64(eigs.values)[:, None] - true[None]).min(axis=1)
        assert (near <= np.float64(eigs.residuals) + 1e-30).all()
    assert not eigs.converged or np.abs(eigs.values - true[[-1, -2, 0]]).max() <= 10 * rounding
