"""Curvatures from curvatures: each wrapper takes one and gives another, so that they nest.

    chunked(preconditioned(hessian(loss), P), 8)(params, batch)(v)
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh

from landscape_jax import devices, labels, tree
from landscape_jax.types import Batch, Coupled, Curvature, MatVec, Params

# ── parts of the batch ────────────────────────────────────────────────────────────────────────────────────────────────


def chunked(curvature: Curvature, num_chunks: int) -> Curvature:
    """A v = Σ_j (n_j / n) A_j v over chunks of the batch: the same product in the memory of one chunk.

    The product is accumulated, never an eigenvalue: the mean of the chunks' λ_max is not λ_max of the mean. Chunks hold
    ⌈n / num_chunks⌉ examples, the last one what is left, weighted by its size.

    The curvature must be a mean over examples. Where outputs depend on the other examples of the batch (BatchNorm in
    train mode, contrastive losses) each chunk is a different function and the result is *not* the whole batch's. What is
    marked `types.Coupled` is refused: our models with BatchNorm and all that is made of them, curvatures that are no means. In
    a loss of your own nothing can see it from outside: mark it, hold the statistics (`models.frozen`), or use no chunks.

    Cost: one product over n examples; memory: that of ⌈n / num_chunks⌉ examples and one vector more.
    """
    Coupled.refuse("chunked", curvature)
    if num_chunks < 1:
        raise ValueError(f"chunked: num_chunks={num_chunks} must be at least 1")

    def at(params: Params, batch: Batch) -> MatVec:
        n = tree.num_examples(batch)
        if num_chunks > n:
            raise ValueError(f"chunked: num_chunks={num_chunks} is more than the n={n} examples: use at most one each")
        size = -(-n // num_chunks)
        whole, rest = divmod(n, size)

        def part(start, length: int) -> Batch:
            return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, start, length), batch)

        def product(v: Params) -> Params:
            def add(total: Params, j: Array) -> tuple[Params, None]:
                return tree.axpy(size / n, curvature(params, part(j * size, size))(v), total), None

            total, _ = jax.lax.scan(add, tree.zeros_like(v), jnp.arange(whole))
            return tree.axpy(rest / n, curvature(params, part(whole * size, rest))(v), total) if rest else total

        return product

    return at


def sharded(curvature: Curvature, mesh: Mesh, axis: str | None = None) -> Curvature:
    """A v = Σ_d (n_d / n) A_d v over the devices of a mesh, each with its own examples: one all-reduce a product.

    Parameters and vectors are replicated along `axis`. Examples beyond the largest multiple of the number of devices are
    done by all. The curvature must be a mean over examples, as for `chunked`; `sharded(chunked(c, 8), mesh)` chunks each
    device's share.

    Args:
      axis: the mesh axis that examples are split over; default: its first.
    Cost: 1/devices of a product's time and memory, and one all-reduce of p numbers.
    """
    Coupled.refuse("sharded", curvature)
    product = devices.mean_over(lambda params, batch, v: curvature(params, batch)(v), mesh, axis)
    return lambda params, batch: lambda v: product(params, batch, v)


def per_class(curvature: Curvature) -> Callable[[Params, Batch], tuple[MatVec, ...]]:
    """The curvature of each class alone: `per_class(c)(params, (x, y))` is one `MatVec` A_k a class, the mean over its
    n_k examples, so that A = Σ_k (n_k / n) A_k.

    Targets give each example one class: integers [n], one-hot or other float rows [n, C], or, for one logit, signs ±1 or labels
    0 and 1 ([n] or [n, 1]; two classes, the negative one first). They must be concrete, not traced: how many examples a class
    has is a shape. A class without examples has A_k = 0. A value that is no class, and several positions an example, raise.
    """
    Coupled.refuse("per_class", curvature)

    def at(params: Params, batch: Batch) -> tuple[MatVec, ...]:
        _, targets = batch
        right, count = labels.without_outputs("per_class", targets)

        def of(label: int) -> MatVec:
            mine = (right == label).nonzero()[0]
            if len(mine) == 0:
                return tree.zeros_like
            return curvature(params, jax.tree.map(lambda x: x[mine], batch))

        return tuple(of(label) for label in range(count))

    return at


# ── the matrix itself ─────────────────────────────────────────────────────────────────────────────────────────────────


def shifted(curvature: Curvature, shift) -> Curvature:
    """(A + σI) v: damping, or an L2 penalty ½ σ ‖θ‖². `shift` is σ, shape []."""
    return Coupled.like(curvature, lambda params, batch: _shifted(curvature(params, batch), shift))


def _shifted(matvec: MatVec, shift) -> MatVec:
    return lambda v: tree.axpy(shift, v, matvec(v))


def preconditioned(curvature: Curvature, scale: Params) -> Curvature:
    """P^-½ A P^-½ v for a positive diagonal P: symmetric, with the eigenvalues of P⁻¹ A, which is not.

    Its largest eigenvalue against the threshold of the optimizer decides stability (`theory.stability`).

    Args:
      scale: P, shaped like θ, or a prefix of its tree with leaves that broadcast: one number for all, one a layer;
        `preconditioner(state)` reads it from an optax state.
    Cost: one product. Eigenvectors are those of P⁻¹ A times P^½.
    Source: J. Cohen et al. 2022, arXiv 2207.14484, §3.
    """

    def at(params: Params, batch: Batch) -> MatVec:
        root = jax.tree.map(lambda x: jax.lax.rsqrt(jnp.asarray(x)), tree.broadcast(scale, params))  # P^-½
        matvec = curvature(params, batch)

        def product(v: Params) -> Params:
            return jax.tree.map(jnp.multiply, root, matvec(jax.tree.map(jnp.multiply, root, v)))

        return product

    return Coupled.like(curvature, at)


def projected(curvature: Curvature, basis: Params) -> Curvature:
    """Π A Π v, Π the orthogonal projection *onto* the span of a basis Q, leaves [m, ...], rows linearly independent.

    Cost: one product and 4 m p multiply-adds.
    """
    return Coupled.like(curvature, lambda params, batch: _between(curvature(params, batch), _projection(basis)))


def deflated(curvature: Curvature, basis: Params) -> Curvature:
    """(I − Π) A (I − Π) v, Π the orthogonal projection onto the span of a basis Q, leaves [m, ...]: what is *off* it.

    With eigenvectors for a basis, their eigenvalues become 0 and all others stay.
    Cost: one product and 4 m p multiply-adds.
    """
    onto = _projection(basis)
    return Coupled.like(curvature, lambda params, batch: _between(curvature(params, batch), lambda v: tree.sub(v, onto(v))))


def _between(matvec: MatVec, project: MatVec) -> MatVec:
    return lambda v: project(matvec(project(v)))


def _projection(basis: Params) -> MatVec:
    """v ↦ Qᵀ (Q Qᵀ)⁻¹ Q v."""
    gram = jax.vmap(lambda q: tree.dots(basis, q))(basis)  # Q Qᵀ  [m, m]
    return lambda v: tree.combine(jnp.linalg.solve(gram, tree.dots(basis, v)[:, None])[:, 0], basis)


def restricted(curvature: Curvature, select: Callable[[str], bool]) -> Curvature:
    """The diagonal block of some leaves: A_SS u for u shaped like `tree.select(params, select)`, which is θ with None
    for every leaf that is left out, and so has only their p_S numbers.

    Args:
      select: path ↦ whether the leaf belongs to S; the path of params["layer0"]["kernel"] is "layer0/kernel". A layer:
        `lambda path: path.startswith("layer0/")`; all weights: `lambda path: not path.endswith("bias")`.
    Cost: one product of the whole.
    """

    def at(params: Params, batch: Batch) -> MatVec:
        matvec = curvature(params, batch)
        tree.select(params, select)  # it raises where nothing is selected

        def product(u: Params) -> Params:
            return tree.select(matvec(tree.filled(u, params)), select)

        return product

    return Coupled.like(curvature, at)


def dense(curvature: Curvature, like: Params | None = None) -> Callable[[Params, Batch], Array]:
    """The matrix itself, [p, p], rows and columns in the order of `ravel_pytree(like)`: for tests and small p.

    Args:
      like: a vector that the curvature acts on, where it is not shaped like θ (`restricted`, `ntk`).
    Cost: p products, one at a time, and p² numbers.
    """

    def at(params: Params, batch: Batch) -> Array:
        flat, unravel = ravel_pytree(params if like is None else like)
        p = flat.size
        if p > 20_000:
            raise ValueError(f"dense: a {p} × {p} matrix is {4 * p * p / 2**30:.0f} GiB: use spectrum.eigsh or density")
        matvec = curvature(params, batch)
        return jax.lax.map(lambda row: ravel_pytree(matvec(unravel(row)))[0], jnp.eye(p, dtype=flat.dtype))

    return at
