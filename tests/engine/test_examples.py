"""The examples in the docstrings of what is public run, and give what they say."""

import doctest

import jax
import jax.numpy as jnp
import optax
import pytest

import landscape_jax as lj

LOSS = {"loss": lj.observe.loss}
PUBLIC = [name for name in lj.engine.__all__ if getattr(getattr(lj.engine, name), "__module__", "").startswith("landscape_jax")]


@pytest.mark.parametrize("name", PUBLIC)
def test_the_example_of(name, tmp_path):
    gd = lj.dynamics.gradient(lambda w, batch: w @ w, optax.sgd(0.1), lambda key, step: None)
    run = lj.start(jax.random.key(0), jnp.ones(2), gd, LOSS)
    record = lj.advance(run, gd, LOSS, num_steps=2)[1]
    given = {"jax": jax, "jnp": jnp, "optax": optax, "lj": lj, "gd": gd, "run": run, "record": record, "folder": tmp_path}
    examples = doctest.DocTestFinder(recurse=False).find(getattr(lj.engine, name), name, globs=given)
    assert [e for test in examples for e in test.examples] or name in ("Run", "Status")
    for test in examples:
        assert doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test).failed == 0
