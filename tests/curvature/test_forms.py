"""Curvatures against closed forms, and against each other."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import landscape_jax as lj
from landscape_jax import curvature as cv
from landscape_jax import losses

DTYPES = ["float32", "float64"]
ROUNDING = {"float32": 2e-6, "float64": 1e-14}


def close(mine, true, dtype):
    mine, true = np.float64(mine), np.float64(true)
    assert np.abs(true).max() > 1e-3
    np.testing.assert_allclose(mine, true, rtol=0, atol=20 * ROUNDING[dtype] * np.abs(true).max())


@pytest.fixture(params=[(seed, dtype) for dtype in DTYPES for seed in range(3)], ids=str)
def draw(request):
    """(numbers from a generator in some dtype, the dtype)"""
    seed, dtype = request.param
    generator = np.random.default_rng(seed)
    with jax.enable_x64(dtype == "float64"):
        yield lambda *shape: jnp.asarray(generator.normal(size=shape), dtype), dtype


def matrix(curvature, params, batch, like=None):
    return np.asarray(jax.jit(cv.dense(curvature, like))(params, batch))


def test_quadratic(draw):
    """H = A for ½ θᵀAθ + bᵀθ."""
    normal, dtype = draw
    a = normal(7, 7)
    a = a + a.T

    def loss(theta, batch):
        return 0.5 * theta @ batch[0] @ theta + batch[1] @ theta

    for form in (cv.hessian, cv.linearized_hessian, cv.reverse_hessian):
        close(matrix(form(loss), normal(7), (a, normal(7))), a, dtype)


def test_linear_softmax(draw):
    """H = (1/n) Σ x xᵀ ⊗ (diag π − π πᵀ), which is also the GGN and the true Fisher matrix; T = 0."""
    normal, dtype = draw
    n, d, c = 9, 4, 3
    x, theta = normal(n, d), {"w": normal(d, c)}
    y = jnp.arange(n) % c
    pi = np.float64(jax.nn.softmax(x @ theta["w"]))
    true = sum(np.kron(np.outer(xi, xi), np.diag(q) - np.outer(q, q)) for xi, q in zip(np.float64(x), pi, strict=True)) / n

    def apply(theta, x):
        return x @ theta["w"]

    close(matrix(cv.hessian(losses.mean(apply, losses.cross_entropy)), theta, (x, y)), true, dtype)
    close(matrix(cv.ggn(apply, losses.cross_entropy), theta, (x, y)), true, dtype)
    rest = matrix(cv.h_term(apply, losses.cross_entropy), theta, (x, y))
    assert np.abs(rest).max() <= ROUNDING[dtype]


def test_deep_linear_network(draw):
    """f = W₂ W₁ x: Jacobian, Gauss–Newton part and the rest, worked out by hand; every curvature made of them."""
    normal, dtype = draw
    n, d, h, c = 8, 4, 3, 2
    x, y = normal(n, d), normal(n, c)
    theta = {"w1": normal(h, d), "w2": normal(c, h)}

    def apply(theta, x):
        return x @ theta["w1"].T @ theta["w2"].T

    def loss(theta, batch):
        return losses.mean(apply, losses.square)(theta, batch)

    w1, w2, x64, y64 = (np.float64(a) for a in (theta["w1"], theta["w2"], x, y))
    hidden = x64 @ w1.T  # [n, h]
    residual = hidden @ w2.T - y64  # [n, c]
    by_w1 = np.einsum("ch,nd->nchd", w2, x64).reshape(n, c, -1)
    by_w2 = np.einsum("ce,nh->nceh", np.eye(c), hidden).reshape(n, c, -1)
    jacobian = np.concatenate([by_w1, by_w2], axis=-1)  # [n, c, p]
    ggn = np.einsum("ncp,ncq->pq", jacobian, jacobian) / n
    cross = np.einsum("nc,nd,hg->hdcg", residual, x64, np.eye(h)).reshape(h * d, c * h) / n  # ∂²/∂W₁∂W₂
    rest = np.block([[np.zeros((h * d, h * d)), cross], [cross.T, np.zeros((c * h, c * h))]])
    gradients = np.einsum("nc,ncp->np", residual, jacobian)
    centred = gradients - gradients.mean(axis=0)
    flat = jacobian.reshape(n * c, -1)

    close(matrix(cv.ggn(apply, losses.square), theta, (x, y)), ggn, dtype)
    close(matrix(cv.h_term(apply, losses.square), theta, (x, y)), rest, dtype)
    close(matrix(cv.hessian(loss), theta, (x, y)), ggn + rest, dtype)
    close(matrix(cv.fisher(apply, losses.square), theta, (x, y)), gradients.T @ gradients / n, dtype)
    close(matrix(cv.gradient_covariance(apply, losses.square), theta, (x, y)), centred.T @ centred / n, dtype)
    kernel = matrix(cv.ntk(apply), theta, (x, y), like=y)
    close(kernel, flat @ flat.T, dtype)
    # the non-zero eigenvalues of K/n are those of the GGN
    rank = min(n * c, len(ggn))
    close(np.linalg.eigvalsh(kernel / n)[-rank:], np.linalg.eigvalsh(ggn)[-rank:], dtype)


def network():
    model = lj.models.mlp((6, 5), 3)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(40, 4)), float)
    params = lj.tree.scattered_like(1, jax.eval_shape(model.init, jax.random.key(0), x))
    return model, params, x


@pytest.mark.parametrize("criterion", [losses.square, losses.cross_entropy, losses.logistic])
def test_sampled_fisher_tends_to_the_ggn(criterion):
    """The model's own draws: E g gᵀ is the Gauss–Newton matrix, and the error falls with the number of draws."""
    model, params, x = network()
    apply = model.apply if criterion is not losses.logistic else lambda theta, x: model.apply(theta, x)[:, :1]
    y = {losses.square: jnp.zeros((40, 3)), losses.cross_entropy: jnp.zeros(40, int), losses.logistic: jnp.ones((40, 1))}
    batch = (x, y[criterion])
    true = matrix(cv.ggn(apply, criterion), params, batch)
    errors = []
    for samples in (20, 2000):
        sampled = cv.sampled_fisher(apply, criterion, jax.random.key(samples), num_samples=samples)
        errors.append(np.linalg.norm(matrix(sampled, params, batch) - true) / np.linalg.norm(true))
    assert errors[1] < 0.05
    assert 4 < errors[0] / errors[1] < 25  # 10, give or take


