"""Every public function × what is given to it by mistake: an error of ours that says the fact and the remedy, at once.

`CALLS` has one good call of each function, by the names of its arguments; `WRONG` what may be given in their place. A case is
one good call with one argument exchanged.
"""

import traceback
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import landscape_jax as lj
from landscape_jax import curvature, data, dynamics, landscape, losses, models, observe, spectrum, sweep, tree

PACKAGE = Path(lj.__file__).parent
X, Y = jax.random.normal(jax.random.key(1), (6, 3)), jnp.eye(2)[jnp.arange(6) % 2]
PARAMS = {"w": jnp.ones((3, 2)) / 4, "b": jnp.zeros(2)}  # p = 8


def apply(params, x):
    return x @ params["w"] + params["b"][None]


MODEL = models.mlp((4,), 2)
LOSS = losses.mean(apply, losses.square)
HESSIAN = curvature.hessian(LOSS)
MATVEC = HESSIAN(PARAMS, (X, Y))
STACK = jax.tree.map(lambda x: jnp.stack([x + 0.1, x - 0.2, x * 2 + 0.5]), PARAMS)
BATCHES = data.full_batch((X, Y))
GD = dynamics.gradient(LOSS, optax.sgd(0.1), BATCHES)
WATCH = {"loss": observe.loss}


class Fresh:
    """A key made anew for each call: JAX's checks refuse one used twice."""


KEY = Fresh()
RUN = lj.start(jax.random.key(0), PARAMS, GD, WATCH)
BASIS = dynamics.dense_basis(jax.random.key(0), PARAMS, 2)
with jax.numpy_dtype_promotion("standard"):  # of optax's own
    STATE = optax.adam(0.1).update(PARAMS, optax.adam(0.1).init(PARAMS))[1]
MESH = jax.make_mesh((2,), ("examples",), devices=jax.devices()[:2])


def watched(name, **options):
    """The record of one step with one observable."""
    return lj.run(jax.random.key(0), PARAMS, GD, {name: getattr(observe, name)(**options)}, num_steps=1)


def at_point(name):
    return lambda params, batch, **options: getattr(curvature, name)(**options)(params, batch)(params)


def at_pair(name):
    return lambda params, pair, **options: at_point(name)(params, pair, **options)


