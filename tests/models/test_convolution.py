"""Convolutions as matrix products are XLA's convolutions, with all their derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from landscape_jax import models, tree
from landscape_jax.models import convolution

NHWC = ("NHWC", "HWIO", "NHWC")
CASES = {
    "same": ((2, 5, 6, 3), (3, 3, 3, 4), (1, 1), "SAME"),
    "even kernel, strided": ((1, 6, 7, 2), (2, 4, 2, 3), (2, 2), "SAME"),
    "uneven strides": ((2, 9, 11, 3), (3, 2, 3, 2), (2, 3), "VALID"),
    "padded by hand": ((2, 5, 5, 1), (3, 3, 1, 2), (1, 1), ((2, 0), (1, 3))),
}


@pytest.mark.parametrize("name", CASES)
def test_as_xla_has_it_with_first_and_second_derivatives(name, x64):
    shape, kernel, strides, padding = CASES[name]
    one, two, three, four = jax.random.split(jax.random.key(0), 4)
    at = jax.random.normal(one, shape), jax.random.normal(two, kernel)
    toward = jax.random.normal(three, shape), jax.random.normal(four, kernel)

    def xla(x, w):
        return jax.lax.conv_general_dilated(x, w, strides, padding, dimension_numbers=NHWC)

    def product(x, w):
        return convolution.as_product(x, w, strides, padding, dimension_numbers=NHWC)

    def everything(form):
        def of(at):
            return jnp.sum(jnp.tanh(form(*at)))

        return form(*at), *jax.jvp(jax.grad(of), (at,), (toward,))  # outputs, gradient, Hessian product

    expected, found = (jax.jit(everything, static_argnums=0)(form) for form in (xla, product))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-10, atol=1e-10), found, expected)


@pytest.mark.parametrize("options", [{"kernel_dilation": 2}, {"input_dilation": 2, "padding": 1}, {"feature_group_count": 2}])
def test_what_is_no_plain_convolution_is_left_to_xla(options):
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 4))
    ours, flaxs = (layer(6, (3, 3), **options) for layer in (convolution.Conv, nn.Conv))
    params = flaxs.init(jax.random.key(1), x)
    np.testing.assert_array_equal(ours.apply(params, x), flaxs.apply(params, x))


def test_the_machine_chooses_and_no_parameter_changes(monkeypatch):
    """A CPU has no convolution in its program; another machine has one for each layer; outputs are the same."""
    model = models.simple_cnn(filters=(2, 3), dense=4)
    x = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
    shapes = jax.eval_shape(model.init, jax.random.key(1), x)
    params = tree.scale(0.3, tree.normal_like(jax.random.key(1), shapes))
    here = jax.jit(lambda params, x: model.apply(params, x)).trace(params, x)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    elsewhere = jax.jit(lambda params, x: model.apply(params, x)).trace(params, x)
    assert shapes == jax.eval_shape(model.init, jax.random.key(1), x)
    assert [str(made.jaxpr).count("conv_general_dilated[") for made in (here, elsewhere)] == [0, 4]
    found, expected = (made.lower().compile()(params, x) for made in (here, elsewhere))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
