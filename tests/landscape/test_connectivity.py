"""Paths between solutions."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import landscape_jax as lj
from landscape_jax.landscape import connectivity, interpolation

BASES = (connectivity.bezier, connectivity.polygon)


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("num_bends", [1, 2, 5])
def test_weights_sum_to_one_and_ends_are_ends(basis, num_bends):
    weights = jax.vmap(lambda t: basis(t, num_bends + 1))(jnp.linspace(0, 1, 9))
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-5)
    assert (weights >= 0).all()
    np.testing.assert_allclose(weights[jnp.array([0, 8])], np.eye(num_bends + 2)[[0, -1]], atol=1e-6)


@pytest.mark.parametrize("basis", BASES)
def test_straight_bends_make_the_straight_line(basis):
    start, end = {"w": jnp.arange(3.0)}, {"w": jnp.array([5.0, -1.0, 2.0])}
    bends = connectivity.straight(start, end, 3)
    for t in (0.0, 0.3, 1.0):
        at = connectivity.point(start, bends, end, jnp.array(t), basis)["w"]
        np.testing.assert_allclose(at, (1 - t) * start["w"] + t * end["w"], rtol=1e-5, atol=1e-6)


def test_a_quadratic_bezier_curve():
    a, c, b = (jnp.array(x) for x in (1.0, 5.0, 2.0))
    at = connectivity.point(a, c[None], b, jnp.array(0.25))
    np.testing.assert_allclose(at, 0.75**2 * 1 + 2 * 0.25 * 0.75 * 5 + 0.25**2 * 2, rtol=1e-6)


def test_barrier_is_above_the_line_between_the_ends():
    ts = jnp.linspace(0, 1, 5)
    assert float(connectivity.barrier(2 + 3 * ts, ts)) == pytest.approx(0)
    assert float(connectivity.barrier(2 + 3 * ts + 4 * ts * (1 - ts), ts)) == pytest.approx(1)


def test_places_are_spread_and_drawn_anew():
    batches = connectivity.spread(lambda key, step: "batch", 5)
    ts, batch = batches(jax.random.key(0), jnp.int32(3))
    again, _ = batches(jax.random.key(0), jnp.int32(4))
    np.testing.assert_array_equal(jnp.floor(ts * 5), np.arange(5))
    assert batch == "batch"
    assert (ts != again).all()


def test_a_path_goes_round_a_hill():
    """(|θ|² − 1)² from −1 to 1: the straight line passes through the hill at 0, the circle is the valley."""

    def loss(theta, _):
        return (theta @ theta - 1) ** 2

    start, end, ts = jnp.array([-1.0, 0.0]), jnp.array([1.0, 0.0]), jnp.linspace(0, 1, 51)
    assert float(connectivity.barrier(interpolation(loss, start, end, ts, None), ts)) == pytest.approx(1, abs=0.01)
    for basis in BASES:
        path = connectivity.path_loss(loss, start, end, basis)
        descent = lj.dynamics.gradient(path, optax.adam(0.05), connectivity.spread(lambda key, step: None, 8))
        bends = connectivity.straight(start, end, 3) + 0.1
        final, _ = lj.run(jax.random.key(1), bends, descent, {}, num_steps=300)
        assert connectivity.barrier(connectivity.along(loss, start, final.params, end, ts, None, basis), ts) < 0.06


NUM_SEEDS = 3


@pytest.fixture(scope="module")
def solutions():
    """Two networks for each of three seeds, trained on the same 300 digits from initialisations of their own: the straight
    line between them, and a curve with one bend, [seed, t]."""
    model, (train, _) = lj.models.mlp((32,), 10), lj.data.digits(300, 0)
    loss, ts = lj.losses.mean(model.apply, lj.losses.cross_entropy), jnp.linspace(0, 1, 31)
    batches = lj.data.full_batch(train)

    def connected(key):
        keys = jax.random.split(key, 5)

        def solution(of_init, of_run):
            descent = lj.dynamics.gradient(loss, optax.adam(1e-2), batches)
            return lj.run(of_run, model.init(of_init, train[0]), descent, {}, num_steps=200)[0].params

        start, end = solution(keys[0], keys[1]), solution(keys[2], keys[3])
        line = connectivity.straight(start, end, 1)
        descent = lj.dynamics.gradient(
            connectivity.path_loss(loss, start, end), optax.adam(1e-2), connectivity.spread(batches, 3)
        )
        bends = lj.run(keys[4], line, descent, {}, num_steps=400)[0].params
        return [connectivity.along(loss, start, b, end, ts, train) for b in (line, bends)]

    straight, curved = jax.device_get(lj.sweep.zipped(connected)(jax.random.split(jax.random.key(1), NUM_SEEDS)))
    return straight, curved, np.asarray(ts)


def test_digits_solutions_have_a_barrier_on_the_line_and_none_on_a_curve(solutions):
    straight, curved, ts = solutions
    for line, curve in zip(straight, curved, strict=True):
        assert max(line[0], line[-1], curve[0], curve[-1]) < 0.02  # both are solutions
        high, low = (float(connectivity.barrier(values, ts)) for values in (line, curve))
        print(f"barrier {high:.3f} on the straight line, {low:.4f} on the curve")
        assert high > 0.1
        assert low < 0.05 * high


def test_wrong_numbers_are_answered():
    with pytest.raises(ValueError, match="num_bends=0"):
        connectivity.straight(jnp.array(0.0), jnp.array(1.0), 0)
    with pytest.raises(ValueError, match="num=0"):
        connectivity.spread(lambda key, step: None, 0)
