import jax
import jax.numpy as jnp
import numpy as np

from landscape_jax import tree
from landscape_jax.models import mlp, uniform

X = jnp.asarray(np.random.default_rng(0).normal(size=(6, 2, 5)), jnp.float32)  # examples of shape [2, 5] are flattened


def layers(params):
    return [params[name] for name in sorted(params)]


def test_shapes_and_parameter_count():
    model = mlp((7, 4), 3)
    params = model.init(jax.random.key(0), X)
    assert [x["kernel"].shape for x in layers(params)] == [(10, 7), (7, 4), (4, 3)]
    assert tree.size(params) == 10 * 7 + 7 + 7 * 4 + 4 + 4 * 3 + 3
    assert model.apply(params, X).shape == (6, 3)
    assert tree.size(mlp((), 2, bias=False).init(jax.random.key(0), X)) == 20


def test_apply_is_the_formula():
    model = mlp((7, 4), 3, activation=jax.nn.relu)
    shapes = jax.eval_shape(model.init, jax.random.key(0), X)
    params = tree.scattered_like(0, shapes)
    one, two, three = ({k: np.asarray(v) for k, v in layer.items()} for layer in layers(params))
    h = np.maximum(np.asarray(X).reshape(6, 10) @ one["kernel"] + one["bias"], 0)
    h = np.maximum(h @ two["kernel"] + two["bias"], 0)
    np.testing.assert_allclose(model.apply(params, X), h @ three["kernel"] + three["bias"], rtol=1e-4, atol=1e-5)


def test_no_bias():
    params = mlp((7,), 3, bias=False).init(jax.random.key(0), X)
    assert all(set(layer) == {"kernel"} for layer in layers(params))


def test_weights_start_with_variance_scale_over_fan_in():
    params = mlp((200, 300), 100, init_scale=(2.0, 0.5, 0.0)).init(jax.random.key(0), jnp.zeros((1, 100)))
    one, two, three = layers(params)
    np.testing.assert_allclose(np.var(one["kernel"]), 2 / 100, rtol=0.05)
    np.testing.assert_allclose(np.var(two["kernel"]), 0.5 / 200, rtol=0.05)
    assert not three["kernel"].any()
    assert not any(layer["bias"].any() for layer in (one, two, three))
    assert abs(np.mean(one["kernel"])) < 0.01


def test_uniform_weights_are_those_of_glorot():
    """Var = 2 / (fan_in + fan_out), and none beyond √(6 / (fan_in + fan_out))."""
    layer = mlp((300,), 1, init_scale=(2 * 100 / 400, 0.0), draw=uniform).init(jax.random.key(0), jnp.zeros((1, 100)))["layer0"]
    kernel, bound = np.asarray(layer["kernel"]), (6 / 400) ** 0.5
    np.testing.assert_allclose(np.var(kernel), 2 / 400, rtol=0.02)
    np.testing.assert_allclose([kernel.min(), kernel.max()], [-bound, bound], rtol=1e-3)
    assert abs(kernel.mean()) < 0.01 * bound


def test_another_key_gives_other_weights():
    init = jax.jit(mlp((3,), 2).init)
    first, again, other = (init(jax.random.key(seed), X)["layer0"]["kernel"] for seed in (0, 0, 1))
    assert (first == again).all()
    assert not (first == other).any()
