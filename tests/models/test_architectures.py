"""Every architecture: its size against published or hand-derived numbers, its outputs, its scale at init, its Hessian."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import landscape_jax as lj
from landscape_jax import losses, models, tree

CIFAR, IMAGENET, MNIST = (2, 32, 32, 3), (2, 224, 224, 3), (2, 28, 28, 1)


def conv(k, a, b, bias=True):
    return k * k * a * b + b * bias


# name: (model, shape of the inputs, parameters, shape of the outputs)
SIZES = {
    "mlp": (models.mlp((200, 200), 10), CIFAR, 656_810, (2, 10)),
    "mlp, no bias": (models.mlp((8,), 3, bias=False), (2, 5), 5 * 8 + 8 * 3, (2, 3)),
    "deep_linear": (models.deep_linear((50, 50), 50), (2, 50), 3 * 50 * 50, (2, 50)),
    "cnn, Cohen et al.": (models.cnn((32, 32)), CIFAR, conv(3, 3, 32) + conv(3, 32, 32) + 8 * 8 * 32 * 10 + 10, (2, 10)),
    "cnn, Fort and Ganguli's SmallCNN": (
        models.cnn((16, 32, 32)),
        CIFAR,
        conv(3, 3, 16) + conv(3, 16, 32) + conv(3, 32, 32) + 4 * 4 * 32 * 10 + 10,
        (2, 10),
    ),
    "simple_cnn": (  # 32 → 32 → 30 → 15 → 15 → 13 → 6 pixels
        models.simple_cnn(),
        CIFAR,
        conv(3, 3, 32) + conv(3, 32, 32) + conv(3, 32, 64) + conv(3, 64, 64) + 6 * 6 * 64 * 128 + 128 + 1290,
        (2, 10),
    ),
    "myrtle-5": (models.myrtle(5, 64), CIFAR, 27 * 64 + 3 * 9 * 64**2 + 640, (2, 10)),
    "myrtle-7": (models.myrtle(7, 32), CIFAR, 27 * 32 + 5 * 9 * 32**2 + 320, (2, 10)),
    "myrtle-10 on 28 × 28": (models.myrtle(10, 16, pools=4), MNIST, 9 * 16 + 8 * 9 * 16**2 + 160, (2, 10)),
    "vgg11": (models.vgg11(), CIFAR, 9_225_610, (2, 10)),  # 9,231,114 with BatchNorm's 5,504, as published
    "vgg11, two dense": (models.vgg11(dense=(512, 512)), CIFAR, 9_220_480 + 2 * (512 * 512 + 512) + 5130, (2, 10)),
    "resnet-20, BatchNorm, He": (models.resnet(20, norm=models.batch_norm, preactivation=False), CIFAR, 272_474, (2, 10)),
    # 464,154 is published with shortcuts of no parameters; the two 1 × 1 shortcuts have 16 · 32 + 32 · 64 and their norms
    "resnet-32, BatchNorm, He": (
        models.resnet(32, norm=models.batch_norm, preactivation=False),
        CIFAR,
        464_154 + 16 * 32 + 32 * 64 + 2 * (32 + 64),
        (2, 10),
    ),
    "resnet-32, plain": (
        models.resnet(32),
        CIFAR,
        conv(3, 3, 16)
        + 10 * conv(3, 16, 16)
        + conv(3, 16, 32)
        + 9 * conv(3, 32, 32)
        + conv(3, 32, 64)
        + 9 * conv(3, 64, 64)
        + conv(1, 16, 32)
        + conv(1, 32, 64)
        + 650,
        (2, 10),
    ),
    "resnet-18, BatchNorm, CIFAR": (models.resnet18(norm=models.batch_norm), CIFAR, 11_173_962, (2, 10)),
    "resnet-18, BatchNorm, ImageNet": (
        models.resnet18(1000, norm=models.batch_norm, large=True),
        IMAGENET,
        11_689_512,
        (2, 1000),
    ),
    "transformer": (
        models.transformer(65, length=32, width=48, depth=3, heads=4),
        (2, 20),
        (2 * 65 + 32) * 48 + 3 * (12 * 48**2 + 13 * 48) + 2 * 48,
        (2, 20, 65),
    ),
    "vit": (
        models.vit(patch=4, width=64, depth=4),
        CIFAR,
        (48 + 1) * 64 + 64 * 64 + 4 * (12 * 64**2 + 13 * 64) + 2 * 64 + 65 * 10,
        (2, 10),
    ),
}


@pytest.mark.parametrize("name", SIZES)
def test_parameters_and_outputs(name):
    model, inputs, size, outputs = SIZES[name]
    x = jax.ShapeDtypeStruct(inputs, jnp.int32 if name == "transformer" else jnp.float32)
    params = jax.eval_shape(model.init, jax.random.key(0), x)
    assert tree.size(params) == size
    assert jax.eval_shape(model.apply, params, x).shape == outputs


@pytest.mark.slow
def test_theta_as_one_vector_is_the_same_network():
    network, x = models.simple_cnn(filters=(2, 3), dense=4), jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
    flat = models.flat(network, x)
    params, vector = network.init(jax.random.key(1), x), flat.init(jax.random.key(1), x)
    assert vector.shape == (tree.size(params),)
    np.testing.assert_allclose(flat.apply(vector, x), network.apply(params, x), rtol=1e-6)


# ── scale at init ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("width", [32, pytest.param(256, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["standard", "ntk", "mup"])
def test_variances_at_init_are_those_of_the_theory(name, width):
    """ReLU, s = 2 in hidden layers: activations keep their second moment; outputs have 1 under standard and NTK
    parametrisation, and 1/n under μP."""
    model = models.mlp((width,) * 3, 1, activation=jax.nn.relu, init_scale=(2, 2, 2, 1), parametrisation=getattr(models, name))
    hidden = models.mlp((width,) * 2, width, activation=jax.nn.relu, init_scale=(2, 2, 2), bias=False)
    x = jax.random.normal(jax.random.key(0), (1, 50))
    x = x * (50**0.5 / jnp.linalg.norm(x))
    keys = jax.random.split(jax.random.key(1), 400)
    squares = jax.jit(jax.vmap(lambda key: jnp.mean(model.apply(model.init(key, x), x) ** 2)))(keys)
    expected = 1 / width if name == "mup" else 1.0
    error = np.std(squares) / len(keys) ** 0.5
    assert abs(np.mean(squares) - expected) < 4 * error < 0.5 * expected
    if name == "standard":  # the preactivation of a hidden layer: E h² = 2
        inner = jax.jit(jax.vmap(lambda key: jnp.mean(hidden.apply(hidden.init(key, x), x) ** 2)))(
            jax.random.split(jax.random.key(2), 200)
        )
        assert abs(np.mean(inner) - 2) < 4 * np.std(inner) / 200**0.5 < 0.4


def test_standard_and_ntk_are_the_same_function_at_init():
    one, other = models.mlp((16,), 3), models.mlp((16,), 3, parametrisation=models.ntk)
    x = jax.random.normal(jax.random.key(0), (4, 9))
    params = one.init(jax.random.key(1), x)
    moved = {
        "layer0": {"kernel": params["layer0"]["kernel"] * 3, "bias": params["layer0"]["bias"]},
        "layer1": {"kernel": params["layer1"]["kernel"] * 4, "bias": params["layer1"]["bias"]},
    }
    np.testing.assert_allclose(other.apply(moved, x), one.apply(params, x), rtol=1e-5)


def test_output_scale_and_a_zero_last_layer():
    x = jax.random.normal(jax.random.key(0), (4, 9))
    plain, scaled = models.mlp((5,), 2), models.mlp((5,), 2, output_scale=0.1)
    params = plain.init(jax.random.key(1), x)
    np.testing.assert_allclose(scaled.apply(params, x), 0.1 * plain.apply(params, x), rtol=1e-6)
    zero = models.mlp((5,), 2, init_scale=(1.0, 0.0))
    assert not zero.apply(zero.init(jax.random.key(1), x), x).any()


@pytest.mark.slow
def test_images_through_deep_networks_keep_a_sensible_scale():
    x = jax.random.normal(jax.random.key(0), (8, 16, 16, 3))
    for model in (models.resnet(14), models.resnet(8, norm=models.group_norm), models.myrtle(5, 32, pools=4)):
        params = jax.jit(model.init)(jax.random.key(1), x)
        assert 0.02 < jnp.std(jax.jit(model.apply)(params, x)) < 5


@pytest.mark.slow
def test_mup_moves_less_with_width_than_standard():
    """λ₁ at init and the best learning rate over three widths, standard against μP."""
    train, _ = lj.data.digits(32)
    rates = jnp.geomspace(0.01, 40, 14)

    def measured(parametrisation, width):
        model = models.mlp((width, width), 10, init_scale=1.0, parametrisation=parametrisation)
        loss = losses.mean(model.apply, losses.square)

        @jax.jit
        def both(params, batch):
            eigs = lj.spectrum.eigsh(lj.curvature.hessian(loss)(params, batch), tree.scattered_like(0, params), tol=1e-3)

            def last(rate):
                step = jax.value_and_grad(loss)
                theta = jax.lax.fori_loop(0, 20, lambda _, t: tree.axpy(-rate, step(t, batch)[1], t), params)
                value = loss(theta, batch)
                return jnp.where(jnp.isfinite(value), value, jnp.inf)

            return eigs.values[0], jax.vmap(last)(rates)

        sharpness, finals = both(model.init(jax.random.key(0), train[0]), train)
        return float(sharpness), float(rates[jnp.argmin(finals)])

    spread = {}
    for name in ("standard", "mup"):
        sharpness, best = np.transpose([measured(getattr(models, name), width) for width in (32, 128, 512)])
        spread[name] = np.ptp(np.log(sharpness)), np.ptp(np.log(best))
    print(spread)
    assert spread["standard"][0] > 3 * spread["mup"][0]
    assert spread["standard"][1] > 2 * spread["mup"][1]


# ── Hessians ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def tiny_resnet():
    model = models.resnet(8, 3, width=1)
    x = jax.random.normal(jax.random.key(0), (4, 6, 6, 1))
    return model, (x, jnp.arange(4) % 3)


def tiny_transformer():
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 5, (6, 5)))
    return models.transformer(5, length=4, width=4, depth=1, heads=2), (tokens[:, :-1], tokens[:, 1:])


@pytest.mark.slow
@pytest.mark.parametrize("make", [tiny_resnet, tiny_transformer])
def test_top_five_eigenvalues_equal_those_of_the_dense_hessian(make):
    model, batch = make()
    loss = losses.mean(model.apply, losses.cross_entropy)
    params = jax.jit(model.init)(jax.random.key(0), batch[0])
    params = tree.axpy(0.3, tree.normal_like(jax.random.key(1), params), params)
    dense = np.float64(jax.jit(lj.curvature.dense(lj.curvature.reverse_hessian(loss)))(params, batch))
    true = np.linalg.eigvalsh((dense + dense.T) / 2)[::-1]
    solve = jax.jit(lambda p, b: lj.spectrum.eigsh(lj.curvature.hessian(loss)(p, b), tree.scattered_like(0, p), k=5))
    eigs = solve(params, batch)
    assert eigs.converged
    np.testing.assert_allclose(eigs.values, true[:5], rtol=0, atol=2e-5 * true[0])


@pytest.mark.slow
def test_a_transformer_sees_no_future():
    model, (tokens, _) = tiny_transformer()
    params = model.init(jax.random.key(3), tokens)
    later = tokens.at[:, -1].set((tokens[:, -1] + 1) % 5)
    one, other = model.apply(params, tokens), model.apply(params, later)
    np.testing.assert_array_equal(one[:, :-1], other[:, :-1])
    assert not np.allclose(one[:, -1], other[:, -1])


# ── BatchNorm ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
def test_batch_norm_is_marked_refused_and_can_be_held():
    batched = models.resnet(8, 3, width=2, norm=models.batch_norm)
    x = jax.random.normal(jax.random.key(0), (6, 8, 8, 1))
    batch = (x, jnp.arange(6) % 3)
    params, apply = jax.jit(batched.init)(jax.random.key(1), x), jax.jit(batched.apply)
    whole = apply(params, x)
    assert not np.allclose(apply(params, x[:3]), whole[:3], atol=1e-2)
    curvature = lj.curvature.hessian(losses.mean(batched.apply, losses.cross_entropy))
    for wrap in (curvature, lj.curvature.shifted(curvature, 1.0), lj.curvature.ggn(batched.apply, losses.cross_entropy)):
        with pytest.raises(ValueError, match=r"chunked: BatchNorm in batch mode takes its statistics over the whole batch"):
            lj.curvature.chunked(wrap, 2)
    held = models.frozen(batched, params, x)
    np.testing.assert_allclose(jax.jit(held.apply)(params, x), whole, atol=1e-5)
    np.testing.assert_allclose(jax.jit(held.apply)(params, x[:3]), whole[:3], atol=1e-5)
    loss = losses.mean(held.apply, losses.cross_entropy)
    v = tree.scattered_like(0, params)
    curvature = lj.curvature.hessian(loss)
    out, exact = jax.jit(lambda: [c(params, batch)(v) for c in (lj.curvature.chunked(curvature, 2), curvature)])()
    assert tree.norm(tree.sub(out, exact)) < 1e-5 * tree.norm(exact)
    with pytest.raises(TypeError, match="no BatchNorm"):
        models.frozen(held, params, x)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: models.resnet(30), r"depth=30 must be 6k \+ 2"),
        (lambda: models.myrtle(6, 8), r"depth=6 must be 5, 7 or 10"),
        (lambda: models.cnn((0,)), r"filters=\(0,\) must be positive integers"),
        (lambda: models.transformer(5, width=6, heads=4), r"width=6 must be a multiple of heads=4"),
        (lambda: models.vit().init(jax.random.key(0), jnp.zeros((1, 30, 30, 1))), r"30 × 30 pixels don't divide"),
        (lambda: models.transformer(5, length=3).init(jax.random.key(0), jnp.zeros((1, 4), int)), r"4 tokens are more than"),
    ],
)
def test_bad_input(make, said):
    with pytest.raises(ValueError, match=said):
        make()
