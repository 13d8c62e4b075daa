"""What every dynamics promises: runs resume bit for bit, vmap over runs, and freeze alone."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import landscape_jax as lj
from landscape_jax import Status

RATE = 0.05
OPTIMIZERS = {
    "sgd": lambda: optax.sgd(RATE),
    "momentum": lambda: optax.sgd(RATE, momentum=0.9),
    "nesterov": lambda: optax.sgd(RATE, momentum=0.9, nesterov=True),
    "adam": lambda: optax.adam(RATE),
}
BATCHES = {
    "full_batch": lj.data.full_batch,
    "minibatch": lambda data: lj.data.minibatch(data, 10),
    "epochs": lambda data: lj.data.epochs(data, 10),
    "independent": lambda data: lj.data.independent(data, 10),
}
# tol=None, so many products: how many the tracker makes may hang on the last digit, and batched runs round otherwise
WRAPPERS = {
    "nudged": lambda inner, problem: lj.dynamics.nudged(inner, lj.curvature.hessian(problem.loss), 0.1, k=2, tol=None),
    "nudged at times": lambda inner, problem: lj.dynamics.nudged(
        inner, lj.curvature.hessian(problem.loss), 0.5, k=2, refresh=4, batch=problem.data, tol=None
    ),
}
PLACES = {"plane": lj.dynamics.plane, "sphere": lj.dynamics.sphere}
MEMBERS = [
    ("sgd", "full_batch"),
    ("momentum", "minibatch"),
    ("nesterov", "epochs"),
    ("adam", "full_batch"),
    ("sgd", "full_batch", "nudged"),
    pytest.param(("momentum", "independent", "nudged at times"), marks=pytest.mark.slow),
    ("adam", "minibatch", "sphere"),
]
TOTAL = lj.types.Observable(lambda key, params: jnp.zeros(()), lambda key, m, moment: (m + moment.loss, m + moment.loss))
WATCH = {"loss": lj.observe.loss, "distance": lj.observe.distance, "total": TOTAL}
STEPS, EVERY = 12, 3


class Member:
    """A dynamics with the compiled programs that the tests of it share. The key decides θ₀ too."""

    def __init__(self, problem, optimizer, batches, *wrappers):
        self.problem = problem
        rule, batches = OPTIMIZERS[optimizer](), BATCHES[batches](problem.data)
        self.dynamics = lj.dynamics.gradient(problem.loss, rule, batches)
        for wrapper in wrappers:
            if wrapper in PLACES:  # these take the optimizer into fewer dimensions, they don't wrap what it did
                basis = lj.dynamics.generated_basis(jax.random.key(8), problem.params, 40)
                self.dynamics = lj.dynamics.subspace(problem.loss, rule, batches, basis, PLACES[wrapper])
            else:
                self.dynamics = WRAPPERS[wrapper](self.dynamics, problem)
        self.straight = jax.jit(lambda key: self.go_on(self.start(key), STEPS))
        self.half = jax.jit(lambda run: self.go_on(run, STEPS // 2))

    def start(self, key):
        scale = 0.5 + jax.random.key_data(key)[-1].astype(jnp.float32) / 2.0**32
        return lj.start(key, lj.tree.scale(scale, self.problem.params), self.dynamics, WATCH)

    def go_on(self, run, num_steps):
        return lj.advance(run, self.dynamics, WATCH, num_steps=num_steps, every=EVERY)


@pytest.fixture(scope="module", params=MEMBERS, ids="-".join)
def member(request, problem):
    return Member(problem, *request.param)


def plain(run):
    """A run whose key is numbers."""
    return run._replace(key=jax.random.key_data(run.key))


def joined(*records):
    return jax.tree.map(lambda *parts: np.concatenate(parts), *records)


def test_resumed_run_equals_the_straight_one_bit_for_bit(member):
    straight, record = member.straight(jax.random.key(3))
    middle, first = member.half(jax.jit(member.start)(jax.random.key(3)))
    end, second = member.half(middle)
    chex.assert_trees_all_equal(plain(end), plain(straight))
    chex.assert_trees_all_equal(joined(first, second), record)
    assert int(straight.step) == STEPS
    assert record["step"].tolist() == [0, 3, 6, 9]
    assert np.ptp(record["loss"]) > 0


def test_vmap_over_keys_equals_the_loop(member):
    keys = jax.random.split(jax.random.key(4), 3)
    batched, record = jax.jit(jax.vmap(member.straight))(keys)
    for i in range(3):
        solo, solo_record = member.straight(keys[i])
        one = lambda tree: jax.tree.map(lambda x: x[i], tree)  # noqa: B023, E731
        chex.assert_trees_all_close(one(batched.params), solo.params, rtol=1e-5, atol=1e-6)
        chex.assert_trees_all_close(one(record), solo_record, rtol=1e-5, atol=1e-6)
    assert np.ptp(record["loss"][:, 0]) > 0


def test_a_moment_tells_the_step_as_it_was(member):
    """updates = θ' − θ to rounding; the loss and gradient are those of θ_t on the batch of step t."""
    key, t = jax.random.key(5), jnp.int32(2)
    params, loss = member.problem.params, member.problem.loss
    state = member.dynamics.init(params)
    new_params, new_state, moment = jax.jit(member.dynamics.step)(key, t, params, state)
    difference = jax.tree.map(lambda x, y: np.asarray(x, np.float64) - np.asarray(y, np.float64), new_params, params)
    chex.assert_trees_all_close(difference, jax.tree.map(np.float64, moment.updates), rtol=0, atol=2e-7)
    assert lj.tree.norm(moment.updates) > 1e-3
    value, grads = jax.value_and_grad(loss)(params, moment.batch)
    np.testing.assert_allclose(moment.loss, value, rtol=1e-6)
    chex.assert_trees_all_close(moment.grads, grads, rtol=1e-4, atol=1e-6)
    chex.assert_trees_all_equal(moment.params, params)
    chex.assert_trees_all_equal(moment.state, new_state)
    assert moment.step == t


