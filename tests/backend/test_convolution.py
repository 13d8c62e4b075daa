"""The forms that a CPU runs well are XLA's convolutions, with all their derivatives."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

from landscape_jax import curvature, losses, models, tree
from landscape_jax.backend import convolution, unit_stride
from landscape_jax.models.module import Conv

NHWC = ("NHWC", "HWIO", "NHWC")
CASES = {
    "same": ((2, 5, 6, 3), (3, 3, 3, 4), (1, 1), "SAME"),
    "even kernel, strided": ((1, 6, 7, 2), (2, 4, 2, 3), (2, 2), "SAME"),
    "uneven strides": ((2, 9, 11, 3), (3, 2, 3, 2), (2, 3), "VALID"),
    "padded by hand": ((2, 5, 5, 1), (3, 3, 1, 2), (1, 1), ((2, 0), (1, 3))),
}
UNIT_STRIDE = {
    "same": ((2, 5, 6, 3), (3, 3, 3, 4), ((1, 1), (1, 1))),
    "valid": ((3, 6, 5, 2), (3, 3, 2, 2), ((0, 0), (0, 0))),
    "even and uneven kernel": ((2, 5, 4, 3), (2, 5, 3, 2), ((1, 0), (2, 2))),
    "padded by hand": ((2, 5, 5, 1), (3, 4, 1, 2), ((2, 0), (1, 3))),
    "many channels": ((2, 5, 4, 9), (3, 3, 9, 8), ((1, 1), (0, 0))),
    "many channels in": ((2, 4, 4, 12), (3, 2, 12, 1), ((1, 1), (1, 0))),
    "many channels out": ((2, 4, 5, 1), (3, 2, 1, 12), ((1, 1), (1, 0))),
    "no images": ((0, 5, 5, 2), (3, 3, 2, 2), ((1, 1), (1, 1))),
}


def everything(form, at, toward):
    """Outputs, gradient and Hessian product."""

    def of(at):
        return jnp.sum(jnp.tanh(form(*at)))

    return form(*at), *jax.jvp(jax.grad(of), (at,), (toward,))


def xlas(padding, strides=(1, 1)):
    return functools.partial(jax.lax.conv_general_dilated, window_strides=strides, padding=padding, dimension_numbers=NHWC)


def normal(*shapes):
    keys = jax.random.split(jax.random.key(0), len(shapes))
    return tuple(jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True))


def assert_alike(found, expected):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-10, atol=1e-10), found, expected)


@pytest.mark.parametrize("name", CASES)
def test_as_xla_has_it_with_first_and_second_derivatives(name, x64):
    shape, kernel, strides, padding = CASES[name]
    x, k, dx, dk = normal(shape, kernel, shape, kernel)
    product = functools.partial(convolution.convolve_im2col, strides=strides, padding=padding)
    forms = xlas(padding, strides), product
    expected, found = (jax.jit(everything, static_argnums=0)(form, (x, k), (dx, dk)) for form in forms)
    assert_alike(found, expected)


@pytest.mark.parametrize("largest", [unit_stride.MAX_FACTORS, 300])
@pytest.mark.parametrize("name", UNIT_STRIDE)
def test_unit_stride_as_xla_has_it_with_first_and_second_derivatives(name, largest, x64, monkeypatch):
    """In one part, and in several, whether their number divides the images or not."""
    monkeypatch.setattr(unit_stride, "MAX_FACTORS", largest)
    shape, kernel, pads = UNIT_STRIDE[name]
    x, k, dx, dk = normal(shape, kernel, shape, kernel)
    found, expected = (
        jax.jit(lambda at, toward, form=form: everything(form, at, toward))((x, k), (dx, dk))
        for form in (functools.partial(unit_stride.convolve_unit_stride, pads=pads), xlas(pads))
    )
    assert_alike(found, expected)


@pytest.mark.parametrize("axes", [(0, None), (1, None), (None, 0), (None, 4), (0, 0), (4, 1)])
def test_unit_stride_mapped_over_images_kernels_or_both(axes, x64):
    shape, kernel, pads = UNIT_STRIDE["even and uneven kernel"]
    each = zip((shape, kernel), axes, strict=True)
    several = [shape if axis is None else (*shape[:axis], 3, *shape[axis:]) for shape, axis in each]
    x, k, dx, dk = normal(*several, *several)
    axes = ((axes, axes),)
    found, expected = (
        jax.jit(jax.vmap(lambda given, form=form: everything(form, *given), axes))(((x, k), (dx, dk)))
        for form in (functools.partial(unit_stride.convolve_unit_stride, pads=pads), xlas(pads))
    )
    assert_alike(found, expected)


@pytest.mark.parametrize("of", ["x", "k"])
def test_unit_stride_third_derivatives_and_forwards_alone(of, x64):
    shape, kernel, pads = UNIT_STRIDE["same"]
    x, k, dx, dk = normal(shape, kernel, shape, kernel)

    def thirds(form):
        along = (lambda t: form(x + t * dx, k)) if of == "x" else (lambda t: form(x, k + t * dk))
        both = lambda t: jnp.sum(jnp.sin(form(x + t * dx, k + t**2 * dk)))  # noqa: E731
        return (
            jax.jvp(along, (0.3,), (1.0,)),
            jax.grad(jax.grad(jax.grad(both)))(0.3),
            jax.jvp(jax.jacfwd(both), (0.3,), (1.0,)),
        )

    assert_alike(thirds(functools.partial(unit_stride.convolve_unit_stride, pads=pads)), thirds(xlas(pads)))


def test_parts_cover_all_images_and_grow_with_the_limit():
    for n in (1, 7, 64, 97, 1000):
        for each in (10, 10**6, 10**8):
            parts = unit_stride._num_parts(n, each)
            assert 1 <= parts <= n
            assert -(-n // parts) * each <= max(each, unit_stride.MAX_FACTORS)
    assert unit_stride._num_parts(1000, 10**6) == 100  # 63 would do, and 100 is the next to divide
    assert unit_stride._num_parts(97, 10**6) == 7  # a prime is grown


def test_products_of_a_network_in_a_loop_and_over_seeds():
    """float32 as models run it: Hessian products, linearised, mapped over seeds and in a scan, against flax's own layer."""
    model = models.cnn((3, 5), outputs=2)
    batch = jax.random.normal(jax.random.key(0), (4, 8, 8, 3)), jnp.eye(2)[jnp.arange(4) % 2]
    params = jax.vmap(lambda key: model.init(key, batch[0]))(jax.random.split(jax.random.key(1), 3))

    def products(params):
        hvp = curvature.linearized_hessian(losses.mean(model.apply, losses.square))(params, batch)
        return jax.lax.scan(lambda v, _: (hvp(v), hvp(v)), params, None, length=2)[1]

    found = jax.jit(jax.vmap(products))(params)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "default_backend", lambda: "gpu")
        expected = jax.jit(jax.vmap(lambda params: products(params)))(params)  # another function: traced anew
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5 * float(jnp.abs(y).max())), found, expected)


