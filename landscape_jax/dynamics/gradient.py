"""Gradient descent in every form optax knows."""

import contextlib

import jax
import numpy as np
import optax
from jax import Array
from jax.core import Tracer
from jax.tree_util import Partial

from landscape_jax import losses, tree
from landscape_jax.data.batches import check_function, check_repeats
from landscape_jax.types import Batches, Dynamics, Key, Loss, Moment, Params


def gradient(loss: Loss, optimizer: optax.GradientTransformation, batches: Batches) -> Dynamics:
    """θ_{t+1} = θ_t + u_t,  (u_t, s_{t+1}) = optimizer(∇L(θ_t, batch_t), s_t, θ_t).

    Args:
      loss: (θ, batch) ↦ L, shape [].
      optimizer: any optax transformation; those that want the loss itself (`optax.lbfgs`, `optax.polyak_sgd`, line
        searches) get it. With `optax.inject_hyperparams(optax.sgd)(learning_rate)` the rate is part of the state, so
        that one `Dynamics` serves a whole batch of runs with different rates.
      batches: (key, step) ↦ batch, e.g. `data.full_batch(train)`.
    Returns: a `Dynamics`. Its `init` raises `ValueError` if the optimizer walks uphill or stands still (a learning rate
      that is not positive), unless the rate is traced, when the sign can't be seen; and if `batches` reads an iterator, of
      which a compiled program would see one batch for ever.

    Cost: one value and gradient a step.
    """
    optimizer = optax.with_extra_args_support(optimizer)
    check_function("gradient", batches)

    def init(batches: Batches, params: Params):
        check_repeats(batches)
        check_descends(optimizer, params)
        return optimizer.init(params)

    def step(batches: Batches, key: Key, t: Array, params: Params, state):
        batch = batches(key, t)
        losses.check(loss, params, batch)
        with _shared_precision():
            value, grads = jax.value_and_grad(loss)(params, batch)
        updates, state = updated(optimizer, grads, state, params, value, lambda theta: loss(theta, batch))
        # the sum is rounded the same way whether or not somebody looks at the updates
        updates = jax.lax.optimization_barrier(updates)
        moment = Moment(t, params, batch, value, grads, updates, state)
        return optax.apply_updates(params, updates), state, moment

    return Dynamics(Partial(init, batches), Partial(step, batches))


def _shared_precision():
    """On a CPU, which has but one precision of matrix products, call it by the name that curvatures call it: to the compiler
    the gradient inside of a step's first Hessian product is then the step's own, and is computed once."""
    return jax.default_matmul_precision("highest") if jax.default_backend() == "cpu" else contextlib.nullcontext()


def updated(optimizer: optax.GradientTransformationExtraArgs, grads, state, params, value, value_fn):
    """(updates, state) of one step of an optimizer, with all that optax may ask for: loss, gradient, loss as a function."""
    # optax mixes ints and floats here and there, which a caller's strict promotion would refuse
    with jax.numpy_dtype_promotion("standard"):
        return optimizer.update(grads, state, params, value=value, grad=grads, value_fn=value_fn)


def check_descends(optimizer: optax.GradientTransformationExtraArgs, params: Params, patience: int = 10_000) -> None:
    """Raise unless the optimizer's first non-zero update on a linear loss goes downhill.

    It runs on a miniature of θ, one number a leaf; the loss 10⁶ + 10³ Σ θᵢ is steep, so that added noise can't decide, and far
    from its minimum. Updates that are zero for a while (a warm-up from 0, accumulated gradients) are waited for.
    """

    def first_change(small: Params, slope: Params) -> Array:
        def linear(theta: Params) -> Array:
            return 1e6 + tree.vdot(slope, theta)

        def update(carry):
            count, _, state = carry
            updates, state = updated(optimizer, slope, state, small, linear(small), linear)
            return count + 1, tree.vdot(slope, updates), state

        first = update((0, None, optimizer.init(small)))
        return jax.lax.while_loop(lambda c: (c[1] == 0) & (c[0] < patience), update, first)[1]

    small, slope = (jax.tree.map(lambda x, of=of: np.full((1,) * x.ndim, of, x.dtype), params) for of in (0, 1e3))
    with jax.ensure_compile_time_eval():
        change = jax.jit(first_change)(small, slope)  # one small program; of constants each operation would be one
    if isinstance(change, Tracer):
        return  # a traced learning rate
    change = float(change)
    if not change < 0:
        how = "does not move" if change == 0 else "walks uphill"
        raise ValueError(
            f"the optimizer {how}: on a linear loss its first update changes the loss by {change:+.3g}, where it should "
            "fall; the learning rate must be positive"
        )