def test_calling_again_does_not_retrace(problem):
    traces = 0

    def loss(params, batch):
        nonlocal traces
        traces += 1
        return problem.loss(params, batch)

    gd = lj.dynamics.gradient(loss, optax.sgd(RATE), lj.data.full_batch(problem.data))
    watch = {"loss": lj.observe.loss}
    lj.run(jax.random.key(0), problem.params, gd, watch, num_steps=4)
    once = traces
    assert once > 0
    for seed in (1, 2):
        lj.run(jax.random.key(seed), lj.tree.scale(0.5, problem.params), gd, watch, num_steps=4)
    assert traces == once

    run = lj.start(jax.random.key(0), problem.params, gd, watch)
    run, _ = lj.drive(run, gd, watch, num_steps=2, chunk=2, progress=False)
    once = traces
    lj.drive(run, gd, watch, num_steps=8, chunk=2, progress=False)
    assert traces == once

    go_on = jax.jit(chex.assert_max_traces(lambda r: lj.advance(r, gd, watch, num_steps=2), n=1))
    for _ in range(3):
        run, _ = go_on(run)


# ── divergence ────────────────────────────────────────────────────────────────────────────────────────────────────────


def quartic(params, batch):
    return jnp.sum(params["a"] ** 4) + params["b"][0] ** 2


def root(params, batch):
    """Its minimum is at the edge of its domain: a step past 0 makes it NaN."""
    return jnp.sum(jnp.sqrt(params["a"])) + params["b"][0] ** 2


def bowl(params, batch):
    return jnp.sum(params["a"] ** 2) + params["b"][0] ** 2


@pytest.mark.parametrize(
    ("loss", "rate", "ceiling"),
    [(quartic, 0.4, np.inf), (root, 0.5, np.inf), (bowl, 1.5, 1e3)],
    ids=["inf", "nan", "ceiling"],
)
def test_divergence_freezes_the_run(loss, rate, ceiling):
    params = {"a": jnp.array([1.5, 0.7]), "b": (jnp.array(0.5),)}
    data = lj.data.full_batch(jnp.zeros((1, 1)))
    gd = lj.dynamics.gradient(loss, optax.sgd(rate, momentum=0.1), data)
    watch = {
        "loss": lj.observe.loss,
        "seen": lj.observe.stateless(lambda m: {"where": m.params, "t": m.step}),
        "alive": lj.observe.stateless(lambda m: m.alive),  # booleans are recorded as they are
        "high": lj.observe.stateless(lambda m: m.loss > 1e3),  # the loss is what it is, alive or not
    }
    final, record = lj.run(jax.random.key(0), params, gd, watch, num_steps=30, ceiling=ceiling)
    died = int(final.step)
    assert final.status == Status.DIVERGED
    assert 0 < died < 30
    assert np.isfinite(record["loss"][:died]).all()
    assert np.all(record["loss"][:died] <= ceiling)
    assert np.isnan(record["loss"][died:]).all()
    assert np.isnan(record["seen"]["where"]["b"][0][died:]).all()
    assert record["step"].tolist() == [*range(died), *[died] * (30 - died)]
    assert record["seen"]["t"].dtype == jnp.int32
    assert record["alive"].tolist() == [True] * died + [False] * (30 - died)
    assert record["high"][:died].tolist() == (record["loss"][:died] > 1e3).tolist()
    assert record["high"][died:].tolist() == [bool(loss(final.params, None) > 1e3)] * (30 - died)
    chex.assert_tree_all_finite(final.params)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(final.state))
    again, later = lj.run(jax.random.key(0), params, gd, watch, num_steps=died, ceiling=ceiling)
    assert again.status == Status.RUNNING
    chex.assert_trees_all_equal(plain(again)._replace(status=final.status), plain(final))

    still, dead = jax.jit(lambda r: lj.advance(r, gd, watch, num_steps=3, ceiling=ceiling))(final)
    chex.assert_trees_all_equal(plain(still), plain(final))
    assert np.isnan(dead["loss"]).all()
    with pytest.raises(FloatingPointError, match=f"DIVERGED at step {died}"):
        lj.check(final)


