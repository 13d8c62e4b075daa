"""Simulations of the uv model, to hold against its closed forms (`landscape_jax.theory.uv`). In float64 throughout."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments._float64 import float64
from landscape_jax.theory import uv
from landscape_jax.types import Key

ASYMMETRIES = np.append(np.geomspace(1e-3, 0.1, 13), 0.12)  # [a]
STEP = 0.002
KS = np.arange(1.9, 4.1001, STEP)  # [k]: η λ₀
TARGET, WIDTH = 2.0, 64  # of the model with a target
RATES = np.arange(1.8, 3.0501, 0.0025).round(6)  # [r]: η λ_min
NUM_INITS = 100


@functools.partial(jax.jit, static_argnames="num_steps")
def descent(u: Array, v: Array, rate: Array, num_steps: int, target: Array) -> dict[str, Array]:
    """Gradient descent on u and v [w] themselves, by autodiff, beside the exact map from the same start.

    Returns: "output", "trace" and "mapped" (the map's two) at steps 0 … num_steps.
    """

    def loss(layers):
        return 0.5 * (uv.output(*layers) - target) ** 2

    def step(carry: tuple[tuple[Array, Array], tuple[Array, Array]], _):
        layers, state = carry
        seen = {"output": uv.output(*layers), "trace": uv.trace(*layers), "mapped": jnp.stack(state)}
        layers = jax.tree.map(lambda x, g: x - rate * g, layers, jax.grad(loss)(layers))
        return (layers, uv.step(*state, rate, u.shape[-1], target)), seen

    begun = (u, v), (uv.output(u, v), uv.trace(u, v))
    return jax.lax.scan(step, begun, length=num_steps + 1)[1]


def critical(a: Array, ks: Array) -> dict[str, Array]:
    """The k where the loss, the trace and the top eigenvalue first rise above their start within 10 steps, and where it first
    diverges within 300, on the grid ks [k], for each a: leaves shaped like a; NaN where it never does."""
    kappa = jnp.broadcast_to(ks, (*a.shape, ks.size))
    start = kappa**2 * a[..., None], kappa  # X₀ and κ₀, [..., k]

    def seen(x: Array, kappa: Array) -> tuple[Array, ...]:
        return x, kappa, kappa + jnp.sqrt(kappa**2 + 12 * x)

    def step(_, carry):
        state, highest = carry
        state = uv.scaled_step(*state)
        return state, jax.tree.map(jnp.maximum, highest, seen(*state))  # a NaN stays

    first = tuple(jnp.broadcast_to(values, start[1].shape) for values in seen(*start))
    state, early = jax.lax.fori_loop(0, 10, step, (start, first))
    _, late = jax.lax.fori_loop(10, 300, step, (state, early))

    def least(event: Array) -> Array:
        return jnp.where(event.any(axis=-1), ks[jnp.argmax(event, axis=-1)], jnp.nan)

    # by more than rounding; True for NaN
    found = {n: least(~(e <= f * (1 + 1e-12))) for n, e, f in zip(("loss", "trace", "top"), early, first, strict=True)}
    return found | {"max": least(~(late[0] < 1e6))}


def thresholds(widths: tuple[int, ...], key: Key) -> dict[str, np.ndarray]:
    """Critical k of the scaled map over a grid of a ("grid_…" [a]) and from random u and v ("random_…" [width, init]), and
    how far gradient descent itself strays from the map ("error", relative, the largest over widths, outputs and steps)."""
    with float64():
        grid = jax.jit(critical)(jnp.asarray(ASYMMETRIES), jnp.asarray(KS))
        found: dict[str, list] = {"random_a": [], "error": [], "top_error": []}
        for width in widths:
            u, v = jax.random.normal(jax.random.fold_in(key, width), (2, NUM_INITS, width), jnp.float64)
            found["random_a"].append(uv.asymmetry(uv.output(u, v), uv.trace(u, v), width))
            if width not in (min(widths), max(widths)):
                continue  # autodiff is held against the map at both ends: each width is a program of its own
            for target in (0.0, TARGET):
                orbit = descent(u[0], v[0], 1.5 / uv.trace(u[0], v[0]), 50, jnp.asarray(target))
                truth = jnp.stack([orbit["output"], orbit["trace"]], axis=1)
                found["error"].append(jnp.max(jnp.abs(orbit["mapped"] - truth) / jnp.abs(truth).max(axis=0, keepdims=True)))
            found["top_error"].append(_top_error(u[0], v[0]))
        random = jax.jit(critical)(jnp.stack(found["random_a"]), jnp.asarray(KS[::5]))
        out = {f"grid_{name}": x for name, x in grid.items()} | {f"random_{name}": x for name, x in random.items()}
        out |= {"random_a": jnp.stack(found["random_a"]), "error": jnp.max(jnp.stack(found["error"]))}
        out |= {"top_error": jnp.max(jnp.stack(found["top_error"])), "a": ASYMMETRIES}
        return {name: np.asarray(x) for name, x in out.items()}


@jax.jit
def _top_error(u: Array, v: Array) -> Array:
    """Of the closed form of the largest Hessian eigenvalue, relative, against the dense Hessian."""
    width = u.shape[-1]
    hessian = jax.hessian(lambda x: 0.5 * uv.output(x[:width], x[width:]) ** 2)(jnp.concatenate([u, v]))
    return jnp.abs(uv.top_eigenvalue(uv.output(u, v), uv.trace(u, v), width) / jnp.linalg.eigvalsh(hessian)[-1] - 1)


def bifurcation(num_steps: int = 6000, kept: int = 1000, drawn: int = 200) -> dict[str, np.ndarray]:
    """The model with a target at η = r/λ_min: "orbit" [r, drawn], the last ηλ; "distinct" [r], how many different values among
    the last `kept` at four decimals; "late_loss" [r], the largest of the last losses."""
    minimum = uv.minimal_trace(TARGET, WIDTH)

    @jax.jit
    def orbits(rates):  # [r]
        def step(state: tuple[Array, Array], _):
            return uv.step(*state, rates, WIDTH, TARGET), state

        f = jnp.full_like(rates, TARGET - 0.98 * TARGET)
        start = f, 0.06 * minimum + 2 * jnp.abs(f) / WIDTH**0.5
        late = jax.lax.scan(step, jax.lax.fori_loop(0, num_steps - kept, lambda _, s: step(s, None)[0], start), length=kept)[1]
        return late[0].T, rates[:, None] * late[1].T  # f and ηλ, [r, kept]

    with float64():
        f, eta_lambda = (np.asarray(x) for x in orbits(jnp.asarray(RATES / minimum)))
    distinct = np.array([np.unique(values.round(4)).size for values in eta_lambda])
    return {
        "r": RATES,
        "orbit": eta_lambda[:, -drawn:],
        "mean": eta_lambda.mean(axis=1),
        "distinct": distinct,
        "late_loss": 0.5 * ((f - TARGET) ** 2).max(axis=1),
    }


# ── what the simulations say: (numbers, passed) for the record's "uv" and "uv_target", or for nothing ─────────────────


def exactness(found, target) -> tuple[dict, bool | None]:
    if found is None:
        return {}, None
    errors = {"map": float(found["error"]), "top eigenvalue": float(found["top_error"])}
    return errors, all(error <= 1e-12 for error in errors.values())


def agreement(found, target) -> tuple[dict, bool | None]:
    if found is None:
        return {}, None
    formula = {"loss": uv.loss_threshold(found["a"]), "trace": uv.TRACE_THRESHOLD, "max": uv.MAX_THRESHOLD}
    off = {name: float(np.abs(found[f"grid_{name}"] - value).max()) for name, value in formula.items()}
    wide = float(found["grid_top"][0])
    exact = all(value <= STEP * (1 + 1e-9) for value in off.values())  # False for NaN
    return {"largest distance": off, "top eigenvalue at a = 1e-3": wide}, exact


def opening(found, target) -> tuple[dict, bool | None]:
    if found is None:
        return {}, None
    window = found["grid_loss"] - 2
    means = np.nanmean(found["random_loss"], axis=1)
    opens = bool((np.diff(window) >= 0).all() and window[-1] > window[0] and window[0] < 0.01)
    return {"window by a": window.round(3).tolist(), "mean k_loss by width": means.round(3).tolist()}, opens


def doubling(found, target) -> tuple[dict, bool | None]:
    if target is None:
        return {}, None

    def at(r: float) -> int:
        return int(target["distinct"][np.abs(target["r"] - r).argmin()])

    bounded = np.isfinite(target["late_loss"])
    below = target["r"] < 2
    rests = float(target["late_loss"][below].max())  # NaN if one of them blew up
    measured = {
        "distinct values of 1000": {f"r={r:g}": at(r) for r in (1.8, 1.95, 2.05, 2.2, 2.4, 2.6, 2.7, 2.8)},
        "late loss for r < 2": rests,
        "orbits that blow up": int((~bounded).sum()),
    }
    still = bool((target["distinct"][below] == 1).all()) and rests <= 1e-12
    return measured, bool(bounded.all()) and still and at(2.05) == at(2.2) == 2 and 2 < at(2.6) < 100 < at(2.8)
