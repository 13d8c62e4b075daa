"""What every curvature promises: a linear, symmetric map, equal to a dense matrix got by other means."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import landscape_jax as lj
from landscape_jax import curvature as cv
from landscape_jax import losses, tree

# ── problems ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class Problem(NamedTuple):
    loss: Callable
    params: object
    batch: object
    apply: Callable | None = None  # None where the loss is not of outputs and targets
    criterion: Callable | None = None


def network(widths, outputs, criterion, targets):
    model = lj.models.mlp(widths, outputs)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(12, 4)), float)
    params = tree.scattered_like(1, jax.eval_shape(model.init, jax.random.key(0), x))
    return Problem(losses.mean(model.apply, criterion), params, (x, targets), model.apply, criterion)


def quartic():
    """Leaves of every rank and a cross term between each two of them."""

    def loss(params, batch):
        w, (b, c) = params["w"], params["rest"]
        return jnp.mean((batch @ w) ** 4) + b * jnp.sum(c**2) * jnp.sum(w) + jnp.sin(b) * jnp.sum(c[:3] * w[:, 0])

    params = {"w": jnp.zeros((3, 2)), "rest": (jnp.zeros(()), jnp.zeros(5))}
    batch = np.random.default_rng(1).normal(size=(7, 3))
    return Problem(loss, tree.scattered_like(1, params), jnp.asarray(batch, float))


CLASSES = jnp.arange(12) % 3
PROBLEMS = {
    "linear-square": lambda: network((), 3, losses.square, jnp.eye(3)[CLASSES]),
    "linear-logistic": lambda: network((), 1, losses.logistic, jnp.where(CLASSES == 0, 1.0, -1.0)),
    "tanh-cross_entropy": lambda: network((5,), 3, losses.cross_entropy, CLASSES),
    "deep-tanh-square": lambda: network((5, 4), 3, losses.square, jnp.eye(3)[CLASSES]),
    "quartic": quartic,
}
FEW = ["tanh-cross_entropy", "deep-tanh-square"]

# ── members: name ↦ (problem ↦ curvature, (problem, θ [p], batch) ↦ its dense matrix by another way, is it PSD) ────────


def dense_hessian(problem, flat, batch):
    unravel = ravel_pytree(problem.params)[1]
    return jax.hessian(lambda x: problem.loss(unravel(x), batch))(flat)


def dense_jacobian(problem, flat, batch):
    """∂f/∂θ [n, c, p]."""
    unravel = ravel_pytree(problem.params)[1]
    return jax.jacrev(lambda x: problem.apply(unravel(x), batch[0]))(flat)


def dense_ggn(problem, flat, batch):
    unravel = ravel_pytree(problem.params)[1]
    outputs = problem.apply(unravel(flat), batch[0])
    each = jax.vmap(jax.hessian(lambda f, y: problem.criterion(f[None], y[None])[0]))(outputs, batch[1])  # [n, c, c]
    jacobian = dense_jacobian(problem, flat, batch)
    return jnp.einsum("ncp,ncd,ndq->pq", jacobian, each, jacobian) / len(outputs)


def dense_gradients(problem, flat, batch, targets=None):
    """∇ℓᵢ [n, p]."""
    unravel = ravel_pytree(problem.params)[1]
    targets = batch[1] if targets is None else targets
    return jax.jacrev(lambda x: problem.criterion(problem.apply(unravel(x), batch[0]), targets))(flat)


def dense_fisher(problem, flat, batch):
    gradients = dense_gradients(problem, flat, batch)
    return gradients.T @ gradients / len(gradients)


def dense_covariance(problem, flat, batch):
    gradients = dense_gradients(problem, flat, batch)
    return jnp.cov(gradients.T, ddof=0)


def dense_sampled_fisher(problem, flat, batch):
    outputs = problem.apply(ravel_pytree(problem.params)[1](flat), batch[0])
    drawn = [losses.SAMPLERS[problem.criterion](key, outputs) for key in jax.random.split(jax.random.key(5), 3)]
    gradients = jnp.concatenate([dense_gradients(problem, flat, batch, targets) for targets in drawn])
    return gradients.T @ gradients / len(gradients)


def of_outputs(make):
    return lambda problem: make(problem.apply, problem.criterion)


def of_loss(make):
    return lambda problem: make(problem.loss)


def wrapped(wrap):
    """A curvature that is the Hessian in some wrapper."""
    return lambda problem: wrap(problem, cv.hessian(problem.loss))


def scale_of(problem):
    return jax.tree.map(lambda x: 1.5 + x, tree.scattered_like(11, problem.params))


def basis_of(problem):
    """Three directions, not orthonormal."""
    return jax.vmap(lambda i: tree.scattered_like(i, problem.params))(jnp.arange(20, 23))


def dense_preconditioned(problem, flat, batch):
    root = ravel_pytree(scale_of(problem))[0] ** -0.5
    return root[:, None] * dense_hessian(problem, flat, batch) * root[None]


def projection(problem):
    q = jnp.linalg.qr(jax.vmap(lambda row: ravel_pytree(row)[0])(basis_of(problem)).T)[0]  # [p, 3]
    return q @ q.T


def dense_projected(problem, flat, batch):
    onto = projection(problem)
    return onto @ dense_hessian(problem, flat, batch) @ onto


def dense_deflated(problem, flat, batch):
    off = jnp.eye(len(flat)) - projection(problem)
    return off @ dense_hessian(problem, flat, batch) @ off


def mesh(devices):
    return jax.make_mesh((devices,), ("examples",), devices=jax.devices()[:devices])


MEMBERS = {
    "hessian": (of_loss(cv.hessian), dense_hessian, False),
    "linearized_hessian": (of_loss(cv.linearized_hessian), dense_hessian, False),
    "reverse_hessian": (of_loss(cv.reverse_hessian), dense_hessian, False),
    "ggn": (of_outputs(cv.ggn), dense_ggn, True),
    "h_term": (of_outputs(cv.h_term), lambda *a: dense_hessian(*a) - dense_ggn(*a), False),
    "fisher": (of_outputs(cv.fisher), dense_fisher, True),
    "gradient_covariance": (of_outputs(cv.gradient_covariance), dense_covariance, True),
    "sampled_fisher": (
        of_outputs(functools.partial(cv.sampled_fisher, key=jax.random.key(5), num_samples=3)),
        dense_sampled_fisher,
        True,
    ),
    "chunked": (wrapped(lambda _, c: cv.chunked(c, 5)), dense_hessian, False),  # 3 + 3 + 3 + 3, or 2 + 2 + 2 + 1
    "chunked raggedly": (wrapped(lambda _, c: cv.chunked(c, 3)), dense_hessian, False),
    "sharded": (wrapped(lambda _, c: cv.sharded(c, mesh(4))), dense_hessian, False),
    "sharded raggedly, chunked": (wrapped(lambda _, c: cv.sharded(cv.chunked(c, 1), mesh(5))), dense_hessian, False),
    "shifted": (
        wrapped(lambda _, c: cv.shifted(c, 0.7)),
        lambda problem, flat, batch: dense_hessian(problem, flat, batch) + 0.7 * jnp.eye(len(flat)),
        False,
    ),
    "preconditioned": (wrapped(lambda q, c: cv.preconditioned(c, scale_of(q))), dense_preconditioned, False),
    "projected": (wrapped(lambda q, c: cv.projected(c, basis_of(q))), dense_projected, False),
    "deflated": (wrapped(lambda q, c: cv.deflated(c, basis_of(q))), dense_deflated, False),
    "chunked, preconditioned": (
        wrapped(lambda q, c: cv.chunked(cv.preconditioned(c, scale_of(q)), 5)),
        dense_preconditioned,
        False,
    ),
}
WRAPPED = list(MEMBERS)[list(MEMBERS).index("chunked") :]
CASES = [(m, p) for m in MEMBERS for p in (PROBLEMS if m == "hessian" else FEW[:1] if m in WRAPPED else FEW)]


class Case:
    """Everything the laws look at, from one compiled function."""

    def __init__(self, member, problem):
        make, dense, self.psd = MEMBERS[member]
        self.problem = problem
        self.at = make(problem)
        flat, unravel = ravel_pytree(problem.params)
        self.v, self.w = [tree.scattered_like(i, problem.params) for i in (2, 3)]
        self.thetas = jax.vmap(lambda a: tree.scale(a, problem.params))(jnp.array([0.5, 1.0, 1.5]))

        def product(theta, batch, v):
            return self.at(theta, batch)(v)

        @jax.jit
        def everything(theta, batch, v, w):
            vectors = jax.tree.map(lambda *x: jnp.stack(x), v, w, tree.axpy(-2.5, v, w))
            loop = jax.lax.map(lambda t: product(t, batch, v), self.thetas)
            return {
                "products": jax.lax.map(lambda x: product(theta, batch, x), vectors),  # of v, w, and w − 2.5 v
                "matrix": cv.dense(self.at)(theta, batch),
                "by another way": dense(problem, ravel_pytree(theta)[0], batch),
                "vmapped": jax.vmap(product, in_axes=(0, None, None))(self.thetas, batch, v),
                "looped": loop,
            }

        self.out = everything(problem.params, problem.batch, self.v, self.w)


@pytest.fixture(scope="module", params=CASES, ids=lambda c: ": ".join(c))
def case(request):
    member, problem = request.param
    return Case(member, PROBLEMS[problem]())


def test_linear(case):
    of_v, of_w, of_both = (tree.row(case.out["products"], i) for i in range(3))
    chex.assert_trees_all_close(of_both, tree.axpy(-2.5, of_v, of_w), rtol=1e-4, atol=1e-5)


def test_symmetric(case):
    of_v, of_w, _ = (tree.row(case.out["products"], i) for i in range(3))
    np.testing.assert_allclose(tree.vdot(case.w, of_v), tree.vdot(case.v, of_w), rtol=1e-4, atol=1e-5)


def test_equals_the_dense_matrix(case):
    matrix = np.asarray(case.out["by another way"])
    assert len(matrix) <= 200
    assert np.linalg.norm(matrix) > 0.01
    np.testing.assert_allclose(case.out["matrix"], matrix, rtol=0, atol=2e-6 * np.abs(matrix).max() + 1e-7)


def test_psd_where_it_says_so(case):
    values = np.linalg.eigvalsh(np.asarray(case.out["matrix"], np.float64))
    if case.psd:
        assert values.min() > -1e-6 * values.max()


def test_jit_equals_eager(case):
    eager = case.at(case.problem.params, case.problem.batch)(case.v)
    compiled = tree.row(case.out["products"], 0)
    chex.assert_trees_all_close(compiled, eager, rtol=1e-5, atol=2e-6 * float(tree.norm(eager)))
    chex.assert_trees_all_equal_shapes_and_dtypes(eager, case.problem.params)


def test_vmap_over_params_equals_the_loop(case):
    size = float(tree.norm(case.out["looped"]))
    chex.assert_trees_all_close(case.out["vmapped"], case.out["looped"], rtol=1e-5, atol=1e-6 * size)


RARELY = "linearized_hessian", "reverse_hessian", "ggn", "h_term", "fisher"


@pytest.mark.parametrize("member", ["hessian", *(pytest.param(name, marks=pytest.mark.slow) for name in RARELY)])
def test_float64_is_exact_to_its_own_rounding(x64, member):
    problem = network((5, 4), 3, losses.square, jnp.eye(3)[CLASSES])
    make, dense, _ = MEMBERS[member]
    matrix = cv.dense(make(problem))(problem.params, problem.batch)
    assert matrix.dtype == jnp.float64
    expected = dense(problem, ravel_pytree(problem.params)[0], problem.batch)
    np.testing.assert_allclose(matrix, expected, rtol=1e-11, atol=1e-12)
