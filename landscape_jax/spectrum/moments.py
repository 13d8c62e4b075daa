"""Traces, diagonals and norms of an operator known by its products, each with its standard error.

All take (matvec, key, like): a symmetric operator, a key for the probes, a vector to shape them, and a number of products.
"""

import jax
import jax.numpy as jnp
from jax import Array

from landscape_jax import tree
from landscape_jax.arguments import count as count_of
from landscape_jax.arguments import product, require
from landscape_jax.spectrum.density import each_probe, mean_of
from landscape_jax.spectrum.lanczos import begin, widening
from landscape_jax.types import Estimate, Key, MatVec, Params


def trace(matvec: MatVec, key: Key, like: Params, *, num_probes: int = 100, batch_size: int | None = None) -> Estimate:
    """tr A = E zᵀ A z for z of independent ±1 (Hutchinson). Variance per probe 2 (‖A‖_F² − Σ a_ii²).

    Args:
      num_probes: s, independent samples.
      batch_size: probes at once: one by default, more to fill an accelerator, or the cores of a CPU: four at once took 0.75 and
        0.87 times as long on two cores (p = 17,610 and 656,810).
    Cost: s products, 2 vectors.
    Source: M. Hutchinson 1989, Commun. Stat. Simul. 18(3), 1059–1076.
    """
    matvec = _checked("trace", matvec, key, "num_probes", num_probes, like, least=2)

    def sample(key: Key) -> Array:
        z = tree.rademacher_like(key, like)
        return tree.vdot(z, matvec(z))

    return mean_of(each_probe(sample, key, num_probes, batch_size))


def hutch_plus_plus(matvec: MatVec, key: Key, like: Params, *, num_products: int = 99) -> Estimate:
    """tr A = tr QᵀAQ + E gᵀ(I − QQᵀ) A (I − QQᵀ)g: the range of A's largest part exactly, the rest by Hutchinson.

    Error 1/products, against Hutchinson's 1/√products, where the spectrum decays; no worse than Hutchinson with a third of
    the probes where it does not.

    Args:
      num_products: 3 m, a third each for the range, for its trace, and for the rest.
    Cost: num_products products, m + 1 vectors.
    Source: R. Meyer et al. 2021, arXiv 2010.09649, Alg. 1.
    """
    count_of("hutch_plus_plus", num_products=num_products)
    m = num_products // 3
    matvec = _checked("hutch_plus_plus", matvec, key, "num_products // 3", m, like, least=2)
    for_range, for_rest = jax.random.split(key)
    matvec = widening(matvec, like)
    basis = _range(matvec, for_range, like, m)[0]  # Q, leaves [m, ...]
    inside = jax.lax.map(lambda q: tree.vdot(q, matvec(q)), basis)  # [m]

    def sample(key: Key) -> Array:
        z = tree.widen(tree.rademacher_like(key, like))
        z = tree.sub(z, tree.combine(tree.dots(basis, z), basis))
        return tree.vdot(z, matvec(z))

    rest = mean_of(each_probe(sample, for_rest, m))
    return _rounded(Estimate(jnp.sum(inside) + rest.value, rest.error), inside, tree.eps(like))


