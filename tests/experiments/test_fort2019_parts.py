"""Every part at its smallest, against autodiff and runs of its own; a tiny run of all of them, when asked for."""

import dataclasses
import functools
import os
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

import landscape_jax as lj
from experiments import _fort2019_goldilocks as goldilocks
from experiments import _fort2019_network as network_part
from experiments import fort2019_local_geometry as experiment

DATA = Path(os.environ.get("LANDSCAPE_JAX_DATA", "/nowhere"))


# ── the parts, at their smallest ──────────────────────────────────────────────────────────────────────────────────────────


def of(activation):
    return network_part.glorot((3,), 5, 3, activation=activation)  # p = 30: biases [3], weights [5, 3], [3], [3, 3]


IS_WEIGHT = np.repeat([0.0, 1.0, 0.0, 1.0], [3, 15, 3, 9])


@pytest.fixture(scope="module")
def data():
    x, label = jax.random.normal(jax.random.key(5), (12, 5)), jax.random.randint(jax.random.key(6), (12,), 0, 3)
    return x, jax.nn.one_hot(label, 3)


def autodiff(model, params, data, criterion=lj.losses.cross_entropy):
    """The Hessian [p, p], by `jax.hessian`."""
    flat, back = ravel_pytree(params)
    loss = lj.losses.mean(model.apply, criterion)
    return np.asarray(jax.jit(jax.hessian(lambda flat, data: loss(back(flat), data)))(flat, data), np.float64)


def lean(matrix):
    return np.trace(matrix) / np.linalg.norm(matrix)


def test_zone_is_that_of_autodiff_and_of_the_block_of_weights(data):
    """Tanh at twice Xavier's radius; in a plane of all dimensions the ratio is that of the whole."""
    config = SimpleNamespace(radii=(1.0, 2.0), plane_dims=(4, 30), plane_draws=2, num_probes=2)
    found = goldilocks.zones(config, jax.random.key(1), of, data)
    model = of(jnp.tanh)
    params = lj.tree.scale(2.0, model.init(jax.random.key(1), data[0]))
    matrix = autodiff(model, params, data)
    np.testing.assert_allclose(found["tanh"]["whole"][1], lean(matrix), rtol=1e-4)
    np.testing.assert_allclose(found["tanh"]["weights"][1], lean(matrix * IS_WEIGHT[:, None] * IS_WEIGHT[None]), rtol=1e-4)
    for zone in found.values():
        np.testing.assert_allclose(zone["plane"][1], zone["whole"], rtol=1e-3)
        np.testing.assert_allclose(zone["predicted"][1], zone["whole"], rtol=1e-4)
        assert (zone["plane"][0] != zone["whole"]).all()
    assert (found["relu"]["whole"] != found["tanh"]["whole"]).all()


def test_ratios_of_a_space_too_large_to_write_down(data):
    """Hutchinson's, where p exceeds the bound, within 5 √(2/s) of those of the matrix."""
    model = of(jnp.tanh)
    params = model.init(jax.random.key(1), data[0])
    loss, matrix = lj.losses.mean(model.apply, lj.losses.cross_entropy), autodiff(model, params, data)
    exact = lean(matrix), lean(matrix * IS_WEIGHT[:, None] * IS_WEIGHT[None])

    @functools.partial(jax.jit, static_argnums=3)
    def go(params, data, key, dense):
        return goldilocks.ratios(loss, params, data, key, 1000, dense)

    found, none = go(params, data, jax.random.key(2), 29)
    assert none is None
    np.testing.assert_allclose(found, exact, atol=5 * (2 / 1000) ** 0.5)
    found, whole = go(params, data, jax.random.key(2), 30)
    np.testing.assert_allclose(found, exact, rtol=1e-4)
    np.testing.assert_allclose(whole, matrix, atol=1e-5)


def test_a_cell_of_the_map_is_a_run_of_its_own(data):
    config = SimpleNamespace(map_dims=(4,), map_radii=(0.5, 2.0), map_draws=1, map_steps=5, map_rate=0.02)
    found = goldilocks.maps(config, jax.random.key(1), of, data, data)
    assert found["p"] == 30
    init_key, basis_key = jax.random.split(jax.random.fold_in(jax.random.key(1), 0))
    model = of(jnp.tanh)
    xavier = model.init(init_key, data[0])
    params = lj.tree.scale(2.0, xavier)
    basis = lj.dynamics.leading(lj.dynamics.generated_basis(basis_key, params, 30), 4)
    loss = lj.losses.mean(model.apply, lj.losses.cross_entropy)
    rate = 0.02 * float(lj.tree.norm(params))
    rule = lj.dynamics.subspace(loss, optax.adam(rate), lj.data.full_batch(data), basis, lj.dynamics.sphere)
    final, _ = lj.run(jax.random.key(0), params, rule, {}, num_steps=5)
    np.testing.assert_allclose(found["tanh"]["sphere"]["loss"][1, 0, 0], loss(final.params, data), rtol=1e-4)
    several = [found[name][surface]["loss"] for name in ("relu", "tanh") for surface in ("plane", "sphere")]
    assert len({float(x) for each in several for x in each[0].ravel()}) == 8  # radius ½: activation × surface × dimension


