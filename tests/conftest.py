"""Eight fake devices and JAX at its strictest, set before anything is compiled."""

import os

# most of the time is compilation: machine code that is not polished saves a third of it, and the small runs lose nothing
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + (
    " --xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "agg")

from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import pytest

import landscape_jax as lj

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_key_reuse", True)


def clean_environment(**more):
    """What a process of its own should see: this package, one CPU device, code polished as here, no other of these settings."""
    here = Path(__file__).parent
    path = os.pathsep.join([str(here.parent), str(here)])
    return os.environ | {"XLA_FLAGS": "--xla_backend_optimization_level=0", "PYTHONPATH": path} | more


def pytest_collection_modifyitems(items):
    """The long files first, so that no process is left with one of them at the end."""
    long = ("test_readme.py", "test_killed.py", "test_devices.py")
    items.sort(key=lambda item: item.path.name not in long)


@pytest.fixture(scope="module", autouse=True)
def forgotten():
    """What was compiled is forgotten, after a file, before it is too much for the process.

    A program holds several mappings of memory; Linux allows a process 65,530 of them, and the next compilation would crash.
    """
    yield
    mappings = Path("/proc/self/maps")
    if mappings.exists() and mappings.read_bytes().count(b"\n") > 20_000:
        jax.clear_caches()


@pytest.fixture
def x64():
    """Float64 within the test that asks for it."""
    if hasattr(jax, "enable_x64"):
        with jax.enable_x64(True):
            yield
    else:  # before jax 0.8
        from jax.experimental import enable_x64

        with enable_x64():
            yield


class Problem(NamedTuple):
    apply: object
    loss: object
    params: object
    data: object


@pytest.fixture(scope="session")
def problem():
    """A two-layer tanh network (four leaves, p = 610, no Flax: it compiles faster) on 64 digits, square loss."""

    def apply(params, x):
        hidden = jnp.tanh(x @ params["hidden"]["w"] + params["hidden"]["b"][None])
        return hidden @ params["out"] + params["shift"][None]

    params = {"hidden": {"w": jnp.zeros((64, 8)), "b": jnp.zeros(8)}, "out": jnp.zeros((8, 10)), "shift": jnp.zeros(10)}
    params = lj.tree.scale(0.3, lj.tree.normal_like(jax.random.key(7), params))
    train, _ = lj.data.digits(64, 0)
    return Problem(apply, lj.losses.mean(apply, lj.losses.square), params, train)
