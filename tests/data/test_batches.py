import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import landscape_jax as lj

N = 10
DATA = {"x": jnp.arange(2.0 * N).reshape(N, 2), "i": jnp.arange(N)}


def draws(batches, key, steps):
    """Indices of the examples that the steps take, [steps, b]; checks that the leaves stay together."""
    batch = jax.jit(jax.vmap(lambda t: batches(key, t)))(steps)
    np.testing.assert_array_equal(batch["x"], np.asarray(DATA["x"])[batch["i"]])
    return np.asarray(batch["i"])


@pytest.mark.parametrize("b", [1, 4, 5, 7, 10])
@pytest.mark.parametrize("first", [0, 2_000_000_000], ids=["from the start", "near the last int32"])
def test_epochs_take_each_example_once_in_every_n_draws(b, first):
    steps = first + jnp.arange(3 * N, dtype=jnp.int32)  # `first` is a multiple of N: N steps are b whole epochs
    epochs = draws(lj.data.epochs(DATA, b), jax.random.key(0), steps).reshape(-1, N)
    assert len(epochs) == 3 * b
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.broadcast_to(np.arange(N), epochs.shape))
    assert len(np.unique(epochs, axis=0)) == 3 * b  # a new order each time
    assert not (np.diff(epochs, axis=1) == 1).all(axis=1).any()  # and never the data's own


def test_epochs_hold_for_every_key_inside_a_scan():
    """As a run draws them: a scan over steps, vmapped over keys, from a step in the middle of an epoch."""
    b = 3  # does not divide N
    batches = lj.data.epochs(DATA, b)

    def drawn(key):
        return jax.lax.scan(lambda t, _: (t + 1, batches(key, t)["i"]), jnp.int32(1), length=4 * N)[1].reshape(-1)

    seen = np.asarray(jax.jit(jax.vmap(drawn))(jax.random.split(jax.random.key(2), 6)))  # [6, 4 n b], from draw b on
    epochs = seen[:, N - b :][:, : 3 * N].reshape(6, 3, N)
    np.testing.assert_array_equal(np.sort(epochs), np.broadcast_to(np.arange(N), epochs.shape))
    assert len(np.unique(epochs.reshape(18, N), axis=0)) == 18


def test_minibatch_takes_distinct_examples_uniformly():
    seen = draws(lj.data.minibatch(DATA, 4), jax.random.key(0), jnp.arange(2000))
    assert all(len(set(row)) == 4 for row in seen)
    counts = np.bincount(seen.ravel(), minlength=N)
    np.testing.assert_allclose(counts, 2000 * 4 / N, rtol=0.15)
    assert len({tuple(row) for row in seen}) > 1000


def test_independent_draws_are_uniform_and_know_nothing_of_each_other():
    seen = draws(lj.data.independent(DATA, 4), jax.random.key(0), jnp.arange(2000))
    np.testing.assert_allclose(np.bincount(seen.ravel(), minlength=N), 2000 * 4 / N, rtol=0.15)
    twice = np.mean([len(set(row)) < 4 for row in seen])
    assert abs(twice - (1 - 0.9 * 0.8 * 0.7)) < 0.04  # as for birthdays
    assert draws(lj.data.independent(DATA, 3 * N), jax.random.key(0), jnp.arange(2)).shape == (2, 3 * N)


def test_full_batch_is_the_data():
    batch = lj.data.full_batch(DATA)(jax.random.key(0), jnp.int32(3))
    np.testing.assert_array_equal(batch["x"], DATA["x"])
    np.testing.assert_array_equal(batch["i"], DATA["i"])


@pytest.mark.parametrize("make", [lj.data.epochs, lj.data.minibatch, lj.data.independent])
def test_each_key_has_an_order_of_its_own(make):
    """And vmap over keys is the loop over them."""
    batches, keys, step = make(DATA, 4), jax.random.split(jax.random.key(1), 5), jnp.int32(6)
    batched = jax.jit(jax.vmap(batches, in_axes=(0, None)))(keys, step)["i"]
    assert batched.shape == (5, 4)
    for i, key in enumerate(keys):
        np.testing.assert_array_equal(batched[i], batches(key, step)["i"])
    assert len(np.unique(batched, axis=0)) == 5


def test_the_data_travels_as_an_argument_and_not_as_a_constant():
    batches = lj.data.minibatch(DATA, 4)
    assert {id(x) for x in jax.tree.leaves(batches)} == {id(x) for x in jax.tree.leaves(DATA)}
    closed = jax.make_jaxpr(lambda f, key: f(key, jnp.int32(0)))(batches, jax.random.key(0))
    assert all(np.shape(c) != DATA["x"].shape for c in closed.consts)


# ── batches that are no function of key and step ──────────────────────────────────────────────────────────────────────

X, Y = np.arange(40.0, dtype=np.float32).reshape(10, 4), np.ones((10, 1), np.float32)


