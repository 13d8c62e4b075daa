import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_array_equal

import landscape_jax as lj

N, H, W = 60, 5, 7
X = jnp.asarray(np.random.default_rng(0).uniform(1, 2, (N, H, W, 3)), jnp.float32)  # no zeros
key = jax.random.key


def moved(image, dy, dx):
    """One image shifted by hand, pixel by pixel."""
    out = np.zeros_like(image)
    for i in range(H):
        for j in range(W):
            if 0 <= i + dy < H and 0 <= j + dx < W:
                out[i, j] = image[i + dy, j + dx]
    return out


def test_each_image_is_shifted_by_itself():
    shifted = np.asarray(lj.data.shifted(key(0), X, pixels=2))
    assert shifted.dtype == np.float32
    offsets = []
    for image, result in zip(np.asarray(X), shifted, strict=True):
        found = [(dy, dx) for dy in range(-2, 3) for dx in range(-2, 3) if (moved(image, dy, dx) == result).all()]
        assert len(found) == 1
        offsets += found
    assert len(set(offsets)) > 15  # of 25
    assert {dy for dy, _ in offsets} == {dx for _, dx in offsets} == {-2, -1, 0, 1, 2}


def test_each_image_is_flipped_by_itself():
    flipped = np.asarray(lj.data.flipped(key(0), X))
    same = (flipped == X).all(axis=(1, 2, 3))
    mirrored = (flipped == np.asarray(X)[:, :, ::-1]).all(axis=(1, 2, 3))
    assert_array_equal(same, ~mirrored)
    assert 15 < same.sum() < 45


def test_no_shift_is_none():
    assert_array_equal(lj.data.shifted(key(0), X, pixels=0), X)


DATA = X, jnp.arange(N)
CHANGES = (functools.partial(lj.data.shifted, pixels=1), lj.data.flipped)


def test_batches_keep_their_examples_and_their_order():
    plain, changed = lj.data.epochs(DATA, 8), lj.data.augmented(lj.data.epochs(DATA, 8), *CHANGES)
    for step in range(3):
        x, i = changed(key(0), jnp.int32(step))
        same, order = plain(key(0), jnp.int32(step))
        assert_array_equal(i, order)
        assert x.shape == same.shape
        assert not np.array_equal(x, same)


def test_changes_are_drawn_afresh_and_purely():
    """Over steps, over keys and within a batch; jit and vmap are the loop."""
    batches, keys = lj.data.augmented(lj.data.full_batch(DATA), *CHANGES), jax.random.split(key(0), 3)
    steps = jnp.arange(4)
    drawn = jax.jit(jax.vmap(jax.vmap(batches, (None, 0)), (0, None)))(keys, steps)[0]  # [3, 4, n, h, w, c]
    for i in range(3):
        assert_array_equal(drawn[i, 2], batches(keys[i], jnp.int32(2))[0])
    assert len({np.asarray(x).tobytes() for x in drawn.reshape(12, -1)}) == 12


def test_no_change_shares_its_key_with_an_order():
    """The stream of the changes is none of the keys that epochs or minibatch fold."""
    seen = []

    def watched(k, x):
        seen.append(np.asarray(jax.random.key_data(k)).tobytes())
        return x

    lj.data.augmented(lj.data.full_batch(DATA), watched, watched)(key(0), jnp.int32(0))
    orders = {np.asarray(jax.random.key_data(jax.random.fold_in(key(0), i))).tobytes() for i in range(50)}
    assert len(set(seen)) == 2
    assert not orders & set(seen)


def test_the_data_stay_arguments():
    batches = lj.data.augmented(lj.data.minibatch(DATA, 4), *CHANGES)
    assert {id(x) for x in jax.tree.leaves(batches)} == {id(x) for x in DATA}
    closed = jax.make_jaxpr(lambda f, k: f(k, jnp.int32(0)))(batches, key(0))
    assert all(np.shape(c) != X.shape for c in closed.consts)


def test_any_function_and_any_batch():
    assert_array_equal(lj.data.augmented(lambda k, step: X, lambda k, x: -x)(key(0), jnp.int32(0)), -X)
    x, y = lj.data.augmented(lj.data.augmented(lambda k, step: DATA, lj.data.flipped), lj.data.flipped)(key(0), jnp.int32(0))
    assert x.shape == X.shape


def test_inside_a_run():
    import optax

    loss = lj.losses.mean(lambda w, x: x.reshape(len(x), -1) @ w, lj.losses.square)
    data = X, jnp.ones((N, 1))
    gd = lj.dynamics.gradient(loss, optax.sgd(1e-3), lj.data.augmented(lj.data.epochs(data, 8), *CHANGES))

    def trained(k):
        return lj.run(k, jnp.zeros((H * W * 3, 1)), gd, {"loss": lj.observe.loss}, num_steps=4)[1]["loss"]

    record = jax.vmap(trained)(jax.random.split(key(0), 2))
    assert np.isfinite(record).all()
    assert (record[:, -1] < record[:, 0]).all()


BAD = {
    "images without channels": (lambda: lj.data.shifted(key(0), X[..., 0]), r"shifted: inputs \(60, 5, 7\) are not images"),
    "flat images": (lambda: lj.data.flipped(key(0), X.reshape(N, -1)), r"flipped: inputs \(60, 105\) are not images"),
    "out of the image": (lambda: lj.data.shifted(key(0), X, pixels=5), r"pixels=5 must be at least 0 and less than the sides"),
    "backwards": (lambda: lj.data.shifted(key(0), X, pixels=-1), r"pixels=-1"),
    "no change": (lambda: lj.data.augmented(lj.data.full_batch(DATA)), r"no changes were passed"),
    "another shape": (
        lambda: lj.data.augmented(lj.data.full_batch(DATA), lambda k, x: x[:1])(key(0), jnp.int32(0)),
        r"change 0 made float32\(1, 5, 7, 3\) of float32\(60, 5, 7, 3\)",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_changes_that_will_not_do(case):
    call, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        call()
