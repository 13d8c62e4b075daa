"""Traces, diagonals and norms of an operator known by its products, each with its standard error.

All take (matvec, key, like): a symmetric operator v ↦ A v, a key for the probes, a vector to shape them, and a number of
products.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from landscape_jax import tree
from landscape_jax.arguments import count as count_of
from landscape_jax.arguments import product, require
from landscape_jax.spectrum.density import map_probes, mean_with_error
from landscape_jax.spectrum.lanczos import begin, widened
from landscape_jax.types import Estimate, Key, MatVec, Params


def trace(matvec: MatVec, key: Key, like: Params, *, num_probes: int = 100, batch_size: int | None = None) -> Estimate:
    """tr A = E zᵀ A z for z of independent ±1 (Hutchinson). Variance per probe 2 (‖A‖_F² − Σ a_ii²).

    Args:
      num_probes: s, independent samples.
      batch_size: probes at once: one by default, more to fill an accelerator or the cores of a CPU.
    Returns: `Estimate(value [], error [])`; the error is the standard error of the mean.
    Cost: s products, 2 vectors for each probe at once.
    Source: M. Hutchinson 1989, Commun. Stat. Simul. 18(3), 1059–1076.

    >>> matvec = lj.curvature.hessian(loss)(params, batch)
    >>> estimate = lj.spectrum.trace(matvec, key, params, num_probes=50)
    >>> bool(jnp.abs(estimate.value - 1.22) < 3 * estimate.error)
    True
    """
    matvec = _checked("trace", matvec, key, "num_probes", num_probes, like, least=2)

    def sample(key: Key) -> Array:
        z = tree.rademacher_like(key, like)
        return tree.vdot(z, matvec(z))

    return mean_with_error(map_probes(sample, key, num_probes, batch_size))


def hutch_plus_plus(matvec: MatVec, key: Key, like: Params, *, num_products: int = 99) -> Estimate:
    """tr A = tr QᵀAQ + E gᵀ(I − QQᵀ) A (I − QQᵀ)g: the range of A's largest part exactly, the rest by Hutchinson.

    Error 1/products, against Hutchinson's 1/√products, where the spectrum decays; no worse than Hutchinson with a third of
    the probes where it does not.

    Args:
      num_products: 3 m, a third each for the range, for its trace, and for the rest.
    Returns: `Estimate(value [], error [])`; the error is that of the rest.
    Cost: num_products products, m + 1 vectors.
    Source: R. Meyer et al. 2021, arXiv 2010.09649, Alg. 1.

    >>> matvec = lj.curvature.hessian(loss)(params, batch)
    >>> lj.spectrum.hutch_plus_plus(matvec, key, params, num_products=27).value.round(2)
    Array(1.22, dtype=float32)
    """
    count_of("hutch_plus_plus", num_products=num_products)
    m = num_products // 3
    matvec = _checked("hutch_plus_plus", matvec, key, "num_products // 3", m, like, least=2)
    for_range, for_rest = jax.random.split(key)
    matvec = widened(matvec, like)
    basis = _find_range(matvec, for_range, like, m)[0]  # Q, leaves [m, ...]
    inside = jax.lax.map(lambda q: tree.vdot(q, matvec(q)), basis)  # [m]

    def sample(key: Key) -> Array:
        z = tree.widen(tree.rademacher_like(key, like))
        z = tree.sub(z, tree.combine(tree.dots(basis, z), basis))
        return tree.vdot(z, matvec(z))

    rest = mean_with_error(map_probes(sample, for_rest, m))
    return _add_rounding(Estimate(jnp.sum(inside) + rest.value, rest.error), inside, tree.eps(like))


def xtrace(matvec: MatVec, key: Key, like: Params, *, num_products: int = 100) -> Estimate:
    """tr A by the exchangeable leave-one-out form of Hutch++: every probe serves for the range of A and for the rest.

    With AΩ = QR, S the unit columns of R⁻ᵀ (s_i is orthogonal to the range without probe i) and Π_i = Q(I − s_i s_iᵀ)Qᵀ, the
    mean over i of

        t_i = tr Π_i A + κ_i ω_iᵀ(I − Π_i) A (I − Π_i)ω_i,   κ_i = (p − m + 1)/‖(I − Π_i)ω_i‖².

    The most exact of the three where the spectrum decays. The t_i share their probes, so the usual standard error is too small.
    With t_i|j the same estimate, probe j left out of its range as well,

        Var mean t = E[s²/m] + Cov(t_i, t_j),   Cov(t_i, t_j) = E (t_i − t_i|j)(t_j − t_j|i),  i ≠ j,

    because t_i has mean tr A for any values of the other probes: t_i|j does not depend on ω_j, and t_j has the same mean given
    all but ω_j, hence Cov(t_i|j, t_j) = 0, and likewise for the other products. Both terms are estimated without bias and
    without further products.

    Args:
      matvec: v ↦ A v, A symmetric.
      num_products: 2 m, m probes, 3 ≤ m ≤ p.
    Cost: num_products products, 3 m vectors.
    Source: E. Epperly, J. Tropp, R. Webber 2024, arXiv 2301.07825, §2.2 and §3. The error is our own.

    >>> matvec = lj.curvature.hessian(loss)(params, batch)
    >>> lj.spectrum.xtrace(matvec, key, params, num_products=18).value.round(2)
    Array(1.22, dtype=float32)
    """
    count_of("xtrace", num_products=num_products)
    m = num_products // 2
    matvec = widened(_checked("xtrace", matvec, key, "num_products // 2", m, like, least=3), like)
    p = tree.size(like)
    basis, probes, r = _find_range(matvec, key, like, m)  # rows of Q, rows of Ωᵀ; R [m, m]
    image = jax.lax.map(matvec, basis)  # rows of A Q, leaves [m, ...]
    coordinates = jax.vmap(lambda x: tree.dots(basis, x))  # rows x ↦ rows Qᵀx
    h, w = coordinates(image), coordinates(probes).T  # [m, m]  QᵀAQ;  QᵀΩ
    forms = _forms(_left_out_directions(r), h, w, r)
    norms = jax.vmap(tree.vdot)(probes, probes)  # [m]  ‖ω_j‖²
    rayleigh = jax.vmap(tree.vdot)(probes, tree.combine(r.T, basis))  # [m]  ω_jᵀ A ω_j

    places = jnp.arange(m)
    ones = jax.vmap(functools.partial(_without_one, forms))(places)
    own = _Projection(*(jnp.diagonal(x) if x.ndim == 2 else x for x in ones))  # of probe i, without s_i
    samples = _leave_out_estimate(own, norms, rayleigh, p - m + 1)  # [m]: t_i
    twos = jax.vmap(jax.vmap(functools.partial(_without_two, forms), (None, 0)), (0, None))(places, places)
    pairs = _leave_out_estimate(twos, norms, rayleigh, p - m + 2)  # [m, m]: t_j|i at [i, j]
    return _add_rounding(_exchangeable_mean(samples, pairs), jnp.diagonal(h), tree.eps(like))


class _Forms(NamedTuple):
    """Inner products in the coordinates of Q: rows are directions s_i, columns s_j or probes, w_j = Qᵀω_j and r_j = QᵀAω_j."""

    s_s: Array  # [m, m]
    s_h_s: Array  # [m, m], H = QᵀAQ
    s_w: Array  # [m, m]
    s_h_w: Array  # [m, m]
    s_r: Array  # [m, m]
    w_w: Array  # [m]
    w_h_w: Array  # [m]
    w_r: Array  # [m]
    trace: Array  # []  tr H


class _Projection(NamedTuple):
    """Of probes ω, x = Π ω, on a range Π with directions left out; the trace is that of Π A."""

    trace: Array
    x_x: Array
    x_r: Array  # ⟨x, A ω⟩
    x_h_x: Array


def _left_out_directions(r: Array) -> Array:
    """S [m, m]: column i, of length 1, is orthogonal to all columns of R but the i-th. S = R⁻ᵀ, normalised."""
    diagonal = jnp.abs(jnp.diagonal(r))
    least = jnp.finfo(r.dtype).eps * jnp.max(diagonal) + jnp.finfo(r.dtype).tiny
    regular = r + jnp.diag(jnp.where(diagonal < least, least, 0))  # a range already spanned leaves no new direction
    s = jax.scipy.linalg.solve_triangular(regular, jnp.eye(len(r), dtype=r.dtype), trans="T")
    return s / tree.norms(s)[None]


def _forms(s: Array, h: Array, w: Array, r: Array) -> _Forms:
    times = lambda *factors: jnp.linalg.multi_dot(factors, precision="highest")  # noqa: E731
    s_s, s_h_s = times(s.T, s), times(s.T, h, s)
    s_w, s_h_w, s_r = times(s.T, w), times(s.T, h, w), times(s.T, r)
    w_w, w_h_w, w_r = jnp.sum(w**2, 0), jnp.sum(w * times(h, w), 0), jnp.sum(w * r, 0)
    return _Forms(s_s, s_h_s, s_w, s_h_w, s_r, w_w, w_h_w, w_r, jnp.trace(h))


def _without_one(f: _Forms, i: Array) -> _Projection:
    """Of all m probes, without s_i."""
    return _Projection(
        f.trace - f.s_h_s[i, i],
        f.w_w - f.s_w[i] ** 2,
        f.w_r - f.s_w[i] * f.s_r[i],
        f.w_h_w - 2 * f.s_w[i] * f.s_h_w[i] + f.s_w[i] ** 2 * f.s_h_s[i, i],
    )


def _without_two(f: _Forms, i: Array, j: Array) -> _Projection:
    """Of probe j, without s_i and u = (s_j − c s_i) / √(1 − c²), c = s_iᵀ s_j: what is left of s_j beside s_i."""
    c = f.s_s[i, j]
    sine = jnp.sqrt(jnp.maximum(1 - c**2, jnp.finfo(c.dtype).eps))

    def with_u(form: Array, column: Array) -> Array:
        return (form[j, column] - c * form[i, column]) / sine

    u_w, u_r, u_h_w, u_h_s = with_u(f.s_w, j), with_u(f.s_r, j), with_u(f.s_h_w, j), with_u(f.s_h_s, i)
    u_h_u = ((f.s_h_s[j, j] - c * f.s_h_s[j, i]) / sine - c * u_h_s) / sine
    trace, x_x, x_r, x_h_x = (x if x.ndim == 0 else x[j] for x in _without_one(f, i))
    return _Projection(
        trace - u_h_u,
        x_x - u_w**2,
        x_r - u_w * u_r,
        x_h_x + (u_w**2 * u_h_u - 2 * u_w * (u_h_w - f.s_w[i, j] * u_h_s)),
    )


def _leave_out_estimate(projection: _Projection, norms: Array, rayleigh: Array, dimensions: int) -> Array:
    """t = tr ΠA + κ ωᵀ(I − Π) A (I − Π)ω, κ = dimensions/‖(I − Π)ω‖², of probes along the last axis.

    Args:
      norms, rayleigh: ‖ω‖² and ωᵀAω, each [m].
      dimensions: of the complement of Π's range.
    """
    trace, x_x, x_r, x_h_x = projection
    norms, rayleigh = jnp.broadcast_to(norms, x_x.shape), jnp.broadcast_to(rayleigh, x_x.shape)
    rest = jnp.maximum(norms - x_x, jnp.finfo(norms.dtype).tiny)  # ‖(I − Π) ω‖²
    return trace + (rayleigh - 2 * x_r + x_h_x) * dimensions / rest


def _exchangeable_mean(samples: Array, pairs: Array) -> Estimate:
    """The mean of exchangeable samples t_j [m], with the error that `xtrace` derives from the t_j|i [m, m] at [i, j]."""
    m = len(samples)
    changes = samples[None] - pairs
    unit = tree.unit(samples)  # of squares that neither vanish nor overflow
    changes = changes / unit
    covariance = jnp.sum(jnp.where(jnp.eye(m, dtype=bool), 0, changes * changes.T)) / (m * (m - 1))
    variance = jnp.var(samples / unit, ddof=1) / m + jnp.maximum(covariance, 0)
    return Estimate(jnp.mean(samples), jnp.sqrt(variance) * unit)


def diagonal(matvec: MatVec, key: Key, like: Params, *, num_probes: int = 100) -> Estimate:
    """diag A = E z ⊙ A z for z of independent ±1, shaped like θ. Variance of entry i per probe: Σ_{j≠i} a_ij².

    Args:
      num_probes: s, independent samples.
    Returns: `Estimate(value, error)`, each shaped like θ, leaves in float32 at least.
    Cost: s products, 4 vectors.
    Source: C. Bekas, E. Kokiopoulou, Y. Saad 2007, Appl. Numer. Math. 57, 1214–1229.

    >>> lj.spectrum.diagonal(lambda v: jnp.arange(3.0) * v, key, jnp.ones(3)).value
    Array([0., 1., 2.], dtype=float32)
    """
    matvec = _checked("diagonal", matvec, key, "num_probes", num_probes, like, least=2)

    def add(carry, count):
        mean, spread = carry
        z = tree.rademacher_like(jax.random.fold_in(key, count), like)
        new = tree.widen(jax.tree.map(jnp.multiply, z, matvec(z)))
        change = tree.sub(new, mean)
        mean = jax.tree.map(lambda m, d: m + d / count.astype(d.dtype), mean, change)  # Welford: no sum of squares to cancel
        added = tree.scale(jnp.sqrt((count - 1) / count), change)  # the root of his term: no square to vanish or overflow
        return (mean, jax.tree.map(jnp.hypot, spread, added)), None

    zero = tree.widen(tree.zeros_like(like))
    (mean, spread), _ = jax.lax.scan(add, (zero, zero), jnp.arange(1, num_probes + 1))
    return Estimate(mean, tree.scale((num_probes * (num_probes - 1)) ** -0.5, spread))


def frobenius_norm(matvec: MatVec, key: Key, like: Params, *, num_probes: int = 100, batch_size: int | None = None) -> Estimate:
    """‖A‖_F = √(E ‖A z‖²) for z of independent ±1; the error by the delta method.

    Args, returns, cost, source: as for `trace`.

    >>> lj.spectrum.frobenius_norm(lambda v: jnp.arange(3.0) * v, key, jnp.ones(3)).value.round(3)
    Array(2.236, dtype=float32)
    """
    matvec = _checked("frobenius_norm", matvec, key, "num_probes", num_probes, like, least=2)

    def sample(key: Key) -> Array:
        return tree.norm(matvec(tree.rademacher_like(key, like)))

    lengths = map_probes(sample, key, num_probes, batch_size)
    unit = tree.unit(lengths)
    squared = mean_with_error((lengths / unit) ** 2)
    norm = jnp.sqrt(squared.value)
    return Estimate(norm * unit, jnp.where(norm == 0, 0, squared.error / (2 * norm)) * unit)


def _find_range(matvec: MatVec, key: Key, like: Params, m: int) -> tuple[Params, Params, Array]:
    """Q, Ω and R for m normal probes: A Ω = Q R, Q and Ω as stacks of their columns, R [m, m] upper triangular."""
    probes = tree.widen(jax.vmap(lambda k: tree.normal_like(k, like))(jax.random.split(key, m)))
    image = jax.lax.map(matvec, probes)
    basis = jax.tree.map(lambda q: q[:m], begin(image, 0).basis)
    return basis, probes, jnp.triu(jax.vmap(lambda y: tree.dots(basis, y))(image).T)


def _add_rounding(estimate: Estimate, terms: Array, eps: float) -> Estimate:
    """The estimate with the rounding error of its terms added to the error, which may otherwise be 0."""
    rounding = 4 * eps * jnp.sum(jnp.abs(terms))
    return estimate._replace(error=jnp.hypot(estimate.error, rounding))


def _checked(name: str, matvec: MatVec, key: Key, what: str, count: int, like: Params, least: int) -> MatVec:
    """`matvec`, with its products checked; raises unless `count` probes, the number called `what`, give an error and fit p."""
    matvec = product(name, matvec)
    require(name, key=key)
    tree.check(like, "like")
    count_of(name, None, **{what.split(" ")[0]: count})
    p = tree.size(like)
    products = int(what.split("// ")[1]) if "//" in what else 1  # of each probe
    text = f"{name}: {what} is {count}"
    if count < least:
        enough = f"{what.split(' ')[0]}={products * least}"
        raise ValueError(f"{text}, but a standard error needs at least {least}: pass {enough} or more")
    if what != "num_probes" and count > p:
        raise ValueError(f"{text}, more than the p={p} dimensions there are: num_products={products * p} give the exact trace")
    return matvec
