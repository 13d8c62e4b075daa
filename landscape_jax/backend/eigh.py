"""Small symmetric eigenproblems, alone and under vmap.

Why: jaxlib's batched `eigh` on a CPU waits inside XLA's thread pool for other threads of the pool. Two devices that run it at
once can wait for each other forever. Under vmap a CPU therefore solves one matrix after the other.
Found with: jaxlib 0.10.
No longer needed when: `pytest tests/test_sweep.py -k communication` passes many times over with `_eigh_batched` removed and
`eigh` a plain function. One pass shows little: the deadlock needs every thread of the pool in the kernel at once.
"""

import functools

import jax
import jax.numpy as jnp
from jax import Array

from landscape_jax import tree

FEW_MATRICES = 2  # a loop over them takes longer to begin than to run


@jax.custom_batching.custom_vmap
def eigh(matrix: Array) -> tuple[Array, Array]:
    """Ascending eigenvalues and eigenvectors of a symmetric matrix given by its upper triangle.

    Under vmap: on a CPU one matrix after the other, elsewhere JAX's batched solver. On an NVIDIA GPU that is Jacobi's; with QR
    tracking is no faster and a few eigenpairs take longer.
    """
    return _eigh(matrix)


def _eigh(matrix: Array) -> tuple[Array, Array]:
    unit = tree.unit(matrix)  # some solvers square entries, which may overflow
    vectors, values = jax.lax.linalg.eigh(matrix / unit, lower=False, symmetrize_input=False)
    return values * unit, vectors


@eigh.def_vmap
def _eigh_batched(size: int, batched, matrices: Array):
    if size <= FEW_MATRICES:
        one_by_one = lambda matrices: tuple(map(jnp.stack, zip(*map(eigh, matrices), strict=True)))  # noqa: E731
    else:
        one_by_one = functools.partial(jax.lax.map, eigh)  # mapped once more, it comes here again
    return jax.lax.platform_dependent(matrices, cpu=one_by_one, default=jax.vmap(_eigh)), (True, True)
