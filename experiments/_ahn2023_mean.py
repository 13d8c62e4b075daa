"""Orbits of the mean model, to hold against its closed forms (`landscape_jax.theory.sparse_coding`). In float64 throughout."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments._float64 import float64
from landscape_jax.sweep import over_runs
from landscape_jax.theory import sparse_coding

RATIOS = np.array([
    0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 1.02, 1.05, 1.1, 1.15, 1.2, 1.3, 1.5, 1.6, 1.75, 2.0, 2.5, 3.0, 4.0,
    5.0, 6.5, 8.0, 10.0, 12.0, 16.0,
])  # fmt: skip
STILL = 1e-12  # of |A|


@functools.partial(jax.jit, static_argnames="dim")
def rests(rates: Array, longest: Array, dim: int) -> dict[str, Array]:
    """The mean model from A = √d and b = 0 until |A| < 1e-12, or for `longest` steps: each rate [r] its own number."""

    def orbit(run, _):
        rate, longest = run

        def moving(carry):
            (a, _), count = carry
            return (jnp.abs(a) > STILL) & (count < longest)

        def step(carry):
            (a, b), count = carry
            return sparse_coding.mean_step(a, b, rate, dim), count + 1

        start = jnp.asarray(dim**0.5, rate.dtype), jnp.zeros((), rate.dtype)
        (a, b), count = jax.lax.while_loop(moving, step, (start, jnp.int32(0)))
        return {"a": a, "bias": b, "steps": count}

    return over_runs(orbit)((rates, longest), ())


def simulate(dim: int) -> dict[str, np.ndarray]:
    """Where the mean model ends at η/η_c = RATIOS: "a", "bias", "steps", "edge" (sharpness · η/2) [ratio], and what theory
    has for it from η alone: "flow" []; "limit" of b, and to next order "next_limit" and "edge_limit" [ratio], NaN below η_c."""
    with float64():
        rates = jnp.asarray(RATIOS * sparse_coding.critical_rate(dim))
        longest = jnp.asarray(np.minimum(3e6, 4000 * dim / RATIOS), jnp.int32)
        found = rests(rates, longest, dim)
        edge = sparse_coding.mean_sharpness(found["bias"], dim) * rates / 2
        above, next_limit = jnp.asarray(RATIOS > 1), sparse_coding.next_edge_limit(rates, dim)
        found |= {
            "edge": edge,
            "flow": sparse_coding.flow_limit(dim**0.5, dim),
            "limit": jnp.where(above, sparse_coding.edge_limit(rates, dim), jnp.nan),
            "next_limit": jnp.where(above, next_limit, jnp.nan),
            "edge_limit": jnp.where(above, sparse_coding.edge_sharpness(next_limit, dim), jnp.nan),
        }
        return {name: np.asarray(x) for name, x in found.items()}


# ── what the orbits say: (numbers, passed) for the record's "mean" ────────────────────────────────────────────────────


def small_steps(found) -> tuple[dict, bool]:
    below = RATIOS <= 0.95
    bias = found["bias"][below]
    told = {f"{ratio:g} η_c": float(b) for ratio, b in zip(RATIOS[RATIOS < 1], found["bias"][RATIOS < 1], strict=True)}
    return told | {"gradient flow": float(found["flow"])}, bool((np.abs(bias) < 0.01).all())


def large_steps(found) -> tuple[dict, bool]:
    shown, good = {}, True
    for ratio in (1.5, 2.0, 4.0):
        i = int(np.flatnonzero(RATIOS == ratio)[0])
        bias, limit, edge = (float(found[name][i]) for name in ("bias", "limit", "edge"))
        shown[f"{ratio:g} η_c"] = {"b": bias, "prediction": limit, "sharpness·η/2": edge}
        good &= abs(bias - limit) < 0.01 and 0.98 <= edge <= 1 and abs(float(found["a"][i])) <= STILL
    return shown, good


def next_order(found) -> tuple[dict, bool]:
    """(1 − sharpness·η/2) over its closed form, and how far b is from its own, from 1.1 to 4 η_c."""
    judged = (RATIOS >= 1.1) & (RATIOS <= 4)
    ratio = ((1 - found["edge"]) / (1 - found["edge_limit"]))[judged]
    leading, off = (np.abs(found["bias"] - found[name])[judged] for name in ("limit", "next_limit"))
    measured = {"deficit over 6Φ²/(d²g⁴)": ratio.tolist(), "b off by": off.tolist(), "at leading order": leading.tolist()}
    return measured, bool((np.abs(ratio - 1) <= 0.03).all() and (off <= 1e-4).all())