CALLS = {
    # the engine
    "start": (lj.start, dict(key=KEY, params=PARAMS, dynamics=GD, observe=WATCH)),
    "run": (lj.run, dict(key=KEY, params=PARAMS, dynamics=GD, observe=WATCH, num_steps=2, every=1, ceiling=1e9)),
    "advance": (lj.advance, dict(run=RUN, dynamics=GD, observe=WATCH, num_steps=2, every=1, ceiling=1e9)),
    "drive": (
        lambda **given: lj.drive(progress=False, **given),
        dict(run=RUN, dynamics=GD, observe=WATCH, num_steps=2, every=1, chunk=2, ceiling=1e9),
    ),
    "warm_up": (lj.warm_up, dict(run=RUN, dynamics=GD, observe=WATCH, looks=1)),
    "advance by gaps": (lj.advance, dict(run=RUN, dynamics=GD, observe=WATCH, gaps=jnp.array([1, 1]))),
    "Saving": (lj.Saving, dict(folder="run", identity={"seed": 1}, keep=1, pause=0.0, accept=("program",))),
    "pace": (lj.pace, dict(num_steps=jnp.int32(5), records=2)),
    "check": (lj.check, dict(run=RUN)),
    # losses
    "losses.mean": (
        lambda apply, criterion, batch: losses.mean(apply, criterion)(PARAMS, batch),
        dict(apply=apply, criterion=losses.square, batch=(X, Y)),
    ),
    "losses.chunked": (
        lambda batch, **given: losses.chunked(**given)(PARAMS, batch),
        dict(loss=LOSS, num_chunks=2, batch=(X, Y)),
    ),
    "losses.sharded": (
        lambda batch, **given: losses.sharded(**given)(PARAMS, batch),
        dict(loss=LOSS, mesh=MESH, axis="examples", batch=(X, Y)),
    ),
    "losses.check": (losses.check, dict(loss=LOSS, params=PARAMS, batch=(X, Y))),
    # curvatures
    **{
        f"curvature.{name}": (at_point(name), dict(loss=LOSS, params=PARAMS, batch=(X, Y), precision="highest"))
        for name in ("hessian", "linearized_hessian", "reverse_hessian")
    },
    **{
        f"curvature.{name}": (
            at_pair(name),
            dict(apply=apply, criterion=losses.square, params=PARAMS, pair=(X, Y), precision="highest"),
        )
        for name in ("ggn", "h_term", "fisher", "gradient_covariance")
    },
    "curvature.sampled_fisher": (
        at_pair("sampled_fisher"),
        dict(apply=apply, criterion=losses.square, key=KEY, num_samples=1, params=PARAMS, pair=(X, Y), precision="highest"),
    ),
    "curvature.ntk": (
        lambda params, pair, **given: curvature.ntk(**given)(params, pair)(Y),
        dict(apply=apply, params=PARAMS, pair=(X, Y), precision="highest"),
    ),
    "curvature.chunked": (at_point("chunked"), dict(curvature=HESSIAN, num_chunks=2, params=PARAMS, batch=(X, Y))),
    "curvature.sharded": (
        lambda batch, **given: jax.eval_shape(curvature.sharded(**given)(PARAMS, batch), PARAMS),
        dict(curvature=HESSIAN, mesh=MESH, axis="examples", batch=(X, Y)),
    ),
    "curvature.shifted": (at_point("shifted"), dict(curvature=HESSIAN, shift=1.0, params=PARAMS, batch=(X, Y))),
    "curvature.preconditioned": (
        at_point("preconditioned"),
        dict(curvature=HESSIAN, scale=1.0, params=PARAMS, batch=(X, Y)),
    ),
    "curvature.projected": (at_point("projected"), dict(curvature=HESSIAN, basis=STACK, params=PARAMS, batch=(X, Y))),
    "curvature.deflated": (at_point("deflated"), dict(curvature=HESSIAN, basis=STACK, params=PARAMS, batch=(X, Y))),
    "curvature.restricted": (
        lambda curvature, select, params, batch: lj.curvature.restricted(curvature, select)(params, batch)(
            tree.select(params, select)
        ),
        dict(curvature=HESSIAN, select=lambda path: path == "w", params=PARAMS, batch=(X, Y)),
    ),
    "curvature.per_class": (
        lambda curvature, params, pair: lj.curvature.per_class(curvature)(params, pair)[0](params),
        dict(curvature=HESSIAN, params=PARAMS, pair=(X, Y)),
    ),
    "curvature.dense": (
        lambda curvature, params, batch: lj.curvature.dense(curvature)(params, batch),
        dict(curvature=HESSIAN, params=PARAMS, batch=(X, Y)),
    ),
    "curvature.preconditioner": (
        lambda **given: curvature.preconditioner(optimizer=optax.adam(0.1), **given),
        dict(state=STATE, params=PARAMS),
    ),
    # spectra
    "eigsh": (spectrum.eigsh, dict(matvec=MATVEC, start=PARAMS, k=1, tol=1e-3)),
    "eigsh, a fixed number of products": (spectrum.eigsh, dict(matvec=MATVEC, start=PARAMS, k=1, num_steps=4, smallest=1)),
    "block_eigsh": (spectrum.block_eigsh, dict(matvec=MATVEC, start=STACK, k=1, depth=6, tol=1e-3)),
    "lanczos": (spectrum.lanczos, dict(matvec=MATVEC, start=jax.tree.map(lambda x: x[:1], STACK), num_steps=3)),
    "recurrence": (spectrum.recurrence, dict(matvec=MATVEC, start=PARAMS, num_steps=3)),
    "density": (spectrum.density, dict(matvec=MATVEC, key=KEY, like=PARAMS, num_probes=2, num_steps=3)),
    "function_trace": (
        spectrum.function_trace,
        dict(f=jnp.exp, matvec=MATVEC, key=KEY, like=PARAMS, num_probes=2, num_steps=3),
    ),
    "trace": (spectrum.trace, dict(matvec=MATVEC, key=KEY, like=PARAMS, num_probes=2)),
    "xtrace": (spectrum.xtrace, dict(matvec=MATVEC, key=KEY, like=PARAMS, num_products=6)),
    "hutch_plus_plus": (spectrum.hutch_plus_plus, dict(matvec=MATVEC, key=KEY, like=PARAMS, num_products=6)),
    "diagonal": (spectrum.diagonal, dict(matvec=MATVEC, key=KEY, like=PARAMS, num_probes=2)),
    "frobenius_norm": (spectrum.frobenius_norm, dict(matvec=MATVEC, key=KEY, like=PARAMS, num_probes=2)),
    "assert_symmetric": (spectrum.assert_symmetric, dict(matvec=MATVEC, key=KEY, like=PARAMS)),
    "tracker": (
        lambda matvec, start, **given: (track := spectrum.tracker(**given)).update(matvec, track.init(start)),
        dict(matvec=MATVEC, start=PARAMS, k=1, guards=2, tol=2e-3),
    ),
    # dynamics
    "gradient": (
        lambda **given: lj.start(jax.random.key(0), PARAMS, dynamics.gradient(**given), WATCH),
        dict(loss=LOSS, optimizer=optax.sgd(0.1), batches=BATCHES),
    ),
    "nudged": (
        lambda **given: lj.run(jax.random.key(0), PARAMS, dynamics.nudged(**given), WATCH, num_steps=1),
        dict(inner=GD, curvature=HESSIAN, gamma=0.1, k=1, refresh=1),
    ),
    "subspace": (
        lambda **given: lj.start(jax.random.key(0), PARAMS, dynamics.subspace(**given), WATCH),
        dict(loss=LOSS, optimizer=optax.sgd(0.1), batches=BATCHES, basis=BASIS),
    ),
    "dense_basis": (dynamics.dense_basis, dict(key=KEY, like=PARAMS, d=2)),
    "generated_basis": (dynamics.generated_basis, dict(key=KEY, like=PARAMS, d=2)),
    # observables
    "observe.sharpness": (lambda **given: watched("sharpness", **given), dict(curvature=HESSIAN, k=1, guards=2, tol=2e-3)),
    "observe.eigenpairs": (
        lambda **given: watched("eigenpairs", **given),
        dict(curvature=HESSIAN, k=1, measure=lambda key, eigs, moment: eigs.values, guards=2, tol=2e-3),
    ),
    "observe.alignment": (lambda **given: watched("alignment", **given), dict(curvature=HESSIAN, k=1)),
    "observe.step_effect": (lambda **given: watched("step_effect", **given), dict(loss=LOSS, curvature=HESSIAN, k=1)),
    "observe.cross_sections": (lambda **given: watched("cross_sections", **given), dict(loss=LOSS, curvature=HESSIAN, k=1)),
    "observe.redrawn": (
        lambda **given: watched("alignment", curvature=HESSIAN, k=1, vectors=observe.redrawn(**given)),
        dict(loss=LOSS, batches=BATCHES, num=2),
    ),
    "observe.spectral_density": (
        lambda **given: watched("spectral_density", **given),
        dict(curvature=HESSIAN, num_probes=2, num_steps=3),
    ),
    "observe.trace_ratio": (lambda **given: watched("trace_ratio", **given), dict(curvature=HESSIAN, num_probes=2)),
    "observe.accuracy": (lambda **given: watched("accuracy", **given), dict(apply=apply)),
    "observe.stateless": (lambda **given: watched("stateless", **given), dict(measure=lambda moment: moment.loss)),
    # landscape
    "landscape.line": (
        landscape.line,
        dict(loss=LOSS, params=PARAMS, direction=PARAMS, xs=jnp.linspace(-1, 1, 3), batch=(X, Y)),
    ),
    "landscape.plane": (
        landscape.plane,
        dict(
            loss=LOSS,
            params=PARAMS,
            directions=jax.tree.map(lambda x: x[:2], STACK),
            xs=jnp.ones(2),
            ys=jnp.ones(2),
            batch=(X, Y),
        ),
    ),
    "landscape.sharpest": (landscape.sharpest, dict(curvature=HESSIAN, params=PARAMS, batch=(X, Y), k=1)),
    "landscape.random_directions": (landscape.random_directions, dict(key=KEY, params=PARAMS, k=2)),
    # models and data
    "models.mlp": (models.mlp, dict(widths=(4,), outputs=2)),
    "models.cnn": (models.cnn, dict(filters=(4,), outputs=2)),
    "models.flat": (models.flat, dict(network=MODEL, inputs=X)),
    "data.full_batch": (data.full_batch, dict(data=(X, Y))),
    "data.minibatch": (data.minibatch, dict(data=(X, Y), batch_size=2)),
    "data.epochs": (data.epochs, dict(data=(X, Y), batch_size=2)),
    "data.independent": (data.independent, dict(data=(X, Y), batch_size=2)),
    "data.digits": (data.digits, dict(n_train=10, n_test=5)),
    # sweeps
    "sweep.grid": (lambda fn, xs: sweep.grid(fn)(xs), dict(fn=lambda x: x + 1, xs=jnp.ones(2))),
    "sweep.zipped": (lambda fn, xs: sweep.zipped(fn)(xs), dict(fn=lambda x: x + 1, xs=jnp.ones(2))),
    "sweep.chunked": (lambda fn, size, xs: sweep.chunked(fn, size)(xs), dict(fn=lambda x: x + 1, size=1, xs=jnp.ones(2))),
}


