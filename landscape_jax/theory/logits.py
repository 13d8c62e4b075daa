"""The random logit-gradient model: what a Hessian and a gradient look like when all that is known of a network is that the
gradients of its logits cluster.

    J_k^μ = ∂z_k^μ/∂θ = c_k + E_k^μ,   c_k ~ N(0, σ_c² I_p),  E ~ N(0, σ_E² I_p),   z ~ N(0, σ_z²),   k = 1 … C, μ = 1 … n

With p = softmax(z), y the labels, and logits taken for linear in θ (so that the Hessian is its Gauss–Newton part):

    g = (1/n) Σ_μ Σ_k (p_k − y_k) J_k          H = (1/n) Σ_μ Jᵀ (diag p − p pᵀ) J

diag p − p pᵀ = A Aᵀ with A = diag √p (I − √p √pᵀ), so that H = MᵀM/n with rows M_k = √p_k (J_k − Σ_l p_l J_l), see `rows`. The
ones vector is in its kernel: the cluster means enter as differences only, and H has C − 1 outliers, *whatever the lengths of
the c_k*. Under the square loss diag p − p pᵀ becomes the identity, and there are C.

What follows for uniform p (σ_z → 0), with γ = p/(n(C − 1)) and l = p σ_c²/((C − 1) σ_E²):

    bulk edge  σ_E² (C−1)/C (1 + √γ)²;   outliers iff l > √γ, at  σ_E² (C−1)/C (1 + l)(1 + γ/l),
    with squared overlap (1 − γ/l²)/(1 + γ/l) with the span of the c_k − c̄.

`bulk_edge`, `outlier`, `overlap`, `plane_ratio` and the like are plain arithmetic, elementwise over arrays.

Source: S. Fort and S. Ganguli 2019, arXiv 1910.05929 (the model; the closed forms here are derived from it, with
J. Baik, G. Ben Arous, S. Péché 2005 for spiked covariances and B. Derrida 1981 for random energies); S. Fort and
A. Scherlis 2018, arXiv 1807.02581 (curvature in random hyperplanes).
"""

from math import inf, log, pi
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from landscape_jax.labels import one_hot
from landscape_jax.types import Key


class Draw(NamedTuple):
    """One model."""

    centres: Array  # c_k  [C, p]
    gradients: Array  # J_k^μ  [n, C, p]
    logits: Array  # z  [n, C]
    labels: Array  # [n] int32, drawn uniformly


def draw(key: Key, classes: int, p: int, n: int, sigma_c=1.0, sigma_e=1.0, sigma_z=1.0) -> Draw:
    """A model of n examples.

    Args:
      sigma_c: one number, or one a class [C]: clusters of unequal length.
      sigma_z: spread of the logits; it grows with training, and with the radius of initialisation.
    Memory: n · C · p numbers.

    >>> drawn = lj.theory.logits.draw(key, classes=3, p=5, n=4)
    >>> drawn.gradients.shape, drawn.logits.shape
    ((4, 3, 5), (4, 3))
    """
    if classes < 2 or p < 1 or n < 1:
        raise ValueError(f"draw: classes={classes} must be at least 2, p={p} and n={n} at least 1")
    for_centres, for_rest, for_logits, for_labels = jax.random.split(key, 4)
    spread = jnp.broadcast_to(jnp.asarray(sigma_c, float), (classes,))[:, None]  # [C, 1]
    centres = spread * jax.random.normal(for_centres, (classes, p))
    gradients = centres[None] + sigma_e * jax.random.normal(for_rest, (n, classes, p))
    logits = sigma_z * jax.random.normal(for_logits, (n, classes))
    return Draw(centres, gradients, logits, jax.random.randint(for_labels, (n,), 0, classes))


def rows(gradients: Array, logits: Array) -> Array:
    """M/√n [n C, p], with H = MᵀM: √p_k (J_k − Σ_l p_l J_l) of every example and logit. Of a network's own J and z, too.

    Its singular values squared are the eigenvalues of the Gauss–Newton matrix of the mean cross-entropy.

    >>> drawn = lj.theory.logits.draw(key, classes=3, p=5, n=4)
    >>> lj.theory.logits.rows(drawn.gradients, drawn.logits).shape
    (12, 5)
    """
    n, classes, p = gradients.shape
    prob = jax.nn.softmax(logits)[..., None]  # [n, C, 1]
    centred = gradients - jnp.sum(prob * gradients, axis=1, keepdims=True)
    return (jnp.sqrt(prob / n) * centred).reshape(n * classes, p)


def square_rows(gradients: Array) -> Array:
    """J/√n [n C, p]: the same under the mean of ½ Σ_k (z_k − y_k)², where the Gauss–Newton matrix is JᵀJ/n.

    >>> drawn = lj.theory.logits.draw(key, classes=3, p=5, n=4)
    >>> lj.theory.logits.square_rows(drawn.gradients).shape
    (12, 5)
    """
    n, classes, p = gradients.shape
    return gradients.reshape(n * classes, p) / n**0.5


def gradient(gradients: Array, logits: Array, labels: Array) -> Array:
    """g = (1/n) Σ_μ Σ_k (p_k − y_k) J_k  [p].

    >>> drawn = lj.theory.logits.draw(key, classes=3, p=5, n=4)
    >>> lj.theory.logits.gradient(drawn.gradients, drawn.logits, drawn.labels).shape
    (5,)
    """
    residual = jax.nn.softmax(logits) - one_hot("gradient", labels, logits.shape[1], logits.dtype)  # [n, C]
    return jnp.tensordot(residual, gradients, 2, precision="highest") / len(labels)