@pytest.mark.parametrize("sides", [(4, 6), (5, 7)])
def test_max_pool_is_flaxs_with_ties_first_and_second_derivatives(sides, x64):
    x, dx = normal((2, *sides, 3), (2, *sides, 3))
    x = jnp.round(x)  # many ties

    def everything(pool):
        of = lambda x: jnp.sum(jnp.sin(pool(x**3 + x)))  # noqa: E731
        return pool(x), *jax.jvp(jax.grad(of), (x,), (dx,))

    assert_alike(everything(models.max_pool), everything(lambda x: nn.max_pool(x, (2, 2), (2, 2))))


@pytest.mark.parametrize("at", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_max_pool_lets_no_nan_disappear(at):
    x = jnp.ones((1, 2, 2, 1)).at[0, *at, 0].set(jnp.nan)
    assert jnp.isnan(models.max_pool(x)).all()


@pytest.mark.parametrize("options", [{"kernel_dilation": 2}, {"input_dilation": 2, "padding": 1}, {"feature_group_count": 2}])
def test_what_is_no_plain_convolution_is_left_to_xla(options):
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 4))
    ours, flaxs = (layer(6, (3, 3), **options) for layer in (Conv, nn.Conv))
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


# ── in place of XLA's ──────────────────────────────────────────────────────────────────────────────────────────────────

FORMS = models.convolve, jax.lax.conv_general_dilated
LAYOUTS = [None, ("NCHW", "OIHW", "NCHW"), ("HWNC", "HWOI", "NHWC"), ("NHWC", "HWIO", "NCHW")]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("strides", [(1, 1), (2, 1)])
def test_any_layout(layout, strides):
    sides = {"N": 2, "H": 6, "W": 5, "C": 3}, {"H": 3, "W": 2, "I": 3, "O": 4}
    orders = (layout or ("NCHW", "OIHW"))[:2]
    x, k = normal(*([side[letter] for letter in order] for side, order in zip(sides, orders, strict=True)))
    found, expected = (form(x, k, strides, "SAME", dimension_numbers=layout) for form in FORMS)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


