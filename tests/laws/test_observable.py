"""What every observable promises: to watch without touching."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import landscape_jax as lj

STATELESS = {
    "loss": lambda problem: lj.observe.loss,
    "grad_norm": lambda problem: lj.observe.grad_norm,
    "param_norm": lambda problem: lj.observe.param_norm,
    "distance": lambda problem: lj.observe.distance,  # it remembers θ₀, and nothing of when it was asked
    "accuracy": lambda problem: lj.observe.accuracy(problem.apply),
    "accuracy on data": lambda problem: lj.observe.accuracy(problem.apply, problem.data),
    "sharpness, untracked": lambda problem: lj.observe.sharpness(lj.curvature.hessian(problem.loss), 2, 12, tol=None),
    "clustering": lambda problem: lj.observe.clustering(problem.apply, jax.tree.map(lambda x: x[:20], problem.data)),
    "confidence": lambda problem: lj.observe.confidence(problem.apply, problem.data),
    "tree": lambda problem: lj.observe.stateless(lambda m: {"u": m.updates["out"], "t": m.step, "s": m.state}),
}
REMEMBERING = {
    "spectral_density": lambda problem: lj.observe.spectral_density(lj.curvature.hessian(problem.loss), num_steps=3),
    "trace_ratio": lambda problem: lj.observe.trace_ratio(lj.curvature.hessian(problem.loss), num_probes=3),
    "sharpness": lambda problem: lj.observe.sharpness(lj.curvature.hessian(problem.loss)),
    "alignment": lambda problem: lj.observe.alignment(lj.curvature.hessian(problem.loss), k=2, batch=problem.data),
    "step_effect": lambda problem: lj.observe.step_effect(
        problem.loss,
        lj.curvature.hessian(problem.loss),
        k=2,
        multiples=(1.0,),
        batch=problem.data,
        steps=lj.observe.redrawn(problem.loss, lj.data.minibatch(problem.data, 10), num=2, rate=0.05),
    ),
    "cross_sections": lambda problem: lj.observe.cross_sections(
        problem.loss, lj.curvature.hessian(problem.loss), k=2, places=(-1.0, 2.0)
    ),
}
NOISE = lj.types.Observable(
    lambda key, params: jax.random.uniform(key), lambda key, m, moment: (m, jax.random.uniform(key) + m)
)
STEPS = 12


@pytest.fixture(scope="module")
def gd(problem):
    return lj.dynamics.gradient(problem.loss, optax.sgd(0.05, momentum=0.9), lj.data.full_batch(problem.data))


@pytest.fixture(scope="module")
def watched(problem, gd):
    """(names, every) ↦ the run and the record, each computed once."""
    seen = {}

    def go(names, every=1):
        if (names, every) not in seen:
            watch = {name: ({"noise": lambda _: NOISE} | STATELESS | REMEMBERING)[name](problem) for name in names}
            seen[names, every] = lj.run(jax.random.key(2), problem.params, gd, watch, num_steps=STEPS, every=every)
        return seen[names, every]

    return go


ALL = (*STATELESS, *REMEMBERING, "noise")


@pytest.mark.parametrize(
    ("names", "every"),
    [*(((name,), 1) for name in STATELESS), (ALL, 1), (ALL, 4)],
    ids=lambda x: "-".join(x) if isinstance(x, tuple) else f"every {x}",
)
def test_watching_does_not_change_the_trajectory(watched, names, every):
    alone, _ = watched((), 1)
    run, _ = watched(names, every)
    chex.assert_trees_all_equal((run.params, run.state, run.step), (alone.params, alone.state, alone.step))
    assert run.step == STEPS


def test_cadence_is_the_dense_record_subsampled(watched):
    _, dense = watched(ALL, 1)
    _, sparse = watched(ALL, 4)
    assert dense["step"].tolist() == list(range(STEPS))
    for name in (*STATELESS, "noise", "step"):
        expected = jax.tree.map(lambda x: x[::4], dense[name])
        chex.assert_trees_all_equal_shapes_and_dtypes(sparse[name], expected)
        chex.assert_trees_all_close(sparse[name], expected, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(sparse["sharpness"], dense["sharpness"][::4], rtol=1e-2)
    assert np.ptp(dense["loss"]) > 0
    assert np.ptp(dense["sharpness"]) > 0


def test_randomness_is_each_observables_own(watched):
    """Another observable, or another cadence, changes no number of this one; another name or step does."""
    _, alone = watched(("noise",), 1)
    _, among = watched(ALL, 1)
    assert alone["noise"].tolist() == among["noise"].tolist()
    assert len(set(alone["noise"].tolist())) == STEPS
    chex.assert_trees_all_equal(alone["noise"][::4], watched(ALL, 4)[1]["noise"])


def test_two_names_and_two_keys_give_other_numbers(problem, gd):
    watch = {"one": NOISE, "two": NOISE}
    record = lj.run(jax.random.key(2), problem.params, gd, watch, num_steps=STEPS)[1]
    other = lj.run(jax.random.key(3), problem.params, gd, watch, num_steps=STEPS)[1]
    numbers = np.concatenate([r[name] for r in (record, other) for name in watch])
    assert len(set(numbers.tolist())) == 4 * STEPS


@pytest.mark.parametrize("names", [tuple(STATELESS), pytest.param(ALL, marks=pytest.mark.slow)], ids=["stateless", "all"])
def test_vmap_over_keys_is_a_loop(problem, gd, watched, names):
    """Three runs that start apart: the middle one's record is that of its run alone, but for the signs of eigenvectors."""
    watch = {name: ({"noise": lambda _: NOISE} | STATELESS | REMEMBERING)[name](problem) for name in names}
    keys = jnp.stack([jax.random.key(i) for i in (1, 2, 3)])
    starts = jax.tree.map(lambda x: jnp.stack([1.5 * x, x, 0.5 * x]), problem.params)
    runs, record = jax.jit(jax.vmap(lambda *given: lj.run(*given, gd, watch, num_steps=STEPS, every=4)))(keys, starts)
    alone, expected = watched(ALL, 4)
    middle = jax.tree.map(lambda x: x[1], (runs.params, {name: record[name] for name in names}))
    expected = alone.params, {name: expected[name] for name in names}
    signless = lambda x: jax.tree.map(jnp.abs, x)  # noqa: E731
    chex.assert_trees_all_close(signless(middle), signless(expected), rtol=5e-3, atol=1e-4)
    assert np.all(np.ptp(record["loss"], axis=0) > 0)


