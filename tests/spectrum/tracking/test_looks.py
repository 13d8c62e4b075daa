"""Looks at matrices whose eigenvalues are known: whatever the sign, the scale and the other end of the spectrum are."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import landscape_jax as lj
from landscape_jax import spectrum

P = 120
BASIS = np.linalg.qr(np.random.default_rng(0).normal(size=(P, P)))[0]
NETWORK = np.sort(np.r_[5, 4.5, 4, 3.2, 3, 2.8, 2.5, np.random.default_rng(1).random(P - 7)])[::-1]


@functools.partial(jax.jit, static_argnames=("k", "smallest"))
def followed(spectra, basis, k: int = 1, smallest: int = 0):
    track = spectrum.tracker(k, smallest=smallest)

    def look(memory, at):
        step, values = at
        times = functools.partial(jnp.matmul, precision="highest")
        memory, told = track.update(lambda v: times(basis, values * times(basis.T, v)), memory, step=step)
        return memory, told._replace(vectors=())

    return jax.lax.scan(look, track.init(jnp.zeros(P)), (jnp.arange(len(spectra)), spectra))[1]


def looks(spectra, basis=BASIS, **asked):
    """What is told, by how much it is wrong, relative to the largest |eigenvalue|, and whether the bracket holds."""
    told = jax.device_get(followed(jnp.asarray(spectra, jnp.float32), jnp.asarray(basis, jnp.float32), **asked))
    true = np.max(spectra, axis=1)
    size = np.maximum(np.max(np.abs(spectra), axis=1), 1e-30)
    holds = (told.low[:, 0] - 1e-5 * size <= true) & (true <= told.high[:, 0] + 1e-5 * size)
    return told, np.abs(told.values[:, 0] - true) / size, holds


def still(values, num: int = 40):
    return np.tile(values, (num, 1))


CONSTANT = {
    f"[{low}, {high}]": np.linspace(low, high, P)
    for low, high in ((-1, 1), (-2, 1), (-3, 1), (-10, 1), (-30, 1), (-3, -1), (-1, -1), (0, 0))
}


@pytest.mark.parametrize("values", CONSTANT.values(), ids=CONSTANT)
def test_right_whatever_the_other_end_is(values):
    """For a while the tracker told 2.5 where λ lies in [−10, 1], and 0 where all are negative."""
    told, wrong, holds = looks(still(values), np.eye(P))
    assert wrong.max() < 1e-4
    assert holds.all()
    assert told.converged.all()
    assert told.products[1:].max() < 20


def test_scale_and_sign_change_nothing():
    plain = looks(still(NETWORK))[0]
    for scale in (1e12, 1e-12):
        told = looks(scale * still(NETWORK))[0]
        np.testing.assert_allclose(told.values, scale * plain.values, rtol=1e-5)
        np.testing.assert_allclose(told.products, plain.products, atol=2)  # the first look by rounding
    low = looks(-still(NETWORK), k=0, smallest=1)[0]
    np.testing.assert_allclose(low.values, -plain.values, rtol=1e-5)
    np.testing.assert_allclose(low.low, -plain.high, rtol=1e-4)
    assert looks(20 + still(NETWORK))[1].max() < 1e-4


def test_both_ends():
    values = np.r_[5, 3, np.linspace(-0.5, 1, P - 4), -1.5, -2]
    told = looks(still(values), k=2, smallest=2)[0]
    np.testing.assert_allclose(told.values, still(np.array([5, 3, -1.5, -2])), atol=1e-3)
    assert told.converged.all()
    assert told.products[2:].mean() < 4.5


def test_a_rival_that_rises_from_below_all_that_is_remembered_is_met():
    """All else is at rest, so that nothing says that a look is due: a scout meets it."""
    spectra = still(np.r_[5 * np.array([1, 0.9, 0.85, 0.8, 0.7, 0.6]), np.random.default_rng(2).random(P - 6)], 400)
    spectra[:, 60] = np.linspace(0.3, 6.8, 400)
    told, wrong, holds = looks(spectra)
    assert wrong.max() < 1e-3
    assert holds.all()
    assert told.products[1:].mean() < 2


def test_two_that_cross():
    spectra = still(NETWORK, 400)
    spectra[:, 0], spectra[:, 3] = np.linspace(5, 3.5, 400), np.linspace(3.2, 6.2, 400)
    _, wrong, holds = looks(spectra)
    assert wrong.max() < 2e-3
    assert holds.all()


@pytest.mark.parametrize("shift", [0, 50], ids=["larger", "another"])
def test_a_jump_of_the_operator(shift):
    """A hundred times larger at 20 of 60 looks, with the same vectors or with others."""
    spectra = still(NETWORK, 60)
    spectra[20:40] = 100 * np.roll(NETWORK, shift)
    told, wrong, holds = looks(spectra)
    assert wrong.max() < 2e-3
    assert holds.all()
    assert told.converged.all()


def test_an_operator_that_falls_by_many_orders():
    """What is remembered of 1e12 is rounding beside 5: for a while it was told with `converged`."""
    huge = np.r_[NETWORK[:-1], -1e12]
    spectra = np.concatenate([still(huge), still(NETWORK)])
    told, wrong, holds = looks(spectra)
    assert wrong[told.converged].max() < 2e-3
    assert holds.all()
    assert told.converged[45:].all()
    assert told.products[50:].max() < 40


@pytest.mark.parametrize("at", [0, 20])
def test_a_look_that_is_not_finite_is_told_and_forgotten(at):
    """The next one starts from what was remembered before."""
    spectra = still(NETWORK)
    spectra[at] = np.nan
    told, wrong, _ = looks(spectra)
    assert np.isnan(told.values[:, 0]).tolist() == [i == at for i in range(len(spectra))]
    assert told.converged.tolist() == [i != at for i in range(len(spectra))]
    assert np.nanmax(wrong) < 1e-4
    if at:
        assert told.products[at + 1] <= 2


def test_no_eigenvalue_asked_for():
    with pytest.raises(ValueError, match="k=0 and smallest=0 ask for no eigenvalue"):
        spectrum.tracker(0)


def test_drive_says_how_many_looks_did_not_converge():
    data = lj.data.full_batch(jnp.ones((2, 1)))
    descent = lj.dynamics.gradient(lambda params, batch: jnp.sum(params**2), optax.sgd(0.1), data)
    told = lj.observe.stateless(lambda m: {"value": m.loss, "converged": m.step % 3 != 0})
    run = lj.start(jax.random.key(0), jnp.ones(3), descent, {"sharpness": told})
    with pytest.warns(UserWarning, match="2 of 6 looks of 'sharpness' did not converge"):
        lj.drive(run, descent, {"sharpness": told}, num_steps=6, progress=False)


@pytest.mark.parametrize("own", [{"converged": True}, {"value": [1.0, 2.0], "converged": [[True]]}, {"other": 1.0}])
def test_a_record_of_another_form_does_not_stop_a_drive_at_its_end(own):
    data = lj.data.full_batch(jnp.ones((2, 1)))
    descent = lj.dynamics.gradient(lambda params, batch: jnp.sum(params**2), optax.sgd(0.1), data)
    watch = {"sharpness": lj.observe.stateless(lambda m: {name: jnp.array(x) for name, x in own.items()})}
    run = lj.start(jax.random.key(0), jnp.ones(3), descent, watch)
    _, record = lj.drive(run, descent, watch, num_steps=4, progress=True)
    assert record["sharpness"].keys() == own.keys()
