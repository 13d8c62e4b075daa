"""Products in the form that a CPU runs fast are the plain ones, to rounding."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landscape_jax import tree
from landscape_jax.backend import products
from landscape_jax.backend.products import dense


@pytest.mark.parametrize("shape", [(7, 30, 4), (7, 4, 30), (3, 7, 30, 4), (7, 32, 40)], ids=["tall", "wide", "tokens", "even"])
def test_dense_is_the_matrix_product_with_its_derivatives(shape):
    """Value, gradient, Hessian product, and all of them mapped over kernels, for f = Σ tanh(x W)²; in flax's layer too."""
    *batch, i, o = shape
    x, *rest = (jax.random.normal(jax.random.key(seed), size) for seed, size in enumerate([(*batch, i), (5, i, o), (5, i, o)]))
    kernels, tangents = rest

    def derivatives(product):
        loss = lambda w: jnp.sum(jnp.tanh(product(x, w)) ** 2)  # noqa: E731
        return jax.vmap(lambda w, v: (loss(w), *jax.jvp(jax.grad(loss), (w,), (v,))))(kernels, tangents)

    def by_flax(x, w):
        return nn.Dense(o, use_bias=False, dot_general=dense).apply({"params": {"kernel": w}}, x)

    for product in (dense, by_flax):
        chex.assert_trees_all_close(derivatives(product), derivatives(jnp.matmul), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rows", [3, products.FEW_ROWS + 1], ids=["row by row", "at once"])
def test_overlaps_are_those_of_the_tree(rows):
    stack = {"w": jax.random.normal(jax.random.key(0), (rows, 4, 5)), "b": jax.random.normal(jax.random.key(1), (rows, 5))}
    loops = str(jax.make_jaxpr(products.overlaps)(stack)).count("scan[")
    assert loops == (rows <= products.FEW_ROWS)
    np.testing.assert_allclose(products.overlaps(stack), tree.overlaps(stack), rtol=1e-5, atol=1e-5)
