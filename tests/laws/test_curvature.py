"""What every curvature promises: a linear, symmetric map, equal to a dense matrix got by other means."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import landscape_jax as lj

CURVATURES = {"hessian": (lj.curvature.hessian, jax.hessian)}  # name: (the member, θ ↦ its dense matrix by another way)


def quartic(params, batch):
    """Leaves of every rank and a cross term between each two of them."""
    w, (b, c) = params["w"], params["rest"]
    return jnp.mean((batch @ w) ** 4) + b * jnp.sum(c**2) * jnp.sum(w) + jnp.sin(b) * jnp.sum(c[:3] * w[:, 0])


def network(widths, outputs, criterion, targets):
    model = lj.models.mlp(widths, outputs)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(12, 4)), float)
    params = lj.tree.scattered_like(1, jax.eval_shape(model.init, jax.random.key(0), x))
    return lj.losses.mean(model.apply, criterion), params, (x, targets)


def quartic_problem():
    params = {"w": jnp.zeros((3, 2)), "rest": (jnp.zeros(()), jnp.zeros(5))}
    batch = np.random.default_rng(1).normal(size=(7, 3))
    return quartic, lj.tree.scattered_like(1, params), jnp.asarray(batch, float)


PROBLEMS = {
    "linear-square": lambda: network((), 3, lj.losses.square, jnp.eye(3)[jnp.arange(12) % 3]),
    "linear-logistic": lambda: network((), 1, lj.losses.logistic, jnp.where(jnp.arange(12) % 3 == 0, 1.0, -1.0)),
    "tanh-cross_entropy": lambda: network((5,), 3, lj.losses.cross_entropy, jnp.arange(12) % 3),
    "deep-tanh-square": lambda: network((5, 4), 3, lj.losses.square, jnp.eye(3)[jnp.arange(12) % 3]),
    "quartic": quartic_problem,
}


class Case:
    def __init__(self, curvature, loss, params, batch):
        make, dense = CURVATURES[curvature]
        self.params, self.batch = params, batch
        self.flat, self.unravel = ravel_pytree(params)
        self.at = make(loss)
        self.product = jax.jit(lambda theta, batch, v: self.at(theta, batch)(v))
        self.dense = jax.jit(dense(lambda x, batch: loss(self.unravel(x), batch)))
        self.v, self.w = [lj.tree.scattered_like(i, params) for i in (2, 3)]


@pytest.fixture(scope="module", params=[(c, p) for c in CURVATURES for p in PROBLEMS], ids="-".join)
def case(request):
    curvature, problem = request.param
    return Case(curvature, *PROBLEMS[problem]())


def test_linear(case):
    both = case.product(case.params, case.batch, lj.tree.axpy(-2.5, case.v, case.w))
    apart = lj.tree.axpy(
        -2.5, case.product(case.params, case.batch, case.v), case.product(case.params, case.batch, case.w)
    )
    chex.assert_trees_all_close(both, apart, rtol=1e-4, atol=1e-5)


def test_symmetric(case):
    left = lj.tree.vdot(case.w, case.product(case.params, case.batch, case.v))
    right = lj.tree.vdot(case.v, case.product(case.params, case.batch, case.w))
    np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-5)


def test_equals_the_dense_matrix(case):
    matrix = np.asarray(case.dense(case.flat, case.batch))
    p = len(case.flat)
    assert p <= 200
    assert np.linalg.norm(matrix) > 0.1
    rows = jax.vmap(case.product, in_axes=(None, None, 0))(case.params, case.batch, jax.vmap(case.unravel)(jnp.eye(p)))
    mine = jax.vmap(lambda row: ravel_pytree(row)[0])(rows)
    np.testing.assert_allclose(mine, matrix, rtol=0, atol=2e-6 * np.abs(matrix).max() + 1e-7)


def test_jit_equals_eager(case):
    eager = case.at(case.params, case.batch)(case.v)
    chex.assert_trees_all_close(
        case.product(case.params, case.batch, case.v), eager, rtol=1e-5, atol=1e-6 * float(lj.tree.norm(eager))
    )
    chex.assert_trees_all_equal_shapes_and_dtypes(eager, case.params)


def test_vmap_over_params_equals_the_loop(case):
    scales = jnp.array([0.5, 1.0, 1.5])
    thetas = jax.vmap(lambda a: lj.tree.scale(a, case.params))(scales)
    batched = jax.jit(jax.vmap(case.product, in_axes=(0, None, None)))(thetas, case.batch, case.v)
    for i in range(3):
        solo = case.product(lj.tree.row(thetas, i), case.batch, case.v)
        chex.assert_trees_all_close(lj.tree.row(batched, i), solo, rtol=1e-5, atol=1e-6 * float(lj.tree.norm(solo)))


def test_float64_is_exact_to_its_own_rounding(x64):
    loss, params, batch = quartic_problem()
    case = Case("hessian", loss, params, batch)
    assert case.flat.dtype == jnp.float64
    product = ravel_pytree(case.product(case.params, case.batch, case.v))[0]
    matrix = case.dense(case.flat, case.batch)
    np.testing.assert_allclose(product, matrix @ ravel_pytree(case.v)[0], rtol=1e-12, atol=1e-12)


def test_linear_least_squares_has_the_curvature_of_its_inputs():
    """H = (1/n) Σ x xᵀ ⊗ I for ½ ‖W x − y‖², worked out by hand."""
    x = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    loss = lj.losses.mean(lambda theta, x: x @ theta["w"], lj.losses.square)
    params = {"w": jnp.ones((4, 3))}
    v = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)
    product = lj.curvature.hessian(loss)(params, (jnp.asarray(x), jnp.zeros((9, 3))))({"w": jnp.asarray(v)})
    np.testing.assert_allclose(product["w"], x.T @ (x @ v) / 9, rtol=1e-4, atol=1e-5)