def xtrace(matvec: MatVec, key: Key, like: Params, *, num_products: int = 100) -> Estimate:
    """tr A by the exchangeable leave-one-out form of Hutch++: every probe serves for the range of A and for the rest.

    With Y = AΩ = QR, S the unit columns of R⁻ᵀ (s_i is orthogonal to the range without probe i) and
    Π_i = Q(I − s_i s_iᵀ)Qᵀ, the mean over i of

        t_i = tr Π_i A + κ_i ω_iᵀ(I − Π_i) A (I − Π_i)ω_i,   κ_i = (p − m + 1)/‖(I − Π_i)ω_i‖².

    The most exact of the three where the spectrum decays. The t_i share their probes and are not independent, so that the
    usual standard error is too small (by 1.1 to 2.5 times on the spectra tried). With t_i|j the same estimate, probe j left out
    of its range as well,

        Var mean t = E[s²/m] + Cov(t_i, t_j),   Cov(t_i, t_j) = E (t_i − t_i|j)(t_j − t_j|i),  i ≠ j,

    for t_i has mean tr A whatever the other probes are: t_i|j does not depend on ω_j, and t_j has the same mean given all
    but ω_j, hence Cov(t_i|j, t_j) = 0, and likewise for each other product. Both terms are estimated without bias, from
    numbers there already are.

    Args:
      num_products: 2 m, m probes, 3 ≤ m ≤ p.
    Cost: num_products products, 3 m vectors.
    Source: E. Epperly, J. Tropp, R. Webber 2024, arXiv 2301.07825, §2.2 and §3; the error is our own.
    """
    count_of("xtrace", num_products=num_products)
    m = num_products // 2
    matvec = widening(_checked("xtrace", matvec, key, "num_products // 2", m, like, least=3), like)
    p = tree.size(like)
    basis, probes, r = _range(matvec, key, like, m)  # Q, Ω, and R [m, m] with AΩ = QR
    image = jax.lax.map(matvec, basis)  # A Q, leaves [m, ...]
    inner = jax.vmap(lambda x: tree.dots(basis, x))  # rows x ↦ rows Q x
    h, w = inner(image), inner(probes).T  # QᵀAQ, and QᵀΩ in columns
    diagonal = jnp.abs(jnp.diagonal(r))
    least = jnp.finfo(r.dtype).eps * jnp.max(diagonal) + jnp.finfo(r.dtype).tiny
    full = r + jnp.diag(jnp.where(diagonal < least, least, 0))  # a range already spanned leaves no new direction
    s = jax.scipy.linalg.solve_triangular(full, jnp.eye(m, dtype=r.dtype), trans="T")
    s = s / tree.norms(s)[None]

    def times(*factors: Array) -> Array:
        return jnp.linalg.multi_dot(factors, precision="highest")

    # every ⟨·, ·⟩ between directions s_i left out (rows) and probes j (columns), all in the coordinates of Q
    c, hs = times(s.T, s), times(s.T, h, s)
    a, hw, ar = times(s.T, w), times(s.T, h, w), times(s.T, r)
    size, whw, wr = jnp.sum(w**2, 0), jnp.sum(w * times(h, w), 0), jnp.sum(w * r, 0)  # of the probes, within Q  [m]
    length = jax.vmap(tree.vdot)(probes, probes)
    ray = jax.vmap(tree.vdot)(probes, tree.combine(r.T, basis))  # ωᵀAω

    def estimate(removed: int, trace: Array, x_size: Array, x_r: Array, x_h_x: Array) -> Array:
        """t from the projection x of ω on what is left of Q when `removed` directions are taken out."""
        whole, along = jnp.broadcast_to(length, x_size.shape), jnp.broadcast_to(ray, x_size.shape)
        rest = jnp.maximum(whole - x_size, jnp.finfo(r.dtype).tiny)  # ‖(I − Π) ω‖²
        return trace + (along - 2 * x_r + x_h_x) * (p - m + removed) / rest

    def one(i):  # without s_i
        return jnp.trace(h) - hs[i, i], size - a[i] ** 2, wr - a[i] * ar[i], whw - 2 * a[i] * hw[i] + a[i] ** 2 * hs[i, i]

    def two(i, j):  # without s_i, and then without u, the part of s_j orthogonal to it
        n = jnp.sqrt(jnp.maximum(1 - c[i, j] ** 2, jnp.finfo(r.dtype).eps))
        u_w, u_r, u_hw, u_hs = ((x[j, y] - c[i, j] * x[i, y]) / n for x, y in ((a, j), (ar, j), (hw, j), (hs, i)))
        u_hu = ((hs[j, j] - c[i, j] * hs[j, i]) / n - c[i, j] * u_hs) / n
        trace, x_size, x_r, x_h_x = (x if x.ndim == 0 else x[j] for x in one(i))
        change = u_w**2 * u_hu - 2 * u_w * (u_hw - a[i, j] * u_hs)
        return trace - u_hu, x_size - u_w**2, x_r - u_w * u_r, x_h_x + change

    places = jnp.arange(m)
    samples = estimate(1, *(jnp.diagonal(x) if x.ndim == 2 else x for x in jax.vmap(one)(places)))
    pairs = estimate(2, *jax.vmap(jax.vmap(two, (None, 0)), (0, None))(places, places))  # t_j|i  [i, j]
    off = samples[None] - pairs
    unit = tree.unit(samples)  # of squares that neither vanish nor overflow
    off = off / unit
    common = jnp.sum(jnp.where(jnp.eye(m, dtype=bool), 0, off * off.T)) / (m * (m - 1))
    variance = jnp.var(samples / unit, ddof=1) / m + jnp.maximum(common, 0)
    return _rounded(Estimate(jnp.mean(samples), jnp.sqrt(variance) * unit), jnp.diagonal(h), tree.eps(like))