OTHERS = {
    "a kernel larger than the images": ((2, 3, 3, 2), (5, 5, 2, 2), {"padding": "VALID"}),
    "strided, larger": ((2, 3, 3, 2), (4, 4, 2, 2), {"padding": "VALID", "window_strides": (2, 2)}),
    "cropped": ((2, 6, 6, 2), (3, 3, 2, 2), {"padding": ((-1, 0), (0, -1))}),
    "padded beyond the kernel": ((2, 4, 4, 2), (2, 2, 2, 2), {"padding": ((3, 2), (2, 4))}),
    "outputs of another dtype": ((2, 4, 4, 2), (2, 2, 2, 2), {"preferred_element_type": jnp.float64}),
    "groups of images": ((2, 4, 4, 2), (2, 2, 2, 2), {"batch_group_count": 2}),
    "no filters": ((2, 4, 4, 2), (2, 2, 2, 0), {}),
    "no images": ((0, 4, 4, 2), (2, 2, 2, 3), {"window_strides": (2, 2)}),
    "lower case": ((2, 4, 4, 2), (2, 2, 2, 2), {"padding": "same_lower"}),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_arguments_mean_what_they_mean_to_xla(name, x64):
    shape, taps, options = OTHERS[name]
    x, k = (z.astype(jnp.float32) for z in normal(shape, taps))
    options = {"window_strides": (1, 1), "padding": "SAME", "dimension_numbers": NHWC} | options
    found, expected = (form(x, k, **options) for form in FORMS)
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


REFUSED = {
    "two dtypes": ("float16", (2, 2, 3, 2), (1, 1), "SAME", TypeError, "same dtype"),
    "channels": ("float32", (2, 2, 2, 2), (1, 1), "SAME", ValueError, "feature dimension size"),
    "channels, strided": ("float32", (2, 2, 2, 2), (2, 2), "SAME", ValueError, "feature dimension size"),
    "strides": ("float32", (2, 2, 3, 2), (1,), "VALID", ValueError, "same number of dimensions"),
    "pads": ("float32", (2, 2, 3, 2), (1, 1), ((0, 0),), TypeError, "Wrong number of explicit pads"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("wrap", [lambda form: form, jax.jit], ids=["eagerly", "jit"])
def test_operands_that_do_not_fit_are_refused_as_by_xla(name, wrap):
    dtype, taps, strides, padding, error, message = REFUSED[name]
    x, k = normal((2, 4, 4, 3), taps)
    for form in FORMS:
        with pytest.raises(error, match=message):
            wrap(lambda x, k, form=form: form(x, k, strides, padding, dimension_numbers=NHWC))(x, k.astype(dtype))


class Conv2d(eqx.nn.Conv2d):
    """As the docstring of `convolve` has it."""

    def __call__(self, x, *, key=None):
        y = models.convolve(x[None], self.weight, self.stride, self.padding, None, self.dilation, None, self.groups)[0]
        return y + self.bias if self.use_bias else y


def linen_layer(**how):
    layer = nn.Conv(4, (3, 3), **how)
    return layer.init(jax.random.key(1), jnp.ones((1, 6, 6, 3))), layer.apply


def nnx_layer(**how):
    graph, params = nnx.split(nnx.Conv(3, 4, (3, 3), rngs=nnx.Rngs(1), **how))
    return params, lambda params, x: nnx.merge(graph, params)(x)


def equinox_layer(conv_general_dilated=None):
    kind = Conv2d if conv_general_dilated else eqx.nn.Conv2d
    params, static = eqx.partition(kind(3, 4, 3, padding=1, key=jax.random.key(1)), eqx.is_array)
    return params, lambda params, x: jax.vmap(eqx.combine(params, static))(x.transpose(0, 3, 1, 2))


@pytest.mark.parametrize("layer", [linen_layer, nnx_layer, equinox_layer])
def test_layers_of_other_libraries_take_it(layer):
    """The same parameters, outputs and Hessian products; no convolution of XLA's is left in the program."""
    x, texts, results = normal((2, 6, 6, 3))[0], [], []
    with jax.numpy_rank_promotion("allow"):
        for how in ({}, {"conv_general_dilated": models.convolve}):
            params, apply = layer(**how)
            of = lambda params, apply=apply: jnp.sum(jnp.tanh(apply(params, x)))  # noqa: E731
            product = jax.jit(lambda params, of=of: jax.jvp(jax.grad(of), (params,), (jax.tree.map(jnp.cos, params),)))
            results.append(jax.tree.leaves((params, apply(params, x), product(params))))
            texts.append(str(jax.make_jaxpr(product)(params)))
    assert ["conv_general_dilated[" in text for text in texts] == [True, False]
    for found, expected in zip(*results, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
