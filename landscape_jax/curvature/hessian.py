"""The Hessian of a loss as a product, in three forms that agree to rounding."""

import warnings

import jax

from landscape_jax import losses, tree
from landscape_jax.arguments import require
from landscape_jax.types import Batch, Coupled, Curvature, Loss, MatVec, Params


def hessian(loss: Loss, *, precision: str = "highest") -> Curvature:
    """H(θ) v = ∂/∂ε ∇L(θ + εv) at ε = 0: forward mode over reverse mode at each product, exact to rounding.

    Args:
      loss: (θ, batch) ↦ L, shape []; twice differentiable. If its gradient does not allow forward mode (a
        `jax.custom_vjp` within a backward pass: fused attention, some norms), a warning says so and `reverse_hessian` steps in.
      precision: of the matrix products inside, as `jax.default_matmul_precision` takes it. The default is full float32
        on every device; NVIDIA's TF32, which JAX would use otherwise, has 10 bits and spoils small eigenvalues.
    Returns: a curvature; `hessian(loss)(params, batch)(v)` is H v, shaped like θ.

    Cost: about two gradients' time a product (the gradient and its tangent), and the memory of one gradient.
    Symmetric; as smooth as the loss: through ReLU it is the curvature of the linear pieces.
    Source: B. Pearlmutter 1994, "Fast exact multiplication by the Hessian", Neural Computation 6(1), eq. 3.
    """

    require("hessian", loss=loss, precision=precision)

    def at(params: Params, batch: Batch) -> MatVec:
        gradient = _gradient(loss, params, batch, precision)
        reverse = reverse_hessian(loss, precision=precision)

        def product(v: Params) -> Params:
            try:
                return jax.jvp(gradient, (params,), (v,))[1]
            except TypeError as error:
                if "custom_vjp" not in str(error):
                    raise
                warnings.warn(
                    "the gradient of this loss does not allow forward mode (a jax.custom_vjp in its backward pass): its "
                    "Hessian products go by reverse over reverse; curvature.reverse_hessian says that this is meant",
                    stacklevel=2,
                )
                return reverse(params, batch)(v)

        return product

    return Coupled.like(loss, at)


def linearized_hessian(loss: Loss, *, precision: str = "highest") -> Curvature:
    """H(θ) v as `hessian` has it, with the gradient linearised once and only its linear part run at each product.

    Args, errors and source: as for `hessian`, but there must be a forward mode.

    Cost: one gradient and its linearisation when a point is given, then about one gradient's time a product; keeps the
    activations of forward and backward pass in memory as long as the product is in use. Called op by op, outside jit, it
    compiles once where `hessian` traces at each product.
    """

    require("linearized_hessian", loss=loss, precision=precision)

    def at(params: Params, batch: Batch) -> MatVec:
        return jax.linearize(_gradient(loss, params, batch, precision), params)[1]

    return Coupled.like(loss, at)


def reverse_hessian(loss: Loss, *, precision: str = "highest") -> Curvature:
    """H(θ) v = ∇_θ ⟨∇L(θ), v⟩: reverse over reverse, for losses that have no forward mode.

    Args, errors and source: as for `hessian`.

    Cost: about twice `hessian`'s time and memory a product.
    """

    require("reverse_hessian", loss=loss, precision=precision)

    def at(params: Params, batch: Batch) -> MatVec:
        gradient = _gradient(loss, params, batch, precision)
        return lambda v: jax.vjp(gradient, params)[1](v)[0]  # Hᵀ v = H v

    return Coupled.like(loss, at)


def _gradient(loss: Loss, params: Params, batch: Batch, precision: str):
    """θ ↦ ∇L(θ, batch) at the given precision, backward pass and derivatives included."""
    tree.check(params)
    losses.check(loss, params, batch)

    def gradient(theta: Params) -> Params:
        with jax.default_matmul_precision(precision):
            return jax.grad(loss)(theta, batch)

    return gradient

