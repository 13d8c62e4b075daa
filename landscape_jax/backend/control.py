"""An `if` that costs nothing under `vmap` where no lane needs it.

Why: under `vmap` a `lax.cond` runs both of its branches for every lane and selects.
Found with: jaxlib 0.10.
No longer needed when: a vmapped `lax.cond` skips a branch that no lane takes.
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
