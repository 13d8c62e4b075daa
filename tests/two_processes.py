"""One of two processes, or both in one: python two_processes.py OUT [COORDINATOR ID]."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import landscape_jax as lj

OUT, *PLACE = sys.argv[1:]
if PLACE:
    lj.devices.join(PLACE[0], 2, int(PLACE[1]), timeout=60)
    assert len(jax.devices()) == 2
    assert len(jax.local_devices()) == 1
MESH = lj.devices.mesh()

train, _ = lj.data.digits(50, 0)
model = lj.models.mlp((8,), 10)
loss = lj.losses.mean(model.apply, lj.losses.square)
key = jax.random.key(0)
results = {}

# runs split, an odd number of them
watch = {"loss": lj.observe.loss}


def trained(key, rate):
    gd = lj.dynamics.gradient(loss, optax.sgd(rate), lj.data.minibatch(train, 10))
    return lj.run(key, model.init(jax.random.clone(key), train[0]), gd, watch, num_steps=20, every=4)[1]


record = lj.sweep.sharded(lj.sweep.grid(trained), MESH)(jax.random.split(key, 3), jnp.array([0.1, 0.2]))
results["sweep"] = lj.devices.to_host(record)["loss"]

# runs split and driven, stopped half way, gone on with from the checkpoint
sgd = lj.dynamics.gradient(loss, optax.sgd(0.1, momentum=0.9), lj.data.minibatch(train, 10))


def begin(key):
    return lj.start(key, model.init(jax.random.clone(key), train[0]), sgd, watch)


for num_steps in (20, 40):
    runs = lj.sweep.sharded(begin, MESH)(jax.random.split(key, 4))
    saving = lj.Saving(Path(OUT) / "checkpoint", pause=0)
    final, record = lj.drive(runs, sgd, watch, num_steps=num_steps, every=4, chunk=8, saving=saving, progress=False)
results["driven"] = record["loss"]
results["final"] = lj.devices.to_host(final.params)["layer0"]["kernel"]

# examples split: training, and one curvature product
gd = lj.dynamics.gradient(lj.losses.sharded(loss, MESH), optax.sgd(0.1), lj.data.full_batch(train))
final, record = lj.run(key, model.init(key, train[0]), gd, watch, num_steps=12, every=4)
product = lj.curvature.sharded(lj.curvature.hessian(loss), MESH)(final.params, train)
results["examples loss"] = lj.devices.to_host(record)["loss"]
results["examples product"] = lj.devices.to_host(product(final.params))["layer0"]["kernel"]

if lj.devices.is_first_process():
    with open(Path(OUT) / "out.npz", "wb") as file:
        np.savez(file, **results)