@pytest.mark.parametrize("positions", [1, 4])
def test_sampled_fisher_of_a_sequence_is_the_ggn(positions):
    """Cross-entropy averages over positions, square sums over them; a criterion of one's own says what it divides by."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(60, positions, 3)), float)
    theta = jnp.asarray(np.random.default_rng(1).normal(size=(3, 2)), float)

    def apply(theta, x):
        return x @ theta

    def thirds(outputs, targets):
        return losses.square(outputs, targets) / 3

    drawn = losses.SAMPLERS[losses.square]
    for criterion, y, how in (
        (losses.cross_entropy, jnp.zeros((60, positions), int), {}),
        (losses.square, jnp.zeros((60, positions, 2)), {}),
        (thirds, jnp.zeros((60, positions, 2)), {"sample": drawn, "scale": 3}),
    ):
        true = matrix(cv.ggn(apply, criterion), theta, (x, y))
        sampled = matrix(cv.sampled_fisher(apply, criterion, jax.random.key(0), num_samples=500, **how), theta, (x, y))
        assert np.trace(sampled) / np.trace(true) == pytest.approx(1, abs=0.03)
        assert np.linalg.norm(sampled - true) < 0.05 * np.linalg.norm(true)
    with pytest.raises(ValueError, match="scale=0 must be more than 0"):
        cv.sampled_fisher(apply, thirds, jax.random.key(0), sample=drawn, scale=0)


def test_the_three_forms_agree_to_rounding():
    model, params, x = network()
    loss = lj.losses.mean(model.apply, losses.cross_entropy)
    batch = (x, jnp.arange(40) % 3)
    one, two, three = (matrix(form(loss), params, batch) for form in (cv.hessian, cv.linearized_hessian, cv.reverse_hessian))
    for other in (two, three):
        np.testing.assert_allclose(other, one, rtol=0, atol=1e-6 * np.abs(one).max())


def test_a_loss_without_forward_mode_falls_back_with_a_word():
    """A backward pass that is a `custom_vjp` itself, as in fused kernels: forward over reverse is refused by JAX."""

    @jax.custom_vjp
    def slope(x, g):
        return g * jnp.cos(x)

    slope.defvjp(lambda x, g: (slope(x, g), (x, g)), lambda kept, c: (-c * kept[1] * jnp.sin(kept[0]), c * jnp.cos(kept[0])))

    @jax.custom_vjp
    def sine(x):
        return jnp.sin(x)

    sine.defvjp(lambda x: (jnp.sin(x), x), lambda x, g: (slope(x, g),))

    def loss(theta, batch):
        return jnp.sum(sine(theta) ** 2)

    theta, v = jnp.array([0.3, -1.2, 2.0]), jnp.array([1.0, 2.0, -1.0])
    with pytest.warns(UserWarning, match=r"does not allow forward mode .* reverse over reverse"):
        product = cv.hessian(loss)(theta, None)(v)
    np.testing.assert_allclose(product, 2 * jnp.cos(2 * theta) * v, rtol=1e-5)
    np.testing.assert_allclose(cv.reverse_hessian(loss)(theta, None)(v), product)


def test_precision_is_full_in_every_product():
    """No matrix product of a curvature may be left to the device's default (TF32 on NVIDIA)."""
    model, params, x = network()
    loss = lj.losses.mean(model.apply, losses.square)
    batch = (x, jnp.zeros((40, 3)))
    made = {
        "hessian": cv.hessian(loss),
        "linearized": cv.linearized_hessian(loss),
        "reverse": cv.reverse_hessian(loss),
        "ggn": cv.ggn(model.apply, losses.square),
        "h_term": cv.h_term(model.apply, losses.square),
        "fisher": cv.fisher(model.apply, losses.square),
        "covariance": cv.gradient_covariance(model.apply, losses.square),
    }
    for name, curvature in made.items():
        text = jax.jit(lambda theta, v, c=curvature: c(theta, batch)(v)).lower(params, params).as_text()
        products = [line for line in text.splitlines() if "dot_general" in line]
        assert products, name
        assert all("HIGHEST" in line for line in products), name


