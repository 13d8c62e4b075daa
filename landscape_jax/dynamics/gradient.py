"""Gradient descent in every form optax knows."""

import inspect
import re
import warnings
from collections.abc import Callable, Iterator

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.core import Tracer
from jax.tree_util import Partial

from landscape_jax import labels, losses, tree
from landscape_jax.arguments import require
from landscape_jax.backend import policy
from landscape_jax.curvature.closures import injected, opened, updates_in
from landscape_jax.data.batches import check_repeats, source
from landscape_jax.types import Batches, Dynamics, Key, Loss, Moment, Params


def gradient(loss: Loss, optimizer: optax.GradientTransformation, batches: Batches) -> Dynamics:
    """θ_{t+1} = θ_t + u_t,  (u_t, s_{t+1}) = optimizer(∇L(θ_t, batch_t), s_t, θ_t).

    Args:
      loss: (θ, batch) ↦ L, shape [].
      optimizer: any optax transformation; those that want the loss itself or its gradient as a function (`optax.lbfgs`,
        `optax.polyak_sgd`, line searches, `optax.contrib.sophia`, `optax.contrib.sam`) get them. With
        `optax.inject_hyperparams(optax.sgd)(learning_rate)` the rate is part of the state, so that one `Dynamics` serves a
        whole batch of runs with different rates.
      batches: (key, step) ↦ batch, e.g. `data.full_batch(train)`.
    Returns: a `Dynamics`. Its `init` raises `ValueError` if the optimizer walks uphill for certain or its learning rate is 0,
      and warns if it does not seem to move; nothing can be seen if the rate is traced. It raises if `batches` reads an
      iterator, of which a compiled program would see one batch for ever, and for labels that are no class.

    Cost: one value and gradient a step.

    >>> gd = lj.dynamics.gradient(loss, optax.sgd(0.1), lj.data.full_batch(batch))
    >>> final, record = lj.run(key, params, gd, {"loss": lj.observe.loss}, num_steps=4, every=2)
    >>> record["step"].tolist(), record["loss"].shape
    ([0, 2], (2,))
    """
    require("gradient", loss=loss, optimizer=optimizer, batches=batches)
    optimizer = optax.with_extra_args_support(optimizer)

    def init(batches: Batches, params: Params):
        check_repeats(batches)
        check_loss(loss, params, batches)
        check_descends(optimizer, params)
        return optimizer.init(params)

    def step(batches: Batches, key: Key, t: Array, params: Params, state):
        batch = batches(key, t)
        losses.check(loss, params, batch)
        with policy.shared_gradient_precision():
            value, grads = jax.value_and_grad(loss)(params, batch)
        updates, state = optimizer_update(optimizer, grads, state, params, value, lambda theta: loss(theta, batch))
        # the sum is rounded the same way whether or not somebody looks at the updates
        updates = jax.lax.optimization_barrier(updates)
        moment = Moment(t, params, batch, value, grads, updates, state)
        return optax.apply_updates(params, updates), state, moment

    return Dynamics(Partial(init, batches), Partial(step, batches))


def optimizer_update(optimizer: optax.GradientTransformationExtraArgs, grads, state, params, value, value_fn):
    """(updates, state) of one step of an optimizer, given all that optax may ask for: loss, gradient, and both as functions."""
    offered = {"value": value, "grad": grads, "value_fn": value_fn}  # line searches, Polyak's step, MoMo
    named = {"obj_fn": value_fn, "grad_fn": lambda theta, *_: jax.grad(value_fn)(theta)}  # Sophia, SAM
    offered |= {name: named[name] for name in named.keys() & _arguments(optimizer.update)}
    while True:
        try:
            # some of optax mixes ints and floats, which strict promotion in the caller would refuse
            with jax.numpy_dtype_promotion("standard"):
                updates, state = optimizer.update(grads, state, params, **offered)
            break
        except TypeError as error:  # raised when Python binds the arguments: the signature of a wrapper does not show them
            name = re.search(r"unexpected keyword argument '(\w+)'", str(error))
            if name is None or name[1] not in offered:
                raise
            del offered[name[1]]
    chex.assert_trees_all_equal_shapes(
        updates,
        params,
        exception_type=ValueError,
        custom_message="the optimizer's updates have other shapes than θ: one that needs per-example gradients "
        "(optax.contrib.dpsgd) can't be driven by the gradient of a loss; write a Dynamics of your own",
    )
    return updates, state


def _arguments(update: Callable) -> set[str]:
    """The names of all arguments of an update function and of the update functions that it wraps."""
    inner = updates_in(list(opened(update)[1].values()))
    return set(inspect.signature(update).parameters).union(*map(_arguments, inner))


def check_loss(loss: Loss, params: Params, batches: Batches) -> None:
    """Raise unless the loss of a batch is one real number and, where the data are concrete, for a label that is no class.

    Costs a trace of the loss on a batch, which a step's own then finds, and one on the whole data.
    """
    key, step = jax.eval_shape(lambda: jax.random.key(0)), jax.ShapeDtypeStruct((), jnp.int32)
    losses.check(loss, params, jax.eval_shape(batches, key, step))
    data = source(batches)
    if data is None or any(isinstance(x, Tracer) for x in jax.tree.leaves(data)):
        return
    try:
        jax.eval_shape(lambda theta: loss(theta, data), params)  # the data stay concrete, so that criteria see the labels
    except labels.NoClass:
        raise
    except Exception:  # noqa: BLE001  the loss may take batches of one size only
        return


