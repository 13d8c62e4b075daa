"""A run for other tests to kill: python lasting_run.py FOLDER OUT [batch]. It ends with the run and its record in OUT.npz."""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax

import landscape_jax as lj

STEPS, CHUNK, EVERY = 9600, 40, 4


@functools.cache
def parts():
    train, _ = lj.data.digits(64, 0)
    model = lj.models.mlp((8,), 10)
    loss = lj.losses.mean(model.apply, lj.losses.square)
    optimizer = optax.inject_hyperparams(optax.sgd)(0.05, momentum=0.9)
    sgd = lj.dynamics.gradient(loss, optimizer, lj.data.minibatch(train, 16))
    sharp = lj.observe.sharpness(lj.curvature.hessian(loss), batch=train)
    return train, model, sgd, {"loss": lj.observe.loss, "sharpness": sharp}


def begun(batch: bool):
    train, model, sgd, watch = parts()

    def begin(key, rate):
        run = lj.start(key, model.init(jax.random.clone(key), train[0]), sgd, watch)
        return run._replace(state=run.state._replace(hyperparams={**run.state.hyperparams, "learning_rate": rate}))

    if not batch:
        return begin(jax.random.key(3), jnp.float32(0.05)), sgd, watch
    return lj.sweep.grid(begin)(jax.random.split(jax.random.key(3), 2), jnp.array([0.02, 0.05, 1e6])), sgd, watch


def drive(folder, batch: bool, num_steps: int = STEPS, pause: float = 0, **options):
    run, sgd, watch = begun(batch)
    saving = None if folder is None else lj.Saving(folder, pause=pause)
    options = {"saving": saving, "progress": False} | options
    return lj.drive(run, sgd, watch, num_steps=num_steps, every=EVERY, chunk=CHUNK, **options)


def plain(run, record) -> dict[str, np.ndarray]:
    leaves = jax.tree_util.tree_leaves_with_path((run._replace(key=jax.random.key_data(run.key)), record))
    return {jax.tree_util.keystr(path): np.asarray(x) for path, x in leaves}


if __name__ == "__main__":
    folder, out, *rest = sys.argv[1:]
    result = plain(*drive(folder, bool(rest)))
    with open(out, "wb") as file:
        np.savez(file, **result)
