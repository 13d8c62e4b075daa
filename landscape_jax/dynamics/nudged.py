"""Another learning rate along the sharpest directions."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.tree_util import Partial

from landscape_jax import tree
from landscape_jax.arguments import count, number, product_at, require
from landscape_jax.backend.control import run_if
from landscape_jax.curvature.domain import domain, embed
from landscape_jax.spectrum import tracker
from landscape_jax.types import Batch, Curvature, Dynamics, Key, Params


class Nudged(NamedTuple):
    """The state of a nudged dynamics."""

    inner: Any  # the wrapped dynamics' own
    gamma: Array  # [] γ: runs vmapped together may differ in it
    values: Array  # [k] the eigenvalues when they were last looked at
    vectors: Params  # leaves [k, ...], rows of Q
    tracked: Any  # the tracker's memory


def nudged(
    inner: Dynamics,
    curvature: Curvature,
    gamma: float | Array,
    k: int = 5,
    *,
    refresh: int = 1,
    batch: Batch | None = None,
    num_steps: int | None = None,
    tol: float | None = 2e-3,
    guards: int = 5,
) -> Dynamics:
    """θ_{t+1} = θ_t + u_t + (γ − 1) Qᵀ Q u_t: the step u_t of any dynamics, scaled by γ in the span of the k sharpest
    directions Q.

    With SGD inside, the rate is ηγ along the k sharpest directions and η elsewhere, so that curvature there is stable up to
    2/(ηγ). γ = 1 is the dynamics inside, γ = 0 never moves along Q. What the inner rule remembers (momentum) is of its
    own, un-nudged step.

        nudged(gradient(loss, optax.sgd(0.1), batches), hessian(loss), gamma=0.01, k=5, refresh=32, batch=sample)

    Args:
      inner: e.g. `gradient(loss, optimizer, batches)`, with any optax transformation.
      curvature: what Q are eigenvectors of, the k largest (algebraic) eigenvalues.
      gamma: γ ≥ 0, shape []; it lives in the state, so that one `Dynamics` serves runs vmapped over γ.
      k: how many directions.
      refresh: Q is looked for at every step that this divides, at its start, and kept between: 1 follows it at each step, the
        number of steps in an epoch is what the source does.
      batch: where the curvature is measured; default: the batch of the step. Give a fixed sample.
      num_steps, tol, guards: of the tracker (`spectrum.tracker`). With tol=None each look is `num_steps` products, k at
        least; the source's way, where 2k + 12 will do.
    Returns: a `Dynamics`; its state's `values` are the k eigenvalues at the last look, for observers to have for nothing.

    Cost: the inner step, 4 k p multiply-adds, and, at a refresh, k products at least. Runs
    vmapped together, in step with each other, pay for a refresh only when it is due.
    Source: S. Jastrzębski et al. 2019, arXiv 1807.05031, §5 (Nudged-SGD).

    >>> gd = lj.dynamics.gradient(loss, optax.sgd(0.1), lj.data.full_batch(batch))
    >>> rule = lj.dynamics.nudged(gd, lj.curvature.hessian(loss), gamma=0.1, k=2)
    >>> final, record = lj.run(key, params, rule, {"loss": lj.observe.loss}, num_steps=2)
    >>> int(final.step)
    2
    """
    require("nudged", inner=inner, curvature=curvature)
    count("nudged", refresh=refresh)
    number("nudged", gamma=gamma, at_least=0)  # a negative one walks uphill
    fence = jax.lax.optimization_barrier
    track = tracker(k, num_steps, tol=tol, guards=guards)

    def init(inner: Dynamics, gamma, batch: Batch, params: Params) -> Nudged:
        real = tree.dtype(params)
        none = jnp.zeros(k, real), tree.zero_stack(params, k)
        return Nudged(inner.init(params), jnp.asarray(gamma, real), *none, track.init(domain(curvature, params)))

    def step(inner: Dynamics, gamma, batch: Batch, key: Key, t: Array, params: Params, state: Nudged):
        moved, inside, moment = inner.step(key, t, *fence((params, state.inner)))
        moved, inside, rest = fence((moved, inside, moment._replace(batch=None)))  # γ = 1 rounds as the inner step alone does
        moment = rest._replace(batch=moment.batch)
        # a run that has diverged stands still, maybe at a step that would make all those vmapped with it look at each step
        due = (t % refresh == 0) & tree.all_finite(moment.updates)

        def look(found):
            matvec = product_at("nudged", curvature, params, moment.batch if batch is None else batch)
            # under vmap the runs share this body, and one that is not due asks for no products
            memory, eigs = track.update(matvec, found[2], due, step=t)
            return eigs.values, embed(curvature, eigs.vectors, params), memory

        found = state.values, state.vectors, state.tracked
        values, vectors, memory = look(found) if refresh == 1 else run_if(due, look, found)
        onto = tree.combine(tree.dots(vectors, moment.updates), vectors)  # Qᵀ Q u
        nudge = tree.scale(state.gamma - 1, onto)
        state = Nudged(inside, state.gamma, values, vectors, memory)
        return tree.add(moved, nudge), state, moment._replace(updates=tree.add(moment.updates, nudge), state=state)

    return Dynamics(Partial(init, inner, gamma, batch), Partial(step, inner, gamma, batch))
