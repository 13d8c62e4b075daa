"""The random logit-gradient model: its identities against autodiff, its closed forms against draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import landscape_jax as lj
from landscape_jax.theory import logits

draw = jax.jit(logits.draw, static_argnums=(1, 2, 3))
rows = jax.jit(logits.rows)


def spectrum(rows):
    """Descending eigenvalues of MᵀM, in float64, and its eigenvectors in columns."""
    m = np.asarray(rows, np.float64)
    values, vectors = np.linalg.eigh(m.T @ m)
    return values[::-1], vectors[:, ::-1]


def linear(seed, n=7, classes=4, p=12):
    """A model whose logits are linear in θ: z_k^μ = J_k^μ · θ + b."""
    made = draw(jax.random.key(seed), classes, p, n)
    theta = 0.3 * jax.random.normal(jax.random.key(seed + 1), (p,))

    def z(theta, batch):
        return jnp.einsum("ncp,p->nc", made.gradients, theta) + made.logits

    return made, z, theta


def test_rows_and_gradient_are_those_of_autodiff(x64):
    made, z, theta = linear(0)

    def loss(theta):
        return jnp.mean(lj.losses.cross_entropy(z(theta, None), made.labels))

    at = z(theta, None)
    m = np.asarray(rows(made.gradients, at))
    np.testing.assert_allclose(m.T @ m, jax.jit(jax.hessian(loss))(theta), atol=1e-12)
    np.testing.assert_allclose(logits.gradient(made.gradients, at, made.labels), jax.jit(jax.grad(loss))(theta), atol=1e-12)

    square = np.asarray(logits.square_rows(made.gradients))
    target = jax.nn.one_hot(made.labels, 4)
    curved = jax.jit(jax.hessian(lambda theta: jnp.mean(lj.losses.square(z(theta, None), target))))(theta)
    np.testing.assert_allclose(square.T @ square, curved, atol=1e-12)


@pytest.mark.parametrize("classes", [7])
def test_one_outlier_less_than_classes_whatever_their_lengths_and_as_many_under_the_square_loss(classes):
    for lengths in (jnp.ones(classes), jnp.linspace(0.5, 2, classes)):
        made = draw(jax.random.key(classes), classes, 300, 100, sigma_c=lengths)
        place, ratio = logits.num_outliers(spectrum(rows(made.gradients, made.logits))[0], 2 * classes)
        assert place == classes - 1
        assert ratio > 3
        place, ratio = logits.num_outliers(spectrum(logits.square_rows(made.gradients))[0], 2 * classes)
        assert place == classes
        assert ratio > 3


def test_clusters_alone_have_rank_one_less_than_classes(x64):
    """To 1e-8 of λ₁, in float64."""
    pure = draw(jax.random.key(7), 7, 300, 100, sigma_e=0.0)
    values = np.linalg.svd(np.asarray(rows(pure.gradients, pure.logits)), compute_uv=False) ** 2
    assert np.sum(values > 1e-8 * values[0]) == 6


def test_without_clusters_no_place_parts_the_spectrum():
    made = draw(jax.random.key(0), 10, 300, 100, sigma_c=jnp.zeros(10))
    assert logits.num_outliers(spectrum(rows(made.gradients, made.logits))[0], 20)[1] < 1.1


def test_num_outliers_along_the_last_axis():
    values = np.array([[9.0, 8, 2, 1.9, 1.8], [9, 1, 0.9, 0.8, 1e-6]])
    place, ratio = logits.num_outliers(values, 3)
    assert place.tolist() == [2, 1]
    np.testing.assert_allclose(ratio, [4, 9])
    assert logits.num_outliers(values)[0].tolist() == [2, 4]


@pytest.mark.parametrize("factor", [0.5, 2.0, 6.0])
def test_edge_position_and_overlap_of_the_outliers(factor):
    """l a factor below and above the threshold; p = 1200, n = 100, C = 8, the means of six draws: 1 % and 0.03."""
    classes, p, n = 8, 1200, 100
    sigma_c = (factor * logits.threshold(classes, n, p)) ** 0.5
    largest, tops, overlaps = [], [], []
    for seed in range(6):
        made = draw(jax.random.key(seed), classes, p, n, sigma_c=sigma_c, sigma_z=0.0)
        m = np.asarray(rows(made.gradients, made.logits), np.float64)  # [n C, p], fewer rows than columns
        values, left = np.linalg.eigh(m @ m.T)
        values, vectors = values[:-classes:-1], m.T @ left[:, :-classes:-1]  # of MᵀM, the first C − 1
        centred = np.asarray(made.centres - made.centres.mean(axis=0)[None], np.float64)
        span = np.linalg.svd(centred, full_matrices=False)[2][: classes - 1]
        largest.append(values[0])
        tops.append(values.mean())
        overlaps.append(((span @ vectors) ** 2).sum(axis=0) / values)
    if factor < 1:
        edge = logits.bulk_edge(1.0, classes, n, p)
        assert logits.outlier(sigma_c, 1.0, classes, n, p) == edge
        assert logits.overlap(sigma_c, 1.0, classes, n, p) == 0
        assert max(largest) < 1.02 * edge
    else:
        np.testing.assert_allclose(np.mean(tops), logits.outlier(sigma_c, 1.0, classes, n, p), rtol=0.01)
        np.testing.assert_allclose(np.mean(overlaps), logits.overlap(sigma_c, 1.0, classes, n, p), atol=0.03)


def test_softmax_freezes_at_the_random_energy_models_point():
    z = logits.freezing(10_000) * np.random.default_rng(0).standard_normal((60, 10_000))
    for ratio, low, high in ((4.0, 0.75, 0.85), (2.0, 0.5, 0.62), (0.5, 0.0, 0.03)):
        frozen = np.mean(np.sum(np.asarray(jax.nn.softmax(ratio * z)) ** 2, axis=1))
        assert low < frozen < high
        assert logits.participation(ratio * logits.freezing(10_000), 10_000) == pytest.approx(max(0, 1 - 1 / ratio))


# ── hyperplanes ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("d", [3, 20, 60])
def test_ratio_in_a_random_plane_is_a_ratio_of_exact_moments(d):
    """(E tr)²/E‖·‖² over 3,000 uniform planes in 60 dimensions, d = p among them."""
    rng = np.random.default_rng(d)
    values = rng.standard_normal(60) + 0.7
    frame = np.linalg.qr(rng.standard_normal((3000, 60, d)))[0]
    inside = np.einsum("spi,p,spj->sij", frame, values, frame)
    found = np.trace(inside, axis1=1, axis2=2).mean() / np.sqrt((inside**2).sum((1, 2)).mean())
    ratio = values.sum() / np.linalg.norm(values)
    np.testing.assert_allclose(logits.plane_ratio(ratio, d, 60), found, rtol=0.01)
    assert logits.plane_ratio(ratio, 60, 60) == pytest.approx(ratio)


def test_ratio_in_a_plane_of_a_large_space():
    np.testing.assert_allclose(logits.plane_ratio(4.0, 20), (20 * 16 / (16 + 21)) ** 0.5)
    np.testing.assert_allclose(logits.plane_ratio(4.0, 20, 10**7), logits.plane_ratio(4.0, 20), rtol=1e-5)
    np.testing.assert_allclose(logits.plane_ratio(np.array([1e-3, 1e3]), 20), [1e-3, 20**0.5], rtol=0.03)


def test_positive_fraction_is_that_of_a_shifted_semicircle():
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((40, 100, 100))
    noise = (noise + noise.transpose(0, 2, 1)) / 2**0.5
    for ratio in (-6.0, 0.0, 4.0, 15.0):
        values = np.linalg.eigvalsh(ratio * np.eye(100) + noise)
        np.testing.assert_allclose(logits.positive_fraction(ratio, 100), np.mean(values > 0), atol=0.01)
    assert logits.positive_fraction(25.0, 100) == 1.0


@pytest.mark.parametrize(("change", "said"), [({"classes": 1}, "classes=1 must be at least 2"), ({"n": 0}, "n=0 at least 1")])
def test_bad_settings(change, said):
    with pytest.raises(ValueError, match=said):
        logits.draw(jax.random.key(0), **({"classes": 3, "p": 5, "n": 2} | change))
