"""Curvatures from curvatures: each wrapper takes one and gives another, so that they nest.

chunked(preconditioned(hessian(loss), P), 8)(params, batch)(v)
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh

from landscape_jax import devices, labels, parts, tree
from landscape_jax.arguments import count, described, kind, number, pair, product_at, require
from landscape_jax.curvature.domain import Part, domain
from landscape_jax.types import Batch, BatchCoupled, Curvature, MatVec, Params, Weight

# ── parts of the batch ────────────────────────────────────────────────────────────────────────────────────────────────


def chunked(curvature: Curvature, num_chunks: int, *, weight: Weight | None = None) -> Curvature:
    """A v = Σ_j (w_j / Σ w) A_j v over chunks of the batch: the same product in the memory of one chunk.

    The product is accumulated, never an eigenvalue: the mean of the chunks' λ_max is not λ_max of the mean. Chunks hold
    ⌈n / num_chunks⌉ examples, the last one what is left, and w_j is their number. So the curvature must be a mean over
    examples. For that of a loss with weights or a mask of its own, say what the loss divides by:

        chunked(hessian(loss), 8, weight=lambda batch: batch["mask"].sum())

    Without, the Hessian of a loss that ends in a division by a number that depends on the batch is refused. Nothing can see
    one that divides earlier. Where outputs depend on the other examples of the batch (BatchNorm in train mode, contrastive
    losses) each chunk is a different function, and the result is *not* the whole batch's. What is marked
    `types.BatchCoupled` is refused: our models with BatchNorm and all that is made of them, curvatures that are no means.
    Mark a loss of your own, hold the statistics (`models.frozen`), or use no chunks.

    Args:
      weight: batch ↦ w ≥ 0, shape [], such that the loss of a batch is the mean of those of its parts by their weights: the
        denominator of a weighted mean. A part of weight 0 is left out.
    Cost: one product over n examples; memory: that of ⌈n / num_chunks⌉ examples and one vector more.

    >>> product = lj.curvature.chunked(lj.curvature.hessian(loss), 3)(params, batch)(params)
    >>> jax.tree.all(jax.tree.map(jnp.allclose, product, lj.curvature.hessian(loss)(params, batch)(params)))
    True
    """
    require("chunked", curvature=curvature, **({} if weight is None else {"weight": weight}))
    count("chunked", num_chunks=num_chunks)
    BatchCoupled.refuse("chunked", curvature)

    def at(params: Params, batch: Batch) -> MatVec:
        tree.check(params)
        n = tree.num_examples(batch)
        if num_chunks > n:
            raise ValueError(f"chunked: num_chunks={num_chunks} is more than the n={n} examples: use at most one each")
        _refuse_weighted("chunked", curvature, params, batch, weight)
        size = -(-n // num_chunks)
        whole, rest = divmod(n, size)

        def part(start, length: int) -> Batch:
            return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, start, length), batch)

        each, last = parts.shares(batch, size, weight)

        def product(v: Params) -> Params:
            def add(total: Params, chunk: tuple) -> tuple[Params, None]:
                j, share = chunk
                share = size / n if share is None else share
                return parts.plus(total, share, lambda: product_at("chunked", curvature, params, part(j * size, size))(v)), None

            total, _ = jax.lax.scan(add, tree.zeros_like(v), (jnp.arange(whole), each))
            return parts.plus(total, last, lambda: curvature(params, part(whole * size, rest))(v)) if rest else total

        return product

    return BatchCoupled.like(curvature, at)


def sharded(curvature: Curvature, mesh: Mesh, axis: str | None = None, *, weight: Weight | None = None) -> Curvature:
    """A v = Σ_d (w_d / Σ w) A_d v over the devices of a mesh, each with its own examples: one all-reduce a product.

    Parameters and vectors are replicated along `axis`. Examples beyond the largest multiple of the number of devices are
    done by all. The curvature must be a mean over examples, or have a `weight`, as for `chunked`;
    `sharded(chunked(c, 8), mesh)` chunks each device's share.

    Args:
      axis: the mesh axis that examples are split over; default: its first.
      weight: as for `chunked`.
    Cost: 1/devices of a product's time and memory, and one all-reduce of p numbers.

    >>> product = lj.curvature.sharded(lj.curvature.hessian(loss), lj.devices.mesh("examples"))(params, batch)(params)
    >>> jax.tree.all(jax.tree.map(jnp.allclose, product, lj.curvature.hessian(loss)(params, batch)(params)))
    True
    """
    require("sharded", curvature=curvature, mesh=mesh, **({} if weight is None else {"weight": weight}))
    BatchCoupled.refuse("sharded", curvature)
    one = lambda params, batch, v: product_at("sharded", curvature, params, batch)(v)  # noqa: E731
    product = devices.mean_over(one, mesh, axis, weight)

    def at(params: Params, batch: Batch) -> MatVec:
        _refuse_weighted("sharded", curvature, params, batch, weight)
        return lambda v: product(params, batch, v)

    return BatchCoupled.like(curvature, at)


def _refuse_weighted(name: str, curvature: Curvature, params: Params, batch: Batch, weight: Weight | None) -> None:
    if weight is None and hasattr(curvature, "of_loss"):
        parts.refuse_weighted(name, curvature.of_loss, params, batch)


def per_class(curvature: Curvature) -> Callable[[Params, Batch], tuple[MatVec, ...]]:
    """The curvature of each class alone: `per_class(c)(params, (x, y))` is one `MatVec` A_k a class, the mean over its
    n_k examples, so that A = Σ_k (n_k / n) A_k.

    Targets give each example one class: integers [n], one-hot or other float rows [n, C], or, for one logit, signs ±1 or labels
    0 and 1 ([n] or [n, 1]; two classes, the negative one first). They must be concrete, not traced: how many examples a class
    has is a shape. A class without examples has A_k = 0. A value that is no class, and several positions an example, raise.

    >>> products = lj.curvature.per_class(lj.curvature.hessian(loss))(params, batch)
    >>> len(products)
    3
    """
    require("per_class", curvature=curvature)
    BatchCoupled.refuse("per_class", curvature)

    def at(params: Params, batch: Batch) -> tuple[MatVec, ...]:
        _, targets = pair("per_class", batch)
        tree.num_examples(batch)
        right, count = labels.without_outputs("per_class", targets)

        def of(label: int) -> MatVec:
            mine = (right == label).nonzero()[0]
            if len(mine) == 0:
                return tree.zeros_like
            return product_at("per_class", curvature, params, jax.tree.map(lambda x: x[mine], batch))

        return tuple(of(label) for label in range(count))

    return at


# ── the matrix itself ─────────────────────────────────────────────────────────────────────────────────────────────────


def shifted(curvature: Curvature, shift) -> Curvature:
    """(A + σI) v: damping, or an L2 penalty ½ σ ‖θ‖². `shift` is σ, shape [].

    >>> hessian = lj.curvature.hessian(loss)
    >>> plus = lj.curvature.dense(lj.curvature.shifted(hessian, 2.0))(params, batch)
    >>> bool(jnp.allclose(plus, lj.curvature.dense(hessian)(params, batch) + 2 * jnp.eye(9)))
    True
    """
    require("shifted", curvature=curvature)
    number("shifted", shift=shift)
    return BatchCoupled.like(curvature, lambda params, batch: _shifted(product_at("shifted", curvature, params, batch), shift))


def _shifted(matvec: MatVec, shift) -> MatVec:
    return lambda v: tree.axpy(shift, v, matvec(v))


def preconditioned(curvature: Curvature, scale: Params) -> Curvature:
    """P^-½ A P^-½ v for a positive diagonal P: symmetric, with the eigenvalues of P⁻¹ A, which is not.

    Its largest eigenvalue against the threshold of the optimizer decides stability (`theory.stability`).

    Args:
      scale: P, shaped like θ, or a prefix of its tree with leaves that broadcast: one number for all, one a layer;
        `preconditioner(state, optimizer=optimizer)` reads it from an optax state.
    Cost: one product. Eigenvectors are those of P⁻¹ A times P^½.
    Source: J. Cohen et al. 2022, arXiv 2207.14484, §3.

    >>> scaled = lj.curvature.preconditioned(lj.curvature.hessian(loss), jax.tree.map(lambda x: jnp.full_like(x, 4), params))
    >>> four = jax.tree.map(lambda x: 4 * x, scaled(params, batch)(params))
    >>> jax.tree.all(jax.tree.map(jnp.allclose, four, lj.curvature.hessian(loss)(params, batch)(params)))
    True
    """

    require("preconditioned", curvature=curvature)
    for x in jax.tree.leaves(scale):
        if kind(x) not in ("number", "array"):
            raise TypeError(f"preconditioned: scale must hold positive numbers, but holds {described(x)}")
        if not isinstance(x, Tracer) and not (np.asarray(x) > 0).all():
            raise ValueError("preconditioned: scale must be positive, but holds a number that is not: P^-½ is not real there")

    def at(params: Params, batch: Batch) -> MatVec:
        tree.check(params)
        scales = tree.broadcast(scale, domain(curvature, params))
        root = jax.tree.map(lambda x: jax.lax.rsqrt(jnp.asarray(x)), scales)  # P^-½
        matvec = product_at("preconditioned", curvature, params, batch)

        def product(v: Params) -> Params:
            return jax.tree.map(jnp.multiply, root, matvec(jax.tree.map(jnp.multiply, root, v)))

        return product

    return BatchCoupled.like(curvature, at)


def projected(curvature: Curvature, basis: Params) -> Curvature:
    """Π A Π v, Π the orthogonal projection *onto* the span of a basis Q, leaves [m, ...], rows linearly independent.

    Cost: one product and 4 m p multiply-adds.

    >>> v = lj.tree.scale(1 / lj.tree.norm(params), params)
    >>> inside = lj.curvature.projected(lj.curvature.hessian(loss), jax.tree.map(lambda x: x[None], v))
    >>> jax.tree.map(jnp.shape, inside(params, batch)(v))  # ⟨v, H v⟩ v
    {'b': (3,), 'w': (2, 3)}
    """
    require("projected", curvature=curvature)
    onto = _projection("projected", basis)
    return BatchCoupled.like(curvature, lambda params, batch: _between(product_at("projected", curvature, params, batch), onto))


def deflated(curvature: Curvature, basis: Params) -> Curvature:
    """(I − Π) A (I − Π) v, Π the orthogonal projection onto the span of a basis Q, leaves [m, ...]: what is *off* it.

    With eigenvectors for a basis, their eigenvalues become 0 and all others stay.
    Cost: one product and 4 m p multiply-adds.

    >>> v = lj.tree.scale(1 / lj.tree.norm(params), params)
    >>> rest = lj.curvature.deflated(lj.curvature.hessian(loss), jax.tree.map(lambda x: x[None], v))
    >>> bool(lj.tree.norm(rest(params, batch)(v)) < 1e-5)
    True
    """
    require("deflated", curvature=curvature)
    onto = _projection("deflated", basis)
    off = lambda v: tree.sub(v, onto(v))  # noqa: E731
    return BatchCoupled.like(curvature, lambda params, batch: _between(product_at("deflated", curvature, params, batch), off))


def _between(matvec: MatVec, project: MatVec) -> MatVec:
    return lambda v: project(matvec(project(v)))


def _projection(by: str, basis: Params) -> MatVec:
    """v ↦ Qᵀ (Q Qᵀ)⁻¹ Q v."""
    tree.check(basis, f"{by}: basis")
    gram = jax.vmap(lambda q: tree.dots(basis, q))(basis)  # Q Qᵀ  [m, m]
    return lambda v: tree.combine(jnp.linalg.solve(gram, tree.dots(basis, v)[:, None])[:, 0], basis)


def restricted(curvature: Curvature, select: Callable[[str], bool]) -> Curvature:
    """The diagonal block of some leaves: A_SS u for u shaped like `tree.select(params, select)`, which is θ with None
    for every leaf that is left out, and so has only their p_S numbers. Observers start from such vectors, and see the
    eigenvectors with 0 in all other places.

    Args:
      select: path ↦ whether the leaf belongs to S; the path of params["layer0"]["kernel"] is "layer0/kernel". A layer:
        `lambda path: path.startswith("layer0/")`; all weights: `lambda path: not path.endswith("bias")`.
    Cost: one product of the whole.

    >>> first = lj.curvature.restricted(lj.curvature.hessian(loss), lambda path: path == "w")
    >>> lj.curvature.dense(first)(params, batch).shape
    (6, 6)
    """

    require("restricted", curvature=curvature, select=select)

    def at(params: Params, batch: Batch) -> MatVec:
        matvec, whole = product_at("restricted", curvature, params, batch), domain(curvature, params)
        tree.select(whole, select)  # it raises where nothing is selected

        def product(u: Params) -> Params:
            return tree.select(matvec(tree.fill_zeros(u, whole)), select)

        return product

    block = BatchCoupled.like(curvature, at)
    block.acts_on = Part(lambda params: tree.select(domain(curvature, params), select), tree.fill_zeros)
    return block


def dense(curvature: Curvature, like: Params | None = None) -> Callable[[Params, Batch], Array]:
    """The matrix itself, [p, p], rows and columns in the order of `ravel_pytree(like)`: for tests and small p.

    Args:
      like: a vector that the curvature acts on, where it is not shaped like θ (`ntk`, a curvature of your own).
    Cost: p products, one at a time, and p² numbers.

    >>> lj.curvature.dense(lj.curvature.hessian(loss))(params, batch).shape
    (9, 9)
    """

    require("dense", curvature=curvature)

    def at(params: Params, batch: Batch) -> Array:
        tree.check(params)
        flat, unravel = ravel_pytree(domain(curvature, params) if like is None else like)
        p = flat.size
        if p > 20_000:
            raise ValueError(f"dense: a {p} × {p} matrix is {4 * p * p / 2**30:.0f} GiB: use spectrum.eigsh or density")
        matvec = product_at("dense", curvature, params, batch)
        return jax.lax.map(lambda row: ravel_pytree(matvec(unravel(row)))[0], jnp.eye(p, dtype=flat.dtype))

    return at
