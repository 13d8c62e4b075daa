"""A cache of compiled programs. An entry lives as long as the functions that it was made from.

`jax.jit` keeps a program, and the function itself, for every function among its static arguments, and never frees them. A
loss, a dynamics or an observable is often a closure that is made anew for each call: its programs would fill the memory.
"""

import functools
import types
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jax.tree_util import Partial

from landscape_jax import tree
from landscape_jax.arguments import product

MOST = 256  # programs; each takes some hundred memory mappings, and Linux allows a process 65,530

_cache: dict[tuple, tuple[tuple, Any]] = {}  # key: (key, program), least recently used first


class _PartialLeaves(NamedTuple):
    """A `Partial` as a pytree in which the function is a leaf."""

    fn: Callable
    args: Any
    keywords: Any


def program(make: Callable[[Callable], Any], functions: Any) -> tuple[Any, list]:
    """`make(rebuild)`, called once for these functions; its result is kept until one of them is garbage collected.

    Args:
      make: a module-level function: rebuild ↦ the program, e.g. a jitted function of `arrays`. The program may hold a reference
        to `rebuild`, but not to the functions. rebuild(arrays) gives `functions` with these arrays in its `Partial`s.
      functions: a pytree of functions and `Partial`s, e.g. a `Dynamics`.
    Returns: the program, and the arrays of `functions`.

    At most `MOST` programs are kept; the least recently used one goes first.
    """
    leaves, treedef = jax.tree.flatten(_to_leaves(functions))
    held = [callable(leaf) for leaf in leaves]
    refs = tuple(_weak_reference(leaf) for leaf, is_function in zip(leaves, held, strict=True) if is_function)
    key = make, treedef, tuple(held), refs
    arrays = [leaf for leaf, is_function in zip(leaves, held, strict=True) if not is_function]

    def rebuild(arrays: list) -> Any:
        fns, others = iter(refs), iter(arrays)
        return _from_leaves(treedef.unflatten([next(fns)() if is_function else next(others) for is_function in held]))

    known = _cache.pop(key, None) or (key, make(rebuild))  # the stored key: its references are those that `rebuild` holds
    _cache[known[0]] = known
    if len(_cache) > MOST:
        _cache.pop(next(iter(_cache)), None)
    return known[1], arrays


def _to_leaves(functions: Any) -> Any:
    def one(x):
        return _PartialLeaves(x.func, _to_leaves(x.args), _to_leaves(x.keywords)) if isinstance(x, Partial) else x

    return jax.tree.map(one, functions, is_leaf=lambda x: isinstance(x, Partial))


def _from_leaves(functions: Any) -> Any:
    def one(x):
        return Partial(x.fn, *_from_leaves(x.args), **_from_leaves(x.keywords)) if isinstance(x, _PartialLeaves) else x

    return jax.tree.map(one, functions, is_leaf=lambda x: isinstance(x, _PartialLeaves))


class _StrongReference:
    """For a function that has no weak references: a built-in one."""

    def __init__(self, fn: Callable):
        self.fn = fn

    def __call__(self) -> Callable:
        return self.fn

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _StrongReference) and self.fn == other.fn

    def __hash__(self) -> int:
        return hash(self.fn)


def _weak_reference(fn: Callable) -> Callable[[], Any]:
    if isinstance(fn, types.MethodType):  # a new object at each access
        return weakref.WeakMethod(fn, _forget)
    try:
        return weakref.ref(fn, _forget)
    except TypeError:
        return _StrongReference(fn)


def _forget(gone: Any) -> None:
    for key in [key for key in _cache if any(ref is gone for ref in key[-1])]:
        _cache.pop(key, None)


# ── operators ─────────────────────────────────────────────────────────────────────────────────────────────────────────

MOST_OPERATORS = 32

_operator_programs: dict[tuple, Callable] = {}  # least recently used first


def compiled_once(fn: Callable) -> Callable:
    """Wraps `fn(matvec, start, ...)`: outside of jit, operators of one form share one compiled program.

    An operator such as H(θ) is a new closure at each θ. It is traced, its arrays become arguments, and the text of the lowered
    program is the key of the cache: in a Python loop over θ, `fn` is compiled once. No closure and no array is kept.

    Args:
      fn: pure; `start` is a stack of vectors, the other arguments are numbers or None.
    Cost: one trace of the product at each call.
    """

    @functools.wraps(fn)
    def call(matvec: Callable, start: Any, *args, **kwargs):
        matvec = product(fn.__name__, matvec)
        options = *args, *kwargs.values()
        leaves, treedef = jax.tree.flatten(start)
        fixed = all(x is None or isinstance(x, int | float) for x in options)
        if not fixed or any(isinstance(x, Tracer) or not hasattr(x, "dtype") for x in leaves):
            return fn(matvec, start, *args, **kwargs)
        tree.check(start, "start")
        one = treedef.unflatten([jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for x in leaves])
        traced, out = jax.make_jaxpr(lambda v: matvec(v), return_shape=True)(one)
        if any(isinstance(x, Tracer) for x in traced.consts):
            return fn(matvec, start, *args, **kwargs)
        jaxpr, structure = traced.jaxpr, jax.tree.structure(out)

        def at(consts: list, v: Any) -> Any:
            return structure.unflatten(jaxpr_as_fun(ClosedJaxpr(jaxpr, consts))(*jax.tree.leaves(v)))

        text = jax.jit(at).lower(traced.consts, one).as_text()
        if "callback" in text:  # the text does not say which Python function is called
            return fn(matvec, start, *args, **kwargs)
        kinds = tuple(map(type, options))  # 1, 1.0 and True compare equal
        key = fn, text, treedef, structure, len(args), kinds, *options, *kwargs
        go = _operator_programs.pop(key, None) or jax.jit(
            lambda consts, start: fn(functools.partial(at, consts), start, *args, **kwargs)
        )
        _operator_programs[key] = go
        if len(_operator_programs) > MOST_OPERATORS:
            _operator_programs.pop(next(iter(_operator_programs)), None)
        return go(traced.consts, start)

    return call