def generator():
    yield X, Y


NUMBERS = {"zero": 0, "negative": -1, "a half": 1.5, "text": "2", "a flag": True, "nothing": None, "several": np.ones(2, int)}
FUNCTIONS = {"nothing": None, "a number": 0.1, "text": "hessian", "a model": MODEL, "a list": [1, 2], "an array": jnp.ones(3)}
VECTORS = {
    "nothing": None,
    "empty": {},
    "integers": {"w": jnp.arange(3)},
    "complex": {"w": jnp.ones(2, jnp.complex64)},
    "Python's numbers": {"w": 1.0},
    "text": "w",
    "a key": KEY,
    "a function": apply,
}
BATCH = {
    "nothing": None,
    "empty": (),
    "no examples": (X[:0], Y[:0]),
    "unequal": (X, Y[:4]),
    "a scalar": (X, jnp.ones(())),
    "text": "train",
    "a number": 3,
    "a list of numbers": ([1.0, 2.0], [1.0, 2.0]),
}
WRONG = {
    "loss": FUNCTIONS
    | {
        "an optimizer": optax.sgd(0.1),
        "a criterion": losses.square,
        "a curvature": HESSIAN,
        "of one argument": MATVEC,
        "a vector of losses": lambda p, b: jnp.ones(2),
        "auxiliary output": lambda p, b: (LOSS(p, b), {}),
        "an integer loss": lambda p, b: jnp.int32(1),
        "a class": dict,
    },
    "apply": FUNCTIONS | {"of one argument": MATVEC, "a criterion": losses.square, "a class": dict},
    "criterion": {n: x for n, x in FUNCTIONS.items()} | {"of one argument": MATVEC},
    "curvature": FUNCTIONS
    | {
        "a loss": LOSS,
        "a product": MATVEC,
        "a criterion": losses.square,
        "an optimizer": optax.sgd(0.1),
    },
    "matvec": FUNCTIONS
    | {
        "a curvature": HESSIAN,
        "of numbers": lambda v: 0.0,
        "of other shapes": lambda v: {"w": v["b"], "b": v["b"]},
        "of another structure": lambda v: (v,),
        "of stacks": lambda v: jax.tree.map(lambda x: x[None], v),
    },
    "batches": FUNCTIONS
    | {
        "the data": (X, Y),
        "a dict": {"x": X},
        "an iterator": iter([(X, Y)]),
        "a generator": generator(),
        "a generator function": generator,
        "of one argument": MATVEC,
    },
    "optimizer": FUNCTIONS | {"a loss": LOSS, "a factory": optax.sgd, "a dynamics": GD},
    "dynamics": FUNCTIONS | {"an optimizer": optax.sgd(0.1), "a loss": LOSS, "observables": WATCH},
    "inner": FUNCTIONS | {"an optimizer": optax.sgd(0.1), "a loss": LOSS},
    "observe": {
        "nothing": None,
        "a list": [observe.loss],
        "an observable": observe.loss,
        "a function": {"a": lambda m: m.loss},
        "a factory": {"a": observe.sharpness},
        "the name step": {"step": observe.loss},
        "a number": {"a": 1.0},
        "a name that is none": {1: observe.loss},
        "dynamics": GD,
    },
    "key": {
        "a seed": 0,
        "an old key": jax.random.PRNGKey(0),
        "several": jax.random.split(jax.random.key(0)),
        "nothing": None,
        "text": "0",
        "parameters": PARAMS,
    },
    "params": VECTORS,
    "like": VECTORS,
    "start": VECTORS,
    "direction": {"nothing": None, "empty": {}, "text": "w"},
    "directions": {"nothing": None, "empty": {}, "text": "w", "one": PARAMS},
    "ys": {"a scalar": 1.0, "empty": jnp.ones(0), "text": "0.1"},
    "batch": BATCH,
    "pair": BATCH | {"inputs alone": X, "three": (X, Y, Y)},
    "data": BATCH,
    "run": {"nothing": None, "parameters": PARAMS, "a record": {"loss": jnp.ones(2)}, "a tuple": (1, 2)},
    "fn": {"nothing": None, "a number": 1.0, "text": "f", "an array": jnp.ones(2)},
    "xs": {"a scalar": 1.0, "empty": jnp.ones(0), "text": "0.1", "nothing": None},
    "measure": {"nothing": None, "a number": 0.1, "text": "loss", "an observable": observe.loss, "of two": lambda a, b: a},
    "select": {"nothing": None, "text": "w", "names": ["w"], "of nothing": lambda path: False},
    "f": {"nothing": None, "a number": 2.0, "text": "log"},
    "network": {"nothing": None, "a function": apply, "parameters": PARAMS},
    "precision": {"unknown": "double", "a number": 3.5},
    "axis": {"unknown": "data", "a number": 0},
    "mesh": {"nothing": None, "a number": 2, "devices": jax.devices()},
    "basis": {"nothing": None, "empty": {}, "text": "w"},
    "scale": {"text": "adam", "negative": -1.0, "zero": 0.0},
    "shift": {"text": "1", "several": jnp.ones(3), "nothing": None},
    "state": {"nothing": None, "parameters": PARAMS, "text": "adam", "an optimizer": optax.adam(0.1)},
    "folder": {"nothing": None, "a number": 3, "several": ["a", "b"]},
    "identity": {"a list": [1], "text": "seed 1", "a number": 1},
    "pause": {"negative": -1.0, "NaN": float("nan"), "text": "1", "nothing": None},
    "accept": {"text": "program", "numbers": (1, 2), "nothing": None},
    "gaps": {"a number": 3, "floats": jnp.ones(3), "nothing": None, "a matrix": jnp.ones((2, 2), int)},
    "ceiling": {"NaN": float("nan"), "negative": -1.0, "zero": 0.0, "text": "1e9", "nothing": None},
    "tol": {"negative": -1e-3, "NaN": float("nan"), "text": "1e-3", "zero": 0.0},
    "gamma": {"negative": -0.1, "NaN": float("nan"), "text": "1", "several": jnp.ones(2), "nothing": None},
    "widths": {"zero": (0,), "a half": (1.5,), "text": "44", "a number": 4, "nothing": None},
    "filters": {"zero": (0,), "a half": (1.5,), "text": "44", "a number": 4, "nothing": None},
    "inputs": {"nothing": None, "text": "x"},
    **{
        name: NUMBERS
        for name in (
            "k",
            "num_steps",
            "every",
            "chunk",
            "keep",
            "looks",
            "records",
            "num_chunks",
            "num_samples",
            "num_probes",
            "num_products",
            "guards",
            "refresh",
            "d",
            "num",
            "batch_size",
            "n_train",
            "n_test",
            "outputs",
            "depth",
            "smallest",
            "size",
        )
    },
}
TRACED = {"loss", "curvature", "matvec", "batch", "pair"}  # what they give is seen when a program is traced
SAID = {"pair": "batch", "start": "params", "data": "batch", "like": "params", "fn": "function", "xs": "argument"}
FINE = {  # what says "as by default" or is of use
    ("run", "num_steps", "zero"),
    ("eigsh, a fixed number of products", "k", "zero"),
    ("assert_symmetric", "key", "nothing"),
    ("curvature.preconditioner", "params", "nothing"),
    ("eigsh, a fixed number of products", "smallest", "zero"),
    ("eigsh, a fixed number of products", "num_steps", "nothing"),
    ("advance", "num_steps", "zero"),
    ("block_eigsh", "depth", "nothing"),
    ("drive", "chunk", "nothing"),
    ("sweep.chunked", "size", "nothing"),
    ("data.digits", "n_test", "nothing"),
    ("data.digits", "n_test", "zero"),
    ("tracker", "tol", "nothing"),
    ("losses.check", "batch", "nothing"),
}
CASES = [
    (call, name, label)
    for call, (_, arguments) in CALLS.items()
    for name in arguments
    for label in WRONG[name]
    if (call, name, label) not in FINE
]