def test_a_diverging_run_leaves_its_neighbours_alone(problem):
    """Sixteen rates, kept in the optimizer's state; number 5 is absurd."""
    optimizer = optax.inject_hyperparams(optax.sgd)(learning_rate=RATE, momentum=0.5)
    gd = lj.dynamics.gradient(problem.loss, optimizer, lj.data.full_batch(problem.data))
    rates = jnp.geomspace(0.01, 0.1, 16).at[5].set(1e6)
    first = lj.start(jax.random.key(1), problem.params, gd, WATCH)

    @jax.jit
    def solo(run, rate):
        hyperparams = run.state.hyperparams | {"learning_rate": rate}
        run = run._replace(state=run.state._replace(hyperparams=hyperparams))
        return lj.advance(run, gd, WATCH, num_steps=20, every=2)

    batched, record = jax.jit(jax.vmap(solo, in_axes=(None, 0)))(first, rates)
    for i in range(16):
        one, one_record = solo(first, rates[i])
        theirs = jax.tree.map(lambda x: x[i], (plain(batched), record))  # noqa: B023
        assert theirs[0].status == one.status == (Status.DIVERGED if i == 5 else Status.RUNNING)
        if i != 5:
            chex.assert_trees_all_close(theirs[0].params, one.params, rtol=1e-5, atol=1e-6)
            chex.assert_trees_all_close(theirs[1], one_record, rtol=1e-5, atol=1e-6)
            chex.assert_tree_all_finite((theirs[0].params, theirs[1]))
            np.testing.assert_allclose(theirs[0].state.hyperparams["learning_rate"], rates[i], rtol=1e-6)
    lost = jax.tree.map(lambda x: x[5], plain(batched))
    chex.assert_tree_all_finite(lost.params)
    assert lost.step < 20
    assert np.isnan(record["loss"][5, -1])
    assert record["step"][5, -1] == lost.step
    again, _ = lj.drive(batched, gd, WATCH, num_steps=4, chunk=2, progress=False)
    chex.assert_trees_all_equal(jax.tree.map(lambda x: x[5], again.params), lost.params)
    assert set(np.delete(np.asarray(again.step), 5)) == {24}


@pytest.mark.parametrize(
    ("momentum", "nesterov", "threshold"),
    [
        (None, False, 2.0),
        (0.8, False, 2 * (1 + 0.8)),  # heavy ball: η λ < 2 (1 + β)
        (0.8, True, 2 * (1 + 0.8) / (1 + 2 * 0.8)),  # Nesterov: η λ < 2 (1 + β) / (1 + 2 β)
    ],
    ids=["sgd", "momentum", "nesterov"],
)
def test_a_quadratic_diverges_just_above_its_threshold_and_not_just_below(momentum, nesterov, threshold):
    top = 4.0
    scales = {"a": jnp.array([top, 1.0, 0.1]), "b": jnp.full((2, 1), 2.0)}
    params = jax.tree.map(jnp.ones_like, scales)

    def loss(theta, batch):
        return 0.5 * lj.tree.vdot(scales, jax.tree.map(jnp.square, theta))

    def trained(rate):
        gd = lj.dynamics.gradient(loss, optax.sgd(rate, momentum, nesterov), lj.data.full_batch(jnp.zeros((1, 1))))
        return lj.run(jax.random.key(0), params, gd, {"loss": lj.observe.loss}, num_steps=4000, every=1000, ceiling=1e6)

    rates = threshold / top * jnp.array([0.99, 1.01])
    final, record = jax.jit(jax.vmap(trained))(rates)
    assert final.status.tolist() == [Status.RUNNING, Status.DIVERGED]
    assert record["loss"][0, -1] < 1e-6
    assert jnp.abs(final.params["a"][1, 0]) > 100
