"""Matrix products in the form that XLA's CPU backend runs fast: the same numbers to rounding.

Why: a dense layer's gradient Xᵀ Δ runs at full speed only with the right one of its two sides on the right
(`layout.prefers_transposed`). And the product Q Qᵀ of a few long rows uses a slow kernel.
Found with: jaxlib 0.10. A transposed gradient takes half to three quarters of the time; Q Qᵀ row by row takes a third.
No longer needed when: `python -m benchmarks.products --tasks a b` is no slower with `layout.prefers_transposed` returning
False; `python -m benchmarks.eigenpairs` is no slower with `FEW_ROWS = 0`.
"""

import functools

import jax
from jax import Array

from landscape_jax import tree
from landscape_jax.backend import layout, policy
from landscape_jax.types import Params

FEW_ROWS = 8  # of a stack whose Gram matrix is computed row by row


def dense(x: Array, kernel: Array, dims=None, **options) -> Array:
    """x W, [..., i] and [i, o] ↦ [..., o]: `x @ kernel`, with a gradient that is faster on a CPU.

    The gradient to W is Xᵀ Δ. Where a CPU prefers Δᵀ X, this function multiplies by a transposed copy of W. The numbers are
    those of `x @ kernel` to rounding.

    Args:
      dims, options: as for `jax.lax.dot_general`, which it can replace: `flax.linen.Dense(n, dot_general=models.dense)`.
    """
    plain = ((x.ndim - 1,), (0,)), ((), ())
    transposes = kernel.ndim == 2 and layout.prefers_transposed(*kernel.shape)
    if transposes and dims in (None, plain) and policy.on_cpu():
        # fenced, and with it its derivatives: XLA would undo the transpose
        transposed = jax.lax.optimization_barrier(kernel.T)
        return jax.lax.dot_general(x, transposed, (((x.ndim - 1,), (1,)), ((), ())), **options)
    return jax.lax.dot_general(x, kernel, plain if dims is None else dims, **options)


def overlaps(stack: Params) -> Array:
    """`tree.overlaps`, Q Qᵀ [m, m], row by row where the stack has few rows."""
    if tree.num_examples(stack) <= FEW_ROWS:
        return jax.lax.map(functools.partial(tree.dots, stack), stack)
    return tree.overlaps(stack)
