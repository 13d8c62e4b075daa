"""The nouns: what a loss, a curvature, a dynamics and an observable are.

Everything here is a plain function type or a pair of functions. A model of your own enters as `loss(params, batch)`;
nothing asks for a base class.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
from jax import Array

Key = jax.Array  # a typed PRNG key, jax.random.key
Params = Any  # θ: any pytree of float arrays, p numbers in all
Batch = Any  # a pytree whose leaves share a leading example axis, or None

Loss = Callable[[Params, Batch], Array]  # (θ, batch) ↦ L, shape []
Criterion = Callable[[Array, Array], Array]  # (outputs [n, c], targets [n, ...]) ↦ per-example losses [n]
MatVec = Callable[[Params], Params]  # v ↦ A v, v shaped like θ
Curvature = Callable[[Params, Batch], MatVec]  # (θ, batch) ↦ (v ↦ A(θ) v)
Weight = Callable[[Batch], Array]  # batch ↦ what it counts in a mean over parts, shape []; the number of examples, if not given
Batches = Callable[[Key, Array], Batch]  # (key, step) ↦ batch: data is a pure function of key and step


class BatchCoupled:
    """A function of a batch that is not made of its examples one by one, and why: what takes batches apart refuses it.

    Calls go to `fn`. A loss, or a curvature, made of one is `BatchCoupled` again.
    """

    of_loss: Loss  # of a curvature, where it is set: the loss that it comes from
    acts_on: Any  # and what its vectors are: `curvature.domain.Part`

    def __init__(self, fn: Callable, why: str):
        self.fn, self.why = fn, why

    def __call__(self, *args):
        return self.fn(*args)

    @staticmethod
    def like(source: Callable, fn: Callable) -> Callable:
        """`fn`, coupled if what it was made from is, of the same loss and acting on the same part of θ (`curvature.domain`)."""
        fn = BatchCoupled(fn, source.why) if isinstance(source, BatchCoupled) else fn
        for name in ("of_loss", "acts_on"):
            if hasattr(source, name):
                setattr(fn, name, getattr(source, name))
        return fn

    @staticmethod
    def refuse(name: str, source: Callable) -> None:
        """Raise `ValueError` for what `name` would take apart."""
        if isinstance(source, BatchCoupled):
            raise ValueError(
                f"{name}: {source.why}, so the mean over parts of the batch is something else: use it on a whole batch"
            )


class ModelInit(Protocol):
    def __call__(self, key: Key, inputs: Array, /) -> Params:
        """θ, drawn for inputs like these, [n, ...]."""
        ...


class ModelApply(Protocol):
    def __call__(self, params: Params, inputs: Array, /) -> Array:
        """The outputs, [n, c] of inputs [n, ...]."""
        ...


class Model(NamedTuple):
    """A network as two pure functions."""

    init: ModelInit  # (key, inputs [n, ...]) ↦ θ
    apply: ModelApply  # (θ, inputs [n, ...]) ↦ outputs [n, c]


class Moment(NamedTuple):
    """What an observer may see of step t."""

    step: Array  # [] int32
    params: Params  # θ_t
    batch: Batch  # the batch of step t
    loss: Array  # [] L(θ_t, batch)
    grads: Params  # ∇L(θ_t, batch)
    updates: Params  # θ_{t+1} − θ_t
    state: Any  # s_{t+1}: the optimizer state that made the update
    alive: Array | bool = True  # [] bool: False from the step on at which the run diverged; set by the engine


class DynamicsInit(Protocol):
    def __call__(self, params: Params, /) -> Any:
        """s₀, the state of the rule at θ₀."""
        ...


class DynamicsStep(Protocol):
    def __call__(self, key: Key, step: Array, params: Params, state: Any, /) -> tuple[Params, Any, Moment]:
        """θ_{t+1}, s_{t+1} and the moment of step t, [] int32, which starts at θ_t with s_t."""
        ...


class Dynamics(NamedTuple):
    """A rule that moves parameters.

    `key` is the run's key, the same at every step; a rule that draws random numbers at step t folds t into it.
    """

    init: DynamicsInit  # θ₀ ↦ s₀
    step: DynamicsStep  # (key, t, θ, s) ↦ (θ', s', moment)


class ObservableInit(Protocol):
    def __call__(self, key: Key, params: Params, /) -> Any:
        """m₀, what is remembered before the first step, from θ₀."""
        ...


class ObservableMeasure(Protocol):
    def __call__(self, key: Key, memory: Any, moment: Moment, /) -> tuple[Any, Any]:
        """The memory after this moment, and the value: a pytree of arrays."""
        ...


class Observable(NamedTuple):
    """A measurement that may remember. Its keys are its own, shared with no other observable and not with the run.

    Once a run has diverged, the engine still calls `measure`, with `moment.alive` False, and records NaN. What an observable
    remembers then is unspecified. One that is expensive reads `moment.alive` to do less.
    """

    init: ObservableInit  # (key, θ₀) ↦ m₀
    measure: ObservableMeasure  # (key, m, moment) ↦ (m', value)


class Eigs(NamedTuple):
    """Eigenpairs of a symmetric operator A; an estimate always brings its error."""

    values: Array  # [k], descending
    vectors: Params  # leaves [k, ...], orthonormal over the whole tree
    residuals: Array  # [k], ‖A v − λ v‖: some true eigenvalue lies within this of λ
    converged: Array  # [], bool: whether the tolerance was met
    products: Array  # [] int32: how many products it took


class Estimate(NamedTuple):
    """A mean over random probes and its standard error, shaped alike."""

    value: Array
    error: Array  # of the mean: about 95 % of estimates lie within two of these of the truth
