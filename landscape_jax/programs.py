"""Compiled programs that are kept as long as the functions that they were made of.

`jax.jit` keeps a program for each function among its arguments, and the function with it, for good. A loss, a dynamics or
an observable is often a closure made anew for each call: its programs would fill the memory of a long session.
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

MOST = 256  # programs: each takes some hundred mappings of memory, and Linux allows a process 65,530

_made: dict[tuple, tuple[tuple, Any]] = {}  # key: (key, what was made), in the order of their last use


class _Opened(NamedTuple):
    """A `Partial` whose function is a leaf."""

    fn: Callable
    args: Any
    keywords: Any


def program(make: Callable[[Callable], Any], functions: Any) -> tuple[Any, list]:
    """`make(rebuild)`, made once for these functions and kept until one of them is garbage.

    Args:
      make: a module's own function: rebuild ↦ what is to be kept, e.g. a jitted function of `arrays`. It, and what it makes,
        may hold on to `rebuild` but not to the functions; rebuild(arrays) is `functions` with other arrays in its `Partial`s.
      functions: a pytree of functions and `Partial`s, e.g. a `Dynamics`.
    Returns: what was made, and the arrays of `functions`.

    The last `MOST` are kept at most.
    """
    leaves, treedef = jax.tree.flatten(_open(functions))
    held = [callable(leaf) for leaf in leaves]
    refs = tuple(_reference(leaf) for leaf, is_function in zip(leaves, held, strict=True) if is_function)
    key = make, treedef, tuple(held), refs
    arrays = [leaf for leaf, is_function in zip(leaves, held, strict=True) if not is_function]

    def rebuild(arrays: list) -> Any:
        fns, others = iter(refs), iter(arrays)
        return _close(treedef.unflatten([next(fns)() if is_function else next(others) for is_function in held]))

    known = _made.pop(key, None) or (key, make(rebuild))  # with the references that `rebuild` has: an equal function may go
    _made[known[0]] = known
    if len(_made) > MOST:
        _made.pop(next(iter(_made)), None)
    return known[1], arrays


def _open(functions: Any) -> Any:
    def one(x):
        return _Opened(x.func, _open(x.args), _open(x.keywords)) if isinstance(x, Partial) else x

    return jax.tree.map(one, functions, is_leaf=lambda x: isinstance(x, Partial))


def _close(functions: Any) -> Any:
    def one(x):
        return Partial(x.fn, *_close(x.args), **_close(x.keywords)) if isinstance(x, _Opened) else x

    return jax.tree.map(one, functions, is_leaf=lambda x: isinstance(x, _Opened))


class _Lasting:
    """The reference of what takes no weak one: a built-in function."""

    def __init__(self, fn: Callable):
        self.fn = fn

    def __call__(self) -> Callable:
        return self.fn

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Lasting) and self.fn == other.fn

    def __hash__(self) -> int:
        return hash(self.fn)


def _reference(fn: Callable) -> Callable[[], Any]:
    if isinstance(fn, types.MethodType):  # made anew at each look, though its object stays
        return weakref.WeakMethod(fn, _forget)
    try:
        return weakref.ref(fn, _forget)
    except TypeError:
        return _Lasting(fn)


def _forget(gone: Any) -> None:
    for key in [key for key in _made if any(ref is gone for ref in key[-1])]:
        _made.pop(key, None)


# ── of operators ──────────────────────────────────────────────────────────────────────────────────────────────────────

MOST_OPERATORS = 32

_of_operators: dict[tuple, Callable] = {}  # in the order of their last use


def of_operator(fn: Callable) -> Callable:
    """`fn(matvec, start, ...)`, where it is called outside of jit, as one program for all operators of one form.

    An operator such as H(θ) is a closure made anew at each θ. It is traced, its arrays become arguments, and what is left, as
    the compiler's text, tells operators apart: in a Python loop over θ `fn` is compiled once. No closure and no array is kept.

    Args:
      fn: pure; `start` is a stack of vectors, the other arguments are numbers or None.
    Cost: a trace of the product at each call.
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
        if "callback" in text:  # which function of Python's is called, the text does not say
            return fn(matvec, start, *args, **kwargs)
        kinds = tuple(map(type, options))  # 1, 1.0 and True are equal, and are not the same
        key = fn, text, treedef, structure, len(args), kinds, *options, *kwargs
        go = _of_operators.pop(key, None) or jax.jit(
            lambda consts, start: fn(functools.partial(at, consts), start, *args, **kwargs)
        )
        _of_operators[key] = go
        if len(_of_operators) > MOST_OPERATORS:
            _of_operators.pop(next(iter(_of_operators)), None)
        return go(traced.consts, start)

    return call
