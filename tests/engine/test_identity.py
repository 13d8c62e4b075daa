"""Another run is told from this one by name, whatever little thing differs; other devices and versions are not another run."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.tree_util import Partial

import landscape_jax as lj
from landscape_jax.engine.checkpoint import identity
from landscape_jax.engine.checkpoint.saving import open_checkpoints
from landscape_jax.record import folder as results

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(24, 4, 4)).astype(np.float32)
LABELS = np.eye(3, dtype=np.float32)[RNG.integers(0, 3, 24)]
PARTS = {
    "x": IMAGES,
    "y": LABELS,
    "probe": IMAGES[:5],  # an observer's batch
    "mask": np.ones(5, np.float32),  # closed over within a jitted function
    "theta": RNG.normal(size=(16, 3)).astype(np.float32),
    "rate": np.float32(0.05),  # in the optimizer's state
    "factor": 1.5,  # in the program
    "trace": np.zeros((16, 3), np.float32),  # of the optimizer
    "key": 0,
}


def made(**changed):
    parts = PARTS | changed

    def loss(theta, batch):
        return parts["factor"] * jnp.mean((batch["x"].reshape(len(batch["x"]), -1) @ theta - batch["y"]) ** 2)

    mask = jnp.asarray(parts["mask"])

    @jax.jit
    def masked(theta, probe):
        return jnp.sum((probe.reshape(5, -1) @ theta) * mask[:, None])

    def on(probe, key, memory, moment):
        return memory, masked(moment.params, probe)

    optimizer = optax.inject_hyperparams(optax.sgd)(0.05, momentum=0.9)
    sgd = lj.dynamics.gradient(loss, optimizer, lj.data.minibatch({"x": parts["x"], "y": parts["y"]}, 4))
    probe = lj.types.Observable(lambda key, params: (), Partial(on, jnp.asarray(parts["probe"])))
    watch = {"loss": lj.observe.loss, "probe": probe}
    run = lj.start(jax.random.key(parts["key"]), jnp.asarray(parts["theta"]), sgd, watch)
    inner = run.state.inner_state[0]._replace(trace=jnp.asarray(parts["trace"]))
    state = run.state._replace(
        hyperparams=run.state.hyperparams | {"learning_rate": jnp.asarray(parts["rate"])},
        inner_state=(inner, *run.state.inner_state[1:]),
    )
    return run._replace(state=state), sgd, watch


def drive(folder, num_steps=2, accept=(), **changed):
    run, sgd, watch = made(**changed)
    saving = lj.Saving(folder, accept=accept)
    return lj.drive(run, sgd, watch, num_steps=num_steps, chunk=1, saving=saving, progress=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("identity") / "run"
    drive(folder)
    return folder


def at(array, index, change):
    array = array.copy()
    array[index] = change(array[index])
    return array


def last_bit(x):
    return np.nextafter(x, np.float32(np.inf))


FIRST = int(np.argmax(np.any(LABELS != LABELS[0], axis=1)))  # the first of another class
SHUFFLED = np.random.default_rng(1).permutation(24)
OTHER = {
    "labels permuted": ({"y": LABELS[SHUFFLED]}, r"dynamics\S*\['y'\]"),
    "two labels exchanged": ({"y": LABELS[[FIRST, *range(1, FIRST), 0, *range(FIRST + 1, 24)]]}, r"dynamics\S*\['y'\]"),
    "noise in labels": ({"y": at(LABELS, 7, lambda row: np.roll(row, 1))}, r"dynamics\S*\['y'\]"),
    "images permuted": ({"x": IMAGES[SHUFFLED]}, r"dynamics\S*\['x'\]"),
    "images mirrored": ({"x": IMAGES[:, :, ::-1].copy()}, r"dynamics\S*\['x'\]"),
    "images upside down but the first": ({"x": np.concatenate([IMAGES[:1], IMAGES[1:, ::-1]])}, r"dynamics\S*\['x'\]"),
    "the last bit of a pixel": ({"x": at(IMAGES, (5, 1, 2), last_bit)}, r"dynamics\S*\['x'\]"),
    "16-bit images": ({"x": IMAGES.astype(np.float16).astype(np.float32)}, r"dynamics\S*\['x'\]"),
    "another observer's batch": ({"probe": IMAGES[5:10]}, r"observe\S*\['probe'\]"),
    "its batch permuted": ({"probe": IMAGES[[4, 3, 2, 1, 0]]}, r"observe\S*\['probe'\]"),
    "an array closed over": ({"mask": np.array([1, 1, 1, 1, 0], np.float32)}, r"constant\[\d+\]"),
    "the same permuted": ({"mask": np.array([1, 1, 1, 1, last_bit(np.float32(1))])}, r"constant\[\d+\]"),
    "rows of θ exchanged": ({"theta": PARTS["theta"][[1, 0, *range(2, 16)]]}, r"start\['params'\]"),
    "θ mirrored": ({"theta": PARTS["theta"][:, ::-1].copy()}, r"start\['params'\]"),
    "an entry of θ": ({"theta": at(PARTS["theta"], (3, 1), lambda x: x + np.float32(1e-3))}, r"start\['params'\]"),
    "another sign in θ": ({"theta": at(PARTS["theta"], (3, 1), np.negative)}, r"start\['params'\]"),
    "an entry of the momentum": ({"trace": at(PARTS["trace"], (3, 1), lambda x: np.float32(1e-6))}, r"start\['state'\].*trace"),
    "a rate in the state": ({"rate": np.float32(0.05 * (1 + 1e-6))}, r"start\['state'\].*learning_rate.*first 0.05 there"),
    "a factor in the program": ({"factor": 1.5 * (1 + 1e-6)}, "program"),
    "another key": ({"key": 1}, r"start\['key'\]"),
}


@pytest.mark.parametrize("case", OTHER)
def test_another_run_is_refused_by_name(case, folder):
    changed, name = OTHER[case]
    with pytest.raises(ValueError, match=rf"(?s)another run\. It differs in .*{name}.*delete this one"):
        drive(folder, **changed)


def test_nothing_else_differs(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drive(folder)
    with pytest.raises(ValueError, match=r"differs in start\['params'\]: [^;]* here\. Choose"):
        drive(folder, theta=PARTS["theta"] * np.float32(1.001))
    with pytest.raises(ValueError, match=r"differs in dynamics[^;]*; dynamics[^;]* here\. Choose"):  # of init and of step
        drive(folder, y=LABELS[SHUFFLED])


def test_a_long_list_in_a_configuration_is_told_by_its_first_difference(tmp_path):
    one = {"identity.grid": [0.0] * 1000}
    with open_checkpoints(lj.Saving(tmp_path / "run"), one):
        pass
    with pytest.raises(ValueError, match=r"differs in identity\.grid\[700\]: 0\.0 there, 1\.0 here\. Choose"):
        with open_checkpoints(lj.Saving(tmp_path / "run"), {"identity.grid": [0.0] * 700 + [1.0] * 300}):
            pass


def test_the_last_bits_of_a_start_may_differ_and_are_told_of(folder):
    noise = 1 + 1e-7 * np.random.default_rng(2).normal(size=(16, 3))
    with pytest.warns(UserWarning, match=r"the last bits of start\['params'\] differ"):
        drive(folder, theta=(PARTS["theta"] * noise).astype(np.float32))


def test_other_devices_are_told_of(tmp_path):
    for on in ("1 cpu", "8 cpus"):
        with warnings.catch_warnings(record=True) as words:
            warnings.simplefilter("always")
            with open_checkpoints(lj.Saving(tmp_path / "run"), {"data": "same"}, on=on):
                pass
    assert [str(word.message) for word in words] == [
        f"{tmp_path / 'run'} was begun with 1 cpu, now 8 cpus: the last bits may differ"
    ]


def other_versions(monkeypatch):
    now = results.versions()
    monkeypatch.setattr("landscape_jax.engine.checkpoint.claim.versions", lambda: now | {"numpy": "9.0"})


def test_another_version_with_the_same_program_goes_on_with_a_word(folder, monkeypatch):
    other_versions(monkeypatch)
    with pytest.warns(UserWarning, match=r"begun with numpy \S+, now 9\.0: the last bits may differ"):
        drive(folder)


def test_another_version_with_another_program_is_refused_unless_it_is_insisted_on(folder, monkeypatch):
    other_versions(monkeypatch)
    program = identity.program
    monkeypatch.setattr(identity, "program", lambda jaxpr: program(jaxpr)[::-1])  # as if it were written otherwise
    with pytest.raises(ValueError, match=r'(?s)program.*begun with numpy .*now 9\.0.*accept=\("program",\).*delete this one'):
        drive(folder)
    with pytest.raises(ValueError, match=r"dynamics.*y"):
        drive(folder, accept=("program",), y=LABELS[SHUFFLED])
    with pytest.warns(UserWarning, match="another program, which is accepted"):
        drive(folder, accept=("program",))
    with pytest.raises(ValueError, match=r'accept=\("program",\)'):
        drive(folder, accept="program")


def test_the_same_version_does_not_suggest_to_insist(folder):
    with pytest.raises(ValueError, match="program") as refused:
        drive(folder, factor=0.5)
    assert "accept" not in str(refused.value)


@pytest.mark.parametrize("on_host", [1 << 26, 0], ids=["on the host", "on the devices"])
def test_arrays_are_told_apart_however_they_are_split(on_host, monkeypatch):
    monkeypatch.setattr(identity, "ON_HOST", on_host)
    mesh = Mesh(np.array(jax.devices()), ("d",))
    x = RNG.normal(size=(16, 8, 3)).astype(np.float32)
    split = jax.device_put(x, NamedSharding(mesh, PartitionSpec(None, "d")))
    changes = [x[::-1], x[:, ::-1], x[:, :, ::-1], x[RNG.permutation(16)], at(x, (3, 4, 1), last_bit), -x, x.astype(np.float16)]
    changes += [x.reshape(8, 16, 3), np.zeros_like(x)]
    digests = [identity.fingerprint(jnp.asarray(c)) for c in (x, *changes)]
    assert len({str(d) for d in digests}) == len(digests)
    assert identity.fingerprint(split) == digests[0]
    loose = [identity.fingerprint(jnp.asarray(c), lambda x: True) for c in (x, x[::-1], x[:, ::-1], x[:, :, ::-1], -x)]
    near = identity.fingerprint(jnp.asarray(x * (1 + np.float32(1e-7))), lambda x: True)
    across = identity.fingerprint(split, lambda x: True)
    assert identity.compare(loose[0], near)[0] == identity.compare(loose[0], across)[0] == []
    for other in loose[1:]:
        assert identity.compare(loose[0], other)[0] == [""]


@pytest.mark.parametrize("on_host", [1 << 26, 0], ids=["on the host", "on the devices"])
@pytest.mark.parametrize("dtype", ["bool", "uint8", "int32", "float16", "bfloat16", "float32", "complex64"])
def test_each_dtype_has_a_digest(dtype, on_host, monkeypatch):
    monkeypatch.setattr(identity, "ON_HOST", on_host)
    x = jnp.asarray(RNG.integers(0, 2, 40)).astype(dtype)
    ones = np.asarray(x).astype(bool)
    swapped = x.at[jnp.array([np.argmax(ones), np.argmin(ones)])].set(jnp.array([0, 1]).astype(dtype))
    assert identity.fingerprint(x) == identity.fingerprint(jnp.array(x))
    assert identity.fingerprint(x) != identity.fingerprint(swapped)
    identity.fingerprint({"empty": jnp.zeros((0, 3), dtype), "key": jax.random.key(0), "number": 0.5})


def test_what_is_not_finite_counts_to_the_last_bit():
    x = np.ones(8, np.float32)
    told = [identity.fingerprint(at(x, i, lambda _: np.nan), lambda x: True) for i in (3, 3, 4)]
    assert identity.compare(told[0], told[1]) == ([], [])
    assert identity.compare(told[0], told[2]) == ([""], [])