def diagonal(matvec: MatVec, key: Key, like: Params, *, num_probes: int = 100) -> Estimate:
    """diag A = E z ⊙ A z for z of independent ±1, shaped like θ, leaves in float32 at least. Variance of entry i per probe:
    Σ_{j≠i} a_ij².

    Cost: s products, 4 vectors.
    Source: C. Bekas, E. Kokiopoulou, Y. Saad 2007, Appl. Numer. Math. 57, 1214–1229.
    """
    matvec = _checked("diagonal", matvec, key, "num_probes", num_probes, like, least=2)

    def add(carry, count):
        mean, spread = carry
        z = tree.rademacher_like(jax.random.fold_in(key, count), like)
        new = tree.widen(jax.tree.map(jnp.multiply, z, matvec(z)))
        off = tree.sub(new, mean)
        mean = jax.tree.map(lambda m, d: m + d / count.astype(d.dtype), mean, off)  # Welford: no sum of squares to cancel
        beside = tree.scale(jnp.sqrt((count - 1) / count), off)  # its root: no square to vanish or overflow
        return (mean, jax.tree.map(jnp.hypot, spread, beside)), None

    zero = tree.widen(tree.zeros_like(like))
    (mean, spread), _ = jax.lax.scan(add, (zero, zero), jnp.arange(1, num_probes + 1))
    return Estimate(mean, tree.scale((num_probes * (num_probes - 1)) ** -0.5, spread))


def frobenius_norm(
    matvec: MatVec, key: Key, like: Params, *, num_probes: int = 100, batch_size: int | None = None
) -> Estimate:
    """‖A‖_F = √(E ‖A z‖²) for z of independent ±1; the error by the delta method.

    Args, cost, source: as for `trace`.
    """
    matvec = _checked("frobenius_norm", matvec, key, "num_probes", num_probes, like, least=2)

    def sample(key: Key) -> Array:
        return tree.norm(matvec(tree.rademacher_like(key, like)))

    lengths = each_probe(sample, key, num_probes, batch_size)
    unit = tree.unit(lengths)
    squared = mean_of((lengths / unit) ** 2)
    norm = jnp.sqrt(squared.value)
    return Estimate(norm * unit, jnp.where(norm == 0, 0, squared.error / (2 * norm)) * unit)


def _range(matvec: MatVec, key: Key, like: Params, m: int) -> tuple[Params, Params, Array]:
    """Q, Ω and R for m normal probes Ω (rows): A Ω = Q R, rows of Q orthonormal, R [m, m] upper triangular."""
    probes = tree.widen(jax.vmap(lambda k: tree.normal_like(k, like))(jax.random.split(key, m)))
    image = jax.lax.map(matvec, probes)
    basis = jax.tree.map(lambda q: q[:m], begin(image, 0).basis)
    return basis, probes, jnp.triu(jax.vmap(lambda y: tree.dots(basis, y))(image).T)


def _rounded(estimate: Estimate, terms: Array, eps: float) -> Estimate:
    """With the rounding of its largest terms in the error: where nothing is left to chance, this is."""
    rounding = 4 * eps * jnp.sum(jnp.abs(terms))
    return estimate._replace(error=jnp.hypot(estimate.error, rounding))


def _checked(name: str, matvec: MatVec, key: Key, what: str, count: int, like: Params, least: int) -> MatVec:
    matvec = product(name, matvec)
    require(name, key=key)
    tree.check(like, "like")
    count_of(name, None, **{what.split(" ")[0]: count})
    p = tree.size(like)
    each = int(what.split("// ")[1]) if "//" in what else 1  # products a probe
    told = f"{name}: {what} is {count}"
    if count < least:
        enough = f"{what.split(' ')[0]}={each * least}"
        raise ValueError(f"{told}, but a standard error needs at least {least}: pass {enough} or more")
    if what != "num_probes" and count > p:
        raise ValueError(f"{told}, more than the p={p} dimensions there are: num_products={each * p} give the exact trace")
    return matvec
