"""What is inside an optax transformation: its update function is a closure over all that it was made with.

Nothing else tells which rule an optimizer is and which numbers it was given. The names are optax's own and may change with its
version: who asks refuses what is not found.
"""

import types
from collections.abc import Callable, Iterator
from typing import Any

INJECTING = {"inject_hyperparams", "inject_stateful_hyperparams"}  # they make their inner optimizer anew at each update


def opened(update: Callable) -> tuple[str, dict]:
    """The optax function that made an update function, and what is in its closure."""
    if isinstance(update, types.MethodType):  # MultiSteps
        return type(update.__self__).__name__, vars(update.__self__)
    if not isinstance(update, types.FunctionType) or not update.__module__.startswith("optax."):
        return getattr(update, "__qualname__", repr(update)), {}
    name = update.__qualname__.partition(".")[0]
    inside = dict(zip(update.__code__.co_freevars, (cell.cell_contents for cell in update.__closure__ or ()), strict=True))
    for own in [x for x in inside.values() if isinstance(x, types.FunctionType) and x.__qualname__.startswith(f"{name}.")]:
        inside = opened(own)[1] | inside  # a part of the update in a function of its own
    return name, inside


def updates_in(inside: Any) -> Iterator[Callable]:
    """The update functions among what a closure holds, in the order of their states."""
    if isinstance(inside, tuple) and (update := getattr(inside, "update", None)):
        yield update
    elif isinstance(inside, (tuple, list)):
        for x in inside:
            yield from updates_in(x)
    elif isinstance(inside, dict):
        for key in sorted(inside, key=str):
            yield from updates_in(inside[key])
    elif (name := getattr(inside, "__name__", "")) == "update" or name.endswith("update_fn"):
        yield inside


def injected(state: Any) -> Iterator[Any]:
    """The states of `inject_hyperparams` in a whole."""
    if hasattr(state, "hyperparams"):
        yield state
    if isinstance(state, dict):
        state = [state[key] for key in sorted(state, key=str)]
    if isinstance(state, (tuple, list)):
        for inner in state:
            yield from injected(inner)
