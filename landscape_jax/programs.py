"""Compiled programs that are kept as long as the functions that they were made of.

`jax.jit` keeps a program for each function among its arguments, and the function with it, for good. A loss, a dynamics or
an observable is often a closure made anew for each call: its programs would fill the memory of a long session.
"""

import types
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.tree_util import Partial

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
