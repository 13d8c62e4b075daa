"""How much a drive's memory grows: python memory_of_drive.py FOLDER|- RUNS. Prints MiB: first chunk, last chunk, record."""

import contextlib
import os
import sys

import jax
import jax.numpy as jnp
import optax

import landscape_jax as lj
from landscape_jax.engine import driver

STEPS, CHUNK = 200_000, 2000
folder, runs = sys.argv[1], int(sys.argv[2])
seen = []


def resident() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@contextlib.contextmanager
def watched(*_):
    yield lambda *_: seen.append(resident())


driver.show_progress = watched
gd = lj.dynamics.gradient(lambda p, b: jnp.sum(p * p), optax.sgd(1e-6, momentum=0.9), lambda key, step: None)
watch = {"loss": lj.observe.loss, "params": lj.observe.stateless(lambda m: m.params)}
begun = lj.sweep.zipped(lambda x: lj.start(jax.random.key(0), jnp.stack([x, x]), gd, watch))(jnp.arange(1.0, 1.0 + runs))
options = {} if folder == "-" else {"saving": lj.Saving(folder)}
_, record = lj.drive(begun, gd, watch, num_steps=STEPS, chunk=CHUNK, **options)
assert record["params"].shape == (runs, STEPS, 2)
print(seen[0], seen[-1], sum(x.nbytes for x in jax.tree.leaves(record)) / 2**20)
