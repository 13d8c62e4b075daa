"""The diagonal with which an adaptive optimizer preconditions, read from its state."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.core import Tracer

from landscape_jax import tree
from landscape_jax.types import Params


def preconditioner(state: Any, params: Params | None = None, **hyperparams) -> Params:
    """P, the positive diagonal by which an optax state divides its (averaged) gradient: θ' = θ − η P⁻¹ m.

        Adam, AdamW, NAdam   (1 − β₁ᵗ) (√(ν / (1 − β₂ᵗ) + ε_root) + ε)
        AMSGrad              (1 − β₁ᵗ) (√(max_s ν̂_s + ε_root) + ε)
        AdaBelief            (1 − β₁ᵗ) (√(ν / (1 − β₂ᵗ)) + ε), ν of g − m
        RMSProp              √(ν + ε), or √ν + ε with eps_in_sqrt=False; centred: ν − μ² for ν; bias-corrected if optax does
        Adagrad              √(Σ g² + ε); infinite where all gradients were 0, which do not move

    The bias correction of the first moment, 1 − β₁ᵗ, is part of P, so that one threshold holds at all times. Compare the
    largest eigenvalue of `preconditioned(hessian(loss), P)` with that of `theory.stability`: `adam` for Adam, AdamW,
    AMSGrad and AdaBelief, `nadam` for NAdam, `gradient_descent` for RMSProp and Adagrad (`polyak` if they have momentum).

    Args:
      state: of any optax transformation, with the preconditioner anywhere inside (`chain`, `masked`, `partition`,
        `inject_hyperparams`, …); in an observer, `moment.state`, the state that made the update. Where several precondition
        the same leaf, P is their product; masked leaves have P = 1.
      params: θ. With it, P is shaped like θ in any case; without, a leaf (or subtree) that is masked out holds one number 1,
        which `preconditioned` takes as well.
      hyperparams: b1, b2, eps, eps_root, decay, eps_in_sqrt, as given to the optimizer. They are not in its state, unless
        `inject_hyperparams` put them there; the defaults are optax's.
    Raises: ValueError for a state without preconditioner (SGD, momentum), or before the first update.
    Source: J. Cohen et al. 2022, arXiv 2207.14484, §2 and App. A; the states are optax's.
    """
    unknown = set(hyperparams) - {name for _, defaults in _STATES.values() for name in defaults}
    if unknown:
        raise ValueError(f"preconditioner: unknown hyperparameters {sorted(unknown)}: use optax's names, such as b1, b2, eps")
    found = list(_diagonals(state, {}, hyperparams))
    if not found:
        raise ValueError(
            f"this optimizer state holds no preconditioner ({', '.join(sorted(_names(state))) or 'it is empty'}): plain SGD "
            "and momentum have none, and their sharpness is that of the Hessian itself; known are "
            + ", ".join(name.removeprefix("ScaleBy").removesuffix("State") for name in _STATES)
        )
    whole = found[0]
    for other in found[1:]:
        whole = _product(whole, other)
    whole = jax.tree.map(lambda x: jnp.ones(()) if _masked(x) else x, whole, is_leaf=_masked)
    return whole if params is None else tree.broadcast(whole, params)


def _adam(s, b1, b2, eps, eps_root=0.0) -> Params:
    def one(nu: Array) -> Array:
        return _corrected(b1, s, nu) * (jnp.sqrt(nu / _corrected(b2, s, nu) + eps_root) + eps)

    return jax.tree.map(one, s.nu)


def _amsgrad(s, b1, b2, eps, eps_root) -> Params:
    return jax.tree.map(lambda nu: _corrected(b1, s, nu) * (jnp.sqrt(nu + eps_root) + eps), s.nu_max)


def _rms(s, decay, eps, eps_in_sqrt) -> Params:
    def one(nu: Array, mu: Array) -> Array:
        correct = _corrected(decay, s, nu) if "count" in s._fields else 1.0
        variance = nu / correct - (mu / correct) ** 2
        return jnp.sqrt(variance + eps) if eps_in_sqrt else jnp.sqrt(variance) + eps

    return jax.tree.map(one, s.nu, getattr(s, "mu", tree.zeros_like(s.nu)))


def _adagrad(s, eps) -> Params:
    return jax.tree.map(lambda x: jnp.where(x > 0, jnp.sqrt(x + eps), jnp.inf), s.sum_of_squares)


_ADAM = dict(b1=0.9, b2=0.999, eps=1e-8, eps_root=0.0)
_RMS = dict(decay=0.9, eps=1e-8, eps_in_sqrt=True)
_STATES: dict[str, tuple[Callable, dict]] = {  # by name: optax is not imported here
    "ScaleByAdamState": (_adam, _ADAM),
    "ScaleByAmsgradState": (_amsgrad, _ADAM),
    "ScaleByBeliefState": (_adam, dict(b1=0.9, b2=0.999, eps=1e-16)),
    "ScaleByRmsState": (_rms, _RMS),
    "ScaleByRmsWithCountState": (_rms, _RMS),
    "ScaleByRStdDevState": (_rms, _RMS),
    "ScaleByRStdDevWithCountState": (_rms, _RMS),
    "ScaleByRssState": (_adagrad, dict(eps=1e-7)),
}


def _corrected(b, s, x: Array) -> Array:
    """1 − bᵗ in the dtype of x, t the count of the state s."""
    if not isinstance(s.count, Tracer) and (jnp.asarray(s.count) == 0).any():
        raise ValueError("preconditioner: this optimizer state has made no update yet: make a step first")
    return 1 - jnp.asarray(b).astype(x.dtype) ** jnp.asarray(s.count).astype(x.dtype)


def _diagonals(state: Any, injected: dict, given: dict) -> Iterator[Params]:
    name = type(state).__name__
    if name in _STATES:
        diagonal, defaults = _STATES[name]
        known = defaults | {k: v for k, v in injected.items() if k in defaults}
        yield diagonal(state, **(known | {k: v for k, v in given.items() if k in defaults}))
    elif isinstance(state, (tuple, list)):
        injected = injected | getattr(state, "hyperparams", {})
        for inner in state:
            yield from _diagonals(inner, injected, given)
    elif isinstance(state, dict):
        for inner in state.values():
            yield from _diagonals(inner, injected, given)


def _names(state: Any) -> set[str]:
    """What the state is made of, for the message."""
    if isinstance(state, dict):
        return set().union(*map(_names, state.values()))
    if isinstance(state, (tuple, list)):
        return set().union({type(state).__name__} - {"tuple", "list", "EmptyState"}, *map(_names, state))
    return set()


def _masked(x: Any) -> bool:
    return type(x).__name__ == "MaskedNode"


def _product(a: Any, b: Any) -> Any:
    """a ⊙ b, where either may be masked from some subtree on."""
    if _masked(a) or _masked(b):
        return b if _masked(a) else a
    if jax.tree_util.all_leaves([a]):
        return a * b
    parts, treedef = jax.tree.flatten(a, is_leaf=lambda x: x is not a)
    return treedef.unflatten([_product(x, y) for x, y in zip(parts, treedef.flatten_up_to(b), strict=True)])
