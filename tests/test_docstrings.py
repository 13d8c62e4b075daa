"""The examples in docstrings of public functions run, and say what comes out.

They share a namespace: jax, jnp, np, optax, lj, a key, a linear network with three classes (`namespace`), and a run of gradient
descent on w ↦ w · w (`descent`).
"""

import doctest
import functools
import inspect
import io
import types
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import landscape_jax as lj

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE

# Public functions without an example, by module. Names are only removed from here.
BARE_BY_MODULE = {
    "devices": """
        any_process automatic barrier broadcast_from_first is_first_process join mean_over mesh mesh_for_runs
        replicated_sharding run_sharding split to_host to_mesh
    """,
    "labels": """
        check_probabilities check_range classes correct is_number is_whole kind misfit on_host one_hot or_nan predicted
        signs without_outputs
    """,
    "models": """
        avg_pool batch_norm cnn convolve deep_linear dense flat frozen group_norm max_pool mlp mup myrtle no_norm ntk
        resnet resnet18 simple_cnn standard transformer uniform vgg11 vit
    """,
    "observe": """
        accuracy alignment changes clustering confidence cross_sections eigenpairs gradient_taken hutchinson_ratio
        logit_gradients mean_cosines overlaps random_cosine redrawn sections sharpness spectral_density stateless
        step_effect trace_ratio update_taken
    """,
    "tree": """
        add all_finite any_of axpy broadcast cast_like check combine dots dtype eps fill_zeros norm normal_like norms
        num_examples overlaps rademacher_like row scale scattered_like select size sub unit vdot where widen with_row
        zero_stack zeros_like
    """,
}
BARE = {f"{module}.{name}".lstrip(".") for module, names in BARE_BY_MODULE.items() for name in names.split()}


def namespace() -> dict:
    """θ = {"w" [2, 3], "b" [3]}, a batch of eight examples, one-hot targets."""

    def apply(params, x):
        return x @ params["w"] + params["b"]

    params = {"w": jnp.array([[1.0, 0.0, -1.0], [0.5, -0.5, 0.0]]), "b": jnp.zeros(3)}
    inputs = jnp.array([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0], [2.0, 1.0], [-1.0, 0.5], [0.5, -2.0], [1.0, -1.0], [0.0, 0.0]])
    batch = inputs, jnp.eye(3)[jnp.arange(8) % 3]
    loss = lj.losses.mean(apply, lj.losses.cross_entropy)
    key = jax.random.key(0)
    return dict(jax=jax, jnp=jnp, np=np, optax=optax, lj=lj, key=key, apply=apply, params=params, batch=batch, loss=loss)


@functools.cache
def descent() -> dict:
    """Dynamics, a run before its first step, and the record of two steps."""
    gd, watch = lj.dynamics.gradient(lambda w, batch: w @ w, optax.sgd(0.1), lambda key, step: None), {"loss": lj.observe.loss}
    run = lj.start(jax.random.key(0), jnp.ones(2), gd, watch)
    record = lj.advance(run, gd, watch, num_steps=2)[1]
    return dict(gd=gd, run=run, record=record)


def public(module: types.ModuleType, at: str = "") -> Iterator[tuple[str, object]]:
    """Functions and classes by place ("theory.uv.trace"): those that `__all__` lists, or, without one, those defined there."""
    own = [name for name, x in vars(module).items() if name[0] != "_" and getattr(x, "__module__", "") == module.__name__]
    for name in getattr(module, "__all__", own):
        x = getattr(module, name)
        if isinstance(x, types.ModuleType):
            yield from public(x, f"{at}{name}.")
        elif callable(x) and str(getattr(x, "__module__", "")).startswith("landscape_jax"):
            yield at + name, x


PUBLIC = dict(public(lj))
FUNCTIONS = {place for place, x in PUBLIC.items() if inspect.isfunction(x)}
EXAMPLES = {place: doctest.DocTestParser().get_examples(inspect.getdoc(x) or "") for place, x in PUBLIC.items()}
ROOMS = sorted({place.rpartition(".")[0].partition(".")[0] for place, examples in EXAMPLES.items() if examples})


def test_the_walk_sees_what_there_is():
    assert {"run", "losses.square", "spectrum.eigsh", "theory.uv.trace", "landscape.connectivity.along"} <= FUNCTIONS
    assert "Record" in PUBLIC


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room or "top")
def test_examples(room, tmp_path, monkeypatch):
    """All of one package, each in a namespace of its own, as a user runs them: without the strictness of the tests."""
    monkeypatch.chdir(tmp_path)
    runner, told = doctest.DocTestRunner(optionflags=FLAGS), io.StringIO()
    with jax.debug_key_reuse(False), jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        for place, examples in EXAMPLES.items():
            if place.rpartition(".")[0].partition(".")[0] == room:
                names = namespace() | descent() | {"folder": tmp_path}
                runner.run(doctest.DocTest(examples, names, place, None, None, None), out=told.write)
    assert runner.failures == 0, told.getvalue()


def test_public_functions_without_an_example_only_become_fewer():
    bare = {place for place in FUNCTIONS if not EXAMPLES[place]}
    assert bare - BARE == set(), "these public functions have no example: add `>>>` to their docstrings"
    assert BARE - bare == set(), "these have an example by now, or are no longer public: remove them from BARE"
