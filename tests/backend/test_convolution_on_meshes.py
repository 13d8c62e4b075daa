"""Convolutions on several devices are XLA's, with all that JAX can do to them, and so are the types of their outputs."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from landscape_jax import models
from landscape_jax.backend import unit_stride

NHWC = ("NHWC", "HWIO", "NHWC")
FORMS = {"xla": jax.lax.conv_general_dilated, "ours": models.convolve}
KERNELS = {  # images, kernel, strides, padding
    "few channels": ((4, 5, 6, 3), (3, 3, 3, 4), (1, 1), "SAME"),
    "many channels": ((4, 4, 4, 9), (2, 3, 9, 8), (1, 1), "VALID"),
    "strided": ((4, 5, 5, 3), (3, 3, 3, 2), (2, 2), "SAME"),
    "1 × 1": ((4, 3, 3, 3), (1, 1, 3, 2), (1, 1), "VALID"),
}
VARYING = {"images": (P("d"), P()), "kernel": (P(), P("d")), "both": (P("d"), P("d")), "neither": (P(), P())}


def transformed(form, x, k):
    """Whatever JAX can do to a convolution, by name."""
    of = lambda x, k: jnp.mean(jnp.tanh(form(x, k)))  # noqa: E731
    by_kernel = lambda k: jax.grad(of, 1)(x, k)  # noqa: E731
    pair = jax.tree.map(lambda z: jnp.stack([z, 0.5 * z]), (x, k))
    along = jax.linearize(of, x, k)[1]
    return {
        "outputs": form(x, k),
        "gradients": jax.grad(of, (0, 1))(x, k),
        "jvp": jax.jvp(form, (x, k), (0.3 * x, 0.5 * k)),
        "vjp": jax.vjp(form, x, k)[1](jnp.ones_like(form(x, k))),
        "linearize": along(0.3 * x, 0.5 * k),
        "Hessian product": jax.jvp(by_kernel, (k,), (jnp.cos(k),))[1],
        "reverse Hessian product": jax.grad(lambda k: jnp.sum(by_kernel(k) * jnp.cos(k)))(k),
        "remat": jax.grad(jax.checkpoint(of), (0, 1))(x, k),
        "jit": jax.jit(by_kernel)(k),
        "scan": jax.lax.scan(lambda k, _: (k - by_kernel(k), None), k, length=2)[0],
        "over images": jax.vmap(jax.grad(of, (0, 1)), (0, None))(pair[0], k),
        "over kernels": jax.vmap(jax.grad(of, (0, 1)), (None, 0))(x, pair[1]),
        "over both": jax.vmap(jax.grad(of, (0, 1)))(*pair),
    }


def mesh_of(kind, count=2):
    types = {"auto": jax.sharding.AxisType.Auto, "explicit": jax.sharding.AxisType.Explicit}
    return Mesh(np.array(jax.devices()[:count]), ("d",), axis_types=(types[kind],))


def on_devices(form, mesh, varying, check_vma):
    """(x, k) ↦ all of `transformed` on each device, [devices, ...]."""
    stacked = lambda x, k: jax.tree.map(lambda z: z[None], transformed(form, x, k))  # noqa: E731
    return jax.jit(jax.shard_map(stacked, mesh=mesh, in_specs=varying, out_specs=P("d"), check_vma=check_vma))


def assert_alike32(found, expected):
    near = lambda x, y: np.testing.assert_allclose(x, y, atol=2e-6 * float(jnp.abs(y).max()), rtol=2e-5)  # noqa: E731
    assert found.keys() == expected.keys()
    for name in expected:
        jax.tree.map(near, found[name], expected[name])


def form_of(name, kernel):
    strides, padding = KERNELS[kernel][2:]
    return lambda x, k: FORMS[name](x, k, strides, padding, dimension_numbers=NHWC)


def operands(kernel, varying, mesh):
    """Images and a kernel, split over the mesh where they vary: a device's own kernel is a part of the leading axis."""
    shape, taps = KERNELS[kernel][:2]
    x = jax.random.normal(jax.random.key(0), shape)
    k = jax.random.normal(jax.random.key(1), (2 * taps[0], *taps[1:]) if varying[1] else taps)
    k = k / np.float32(np.sqrt(np.prod(taps[:3])))  # outputs of order 1
    return tuple(jax.device_put(z, NamedSharding(mesh, spec)) for z, spec in zip((x, k), varying, strict=True))


TABLE = [
    *((kernel, varying, True, "auto") for kernel in ("few channels", "many channels") for varying in VARYING),
    *(("few channels", varying, False, "auto") for varying in VARYING),
    *(("few channels", varying, check, "explicit") for varying in ("images", "kernel") for check in (True, False)),
    ("strided", "images", True, "auto"),
    ("1 × 1", "images", True, "explicit"),
]
QUICK = {("few channels", "images", True, "auto"), ("few channels", "kernel", True, "explicit")}


