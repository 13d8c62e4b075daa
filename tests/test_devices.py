"""Eight fake devices: runs split, examples split, θ split."""

import functools
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import clean_environment
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import landscape_jax as lj
from landscape_jax import programs
from landscape_jax.engine import core
from landscape_jax.engine.cadence import read_cadences
from landscape_jax.types import BatchCoupled

COLLECTIVE = r"(all-reduce|all-gather|collective-permute|all-to-all|reduce-scatter)(?:-start)?\("


@pytest.fixture(scope="module")
def mesh():
    assert jax.device_count() == 8
    return lj.devices.mesh()


def program(fn, *args):
    return jax.jit(fn).lower(*args).compile().as_text()


def test_a_sharded_loss_takes_one_all_reduce_a_gradient(problem, mesh):
    sharded = lj.losses.sharded(problem.loss, mesh)
    text = program(jax.value_and_grad(sharded), problem.params, problem.data)
    assert re.findall(COLLECTIVE, text) == ["all-reduce"]
    assert re.findall(COLLECTIVE, program(sharded, problem.params, problem.data)) == ["all-reduce"]


SIZES = [pytest.param(64, marks=pytest.mark.slow), pytest.param(61, marks=pytest.mark.slow), 5]


@pytest.mark.parametrize("n", SIZES, ids=["even", "ragged", "fewer than devices"])
def test_a_sharded_loss_is_the_loss(problem, mesh, n):
    batch = jax.tree.map(lambda x: x[:n], problem.data)
    sharded = lj.losses.sharded(problem.loss, mesh)
    for ours, theirs in zip(
        jax.value_and_grad(sharded)(problem.params, batch), jax.value_and_grad(problem.loss)(problem.params, batch), strict=True
    ):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), ours, theirs)
    if n != 61:
        return
    v = lj.tree.normal_like(jax.random.key(1), problem.params)
    for form in (lj.curvature.hessian, lj.curvature.linearized_hessian, lj.curvature.reverse_hessian):
        ours, theirs = (form(loss)(problem.params, batch)(v) for loss in (sharded, problem.loss))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), ours, theirs)


@pytest.mark.slow
def test_a_run_whose_examples_are_split_is_the_run(problem, mesh):
    batches = lj.data.full_batch(problem.data)
    out = []
    for loss, hessian in (
        (problem.loss, lj.curvature.hessian(problem.loss)),
        (lj.losses.sharded(problem.loss, mesh), lj.curvature.sharded(lj.curvature.hessian(problem.loss), mesh)),
    ):
        gd = lj.dynamics.gradient(loss, optax.sgd(0.1), batches)
        watch = {"loss": lj.observe.loss, "sharpness": lj.observe.sharpness(hessian)}
        out.append(lj.run(jax.random.key(0), problem.params, gd, watch, num_steps=12, every=4)[1])
    np.testing.assert_allclose(out[0]["loss"], out[1]["loss"], rtol=1e-5)
    np.testing.assert_allclose(out[0]["sharpness"], out[1]["sharpness"], rtol=1e-3)


@pytest.mark.parametrize("explicit", [False, True], ids=["automatic axes", "explicit axes"])
@pytest.mark.parametrize("network", ["cnn", pytest.param("resnet", marks=pytest.mark.slow)])
def test_networks_in_a_shard_map_of_ones_own(network, explicit):
    """Gradient and Hessian product over the examples of all devices, as JAX checks what varies over them by default."""
    model = {"cnn": lj.models.cnn((4,), 3), "resnet": lj.models.resnet(8, 3, width=2)}[network]
    mesh = jax.make_mesh((8,), ("d",)) if explicit else Mesh(np.array(jax.devices()), "d")
    batch = jax.random.normal(jax.random.key(0), (8, 8, 8, 3)), jnp.eye(3)[jnp.arange(8) % 3]
    params = model.init(jax.random.key(1), batch[0])
    loss = lj.losses.mean(model.apply, lj.losses.square)

    def products(params, batch, mean=lambda x: x):
        of = lambda params: mean(loss(params, batch))  # noqa: E731
        return jax.jvp(jax.grad(of), (params,), (params,))

    mean = functools.partial(products, mean=lambda x: jax.lax.pmean(x, "d"))
    split = PartitionSpec("d")
    mapped = jax.jit(jax.shard_map(mean, mesh=mesh, in_specs=(PartitionSpec(), split), out_specs=PartitionSpec()))
    placed = (jax.device_put(z, NamedSharding(mesh, s)) for z, s in ((params, PartitionSpec()), (batch, split)))
    found = mapped(*placed)
    near = lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5 * float(jnp.abs(y).max()))  # noqa: E731
    jax.tree.map(near, found, jax.jit(products)(params, batch))


def test_what_does_not_come_apart_is_refused(mesh):
    with pytest.raises(ValueError, match="sharded: because, so the mean over parts"):
        lj.losses.sharded(BatchCoupled(lambda p, b: 0.0, "because"), mesh)