@pytest.mark.slow
def test_finite_on_a_zero_gradient(problem):
    """At a minimum that θ fits exactly, and on a loss that is flat everywhere."""
    inputs = problem.data[0]
    fitted = inputs, jax.jit(problem.apply)(problem.params, inputs)

    @jax.jit
    def watched(factor):
        exact = problem._replace(loss=lambda params, batch: factor * problem.loss(params, batch), data=fitted)
        gd = lj.dynamics.gradient(exact.loss, optax.sgd(0.05, momentum=0.9), lj.data.full_batch(fitted))
        watch = {name: make(exact) for name, make in (STATELESS | REMEMBERING).items()}
        return lj.run(jax.random.key(0), problem.params, gd, watch, num_steps=2)[1]

    curved, flat = watched(1.0), watched(0.0)
    chex.assert_tree_all_finite((curved, flat))
    assert np.all(curved["grad_norm"] < 1e-5)
    assert np.all(curved["sharpness"] > 0.1)
    assert not flat["grad_norm"].any()
    assert not flat["sharpness"].any()


@pytest.mark.slow
def test_resumed_tracker_equals_the_straight_one_bit_for_bit(problem, gd, watched):
    watch = {"sharpness": REMEMBERING["sharpness"](problem)}
    straight, record = watched(("sharpness",), 1)
    run = lj.start(jax.random.key(2), problem.params, gd, watch)
    run, resumed = lj.drive(run, gd, watch, num_steps=STEPS, chunk=4, progress=False)
    chex.assert_trees_all_equal(resumed, record)
    chex.assert_trees_all_equal(run.memory, straight.memory)


def test_values(problem, watched):
    _, record = watched(ALL, 1)
    x, y = (np.asarray(part, np.float64) for part in problem.data)
    theta = jax.tree.map(np.float64, problem.params)
    outputs = np.tanh(x @ theta["hidden"]["w"] + theta["hidden"]["b"]) @ theta["out"] + theta["shift"]
    np.testing.assert_allclose(record["loss"][0], 0.5 * np.sum((outputs - y) ** 2) / len(x), rtol=1e-5)
    hits = np.mean(outputs.argmax(1) == y.argmax(1))
    assert record["accuracy"][0] == record["accuracy on data"][0] == pytest.approx(hits)
    length = np.sqrt(sum(np.sum(leaf**2) for leaf in jax.tree.leaves(theta)))
    np.testing.assert_allclose(record["param_norm"][0], length, rtol=1e-5)
    assert record["distance"][0] == 0
    np.testing.assert_allclose(record["distance"][1], 0.05 * record["grad_norm"][0], rtol=1e-4)


def test_accuracy_takes_classes_as_well_as_one_hot(problem):
    x, y = problem.data
    moment = lj.types.Moment(*[None] * 7)._replace(params=problem.params)
    one_hot = lj.observe.accuracy(problem.apply, (x, y)).measure(None, (), moment)[1]
    classes = lj.observe.accuracy(problem.apply, (x, jnp.argmax(y, axis=1))).measure(None, (), moment)[1]
    assert one_hot == classes
    assert 0 < one_hot < 1