def test_sharded_takes_one_all_reduce():
    model, params, x = network()
    batch = (x, jnp.ones((40, 3)))
    curvature = cv.hessian(lj.losses.mean(model.apply, losses.square))
    sharded = cv.sharded(curvature, jax.make_mesh((8,), ("examples",)))
    program = jax.jit(lambda theta, batch, v: sharded(theta, batch)(v)).lower(params, batch, params).compile()
    assert len(re.findall(r" all-reduce(?:-start)?\(", program.as_text())) == 1
    out, whole = program(params, batch, params), curvature(params, batch)(params)
    assert lj.tree.norm(lj.tree.sub(out, whole)) <= 1e-6 * lj.tree.norm(whole)


@pytest.mark.slow
def test_restricted_to_leaves_is_the_diagonal_block():
    model, params, x = network()
    loss = lj.losses.mean(model.apply, losses.square)
    batch = (x, jnp.ones((40, 3)))
    whole = matrix(cv.hessian(loss), params, batch)
    for select in (lambda path: path.startswith("layer1/"), lambda path: not path.endswith("bias")):
        part = lj.tree.select(params, select)
        inside = ravel_pytree(lj.tree.fill_zeros(jax.tree.map(jnp.ones_like, part), params))[0].astype(bool)
        assert 0 < inside.sum() == lj.tree.size(part) < len(inside)
        block = matrix(cv.restricted(cv.hessian(loss), select), params, batch, like=part)
        np.testing.assert_allclose(block, whole[np.ix_(inside, inside)], rtol=0, atol=1e-6)
        eigs = lj.spectrum.eigsh(
            cv.restricted(cv.hessian(loss), select)(params, batch), lj.tree.normal_like(jax.random.key(0), part), k=2
        )
        np.testing.assert_allclose(eigs.values, np.linalg.eigvalsh(block)[::-1][:2], rtol=1e-4)


@pytest.mark.parametrize("one_hot", [True, False])
def test_classes_add_up_to_the_whole(one_hot):
    model, params, x = network()
    labels = jnp.asarray([0] * 25 + [2] * 15)  # no example of class 1
    batch = (x, jax.nn.one_hot(labels, 3) if one_hot else labels)
    curvature = cv.hessian(lj.losses.mean(model.apply, losses.cross_entropy))
    v = lj.tree.scattered_like(3, params)
    parts = cv.per_class(curvature)(params, batch)
    assert len(parts) == 3
    assert lj.tree.norm(parts[1](v)) == 0
    total = lj.tree.axpy(25 / 40, parts[0](v), lj.tree.scale(15 / 40, parts[2](v)))
    whole = curvature(params, batch)(v)
    assert lj.tree.norm(lj.tree.sub(total, whole)) <= 1e-6 * lj.tree.norm(whole)
    with pytest.raises(ValueError, match="targets are traced"):
        jax.jit(lambda batch: cv.per_class(curvature)(params, batch)[0](v))(batch)


@pytest.mark.parametrize("y", [jnp.array([1, -1, 1, -1, -1]), jnp.array([[1.0], [0], [1], [0], [0]])], ids=str)
def test_one_logit_has_two_classes(y):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 2)), float)
    curvature = cv.hessian(lj.losses.mean(lambda w, x: x @ w, losses.logistic))
    w = jnp.array([0.3, -1.0])
    parts = cv.per_class(curvature)(w, (x, y))
    assert len(parts) == 2
    low, high = (curvature(w, (x[part], y[part]))(w) for part in (jnp.array([1, 3, 4]), jnp.array([0, 2])))
    np.testing.assert_allclose(parts[0](w), low, rtol=1e-6)
    np.testing.assert_allclose(parts[1](w), high, rtol=1e-6)


@pytest.mark.parametrize(
    ("y", "said"),
    [
        (jnp.array([0, -1, 2]), r"per_class: targets\[1\] = -1 is not one of the classes"),
        (jnp.array([[0.2], [1.3], [2.0]]), r"targets\[0, 0\] = 0\.2.* is neither a sign"),
        (jnp.zeros((3, 4), int), r"int32 targets \(3, 4\) do not give each example one class"),
        (jnp.zeros((3, 4, 2)), r"float32 targets \(3, 4, 2\) do not give"),
        (jnp.zeros((3, 2)), r"targets\[0\] = \[0\. 0\.\] has no largest number"),
    ],
    ids=str,
)
def test_targets_without_classes(y, said):
    curvature = cv.hessian(lambda w, batch: jnp.sum(w**2))
    with pytest.raises(ValueError, match=said):
        cv.per_class(curvature)(jnp.ones(2), (jnp.ones((3, 2)), y))