def test_a_cell_of_the_conditions_is_a_run_under_its_own_loss(data):
    """Square loss, half of the labels drawn anew: the program of all losses against one of the square loss alone."""
    task = network_part.Task(of(jax.nn.relu), lj.losses.cross_entropy, data, data, 8, 8)
    settings = 4, ((2, 3),), 3  # batch, looks, k
    rates = {"cross_entropy": (0.1,), "square": (0.2,)}
    found = network_part.conditions(task, jax.random.key(3), rates, (0.0, 0.5), *settings)
    noise_key, init_key, run_key = jax.random.split(jax.random.key(3), 3)
    wrong = data[0], lj.data.with_label_noise(noise_key, data[1], 0.5 * 2 / 3)
    task = task._replace(criterion=lj.losses.square, train=wrong)
    rule, watch = network_part.descent(task, 0.2, 4), network_part.geometry(task, 3)
    run = lj.start(run_key, task.model.init(init_key, data[0]), rule, watch)
    alone = jax.jit(lambda run: lj.advance(run, rule, watch, num_steps=6, every=3)[1])(run)
    for name, value in alone["hessian"].items():
        np.testing.assert_allclose(found["square"]["hessian"][name][1, 0], value, rtol=2e-3, atol=1e-4, err_msg=name)
    np.testing.assert_allclose(found["square"]["train"]["loss"][1, 0], alone["train"]["loss"], rtol=1e-4)
    assert found["square"]["train"]["loss"][0, 0, 1] != found["square"]["train"]["loss"][1, 0, 1]


def test_spectra_of_the_hessian_and_its_parts(data):
    model = of(jnp.tanh)
    task = network_part.Task(model, lj.losses.cross_entropy, data, data, 8, 8)
    params = model.init(jax.random.key(1), data[0])
    found = network_part.spectra(task, jax.tree.map(lambda x: x[None], params), [0])
    matrix = autodiff(model, params, task.first(8))
    np.testing.assert_allclose(found["hessian"][0], np.linalg.eigvalsh(matrix)[::-1], atol=1e-5)
    np.testing.assert_allclose(found["ggn"].sum() + found["h_term"].sum(), np.trace(matrix), rtol=1e-4)
    assert found["ggn"].min() > -1e-6
    assert found["h_term"].min() < -1e-3


TINY = dataclasses.replace(
    experiment.SMALL,
    n_train=80,
    n_test=40,
    n_curvature=30,
    n_clustered=12,
    widths=(5,),
    k=15,
    num_probes=3,
    model_p=100,
    model_n=40,
    model_repeats=2,
    transition_p=100,
    transition_n=30,
    segments=((2, 2), (1, 1)),
    condition_segments=((2, 2),),
    rates=(0.1, 0.5),
    square_rates=(0.1, 0.2),
    batch_size=8,
    condition_batch=8,
    wide=(6,),
    wide_rates=(0.1,),
    wide_square_rates=(0.1,),
    wide_segments=((2, 200),),
    n_zone=20,
    radii=(0.1, 1.0, 1.4, 30.0),
    plane_dims=(3, 6),
    n_map=30,
    map_radii=(0.1, 1.0, 2.0, 5.0, 10.0),
    map_dims=(10, 100, 300),
    map_draws=1,
    map_steps=3,
)


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "mnist/train-images-idx3-ubyte.gz").is_file(), reason="LANDSCAPE_JAX_DATA has no MNIST")
def test_on_mnist_whose_spectrum_is_drawn_as_a_density():
    config = dataclasses.replace(TINY, data="mnist", parts=("network",), widths=(6,))
    assert config.p == 4780
    made = experiment.run(config, jax.random.key(0))
    assert made["network"]["p"] == config.p
    assert "spectra" not in made["network"]
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(dict(made)))
    drawn = experiment.plot(made, config)
    assert set(drawn) == {"figure", "parts"}
    axes = [axis for figure in drawn.values() for axis in figure.axes if axis.get_xlabel() == "eigenvalue"]
    assert [len(axis.lines) for axis in axes] == [3] * 4  # H, H − G and the marks


@pytest.mark.slow
def test_a_tiny_run_from_end_to_end():
    made = experiment.run(TINY, jax.random.key(0))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(dict(made)))
    assert made["conditions"]["square"]["hessian"]["cosines"].shape == (2, 2, 2, 15)
    assert made["network"]["hessian"]["eigenvalues"].shape == (3, 15)
    assert made["network"]["step"].tolist() == [0, 2, 4]
    assert made["maps"]["relu"]["sphere"]["accuracy"].shape == (5, 4, 1)
    np.testing.assert_allclose(made["network"]["spectra"]["ggn"][0, -1], 0, atol=1e-5)  # semidefinite
    untested = {claim.id for claim in experiment.claims(made, TINY) if claim.passed is None}
    learns = {"net-gradient-mostly-confined", "net-confinement-follows-the-step"}  # four steps teach no network
    later = {"net-gradient-confinement", "net-gradient-confinement-grows"}  # after step 400
    assert untested <= learns | later
    assert set(experiment.plot(made, TINY)) == {"figure", "parts", "conditions", "conditions-wide", "goldilocks"}
