"""How Krylov spaces store vectors: what `pack` does on each backend, and that `unpack` undoes it."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landscape_jax import tree
from landscape_jax.backend import layout


@pytest.mark.parametrize(
    ("i", "o", "transposed"),
    [
        (5, 2, True),
        (2, 5, False),
        (3, 3, False),
        (64, 100, True),
        (100, 64, False),
        (64, 200, False),
        (64, 128, False),
        (128, 64, True),
        (3072, 200, True),
        (784, 32, True),
    ],
)
def test_the_larger_side_is_the_right_one_but_of_two_alike_the_even_one(i, o, transposed):
    assert layout.prefers_transposed(i, o) == transposed


@pytest.mark.parametrize("lead", [(), (3,)], ids=["vector", "stack"])
def test_pack_transposes_the_matrices_that_products_prefer_so_and_nothing_else(lead):
    shapes = {"tall": (5, 2), "wide": (2, 5), "square": (3, 3), "long": (7,), "kernel": (4, 3, 2), "even": (33, 32)}
    x = {name: jax.random.normal(jax.random.key(i), (*lead, *shape)) for i, (name, shape) in enumerate(shapes.items())}
    packed = layout.pack(x, axes=len(lead))
    assert {name: leaf.shape[len(lead) :] for name, leaf in packed.tree.items()} == shapes | {"tall": (2, 5)}
    np.testing.assert_array_equal(packed.tree["tall"], np.swapaxes(x["tall"], -1, -2))
    chex.assert_trees_all_equal(packed.unpack(), x)
    chex.assert_trees_all_equal(jax.jit(lambda w: tree.scale(2.0, w).unpack())(packed), tree.scale(2.0, x))


@pytest.mark.parametrize("lead", [(), (3,)], ids=["vector", "stack"])
def test_on_a_gpu_a_small_vector_of_one_dtype_is_one_array(lead, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    shapes = {"matrix": (5, 2), "bias": (2,), "number": (), "none": (0, 2), "kernel": (4, 3, 2)}
    x = {name: jax.random.normal(jax.random.key(i), (*lead, *shape)) for i, (name, shape) in enumerate(shapes.items())}
    flat = layout.pack(x, axes=len(lead))
    assert [leaf.shape for leaf in jax.tree.leaves(flat)] == [(*lead, 10 + 2 + 1 + 24)]
    chex.assert_trees_all_equal(flat.unpack(), x)
    chex.assert_trees_all_equal(jax.jit(lambda w: tree.scale(2.0, w).unpack())(flat), tree.scale(2.0, x))
    mixed = x | {"bias": x["bias"].astype(jnp.bfloat16)}
    assert isinstance(layout.pack(mixed, axes=len(lead)), layout.Transposed)
    monkeypatch.setattr(layout, "MAX_FLAT", 36)  # numbers of one vector, not of a stack
    assert isinstance(layout.pack(x, axes=len(lead)), layout.Transposed)


def test_leaves_of_16_bits_are_packed_in_32_and_come_back_as_they_were():
    x = {"a": jnp.full(3000, 1.01, jnp.float16), "b": jnp.full(3000, 1.01, jnp.bfloat16)}
    packed = layout.pack(x)
    assert {leaf.dtype for leaf in jax.tree.leaves(packed)} == {jnp.dtype(jnp.float32)}
    chex.assert_trees_all_equal(packed.unpack(), x)
