"""The Hessian of a loss, as a product."""

import jax

from landscape_jax import losses, tree
from landscape_jax.types import Batch, Curvature, Loss, MatVec, Params


def hessian(loss: Loss, *, precision: str = "highest") -> Curvature:
    """H(θ) v = ∂/∂ε ∇L(θ + εv) at ε = 0: forward mode over reverse mode, exact to rounding.

    Args:
      loss: (θ, batch) ↦ L, shape []; twice differentiable, and its derivative must allow forward mode.
      precision: of the matrix products inside, as `jax.default_matmul_precision` takes it. The default is full float32
        on every device; NVIDIA's TF32, which JAX would use otherwise, has 10 bits and spoils small eigenvalues.
    Returns: a curvature; `hessian(loss)(params, batch)(v)` is H v, shaped like θ.

    Cost: about two gradients' time a product (the gradient and its tangent), and the memory of one gradient.
    Symmetric; as smooth as the loss: through ReLU it is the curvature of the linear pieces.
    Source: B. Pearlmutter 1994, "Fast exact multiplication by the Hessian", Neural Computation 6(1), eq. 3.
    """

    def at(params: Params, batch: Batch) -> MatVec:
        tree.check(params)
        losses.check(loss, params, batch)

        def matvec(v: Params) -> Params:
            with jax.default_matmul_precision(precision):
                return jax.jvp(lambda theta: jax.grad(loss)(theta, batch), (params,), (v,))[1]

        return matvec

    return at
