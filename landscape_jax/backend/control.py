"""Control flow that stays cheap under `vmap`.

Why: `lax.cond` under vmap computes both branches for every lane, and outside of vmap XLA copies what a branch updates.
Found with: jaxlib 0.10.
No longer needed when: `python -m benchmarks.tracking` and `python -m benchmarks.sweep_sharpness` are no slower with `run_if`
as a `lax.cond`.
"""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import Array

State = TypeVar("State")


def run_if(condition: Array, function: Callable[[State], State], state: State) -> State:
    """`function(state)` where `condition` holds, else `state`.

    An `if` in the form of a while loop of at most one round. Under `vmap` a `lax.cond` runs its branch for every lane. This
    loop runs its body only where some lane needs it, and no lane pays otherwise. It also updates `state` in place.

    Args:
      condition: [] bool, traced or not.
      function: state ↦ state, with the same shapes and dtypes.
      state: a pytree of arrays.

    Not differentiable in reverse mode, as no while loop is.

    >>> run_if(jnp.float32(-2) < 0, lambda x: -x, jnp.float32(-2))
    Array(2., dtype=float32)
    """

    def body(carry):
        return function(carry[0]), jnp.array(False)

    return jax.lax.while_loop(lambda carry: carry[1], body, (state, condition))[0]
