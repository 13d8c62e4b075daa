"""Curvatures made of first derivatives of the outputs and of per-example gradients, and what they leave of the Hessian.

For L(θ) = (1/n) Σᵢ ℓ(f(θ, xᵢ), yᵢ) with Jacobian J = ∂f/∂θ [n, c, p] and gradients gᵢ = ∇ℓᵢ [p]:

    H = G + T       G = (1/n) Σᵢ Jᵢᵀ (∂²ℓ/∂f²)ᵢ Jᵢ            ggn
                    T = (1/n) Σᵢ Σ_c (∂ℓ/∂f)_ic ∇²f_ic         h_term
    F = (1/n) Σᵢ gᵢ gᵢᵀ                                        fisher
    C = (1/n) Σᵢ (gᵢ − ḡ)(gᵢ − ḡ)ᵀ = F − ḡ ḡᵀ                  gradient_covariance
    K = J Jᵀ  [nc, nc]                                          ntk

Each takes `apply` (θ, x [n, ...]) ↦ outputs [n, c], a criterion (outputs, targets) ↦ [n], and gives a curvature whose batch
is the pair (x, y). Where outputs depend on the other examples too (BatchNorm in train mode), G and T keep their meaning on the
whole batch; the gᵢ become derivatives of ℓᵢ along all the paths that lead there.
Matrix products run at `precision`, full float32 by default, as in `hessian`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from landscape_jax import losses, tree
from landscape_jax.arguments import count, number, pair, require
from landscape_jax.curvature.domain import Part
from landscape_jax.curvature.forward import pushforward, symmetric_pushforward
from landscape_jax.curvature.hessian import hessian
from landscape_jax.losses import of_examples
from landscape_jax.types import Batch, BatchCoupled, Criterion, Curvature, Key, MatVec, Params

Apply = Callable[[Params, Array], Array]  # (θ, x [n, ...]) ↦ outputs [n, c]


def ggn(apply: Apply, criterion: Criterion, *, precision: str = "highest") -> Curvature:
    """G v = (1/n) Jᵀ (∂²ℓ/∂f²) J v, the generalised Gauss–Newton matrix. PSD where ℓ is convex in f.

    Cost: about one gradient and one forward tangent a product, less than a Hessian product; memory of one gradient.
    Source: N. Schraudolph 2002, Neural Computation 14(7), eq. 8; J. Martens 2020, arXiv 1412.1193, §8.

    >>> product = lj.curvature.ggn(apply, lj.losses.cross_entropy)(params, batch)(params)
    >>> jax.tree.map(jnp.shape, product)
    {'b': (3,), 'w': (2, 3)}
    """

    require("ggn", apply=apply, criterion=criterion, precision=precision)

    def at(params: Params, batch: Batch) -> MatVec:
        inputs, targets, n = _checked(params, batch)

        def loss_of(outputs: Array) -> Array:
            return jnp.sum(of_examples(criterion, outputs, targets)) / n

        def network(theta: Params) -> Array:
            return apply(theta, inputs)

        with jax.default_matmul_precision(precision):
            push = pushforward(network, params, "ggn")

        def product(v: Params) -> Params:
            with jax.default_matmul_precision(precision):
                outputs, pull = jax.vjp(network, params)
                tangent = symmetric_pushforward(jax.grad(loss_of), outputs, "ggn, by the outputs")(push(v))  # (∂²ℓ/∂f²) J v / n
                return pull(tangent)[0]

        return product

    return BatchCoupled.like(apply, at)


def h_term(apply: Apply, criterion: Criterion, *, precision: str = "highest") -> Curvature:
    """T v = (1/n) Σᵢ Σ_c (∂ℓ/∂f)_ic ∇²f_ic v: the Hessian without its Gauss–Newton part, H − G.

    It is the Hessian of θ ↦ ⟨r, f(θ)⟩ with r = ∂L/∂f held where it is, so nothing is lost to cancellation.

    Cost: as a Hessian product.
    Source: V. Papyan 2019, arXiv 1901.08244, eq. 3 (there H, hence the name).

    >>> product = lj.curvature.h_term(apply, lj.losses.cross_entropy)(params, batch)(params)
    >>> jax.tree.map(jnp.shape, product)
    {'b': (3,), 'w': (2, 3)}
    """

    require("h_term", apply=apply, criterion=criterion, precision=precision)

    def at(params: Params, batch: Batch) -> MatVec:
        inputs, targets, n = _checked(params, batch)
        with jax.default_matmul_precision(precision):
            loss_of = lambda f: jnp.sum(of_examples(criterion, f, targets)) / n  # noqa: E731
            residual = jax.grad(loss_of)(apply(params, inputs))  # ∂L/∂f  [n, c]
        return hessian(lambda theta, x: jnp.sum(residual * apply(theta, x)), precision=precision)(params, inputs)

    return BatchCoupled.like(apply, at)


def fisher(apply: Apply, criterion: Criterion, *, precision: str = "highest") -> Curvature:
    """F v = (1/n) Σᵢ gᵢ ⟨gᵢ, v⟩, the empirical Fisher matrix: gradients at the given targets, not centred. PSD.

    Cost: one forward tangent and one gradient a product.
    Source: J. Martens 2020, arXiv 1412.1193, §11; F. Kunstner et al. 2019, arXiv 1905.12558, for what it is not.

    >>> product = lj.curvature.fisher(apply, lj.losses.cross_entropy)(params, batch)(params)
    >>> jax.tree.map(jnp.shape, product)
    {'b': (3,), 'w': (2, 3)}
    """

    require("fisher", apply=apply, criterion=criterion, precision=precision)

    def at(params: Params, batch: Batch) -> MatVec:
        inputs, targets, n = _checked(params, batch)
        return _outer_products(lambda theta: of_examples(criterion, apply(theta, inputs), targets), params, precision, n)

    return BatchCoupled.like(apply, at)


def gradient_covariance(apply: Apply, criterion: Criterion, *, precision: str = "highest") -> Curvature:
    """C v = (1/n) Σᵢ (gᵢ − ḡ) ⟨gᵢ − ḡ, v⟩, the covariance of per-example gradients. PSD.

    The mean gradient of b examples drawn with replacement has covariance C / b about ḡ; without replacement
    C / b · (n − b)/(n − 1).

    Cost: one forward tangent and one gradient a product. Centred over the whole batch, so it can't be cut into chunks.

    >>> product = lj.curvature.gradient_covariance(apply, lj.losses.cross_entropy)(params, batch)(params)
    >>> jax.tree.map(jnp.shape, product)
    {'b': (3,), 'w': (2, 3)}
    """

    require("gradient_covariance", apply=apply, criterion=criterion, precision=precision)

    def at(params: Params, batch: Batch) -> MatVec:
        inputs, targets, n = _checked(params, batch)
        return _outer_products(
            lambda theta: of_examples(criterion, apply(theta, inputs), targets), params, precision, n, lambda u: u - jnp.mean(u)
        )

    return BatchCoupled(at, "gradient_covariance is centred over its whole batch")


def sampled_fisher(
    apply: Apply,
    criterion: Criterion,
    key: Key,
    *,
    num_samples: int = 1,
    sample: Callable[[Key, Array], Array] | None = None,
    scale: float | None = None,
    precision: str = "highest",
) -> Curvature:
    """F̂ v = (s/nS) Σᵢ Σ_j g_ij ⟨g_ij, v⟩ with g_ij = ∇ℓ(f(θ, xᵢ), y_ij), y_ij drawn from the model, s ℓ = −log p + const. PSD.

    The Monte-Carlo estimate of the true Fisher matrix of p, divided by s. It tends to the GGN for square, cross-entropy and
    logistic losses. s = 1, but t for the cross-entropy of t positions, which averages over them. The draws hang on `key` alone:
    every product sees the same, so that F̂ is one fixed symmetric matrix.

    Args:
      num_samples: S, draws an example; the relative error falls as 1/√(nS).
      sample: (key, outputs [n, ..., c]) ↦ targets, draws from p; known for the criteria in `losses`.
      scale: s, with s · criterion = −log p + const: where a criterion averages over the positions or outputs of an example, how
        many there are. Known for the criteria in `losses`, else 1.

    Cost: S forward tangents and gradients a product.
    Source: J. Martens 2020, arXiv 1412.1193, §5.

    >>> product = lj.curvature.sampled_fisher(apply, lj.losses.cross_entropy, key)(params, batch)(params)
    >>> jax.tree.map(jnp.shape, product)
    {'b': (3,), 'w': (2, 3)}
    """
    require("sampled_fisher", apply=apply, criterion=criterion, key=key, precision=precision)
    count("sampled_fisher", num_samples=num_samples)
    sample = losses.SAMPLERS.get(criterion) if sample is None else sample
    if sample is None:
        raise ValueError(
            f"sampled_fisher: no model is known whose −log probability is {getattr(criterion, '__name__', criterion)}: "
            "pass sample=(key, outputs) -> targets, and scale= where the criterion is −log probability divided by a number"
        )
    if scale is not None:
        number("sampled_fisher", scale=scale, more_than=0)  # scale · criterion is −log probability

    def at(params: Params, batch: Batch) -> MatVec:
        inputs, _, n = _checked(params, batch)
        with jax.default_matmul_precision(precision):
            outputs = apply(params, inputs)
        targets = jax.vmap(lambda k: sample(k, outputs))(jax.random.split(jax.random.clone(key), num_samples))  # [S, n, ...]
        s = losses.log_likelihood_scale(criterion, outputs) if scale is None else scale

        def each(theta: Params) -> Array:  # [S, n]
            outputs = apply(theta, inputs)
            return jax.vmap(lambda y: of_examples(criterion, outputs, y))(targets)

        return _outer_products(each, params, precision, n * num_samples / s)

    return BatchCoupled.like(apply, at)


def ntk(apply: Apply, *, precision: str = "highest") -> Curvature:
    """K u = J Jᵀ u for u shaped like the outputs [n, c]: the empirical neural tangent kernel, not divided by n. PSD.

    K/n has the non-zero eigenvalues of the GGN of the mean square loss.

    Cost: one forward tangent and one gradient a product.
    Source: A. Jacot et al. 2018, arXiv 1806.07572, eq. 4.

    >>> lj.curvature.ntk(apply)(params, batch)(jnp.ones((8, 3))).shape
    (8, 3)
    """

    require("ntk", apply=apply, precision=precision)

    def at(params: Params, batch: Batch) -> MatVec:
        inputs, *_ = _checked(params, batch)

        def network(theta: Params) -> Array:
            return apply(theta, inputs)

        with jax.default_matmul_precision(precision):
            push = pushforward(network, params, "ntk")

        def product(u: Array) -> Array:
            with jax.default_matmul_precision(precision):
                return push(jax.vjp(network, params)[1](u)[0])  # J Jᵀ u

        return product

    curvature = BatchCoupled(at, "ntk acts on the outputs of its whole batch")
    curvature.acts_on = Part(_no_part, _no_part)
    return curvature


def _outer_products(each: Callable, params: Params, precision: str, count: float, between=lambda u: u) -> MatVec:
    """v ↦ (1/count) Σᵢ gᵢ uᵢ, u = between(⟨gᵢ, v⟩), for gᵢ the gradients of the numbers that `each` gives."""

    with jax.default_matmul_precision(precision):
        push = pushforward(each, params, "the outer products of gradients")

    def product(v: Params) -> Params:
        with jax.default_matmul_precision(precision):
            return jax.vjp(each, params)[1](between(push(v)) / count)[0]  # push(v) are the ⟨gᵢ, v⟩

    return product


def _no_part(*_):
    raise ValueError(
        "ntk acts on outputs [n, c], not on θ, so that no observer can start from θ: at a point, call "
        "spectrum.eigsh(ntk(apply)(params, batch), u, k) with a start u of that shape"
    )


def _checked(params: Params, batch: Batch) -> tuple[Array, Array, int]:
    tree.check(params)
    inputs, targets = pair("curvature", batch)
    return inputs, targets, tree.num_examples(batch)