def fresh(arguments):
    return {name: jax.random.key(0) if isinstance(x, Fresh) else x for name, x in arguments.items()}


@pytest.mark.parametrize("case", CASES, ids=" | ".join)
def test_says_what_is_wrong_at_once(case):
    call, name, label = case
    function, arguments = CALLS[call]
    with pytest.raises((TypeError, ValueError)) as caught:
        function(**fresh(arguments) | {name: WRONG[name][label]})
    files = [Path(frame.filename) for frame in traceback.extract_tb(caught.value.__traceback__)]
    frames = ["ours" if f.is_relative_to(PACKAGE) else "theirs" if f == Path(__file__) else f.name for f in files]
    if "theirs" in frames[frames.index("ours") :]:
        return  # in a function of the user's own, which tells what it got
    words = str(caught.value)
    assert frames[-1] == "ours", f"raised by somebody else: {words}"
    assert {*frames} <= {"ours", "theirs", "tree.py", "tree_util.py", "<string>"}, frames  # a dataclass's __init__
    assert len(frames) <= (25 if name in TRACED else 10), frames
    assert len(words) < 600, words
    assert any(word in words for word in (name, name.rstrip("s"), SAID.get(name, name), call.split(".")[-1])), words


@pytest.mark.parametrize("call", CALLS)
def test_the_good_calls_go_through(call):
    """The table can't pass for another reason."""
    function, arguments = CALLS[call]
    function(**fresh(arguments))


def test_there_are_as_many_as_promised():
    assert len(CASES) > 500
