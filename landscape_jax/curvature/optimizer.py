"""The diagonal with which an adaptive optimizer preconditions, from its state and its rule.

Optax has one class of state for several rules (`ScaleByAdamState` is that of Adam, NAdam, RAdam, AdaMax, Yogi and ADOPT), and
keeps β and ε in the update function alone. So the rule and its numbers are read from the optimizer: from the closures of its
update function, by the names that optax gives them. What is not known by name is refused.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.core import Tracer

from landscape_jax import tree
from landscape_jax.curvature.closures import INJECTING, injected, opened, updates_in
from landscape_jax.types import Params


def preconditioner(state: Any, params: Params | None = None, *, optimizer: Any = None, **hyperparams) -> Params:
    """P, the positive diagonal by which an optax state divides its (averaged) gradient: θ' = θ − η P⁻¹ m.

        Adam, AdamW, NAdam, Yogi   (1 − β₁ᵗ) (√(ν / (1 − β₂ᵗ) + ε_root) + ε)
        RAdam                      the same over its rectification r_t; 1 − β₁ᵗ before r_t is defined
        AdaMax                     (1 − β₁ᵗ) ν, ν the largest |g|, discounted
        AMSGrad                    (1 − β₁ᵗ) (√(max_s ν̂_s + ε_root) + ε)
        AdaBelief                  (1 − β₁ᵗ) (√(ν / (1 − β₂ᵗ)) + ε), ν of g − m
        RMSProp                    √(ν + ε), or √ν + ε with eps_in_sqrt=False; centred: ν − μ² for ν; bias-corrected as in optax
        Adagrad                    √(Σ g² + ε); infinite where all gradients were 0, which do not move

    The bias correction of the first moment, 1 − β₁ᵗ, is part of P, so that one threshold holds at all times. Compare the
    largest eigenvalue of `preconditioned(hessian(loss), P)` with that of `theory.stability`: `adam` for Adam, AdamW, RAdam,
    AdaMax, Yogi, AMSGrad and AdaBelief, `nadam` for NAdam, `gradient_descent` for RMSProp and Adagrad (`polyak` if they have
    momentum).

        watch = observe.sharpness(hessian, preconditioner=functools.partial(preconditioner, optimizer=optimizer))

    Args:
      state: of any optax transformation, with the preconditioner anywhere inside (`chain`, `masked`, `partition`,
        `inject_hyperparams`, …); in an observer, `moment.state`, the state that made the update. Where several precondition
        the same leaf, P is their product; masked leaves have P = 1.
      params: θ. With it, P is shaped like θ in any case; without, a leaf (or subtree) that is masked out holds one number 1,
        which `preconditioned` takes as well.
      optimizer: the optax transformation that made the state: it tells the rule and its β and ε. States of Adam's and
        AdaBelief's kin can't be read without.
      hyperparams: without `optimizer`: b1, eps, eps_root, decay, eps_in_sqrt, as given to AMSGrad, RMSProp or Adagrad. They
        are not in the state, unless `inject_hyperparams` put them there; the defaults are optax's.
    Raises: ValueError for a state without preconditioner (SGD, momentum), before the first update, where the rule can't be
      told from the state, and for a rule that is not of this form or not known (ADOPT, ACProp, LAMB, …), by name.
    Source: J. Cohen et al. 2022, arXiv 2207.14484, §2 and App. A; the rules are optax's.

    >>> adam = optax.adam(0.1)
    >>> state = adam.update(jax.grad(loss)(params, batch), adam.init(params))[1]
    >>> jax.tree.map(jnp.shape, lj.curvature.preconditioner(state, optimizer=adam))
    {'b': (3,), 'w': (2, 3)}
    """
    if params is not None:
        tree.check(params)
    found = list(_states(state, {}))
    if optimizer is None:
        unknown = set(hyperparams) - {name for rule in _RULES.values() for name in rule.defaults}
        if unknown:
            raise ValueError(f"preconditioner: unknown hyperparameters {sorted(unknown)}: use optax's names, such as b1, eps")
        rules = [_only_rule(node, injected | hyperparams) for node, injected in found]
    else:
        if hyperparams:
            raise ValueError(f"preconditioner: {sorted(hyperparams)} are read from the optimizer: leave them out beside it")
        rules = _rules(optimizer.update, injected(state), after=False)
        if [rule.state for rule, _ in rules] != [_class(node) for node, _ in found]:
            raise ValueError("preconditioner: this state was not made by this optimizer: give moment.state, and what made it")
    if not found:
        raise ValueError(
            f"this optimizer state holds no preconditioner ({', '.join(sorted(_names(state))) or 'it is empty'}): plain SGD "
            "and momentum have none, and their sharpness is that of the Hessian itself; known are Adam and its kin, AdaBelief, "
            "AMSGrad, RMSProp and Adagrad"
        )
    diagonals = [rule.diagonal(node, **given) for (node, _), (rule, given) in zip(found, rules, strict=True)]
    whole = diagonals[0]
    for other in diagonals[1:]:
        whole = _product(whole, other)
    whole = jax.tree.map(lambda x: jnp.ones(()) if _masked(x) else x, whole, is_leaf=_masked)
    return whole if params is None else tree.broadcast(whole, params)


# ── rules ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _adam(s, b1, b2, eps, eps_root) -> Params:
    def one(nu: Array) -> Array:
        return _corrected(b1, s, nu) * (jnp.sqrt(nu / _corrected(b2, s, nu) + eps_root) + eps)

    return jax.tree.map(one, s.nu)


def _belief(s, b1, b2, eps) -> Params:
    return _adam(s, b1, b2, eps, 0.0)  # its ε_root is in ν


def _adamax(s, b1) -> Params:
    return jax.tree.map(lambda nu: _corrected(b1, s, nu) * nu, s.nu)


def _radam(s, b1, b2, eps, eps_root, threshold) -> Params:
    with jax.numpy_dtype_promotion("standard"):  # ρ cancels: in optax's own operations, it rounds as in the update
        limit = 2.0 / (1.0 - b2) - 1.0  # ρ_∞
        power = b2**s.count
        rho = limit - 2 * s.count * power / (1 - power)
        known = rho >= threshold
        r = jnp.sqrt(jnp.where(known, (rho - 4.0) * (rho - 2.0) * limit / ((limit - 4.0) * (limit - 2.0) * rho), 1))

    def one(nu: Array, adam: Array) -> Array:
        return jnp.where(known, adam / r.astype(nu.dtype), _corrected(b1, s, nu))

    return jax.tree.map(one, s.nu, _adam(s, b1, b2, eps, eps_root))


def _amsgrad(s, b1, eps, eps_root, bias_correction_mu=True) -> Params:
    def one(nu: Array) -> Array:
        return (_corrected(b1, s, nu) if bias_correction_mu else 1) * (jnp.sqrt(nu + eps_root) + eps)

    return jax.tree.map(one, s.nu_max)


def _rms(s, decay, eps, eps_in_sqrt) -> Params:
    def one(nu: Array, mu: Array) -> Array:
        correct = _corrected(decay, s, nu) if "count" in s._fields else 1.0
        variance = nu / correct - (mu / correct) ** 2
        return jnp.sqrt(variance + eps) if eps_in_sqrt else jnp.sqrt(variance) + eps

    return jax.tree.map(one, s.nu, getattr(s, "mu", tree.zeros_like(s.nu)))


def _adagrad(s, eps) -> Params:
    return jax.tree.map(lambda x: jnp.where(x > 0, jnp.sqrt(x + eps), jnp.inf), s.sum_of_squares)


def _corrected(b, s, x: Array) -> Array:
    """1 − bᵗ in the dtype of x, t the count of the state s."""
    if not isinstance(s.count, Tracer) and (jnp.asarray(s.count) == 0).any():
        raise ValueError("preconditioner: this optimizer state has made no update yet: make a step first")
    return 1 - jnp.asarray(b).astype(x.dtype) ** jnp.asarray(s.count).astype(x.dtype)


class _Rule(NamedTuple):
    """An optax transformation that divides by a diagonal."""

    state: str  # the name of its state's class
    diagonal: Callable  # (state, **hyperparameters) ↦ P
    defaults: dict  # hyperparameters that P hangs on


_EPS = dict(eps=1e-8, eps_root=0.0)
_RMS = dict(decay=0.9, eps=1e-8, eps_in_sqrt=True)
_RULES: dict[str, _Rule] = {  # by the names of optax, which is not imported here
    "scale_by_adam": _Rule("ScaleByAdamState", _adam, dict(b1=0.9, b2=0.999, **_EPS)),
    "scale_by_yogi": _Rule("ScaleByAdamState", _adam, dict(b1=0.9, b2=0.999, eps=1e-3, eps_root=0.0)),
    "scale_by_radam": _Rule("ScaleByAdamState", _radam, dict(b1=0.9, b2=0.999, **_EPS, threshold=5.0)),
    "scale_by_adamax": _Rule("ScaleByAdamState", _adamax, dict(b1=0.9)),
    "scale_by_belief": _Rule("ScaleByBeliefState", _belief, dict(b1=0.9, b2=0.999, eps=1e-16)),
    "scale_by_amsgrad": _Rule("ScaleByAmsgradState", _amsgrad, dict(b1=0.9, **_EPS, bias_correction_mu=True)),
    "scale_by_rms": _Rule("ScaleByRmsState", _rms, _RMS),
    "scale_by_stddev": _Rule("ScaleByRStdDevState", _rms, _RMS),
    "scale_by_rss": _Rule("ScaleByRssState", _adagrad, dict(eps=1e-7)),
}
_NEW = {"bias_correction_mu"}  # not in every version of optax that we work with
_AMBIGUOUS = {  # states that rules share: these, and some of contrib
    "ScaleByAdamState": "Adam, NAdam, RAdam, AdaMax, Yogi and ADOPT",
    "ScaleByBeliefState": "AdaBelief and ACProp",
}
_COUNTED = {"ScaleByRmsWithCountState": "ScaleByRmsState", "ScaleByRStdDevWithCountState": "ScaleByRStdDevState"}
_PARTS = {"partition", "multi_transform"}  # one beside the other, on leaves of their own
_WRAPPING = {"chain", "named_chain", "with_extra_args_support", "masked", "apply_if_finite", "MultiSteps"}  # one by one
_LINEAR = {"scale", "scale_by_schedule", "identity", "add_decayed_weights", "add_noise", "trace", "set_to_zero"}
_BEFORE = {"clip", "clip_by_global_norm", "clip_by_block_rms", "adaptive_grad_clip", "centralize", "zero_nans"}  # of gradients


def _rules(update: Callable, injected: Iterator, after: bool) -> list[tuple[_Rule, dict]]:
    """The rules in an optimizer, in the order of its state, each with its own hyperparameters.

    Args:
      update: an optax update function.
      injected: the states of `inject_hyperparams` in the whole, in order.
      after: whether what comes here was divided by a diagonal already.
    """
    name, inside = opened(update)
    if name in _RULES:
        rule = _RULES[name]
        missing = [k for k in rule.defaults if k not in inside and k not in _NEW]
        if missing:
            raise ValueError(f"preconditioner: {', '.join(missing)} of {name} can't be found in this version of optax")
        return [(rule, {k: inside[k] for k in rule.defaults if k in inside})]
    if name in INJECTING:
        optimizer = inside["inner_factory"](**inside["other_hps"], **next(injected).hyperparams)
        return _rules(optimizer.update, injected, after)
    if name in _WRAPPING or name in _PARTS:
        rules = []
        for inner in updates_in(list(inside.values())):
            rules += _rules(inner, injected, after or (bool(rules) and name in _WRAPPING))
        return rules
    if name in _LINEAR or (name in _BEFORE and not after):
        return []
    where = " after the preconditioner" if name in _BEFORE else ""
    raise ValueError(
        f"preconditioner: what {name} does{where} is not known as a division by a diagonal that its state tells: pass a "
        "function of your own, optimizer state ↦ P, where a preconditioner is asked for"
    )


# ── states ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _class(node: Any) -> str:
    name = type(node).__name__
    return _COUNTED.get(name, name)


def _states(state: Any, injected: dict) -> Iterator[tuple[Any, dict]]:
    """The states of preconditioners in a whole, each with the hyperparameters that are stored above it."""
    if _class(state) in {rule.state for rule in _RULES.values()}:
        yield state, injected
    elif isinstance(state, (tuple, list)):
        injected = injected | getattr(state, "hyperparams", {})
        for inner in state:
            yield from _states(inner, injected)
    elif isinstance(state, dict):
        for key in sorted(state, key=str):
            yield from _states(state[key], injected)


def _only_rule(node: Any, known: dict) -> tuple[_Rule, dict]:
    """The one rule that has such states, with its defaults beside what is known."""
    name = _class(node)
    if name in _AMBIGUOUS:
        raise ValueError(
            f"preconditioner: {_AMBIGUOUS[name]} have the same {name} and divide by different diagonals: "
            "pass optimizer=, the optax transformation that made it"
        )
    rule = next(rule for rule in _RULES.values() if rule.state == name)
    return rule, rule.defaults | {k: v for k, v in known.items() if k in rule.defaults}


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
