"""An `if` that costs nothing where no lane needs it."""

import jax
import jax.numpy as jnp
import numpy as np

from landscape_jax.backend.control import run_if


def count_runs(conditions):
    """The negative of 0, 1, … where a condition holds, under vmap, and how often the function ran."""
    runs = []

    def negate(state):
        jax.debug.callback(lambda _: runs.append(1), state["x"])
        return {"x": -state["x"]}

    states = {"x": jnp.arange(1.0, 1 + len(conditions))}
    found = jax.jit(jax.vmap(lambda c, s: run_if(c, negate, s)))(jnp.array(conditions), states)
    jax.effects_barrier()
    return np.asarray(found["x"]).tolist(), len(runs)


def test_each_lane_goes_its_own_way():
    assert count_runs([True, False, True])[0] == [-1.0, 2.0, -3.0]


def test_the_function_runs_only_where_a_lane_needs_it():
    assert count_runs([False, False])[1] == 0
    assert count_runs([False, True])[1] > 0  # or the count would say nothing


def test_without_vmap_and_without_jit():
    assert run_if(jnp.array(True), lambda x: x + 1, jnp.float32(1)) == 2
    assert run_if(jnp.array(False), lambda x: x + 1, jnp.float32(1)) == 1
