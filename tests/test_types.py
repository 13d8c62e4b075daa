"""What a checker and an editor see of the nouns."""

import inspect
import typing

import pytest

from landscape_jax.spectrum.tracking.tracker import Tracker
from landscape_jax.types import Dynamics, Model, Observable

FIELDS = {
    (Model, "init"): ["key", "inputs"],
    (Model, "apply"): ["params", "inputs"],
    (Dynamics, "init"): ["params"],
    (Dynamics, "step"): ["key", "step", "params", "state"],
    (Observable, "init"): ["key", "params"],
    (Observable, "measure"): ["key", "memory", "moment"],
    (Tracker, "init"): ["params"],
    (Tracker, "update"): ["matvec", "memory", "alive", "step"],
}


@pytest.mark.parametrize(("pair", "field"), FIELDS, ids=lambda x: getattr(x, "__name__", x))
def test_the_functions_of_a_pair_have_named_and_typed_arguments(pair, field):
    call = typing.get_type_hints(pair)[field].__call__
    _, *parameters = inspect.signature(call).parameters
    assert parameters == FIELDS[pair, field]
    assert set(typing.get_type_hints(call)) == {*parameters, "return"}