def loss(params, batch):
    return jnp.mean((batch[0] @ params - batch[1]) ** 2)


def stream(make):
    return (make(4 * (i % 2)) for i in itertools.count())


def reading(iterator):
    return lambda key, step: next(iterator)


def counting():
    """A change of inputs that counts its calls."""
    calls = itertools.count()
    return lambda key, x: x + np.float32(next(calls))


def with_a_key(own):
    return lambda key, step: (jax.random.normal(jax.random.fold_in(own, step), (10, 4)), Y)


def load(step):
    return X[step % 5 : step % 5 + 4]


def loaded(key, step):
    return jax.pure_callback(load, jax.ShapeDtypeStruct((4, 4), X.dtype), step), Y[:4]


def picked(key, step):
    return jnp.asarray(X)[jax.random.permutation(jax.random.fold_in(key, step), 10)[:4]], Y[:4]


def noisy(key, x):
    return x + jax.random.normal(key, x.shape)


IMPURE = {
    "an iterator of NumPy arrays": lambda: reading(stream(lambda i: (X[i : i + 4], Y[i : i + 4]))),
    "an iterator of JAX arrays": lambda: reading(stream(lambda i: (jnp.asarray(X[i : i + 4]), jnp.asarray(Y[i : i + 4])))),
    "an iterator of sizes": lambda: reading(stream(lambda i: (X[: i + 2], Y[: i + 2]))),
    "an iterator of numbers": lambda: reading(stream(lambda i: (jnp.full((4, 4), i, X.dtype), Y[:4]))),
    "NumPy's random numbers": lambda: lambda key, step: (X[np.random.randint(10, size=4)], Y[:4]),  # noqa: NPY002
    "a reader among the changes": lambda: lj.data.augmented(lj.data.full_batch((X, Y)), counting()),
    "a partial of one": lambda: functools.partial(lambda it, key, step: next(it), stream(lambda i: (X[i : i + 4], Y[:4]))),
}
PURE = {
    "data closed over": lambda: lambda key, step: (X, Y),
    "data made at each call": lambda: lambda key, step: (jnp.asarray(X) + 1, np.array(Y)),
    "keys and steps": lambda: picked,
    "a key closed over": lambda: with_a_key(jax.random.key(7)),
    "a callback": lambda: loaded,
    "an iterator of one batch": lambda: reading(itertools.repeat((X, Y))),
    "epochs": lambda: lj.data.epochs((X, Y), 3),
    "augmented epochs": lambda: lj.data.augmented(lj.data.epochs((X, Y), 3), noisy),
}


def begin(batches, rule=lj.dynamics.gradient):
    gd = rule(loss, optax.sgd(1e-3), batches)
    return lj.start(jax.random.key(0), jnp.zeros((4, 1)), gd, {}), gd


@pytest.mark.parametrize("name", IMPURE)
def test_a_function_that_reads_a_state_of_pythons_is_refused(name):
    for go in (begin, lambda batches: jax.jit(lambda: begin(batches)[0].params)()):
        with pytest.raises(ValueError, match=r"same key and step gave different batches.*that one batch for ever: choose"):
            go(IMPURE[name]())
    with pytest.raises(ValueError, match="gave different batches"):
        lj.run(
            jax.random.key(0), jnp.zeros((4, 1)), lj.dynamics.gradient(loss, optax.sgd(0.1), IMPURE[name]()), {}, num_steps=2
        )
    with pytest.raises(ValueError, match="gave different batches"):
        lj.observe.redrawn(loss, IMPURE[name]())
    basis = lj.dynamics.dense_basis(jax.random.key(1), jnp.zeros((4, 1)), 2)
    with pytest.raises(ValueError, match="gave different batches"):
        begin(IMPURE[name](), lambda *args: lj.dynamics.subspace(*args, basis))


@pytest.mark.parametrize("name", PURE)
def test_a_pure_function_goes_through(name):
    run, gd = begin(PURE[name]())
    run, _ = lj.advance(run, gd, {}, num_steps=3)
    assert np.isfinite(run.params).all()


def test_data_that_are_arguments_of_a_program_go_through():
    @jax.jit
    def trained(x, scale):
        run, gd = begin(lambda key, step: (scale * x[:4], Y[:4]))
        return lj.advance(run, gd, {}, num_steps=3)[0].params

    assert np.isfinite(trained(X, 1.0)).all()
    assert np.isfinite(jax.vmap(trained, in_axes=(None, 0))(X, jnp.ones(2))).all()


@pytest.mark.parametrize("batches", [stream(lambda i: X), (X, Y), [(X, Y)]], ids=["a generator", "the data", "a list"])
def test_what_is_no_function_is_refused_before_a_run(batches):
    with pytest.raises(TypeError, match=r"gradient: batches must be a function \(key, step\) -> batch, but is "):
        lj.dynamics.gradient(loss, optax.sgd(0.1), batches)
