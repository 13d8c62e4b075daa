import jax
import jax.numpy as jnp
import numpy as np
import optax

import landscape_jax as lj


def test_grid_is_the_outer_product_of_its_arguments():
    calls = []

    def fn(x, y, z):
        calls.append(x)
        return {"sum": x["a"] + 10 * y + 100 * z, "vector": jnp.stack([x["b"][0], y])}

    xs = {"a": jnp.arange(2.0), "b": jnp.arange(4.0).reshape(2, 2)}
    ys, zs = jnp.arange(3.0), jnp.arange(5.0)
    out = lj.sweep.grid(fn)(xs, ys, zs)
    assert out["sum"].shape == (2, 3, 5)
    assert out["vector"].shape == (2, 3, 5, 2)
    for i, j, k in np.ndindex(2, 3, 5):
        assert out["sum"][i, j, k] == i + 10 * j + 100 * k
        assert out["vector"][i, j, k].tolist() == [2 * i, j]
    assert len(calls) == 1  # one program


def test_a_grid_of_runs_equals_the_runs(problem):
    """As in the design's second example: the learning rate is traced, the key decides θ₀."""
    watch = {"loss": lj.observe.loss}

    def trained(key, rate):
        gd = lj.dynamics.gradient(problem.loss, optax.sgd(rate), lj.data.full_batch(problem.data))
        scale = jax.random.key_data(key)[-1].astype(jnp.float32) / 2.0**32
        final, record = lj.run(key, lj.tree.scale(scale, problem.params), gd, watch, num_steps=6, every=2)
        return record, final.status

    keys, rates = jax.random.split(jax.random.key(0), 2), jnp.array([0.01, 0.1, 1e9])
    record, status = lj.sweep.grid(trained)(keys, rates)
    assert record["loss"].shape == (2, 3, 3)
    assert status.tolist() == [[0, 0, 1]] * 2
    solo = jax.jit(trained)
    for i, key in enumerate(keys):
        for j, rate in enumerate(rates):
            np.testing.assert_allclose(record["loss"][i, j], solo(key, rate)[0]["loss"], rtol=1e-5)
    assert record["loss"][0, 0, 0] != record["loss"][1, 0, 0]