@pytest.mark.slow
def test_theta_split_splits_all_that_is_made_of_it(mesh):
    """Optimizer state, tracked eigenvectors and the Krylov basis: no buffer holds a whole leaf, or a whole stack of them."""
    train = lj.data.digits(40, 0)[0]
    model = lj.models.mlp((256, 128), 10)
    loss = lj.losses.mean(model.apply, lj.losses.square)
    gd = lj.dynamics.gradient(loss, optax.adam(1e-3), lj.data.full_batch(train))
    watch = {"loss": lj.observe.loss, "sharpness": lj.observe.sharpness(lj.curvature.hessian(loss))}
    theta = model.init(jax.random.key(0), train[0])
    split = lj.devices.split(theta, mesh)
    assert split["layer0"]["kernel"].sharding.spec == PartitionSpec(None, "devices")
    assert split["layer1"]["kernel"].sharding.spec == PartitionSpec("devices")
    assert split["layer2"]["bias"].sharding.is_fully_replicated  # ten numbers

    run, arrays = programs.program(core._run_program, (gd, watch))
    go = run.lower(jax.random.key(1), split, arrays, jnp.inf, num_steps=8, cadences=read_cadences("run", 4, watch)).compile()
    text = go.as_text()
    assert re.search(r"f32\[64,32\]", text)  # layer0's eighth
    assert re.search(r"f32\[12,64,32\]", text)  # of the six vectors remembered on either side
    assert re.search(r"f32\[10,64,32\]", text)  # and of the basis for further products
    assert not re.search(r"f32\[(\d+,)?(64,256|256,128)\]", text)
    run, record = go(jax.random.key(1), split, arrays, jnp.inf)
    assert run.state[0].mu["layer1"]["kernel"].sharding.spec == PartitionSpec("devices")
    plain, losses = lj.run(jax.random.key(1), theta, gd, {"loss": lj.observe.loss}, num_steps=8, every=4)
    np.testing.assert_allclose(record["loss"], losses["loss"], rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), run.params, plain.params)


def test_split_needs_an_axis_of_the_mesh(mesh):
    with pytest.raises(ValueError, match=r"split: the mesh has axes \('devices',\), not 'model'"):
        lj.devices.split({"w": jnp.ones(8)}, mesh, "model")


@pytest.mark.parametrize(("runs", "count"), [(16, 8), (12, 6), (7, 7), (1, None), (11, None)])
def test_as_many_devices_as_divide_the_runs(runs, count):
    mesh = lj.devices.mesh_for_runs(runs)
    assert (mesh.size if mesh else None) == count


@pytest.mark.slow
def test_drive_takes_the_split_that_runs_have(problem):
    watch = {"loss": lj.observe.loss}
    gd = lj.dynamics.gradient(problem.loss, optax.sgd(0.1), lj.data.minibatch(problem.data, 8))
    begin = lambda key: lj.start(key, problem.params, gd, watch)  # noqa: E731
    keys = jax.random.split(jax.random.key(0), 4)
    mesh = Mesh(np.array(jax.devices()[:4]), ("runs",))
    plain = lj.drive(lj.sweep.zipped(begin)(keys), gd, watch, num_steps=8, progress=False)
    split = lj.sweep.sharded(begin, mesh)(keys)
    assert len(split.step.sharding.device_set) == 4
    for run, options in ((split, {}), (lj.sweep.zipped(begin)(keys), {"mesh": mesh})):
        final, record = lj.drive(run, gd, watch, num_steps=8, progress=False, **options)
        assert final.step.sharding == NamedSharding(mesh, PartitionSpec("runs"))
        np.testing.assert_allclose(record["loss"], plain[1]["loss"], rtol=1e-6)
    with pytest.raises(ValueError, match="8 devices don't divide 4 runs: drive a multiple of 8"):
        lj.drive(lj.sweep.zipped(begin)(keys), gd, watch, num_steps=8, mesh=lj.devices.mesh(), progress=False)
    with pytest.raises(ValueError, match="this is a single run"):
        lj.drive(begin(keys[0]), gd, watch, num_steps=8, mesh=mesh, progress=False)


# ── several processes ─────────────────────────────────────────────────────────────────────────────────────────────────


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def test_two_processes_run_one_sweep_and_split_one_batch(tmp_path):
    """On loopback, one device each; against one process with both runs to itself, and with a checkpoint in between."""
    script, port = Path(__file__).with_name("two_processes.py"), free_port()
    alone = [sys.executable, str(script), str(tmp_path / "alone")]
    first, second = ([sys.executable, str(script), str(tmp_path / "both"), f"127.0.0.1:{port}", str(i)] for i in range(2))
    env = clean_environment()
    processes = [subprocess.Popen(c, env=env, stderr=subprocess.PIPE, text=True) for c in (alone, first, second)]
    try:
        said = [p.communicate(timeout=300)[1] for p in processes]
    finally:
        for p in processes:
            p.kill()
    for process, err in zip(processes, said, strict=True):
        assert process.returncode == 0, err[-3000:]
    with np.load(tmp_path / "alone" / "out.npz") as one, np.load(tmp_path / "both" / "out.npz") as two:
        assert set(one) == set(two)
        assert one["sweep"].shape == (3, 2, 5)
        assert one["driven"].shape == (4, 10)
        for name in one:
            np.testing.assert_allclose(two[name], one[name], rtol=1e-5, atol=1e-6, err_msg=name)
    assert sorted(p.name for p in (tmp_path / "both").iterdir()) == ["checkpoint", "out.npz"]


def test_a_coordinator_that_does_not_answer_is_named():
    port, begun = free_port(), time.monotonic()
    with pytest.raises(ConnectionError, match=rf"no coordinator at 127\.0\.0\.1:{port} after 1 s .*is process 0 running"):
        lj.devices.join(f"127.0.0.1:{port}", 2, 1, timeout=1)
    assert time.monotonic() - begun < 10


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("host:1", 2, None), "all three"),
        (("host", 2, 0), "address:port"),
        (("host:1", 2, 2), "between 0 and num_processes − 1 = 1"),
    ],
)
def test_bad_coordinates_of_processes(given, said):
    with pytest.raises(ValueError, match=said):
        lj.devices.join(*given)


def test_a_single_process_joins_nobody(monkeypatch):
    monkeypatch.delenv("SLURM_STEP_NUM_TASKS", raising=False)
    assert lj.devices.join() is False
