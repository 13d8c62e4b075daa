"""Many steps as one."""

import jax
import jax.numpy as jnp
from jax import Array
from jax.tree_util import Partial

from landscape_jax import tree
from landscape_jax.types import Dynamics, Key, Params


def repeated(inner: Dynamics, times: int | Array) -> Dynamics:
    """`times` steps of a dynamics as one step, so that how far apart observations lie may differ between runs of one program.

        run(key, params, repeated(sgd, 40), watch, num_steps=25)

    goes where `run(key, params, sgd, watch, num_steps=1000, every=40)` goes, and records the same, but for the clock, which
    counts steps of `times`, and for `updates`, which are those of all `times` together.

    Args:
      times: shape [], at least 1; it may be traced, as a setting of a `sweep.grid`.
    Returns: a `Dynamics`; its moment is that of the first step, its updates and state those of all. The engine's check for
      divergence comes once in `times` steps.

    Cost: `times` steps of `inner`. Runs vmapped together wait for the longest.
    """
    if isinstance(times, int) and times < 1:
        raise ValueError(f"repeated: times={times} must be at least 1: how many steps make one")

    def step(inner: Dynamics, times, key: Key, t: Array, params: Params, state):
        begun, fence = t * jnp.asarray(times, t.dtype), jax.lax.optimization_barrier
        moved, after, moment = inner.step(key, begun, *fence((params, state)))

        def once(i: Array, carry):
            moved, after, _ = inner.step(key, begun + i.astype(t.dtype), *fence(carry))
            return fence((moved, after))

        moved, after = jax.lax.fori_loop(1, times, once, fence((moved, after)))
        return moved, after, moment._replace(step=t, updates=tree.sub(moved, params), state=after)

    return Dynamics(inner.init, Partial(step, inner, times))
