"""A training loop whose convolutions are slow on a CPU says so, once, with the remedy."""

import functools
import warnings

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

import landscape_jax as lj
from landscape_jax import losses, models
from landscape_jax.backend import slow_convolutions


def training(convolve, **options):
    """A step of a small network of Linen's layers, and what to watch."""
    layers = [nn.Conv(2, (3, 3), conv_general_dilated=convolve, **options), lambda x: x.reshape(len(x), -1), nn.Dense(2)]
    net, x = nn.Sequential(layers), jax.random.normal(jax.random.key(0), (4, 6, 6, 2))
    loss = losses.mean(net.apply, losses.square)
    gd = lj.dynamics.gradient(loss, optax.sgd(0.1), lj.data.full_batch((x, jnp.zeros((4, 2)))))
    return net.init(jax.random.key(1), x), gd, {"loss": lj.observe.loss}


def traced_run(params, gd, watch):
    jax.eval_shape(lambda: lj.run(jax.random.key(0), params, gd, watch, num_steps=2))


def warnings_of(call):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [str(w.message) for w in caught if "landscape_jax.models.convolve" in str(w.message)]


def test_a_plain_convolution_in_a_loop_is_warned_of_once_a_program():
    key = jax.random.key(0)
    params, *both = training(jax.lax.conv_general_dilated)
    go = functools.partial(lj.run, key, params, *both, num_steps=2)
    assert len(warnings_of(go)) == 1
    assert warnings_of(go) == []  # compiled before
    for call in (
        lambda run, gd, watch: jax.jit(lambda r: lj.advance(r, gd, watch, num_steps=2)).lower(run),
        lambda run, gd, watch: lj.advance(run, gd, watch, gaps=jnp.array([1, 2])),
        lambda run, gd, watch: lj.drive(run, gd, watch, num_steps=2, chunk=2, progress=False),
    ):
        params, *both = training(jax.lax.conv_general_dilated)  # other functions, and so another program
        run = lj.start(key, params, *both)
        assert len(warnings_of(lambda run=run, both=both, call=call: call(run, *both))) == 1


def test_fast_convolutions_and_those_without_a_remedy_are_not_warned_of(monkeypatch):
    xlas = jax.lax.conv_general_dilated
    for convolve, options in (
        (models.convolve, {}),
        (models.convolve, {"strides": 2}),
        (xlas, {"kernel_dilation": 2}),
        (xlas, {"feature_group_count": 2}),
        (xlas, {"input_dilation": 2, "padding": 1}),
    ):
        assert warnings_of(functools.partial(traced_run, *training(convolve, **options))) == []
    layout = ("NHWC", "HWIO", "NHWC")
    forwards = lambda x, _: (xlas(x, jnp.ones((3, 3, 2, 2)), (1, 1), "SAME", dimension_numbers=layout), None)  # noqa: E731
    assert warnings_of(lambda: slow_convolutions.warn_of_slow_convolutions(forwards, jnp.ones((2, 4, 4, 2)))) == []
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert warnings_of(functools.partial(traced_run, *training(xlas))) == []


def test_the_look_at_a_loop_traces_its_body_no_second_time():
    traced = []

    def body(carry, x):
        traced.append(1)
        return carry + x, carry

    def looked(carry, xs):
        slow_convolutions.warn_of_slow_convolutions(body, carry, xs)
        return jax.lax.scan(body, carry, xs)

    jax.jit(looked).trace(jnp.float32(0), jnp.arange(3.0))
    assert len(traced) == 1