def check_descends(optimizer: optax.GradientTransformationExtraArgs, params: Params, patience: int = 10_000) -> None:
    """Raise if the optimizer walks uphill for certain, or has a learning rate of 0; warn if it does not seem to move.

    A miniature of θ, one number a leaf, on the loss 10⁶ + 10³ Σ θᵢ, which is steep, so that added noise can't decide, and far
    from its minimum. Updates that are zero for a while (a warm-up from 0, accumulated gradients) are waited for. If the first
    other one goes downhill, all is well. If not, `_ways` looks at θ in its full size.
    """

    def first_change(small: Params, slope: Params) -> Array:
        def linear(theta: Params) -> Array:
            return 1e6 + tree.vdot(slope, theta)

        def update(carry):
            count, _, state = carry
            updates, state = optimizer_update(optimizer, slope, state, small, linear(small), linear)
            return count + 1, tree.vdot(slope, updates), state

        first = update((0, None, optimizer.init(small)))
        return jax.lax.while_loop(lambda c: (c[1] == 0) & (c[0] < patience), update, first)[1]

    small, slope = (jax.tree.map(lambda x, of=of: np.full((1,) * x.ndim, of, x.dtype), params) for of in (0, 1e3))
    with jax.ensure_compile_time_eval():
        change = jax.jit(first_change)(small, slope)  # one small program; of constants each operation would be one
        if isinstance(change, Tracer) or float(change) < 0:
            return  # a traced learning rate, or downhill
        down, other = map(bool, jax.jit(lambda: _ways(optimizer, params))())
        stopped = not down and not other and any(rate == 0 for rate in _rates(optimizer.update, optimizer.init(small)))
    if down:
        return
    if other:
        raise ValueError(
            "the optimizer walks uphill, or to NaN: on linear losses no leaf of θ ever goes down; the learning rate must be "
            "positive (to maximise a function, give its negative as the loss)"
        )
    if stopped:
        raise ValueError("the optimizer does not move: the learning rate must be positive, but is 0")
    warnings.warn(
        f"the optimizer did not move θ in {patience} steps on a linear loss: if that is not meant, look at its learning rate, "
        "schedule and masks",
        stacklevel=2,
    )


def _ways(optimizer: optax.GradientTransformationExtraArgs, params: Params, num_steps: int = 100) -> tuple[Array, Array]:
    """Whether any leaf of θ ever goes down, and whether any ever goes elsewhere (up, or NaN).

    θ has entries of both signs, and its own shapes. Looked at are the first steps on a linear loss and on its negative, and one
    update at later counts of a schedule.
    """
    theta0 = tree.scattered_like(0, params)

    def on(slope: Params) -> tuple[Array, Array]:
        def linear(theta: Params) -> Array:
            return 1e6 + tree.vdot(slope, theta)

        def step(theta: Params, state):
            updates, state = optimizer_update(optimizer, slope, state, theta, linear(theta), linear)
            return optax.apply_updates(theta, updates), state

        def way(theta: Params) -> tuple[Array, Array]:
            moved = jax.tree.map(lambda s, a, b: tree.vdot(s, a - b), slope, theta, theta0)
            return tree.any_of(jax.tree.map(lambda x: x < 0, moved)), tree.any_of(jax.tree.map(lambda x: ~(x <= 0), moved))

        def follow(carry, _):
            carry = step(*carry)
            return carry, way(carry[0])

        def later(count):
            state = jax.tree.map(lambda x: jnp.full_like(x, count) if _is_count(x) else x, optimizer.init(theta0))
            return way(step(theta0, state)[0])

        down, other = jax.lax.scan(follow, (theta0, optimizer.init(theta0)), length=num_steps)[1]
        late_down, late_other = jax.lax.map(later, 10 ** jnp.arange(3, 9))
        return down.any() | late_down.any(), other.any() | late_other.any()

    slopes = [jax.tree.map(lambda x, of=of: jnp.full_like(x, of), theta0) for of in (1e3, -1e3)]
    down, other = zip(*map(on, slopes), strict=True)
    return down[0] | down[1], other[0] | other[1]


def _is_count(x) -> bool:
    return jnp.ndim(x) == 0 and jnp.issubdtype(jnp.result_type(x), jnp.integer)


def _rates(update: Callable, state) -> Iterator:
    """The learning rates that can be found in an optimizer: those in its state, and the numbers in its closures."""
    yield from (rate for node in injected(state) if (rate := node.hyperparams.get("learning_rate")) is not None)
    _, inside = opened(update)
    yield from (inside[name] for name in ("step_size", "learning_rate") if np.isscalar(inside.get(name)))
    for inner in updates_in(list(inside.values())):
        yield from _rates(inner, ())