def marked(case):
    return pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow, id=", ".join(map(str, case)))


@pytest.mark.parametrize(("kernel", "varying", "check_vma", "kind"), list(map(marked, TABLE)))
def test_within_shard_map_as_xla_has_it(kernel, varying, check_vma, kind):
    varying, mesh = VARYING[varying], mesh_of(kind)
    given = operands(kernel, varying, mesh)
    found, expected = (on_devices(form_of(name, kernel), mesh, varying, check_vma)(*given) for name in ("ours", "xla"))
    assert_alike32(found, expected)


@pytest.mark.parametrize("kernel", ["few channels", *(pytest.param(k, marks=pytest.mark.slow) for k in list(KERNELS)[1:])])
def test_on_a_mesh_with_explicit_axes_as_xla_has_it(kernel):
    """Images split over it, against images that are not; under vmap too, which XLA's own convolution refuses there."""
    given = operands(kernel, VARYING["images"], mesh_of("explicit"))
    whole = jax.tree.map(np.asarray, given)
    found = jax.jit(functools.partial(transformed, form_of("ours", kernel)))(*given)
    assert_alike32(found, jax.jit(functools.partial(transformed, form_of("xla", kernel)))(*whole))
    assert_alike32({"outputs": form_of("ours", kernel)(*given)}, {"outputs": form_of("xla", kernel)(*whole)})
    for form in map(functools.partial(form_of, kernel=kernel), ("ours", "xla")):
        gradients = jax.jit(jax.grad(lambda x, k, form=form: jnp.mean(jnp.tanh(form(x, k))), (0, 1)))(*given)
        assert jax.typeof(found["outputs"]) == jax.typeof(form(*given))
        assert jax.tree.map(jax.typeof, found["gradients"]) == jax.tree.map(jax.typeof, gradients)


@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
def test_a_shard_map_over_one_axis_of_two(kind):
    mesh = Mesh(np.array(jax.devices()[:4]).reshape(2, 2), ("d", "e"), axis_types=(jax.sharding.AxisType[kind],) * 2)
    x, k = operands("few channels", VARYING["images"], mesh)
    of = lambda x, k, form="ours": jnp.mean(jnp.tanh(form_of(form, "few channels")(x, k)))  # noqa: E731
    mean = lambda x, k: jax.grad(lambda k: jax.lax.pmean(of(x, k), "d"))(k)  # noqa: E731
    mapped = jax.shard_map(mean, mesh=mesh, in_specs=VARYING["images"], out_specs=P(), axis_names={"d"})
    expected = jax.grad(of, 1)(np.asarray(x), np.asarray(k), "xla")
    assert_alike32({"gradient": jax.jit(mapped)(x, k)}, {"gradient": expected})


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("varying", VARYING)
def test_an_output_has_the_type_that_jax_gives_its_own(kernel, varying):
    """dtype, weak type, sharding, memory and what it varies over; derivatives too. Nothing is compiled."""
    varying = VARYING[varying]

    def types(name, mesh, dtype, check_vma):
        form, seen = form_of(name, kernel), []

        def note(x, k):
            gradients = jax.grad(lambda *at: jnp.sum(form(*at)), (0, 1))(x, k)
            seen.extend(jax.typeof(z) for z in (form(x, k), *gradients))
            return form(x, k)[None]

        given = jax.eval_shape(lambda: [z.astype(dtype) for z in operands(kernel, varying, mesh)])
        jax.eval_shape(jax.shard_map(note, mesh=mesh, in_specs=varying, out_specs=P("d"), check_vma=check_vma), *given)
        return seen

    mesh = mesh_of("auto")
    for dtype, check_vma in itertools.product(("float32", "bfloat16"), (True, False)):
        assert types("ours", mesh, dtype, check_vma) == types("xla", mesh, dtype, check_vma)


def test_operands_that_vary_differently_are_refused_by_the_primitives():
    """`stationary` casts them alike; without, the gradient of the kernel would lack its sum over devices."""
    unlike = lambda x, k: unit_stride._convolve.bind(x, k, pads=((1, 1), (1, 1)))  # noqa: E731
    shapes = [jax.ShapeDtypeStruct(shape, "float32") for shape in ((4, 5, 5, 3), (3, 3, 3, 2))]
    mapped = jax.shard_map(unlike, mesh=mesh_of("auto"), in_specs=(P("d"), P()), out_specs=P("d"))
    with pytest.raises(ValueError, match=r"convolve: one operand varies over .* \['d'\], the other over \[\]; .*pcast"):
        jax.eval_shape(mapped, *shapes)
