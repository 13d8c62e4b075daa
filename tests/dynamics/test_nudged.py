"""Nudged steps: nothing at γ = 1, nothing along the sharpest directions at γ = 0, and 1/γ of the curvature tolerated."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import landscape_jax as lj
from landscape_jax import Status, tree

OPTIMIZERS = {
    "sgd": lambda: optax.sgd(0.05),
    "momentum": lambda: optax.sgd(0.05, momentum=0.9),
    "adam": lambda: optax.adam(0.01),
}


def inner(problem, optimizer="sgd", size=16):
    return lj.dynamics.gradient(problem.loss, OPTIMIZERS[optimizer](), lj.data.minibatch(problem.data, size))


def nudged(problem, gamma, optimizer="sgd", **options):
    return lj.dynamics.nudged(inner(problem, optimizer), lj.curvature.hessian(problem.loss), gamma, **({"k": 3} | options))


@pytest.mark.parametrize("optimizer", ["sgd", "adam", pytest.param("momentum", marks=pytest.mark.slow)])
def test_gamma_one_is_the_dynamics_inside(problem, optimizer):
    watch = {"loss": lj.observe.loss}
    plain, before = lj.run(jax.random.key(0), problem.params, inner(problem, optimizer), watch, num_steps=12)
    dynamics = nudged(problem, 1.0, optimizer, refresh=4, batch=problem.data)
    same, after = lj.run(jax.random.key(0), problem.params, dynamics, watch, num_steps=12)
    chex.assert_trees_all_equal((same.params, same.state.inner, after), (plain.params, plain.state, before))


@pytest.mark.parametrize("optimizer", ["sgd", pytest.param("adam", marks=pytest.mark.slow)])
@pytest.mark.parametrize("refresh", [1, 5])
def test_gamma_zero_never_moves_along_the_tracked_directions(problem, optimizer, refresh):
    seen = lj.observe.stateless(
        lambda m: {"along": tree.dots(m.state.vectors, m.updates), "u": tree.norm(m.updates), "g": tree.norm(m.grads)}
    )
    dynamics = nudged(problem, 0.0, optimizer, refresh=refresh, batch=problem.data)
    _, record = lj.run(jax.random.key(1), problem.params, dynamics, {"seen": seen}, num_steps=12)
    seen = record["seen"]
    assert np.all(seen["u"] > 1e-3 * seen["g"])  # it does move
    assert np.all(np.abs(seen["along"]) <= 4e-6 * seen["u"][:, None])


@pytest.mark.parametrize("look", [{"tol": 1e-5}, {"tol": None, "num_steps": 24, "refresh": 5}], ids=["tracked", "afresh"])
def test_only_the_part_along_the_eigenvectors_of_the_whole_sample_is_scaled(problem, look):
    """Against NumPy's eigenvectors of the dense Hessian, on a batch that is not the step's."""
    gamma, key, params = 0.25, jax.random.key(2), problem.params
    dynamics = nudged(problem, gamma, batch=problem.data, k=2, **look)
    _, _, moment = jax.jit(dynamics.step)(key, jnp.int32(0), params, dynamics.init(params))
    _, _, plain = jax.jit(inner(problem).step)(key, jnp.int32(0), params, inner(problem).init(params))
    flat = lambda tree: np.float64(jax.flatten_util.ravel_pytree(tree)[0])  # noqa: E731
    hessian = np.float64(lj.curvature.dense(lj.curvature.hessian(problem.loss))(params, problem.data))
    values, vectors = np.linalg.eigh(hessian)
    top = vectors[:, -2:]
    u = flat(plain.updates)
    expected = u + (gamma - 1) * top @ (top.T @ u)
    # of a tracked pair the value is promised, and so of the vector an angle of √(tol · λ₁ / gap)
    angle = (look["tol"] * values[-1] / (values[-2] - values[-3])) ** 0.5 if look["tol"] else 1e-4
    off = np.linalg.norm(flat(moment.updates) - expected) / np.linalg.norm(expected - u)
    assert off <= 2 * angle < 0.05
    assert np.linalg.norm(expected - u) > 0.05 * np.linalg.norm(u)
    np.testing.assert_allclose(moment.state.values, values[::-1][:2], rtol=1e-4)
    chex.assert_trees_all_equal(moment.grads, plain.grads)


@pytest.mark.parametrize("gamma", [0.1, 0.5, 5.0])
def test_on_a_quadratic_the_curvature_it_tolerates_goes_as_one_over_gamma(gamma):
    """λ₁ just below and just above 2/(ηγ); all other directions are far below 2/η."""
    rate = 0.5

    def diverged(top):
        scales = {"a": jnp.stack([top, jnp.float32(0.1)]), "b": jnp.full((2, 1), 0.2)}

        def loss(theta, batch):
            return 0.5 * tree.vdot(scales, jax.tree.map(jnp.square, theta))

        gd = lj.dynamics.gradient(loss, optax.sgd(rate), lj.data.full_batch(jnp.zeros((1, 1))))
        slow = lj.dynamics.nudged(gd, lj.curvature.hessian(loss), gamma, k=1)
        start = jax.tree.map(jnp.ones_like, scales)
        return lj.run(jax.random.key(0), start, slow, {}, num_steps=1500, ceiling=1e4)[0].status

    tops = 2 / (rate * gamma) * jnp.array([0.98, 1.02])
    assert jax.lax.map(diverged, tops).tolist() == [Status.RUNNING, Status.DIVERGED]


@pytest.mark.slow
def test_looks_at_the_curvature_only_when_due_also_under_vmap(problem):
    """Each product is counted; three runs side by side, with γ in their states, and one that has diverged."""
    count, hessian = [], lj.curvature.hessian(problem.loss)

    def counted(params, batch):
        product = hessian(params, batch)

        def at(v):
            jax.debug.callback(lambda _: count.append(1), v["shift"][0])
            return product(v)

        return at

    def products(num_runs, refresh, num_steps, broken=False):
        dynamics = lj.dynamics.nudged(inner(problem), counted, 0.1, k=2, refresh=refresh, batch=problem.data)

        def begin(gamma):
            run = lj.start(jax.random.key(0), problem.params, dynamics, {})
            return run._replace(state=run.state._replace(gamma=gamma))

        runs = jax.jit(jax.vmap(begin))(jnp.linspace(0.1, 1.0, num_runs))
        if broken:
            runs = runs._replace(params=jax.tree.map(lambda x: x.at[0].set(jnp.nan), runs.params))
        count.clear()
        done, _ = jax.jit(jax.vmap(lambda r: lj.advance(r, dynamics, {}, num_steps=num_steps)))(runs)
        jax.block_until_ready(done)
        jax.effects_barrier()
        assert done.status.tolist() == [Status.DIVERGED if broken and i == 0 else Status.RUNNING for i in range(num_runs)]
        return len(count)

    first, three, twelve = products(3, 12, 12), products(3, 4, 12), products(3, 1, 12)
    assert first >= 3 * 7  # by three runs: one more than the six that are remembered
    assert three >= first + 2 * 3 * 2  # then k in each look
    assert twelve >= three + 9 * 3 * 2
    assert products(3, 4, 12, broken=True) <= three  # one stuck at step 0 does not ask at each step


def test_another_look_keeps_the_old_directions_between(problem):
    seen = lj.observe.stateless(lambda m: m.state.values)
    _, record = lj.run(
        jax.random.key(0), problem.params, nudged(problem, 0.1, refresh=4, batch=problem.data), {"v": seen}, num_steps=12
    )
    values = np.asarray(record["v"]).reshape(3, 4, 3)
    np.testing.assert_array_equal(values, np.broadcast_to(values[:, :1], values.shape))
    assert np.all(np.ptp(values[:, 0], axis=0) > 0)
