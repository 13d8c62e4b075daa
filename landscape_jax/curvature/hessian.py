"""The Hessian of a loss as a product, in three forms that agree to rounding."""

import jax

from landscape_jax import losses, tree
from landscape_jax.arguments import require
from landscape_jax.curvature.forward import allows_forward_mode, symmetric_pushforward, warn
from landscape_jax.types import Batch, BatchCoupled, Curvature, Loss, MatVec, Params


def hessian(loss: Loss, *, precision: str = "highest") -> Curvature:
    """H(θ) v = ∂/∂ε ∇L(θ + εv) at ε = 0: forward mode over reverse mode at each product, exact to rounding.

    Args:
      loss: (θ, batch) ↦ L, shape []; twice differentiable. If its gradient does not allow forward mode (a
        `jax.custom_vjp` within a backward pass: fused attention, some norms), a warning says so when the curvature is
        built at a point, and products are those of `reverse_hessian`.
      precision: of the matrix products inside, as `jax.default_matmul_precision` takes it. The default is full float32
        on every device; NVIDIA's TF32, which JAX would use otherwise, has 10 bits and spoils small eigenvalues.
    Returns: a curvature; `hessian(loss)(params, batch)(v)` is H v, shaped like θ.

    Cost: about two gradients' time a product (the gradient and its tangent), and the memory of one gradient.
    Symmetric; as smooth as the loss: through ReLU it is the curvature of the linear pieces.
    Source: B. Pearlmutter 1994, "Fast exact multiplication by the Hessian", Neural Computation 6(1), eq. 3.

    >>> product = lj.curvature.hessian(loss)(params, batch)(params)  # H θ
    >>> jax.tree.map(jnp.shape, product)
    {'b': (3,), 'w': (2, 3)}
    """

    require("hessian", loss=loss, precision=precision)

    def at(params: Params, batch: Batch) -> MatVec:
        return symmetric_pushforward(_gradient(loss, params, batch, precision), params, "hessian")

    return _remembering(loss, at)


def linearized_hessian(loss: Loss, *, precision: str = "highest") -> Curvature:
    """H(θ) v as `hessian` has it, with the gradient linearised once and only its linear part run at each product.

    Args, errors and source: as for `hessian`. Without forward mode, the transpose of the linear part is run (H is symmetric).

    Cost: one gradient and its linearisation when a point is given, then about one gradient's time a product; keeps the
    activations of forward and backward pass in memory as long as the product is in use. Called op by op, outside jit, it
    compiles once where `hessian` traces at each product.

    >>> product = lj.curvature.linearized_hessian(loss)(params, batch)(params)
    >>> jax.tree.all(jax.tree.map(jnp.allclose, product, lj.curvature.hessian(loss)(params, batch)(params)))
    True
    """

    require("linearized_hessian", loss=loss, precision=precision)

    def at(params: Params, batch: Batch) -> MatVec:
        gradient = _gradient(loss, params, batch, precision)
        product = jax.linearize(gradient, params)[1]
        if allows_forward_mode(product, params):
            return product
        warn("linearized_hessian", "by the transpose of the linearised gradient, which is the same matrix")
        pull = jax.vjp(gradient, params)[1]
        return lambda v: pull(v)[0]

    return _remembering(loss, at)


def reverse_hessian(loss: Loss, *, precision: str = "highest") -> Curvature:
    """H(θ) v = ∇_θ ⟨∇L(θ), v⟩: reverse over reverse, for losses that have no forward mode.

    Args, errors and source: as for `hessian`.

    Cost: about twice `hessian`'s time and memory a product.

    >>> product = lj.curvature.reverse_hessian(loss)(params, batch)(params)
    >>> jax.tree.all(jax.tree.map(jnp.allclose, product, lj.curvature.hessian(loss)(params, batch)(params)))
    True
    """

    require("reverse_hessian", loss=loss, precision=precision)

    def at(params: Params, batch: Batch) -> MatVec:
        gradient = _gradient(loss, params, batch, precision)
        return lambda v: jax.vjp(gradient, params)[1](v)[0]  # Hᵀ v = H v

    return _remembering(loss, at)


def _remembering(loss: Loss, at: Curvature) -> Curvature:
    """The curvature, which knows its loss: what takes batches apart looks whether that is a mean."""
    curvature = BatchCoupled.like(loss, at)
    curvature.of_loss = loss  # pyright: ignore[reportFunctionMemberAccess]
    return curvature


def _gradient(loss: Loss, params: Params, batch: Batch, precision: str):
    """θ ↦ ∇L(θ, batch) at the given precision, backward pass and derivatives included."""
    tree.check(params)
    losses.check(loss, params, batch)

    def gradient(theta: Params) -> Params:
        with jax.default_matmul_precision(precision):
            return jax.grad(loss)(theta, batch)

    return gradient