def num_outliers(values: np.ndarray, most: int | None = None) -> tuple[Any, Any]:
    """Where a spectrum parts: the i with the largest e_i/e_{i+1}, and that ratio; of descending, positive values [..., m].

    Args:
      most: the largest i to ask for.
    It always finds a place; whether there are outliers, the ratio says: in a bulk it is close to 1.

    >>> place, ratio = lj.theory.logits.num_outliers(np.array([9.0, 8.0, 1.0, 0.9]))
    >>> int(place), float(ratio)
    (2, 8.0)
    """
    values = np.asarray(values, float)[..., : None if most is None else most + 1]
    ratio = values[..., :-1] / np.maximum(values[..., 1:], np.finfo(float).tiny)
    return 1 + ratio.argmax(axis=-1), ratio.max(axis=-1)


# ── closed forms ──────────────────────────────────────────────────────────────────────────────────────────────────────


def bulk_edge(sigma_e, classes, n, p):
    """The upper end of the bulk for uniform p: σ_E² (C−1)/C (1 + √γ)².

    >>> round(float(lj.theory.logits.bulk_edge(sigma_e=1.0, classes=10, n=100, p=1000)), 3)
    3.797
    """
    return sigma_e**2 * (classes - 1) / classes * (1 + _gamma(classes, n, p) ** 0.5) ** 2


def threshold(classes, n, p):
    """σ_c²/σ_E² above which outliers leave the bulk: √((C − 1)/(n p)).

    >>> round(float(lj.theory.logits.threshold(classes=10, n=100, p=1000)), 4)
    0.0095
    """
    return ((classes - 1) / (n * p)) ** 0.5


def outlier(sigma_c, sigma_e, classes, n, p):
    """Where the C − 1 outliers are, above the threshold; the bulk's edge below.

    >>> round(float(lj.theory.logits.outlier(1.0, 1.0, classes=10, n=100, p=1000)), 3)
    101.909
    """
    gamma, l = _gamma(classes, n, p), p * sigma_c**2 / ((classes - 1) * sigma_e**2)
    above = sigma_e**2 * (classes - 1) / classes * (1 + l) * (1 + gamma / l)
    return np.where(l > gamma**0.5, above, bulk_edge(sigma_e, classes, n, p))


def overlap(sigma_c, sigma_e, classes, n, p):
    """Squared overlap of each outlier's eigenvector with the span of the c_k − c̄; 0 below the threshold.

    >>> round(float(lj.theory.logits.overlap(1.0, 1.0, classes=10, n=100, p=1000)), 3)
    0.99
    """
    gamma, l = _gamma(classes, n, p), p * sigma_c**2 / ((classes - 1) * sigma_e**2)
    return np.where(l > gamma**0.5, (1 - gamma / l**2) / (1 + gamma / l), 0.0)


def _gamma(classes, n, p):
    return p / (n * (classes - 1))


def freezing(classes) -> float:
    """σ_z at which the softmax of C random logits freezes: √(2 ln C), the random-energy model's critical point.

    >>> round(lj.theory.logits.freezing(10), 3)
    2.146
    """
    return (2 * log(classes)) ** 0.5


def participation(sigma_z, classes):
    """E Σ p² as C → ∞: max(0, 1 − √(2 ln C)/σ_z). Finite C lie above it, and come close slowly.

    >>> round(float(lj.theory.logits.participation(6.0, classes=10)), 3)
    0.642
    """
    return np.maximum(0.0, 1 - freezing(classes) / np.asarray(sigma_z, float))


def plane_ratio(ratio, d, p=inf):
    """R_d = tr A/‖A‖_F of A = PᵀHP in a random d-plane, from R = tr H/‖H‖_F:

        R_d² = d R² / (R² (p−d)p/((p+2)(p−1)) + (d p + p − 2)p/((p+2)(p−1))),   → d R²/(R² + d + 1) as p → ∞

    (E tr A)²/E ‖A‖_F² over uniform planes, exactly; R at d = p, and min(R, √d) far from R = √d.

    >>> round(float(lj.theory.logits.plane_ratio(2.0, d=10)), 3)
    1.633
    """
    near = ((p - d) * p / ((p + 2) * (p - 1)), (d * p + p - 2) * p / ((p + 2) * (p - 1))) if p < inf else (1.0, d + 1.0)
    return np.asarray(ratio) * (d / (np.asarray(ratio) ** 2 * near[0] + near[1])) ** 0.5


def positive_fraction(ratio, d):
    """The part of positive eigenvalues in a random d-plane if A ≈ (tr H/p) I + (‖H‖_F/p) GOE: with x = R/√d,

        ½ + x √(4 − x²)/(4π) + asin(x/2)/π,   and 0 or 1 for |R| > 2√d.

    >>> float(lj.theory.logits.positive_fraction(0.0, d=10))
    0.5
    """
    x = np.clip(np.asarray(ratio, float) / d**0.5, -2, 2)
    return 0.5 + x * np.sqrt(4 - x**2) / (4 * pi) + np.arcsin(x / 2) / pi
