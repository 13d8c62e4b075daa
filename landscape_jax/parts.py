"""What a part of a batch counts in a mean over the whole, and which losses are no plain mean over their examples."""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.extend.core import Literal

from landscape_jax import tree
from landscape_jax.types import Batch, Params, Weight


def weigh(weight: Weight, batch: Batch) -> Array:
    """w of a part of a batch, shape []."""
    w = jnp.asarray(weight(batch))
    fact = f"weight gives shape {w.shape} for a batch, not one number"
    chex.assert_rank(w, 0, exception_type=ValueError, custom_message=f"{fact}: sum over its examples")
    return w


def shares(batch: Batch, size: int, weight: Weight | None) -> tuple[Array | None, Array | float]:
    """What each chunk of `size` examples counts in a mean over a batch, [n // size], and what the rest counts, [].

    Without weights the first is None: each chunk counts size / n.
    """
    n = tree.num_examples(batch)
    whole, rest = divmod(n, size)
    if weight is None:
        return None, rest / n
    chunks = jax.tree.map(lambda x: x[: whole * size].reshape(whole, size, *x.shape[1:]), batch)
    weights = jax.vmap(lambda chunk: weigh(weight, chunk))(chunks)  # [whole]
    last = weigh(weight, jax.tree.map(lambda x: x[whole * size :], batch)) if rest else jnp.zeros((), weights.dtype)
    total = jnp.sum(weights) + last
    return weights / total, last / total


def plus(total: Params, share: Array | float, part: Callable[[], Params]) -> Params:
    """total + share · part(), where a part that counts 0 is not computed: it may be 0/0."""
    if isinstance(share, float):
        return tree.axpy(share, part(), total)
    return jax.lax.cond(share != 0, lambda: tree.axpy(share, part(), total), lambda: total)


# ── what can be seen of a loss ────────────────────────────────────────────────────────────────────────────────────────

THROUGH = {"convert_element_type", "neg", "squeeze", "reshape", "broadcast_in_dim", "copy", "add", "sub", "add_any", "mul"}


def refuse_weighted(name: str, loss: Callable, params: Params, batch: Batch) -> None:
    """Raise if a loss is seen to be no mean over examples: it divides by a number that depends on its batch, such as the sum of
    a mask; it was itself put together of weighted parts; or, where θ and batch are concrete, its value on a few examples is not
    the mean of its values on their halves.

    Costs one trace; and, outside of jit, three losses of at most `FEW` examples.
    """
    jaxpr = jax.make_jaxpr(loss)(params, batch).jaxpr
    known = len(jax.tree.leaves(params))
    if hasattr(loss, "weight") or _divides_by_data(jaxpr, [i >= known for i in range(len(jaxpr.invars))], 0):
        raise ValueError(
            f"{name}: this loss divides by a number that depends on the batch (a masked or weighted mean), so that the mean "
            "over parts of the batch is something else: pass weight=lambda batch: ..., that number for a part; or "
            "weight=landscape_jax.tree.num_examples if each part should count by its examples all the same"
        )

    whole, halves = _of_few(loss, params, batch)
    if abs(whole - halves) > 1e-3 * (abs(whole) + abs(halves)):
        raise ValueError(
            f"{name}: this loss is no mean over its examples: of a few it is {whole:.4g}, but the mean of its values on their "
            f"halves is {halves:.4g}. For a sum, divide by the number of examples; for a masked mean pass weight=; where "
            "examples see each other (BatchNorm in train mode) use a whole batch"
        )


FEW = 16


def _of_few(loss: Callable, params: Params, batch: Batch) -> tuple[float, float]:
    """The loss of a few examples, spread over the batch, and the mean of those of their halves; 0, 0 where it can't be told."""
    half = min(FEW, tree.num_examples(batch)) // 2
    if half == 0 or any(isinstance(x, Tracer) for x in jax.tree.leaves((params, batch))):
        return 0.0, 0.0
    places = np.linspace(0, tree.num_examples(batch) - 1, 2 * half).astype(int)
    few = [jax.tree.map(lambda x, at=at: x[at], batch) for at in (places, places[:half], places[half:])]
    whole, one, two = (float(loss(params, part)) for part in few)
    return (whole, (one + two) / 2) if np.isfinite([whole, one, two]).all() else (0.0, 0.0)


def _divides_by_data(jaxpr, of_data: list[bool], index: int) -> bool:
    """Whether an output of a jaxpr is a quotient, up to sums and factors, by one number that depends on data."""
    dependent = {var for var, yes in zip(jaxpr.invars, of_data, strict=True) if yes}
    made_by = {}
    for equation in jaxpr.eqns:
        made_by |= {var: (equation, i) for i, var in enumerate(equation.outvars)}
        if any(var in dependent for var in equation.invars if not isinstance(var, Literal)):
            dependent.update(equation.outvars)

    def quotient(var) -> bool:
        if isinstance(var, Literal) or var not in dependent or var not in made_by or var.aval.size != 1:
            return False
        equation, i = made_by[var]
        name, operands = equation.primitive.name, equation.invars
        if name == "div":
            below = operands[1]
            return (not isinstance(below, Literal) and below in dependent) or quotient(operands[0])
        if name == "integer_pow" and equation.params["y"] < 0:
            return True
        inner = equation.params.get("jaxpr") or equation.params.get("call_jaxpr")
        inner = getattr(inner, "jaxpr", inner)
        if hasattr(inner, "eqns") and len(inner.invars) == len(operands):  # jit, checkpoint, custom derivatives
            return _divides_by_data(inner, [not isinstance(x, Literal) and x in dependent for x in operands], i)
        return name in THROUGH and any(map(quotient, operands))

    return quotient(jaxpr.outvars[index])
