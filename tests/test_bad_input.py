"""What a caller can get wrong in a static fact: each raises, and says the fact and the remedy."""

import jax
import jax.numpy as jnp
import optax
import pytest

import landscape_jax as lj
from landscape_jax import spectrum

THETA = {"a": jnp.array([1.0, 2.0]), "b": (jnp.array([[3.0]]),)}  # p = 3
DATA = jnp.ones((6, 2)), jnp.ones((6, 1))


def loss(params, batch):
    return jnp.mean((batch[0] @ params["a"][:, None] + params["b"][0] - batch[1]) ** 2)


def vector_loss(params, batch):
    return jnp.mean((batch[0] @ params["a"][:, None] - batch[1]) ** 2, axis=0)


def descend(optimizer, loss=loss, data=DATA):
    return lj.dynamics.gradient(loss, optimizer, lj.data.full_batch(data))


GD = descend(optax.sgd(0.1))
WATCH = {"loss": lj.observe.loss}
HESSIAN = lj.curvature.hessian(loss)
COVARIANCE = lj.curvature.gradient_covariance(lambda theta, x: x @ theta["a"][:, None], lj.losses.square)
MESH = jax.make_mesh((2,), ("examples",), devices=jax.devices()[:2])
key = jax.random.key


def run(num_steps=4, seed=None, params=THETA, dynamics=GD, watch=WATCH, **options):
    return lj.run(key(0) if seed is None else seed, params, dynamics, watch, num_steps=num_steps, **options)


def drive(num_steps=4, **options):
    begun = lj.start(key(0), THETA, GD, WATCH)
    return lj.drive(begun, GD, WATCH, num_steps=num_steps, progress=False, **options)


def advance_with(watch):
    return lj.advance(lj.start(key(0), THETA, GD, WATCH), GD, watch, num_steps=2)


def eigsh(**options):
    return spectrum.eigsh(HESSIAN(THETA, DATA), THETA, **options)


def watch_sharpness(**options):
    return run(watch={"sharpness": lj.observe.sharpness(HESSIAN, **options)})


def nudge(gamma, **options):
    return lj.dynamics.nudged(GD, HESSIAN, gamma, **options)


def begin(optimizer):
    return lj.start(key(0), THETA, descend(optimizer), WATCH)


def stack(b):
    return jax.tree.map(lambda x: jnp.stack([x] * b), THETA)


ROWS = {
    # the engine
    "every does not divide": (lambda: run(70, every=20), ValueError, r"num_steps=70 must be a multiple of every=20"),
    "every is zero": (lambda: run(4, every=0), ValueError, r"every=0 must be at least 1"),
    "num_steps is negative": (lambda: run(-2), ValueError, r"num_steps=-2 must be at least 0"),
    "drive: every does not divide": (lambda: drive(70, every=20), ValueError, r"num_steps=70 must be .*every=20"),
    "drive: no steps": (lambda: drive(0), ValueError, r"num_steps=0 .*at least 1"),
    "drive: chunk between": (lambda: drive(8, every=4, chunk=6), ValueError, r"chunk=6 must be a multiple of every=4"),
    "drive: chunk of zero": (lambda: drive(8, chunk=0), ValueError, r"chunk=0 must be"),
    "num_steps of a float": (lambda: run(4.0), TypeError, r"num_steps must be an integer, but is 4\.0: pass a Python int"),
    "every is a bool": (lambda: run(4, every=True), TypeError, r"every must be an integer, but is True"),
    "num_steps is an array": (lambda: run(jnp.arange(3)), TypeError, r"num_steps must be an integer, but is an array"),
    "num_steps is traced": (
        lambda: jax.jit(lambda n: lj.advance(lj.start(key(0), THETA, GD, WATCH), GD, WATCH, num_steps=n))(4),
        TypeError,
        r"num_steps is traced, .*static",
    ),
    "num_steps past the clock": (lambda: run(2**31), ValueError, r"num_steps=2147483648 does not fit an int32"),
    "drive: num_steps of a float": (lambda: drive(8.0), TypeError, r"num_steps must be an integer, but is 8\.0"),
    "drive: every of a string": (lambda: drive(8, every="2"), TypeError, r"every must be an integer, but is '2'"),
    "drive: chunk of a float": (lambda: drive(8, chunk=2.0), TypeError, r"chunk must be an integer, but is 2\.0"),
    "drive: chunk is an array": (lambda: drive(8, chunk=jnp.int32(2)), TypeError, r"chunk must be an integer, but is an array"),
    "ceiling of NaN": (lambda: run(ceiling=float("nan")), ValueError, r"ceiling=nan must be more than 0"),
    "ceiling of zero": (lambda: run(ceiling=0.0), ValueError, r"ceiling=0\.0 must be more than 0"),
    "ceiling below zero": (lambda: run(ceiling=jnp.float32(-1)), ValueError, r"ceiling=-1\.0 must be more than 0"),
    "ceiling for each run": (lambda: run(ceiling=jnp.ones(3)), ValueError, r"ceiling must be one real number, but is an array"),
    "ceiling of a string": (lambda: run(ceiling="high"), TypeError, r"ceiling must be one real number, but is 'high'"),
    "drive: ceiling of NaN": (lambda: drive(ceiling=float("nan")), ValueError, r"ceiling=nan must be more than 0"),
    "advance: ceiling of NaN": (
        lambda: lj.advance(lj.start(key(0), THETA, GD, WATCH), GD, WATCH, num_steps=2, ceiling=float("nan")),
        ValueError,
        r"ceiling=nan must be more than 0",
    ),
    "warm_up: half a look": (lambda: lj.warm_up(None, None, {}, 0.5), TypeError, r"looks must be an integer, but is 0\.5"),
    "gaps: ceiling below zero": (
        lambda: lj.advance(lj.start(key(0), THETA, GD, WATCH), GD, WATCH, gaps=jnp.array([1, 1]), ceiling=-1),
        ValueError,
        r"ceiling=-1 must be more than 0",
    ),
    "integer key": (lambda: run(seed=0), TypeError, r"one typed PRNG key, .*write jax\.random\.key\(seed\)"),
    "legacy key": (lambda: run(seed=jax.random.PRNGKey(0)), TypeError, r"one typed PRNG key, .*write jax\.random\.key\(seed\)"),
    "observable named step": (
        lambda: run(watch={"step": lj.observe.loss}),
        ValueError,
        r'"step" is taken .*choose another',
    ),
    "observable is a function": (
        lambda: run(watch={"norm": lambda m: m.loss}),
        TypeError,
        r"observe\['norm'\] .*not an Observable: wrap .*stateless",
    ),
    "observable is its factory": (
        lambda: run(watch={"s": lj.observe.sharpness}),
        TypeError,
        r"observe\['s'\] .*call factories",
    ),
    "other names than at the start": (
        lambda: advance_with({"distance": lj.observe.distance}),
        ValueError,
        r"observe has \['distance'\], .*started with \['loss'\]: give both the same names",
    ),
    # parameters
    "no parameters": (lambda: run(params={}), ValueError, r"params is an empty pytree.*at least one float array"),
    "integer parameters": (
        lambda: run(params={"a": jnp.arange(2), "b": THETA["b"]}),
        TypeError,
        r"params\['a'\] has dtype int32, not a real floating-point one: cast it",
    ),
    "parameters, not arrays": (lambda: run(params={"a": 1.0}), TypeError, r"\['a'\] is a float, not an array: make one"),
    "complex parameters": (lambda: run(params={"a": jnp.ones(2, jnp.complex64)}), TypeError, r"complex64, not a real"),
    "curvature of nothing": (lambda: HESSIAN({}, DATA), ValueError, r"params is an empty pytree"),
    "curvature at integers": (lambda: HESSIAN({"a": jnp.arange(2)}, DATA), TypeError, r"params\['a'\] has dtype int32"),
    "start vector of nothing": (
        lambda: spectrum.eigsh(lambda v: v, {}),
        ValueError,
        r"start is an empty pytree.*pass at least one",
    ),
    "integer start vector": (lambda: spectrum.eigsh(lambda v: v, jnp.arange(3)), TypeError, r"start has dtype int32"),
    "normal_like of integers": (
        lambda: lj.tree.normal_like(key(0), {"a": jnp.arange(3)}),
        TypeError,
        r"tree\['a'\] has dtype int32",
    ),
    # losses and data
    "leaves disagree in length": (
        lambda: lj.data.full_batch((jnp.ones((5, 2)), jnp.ones(4))),
        ValueError,
        r"data: all leaves must share their leading example axis, but have \[0\]: 5, \[1\]: 4",
    ),
    "a mean over leaves that disagree": (
        lambda: lj.losses.mean(lambda p, x: x, lj.losses.square)(THETA, (jnp.ones((5, 1)), jnp.ones((4, 1)))),
        ValueError,
        r"share their leading example axis",
    ),
    "a scalar among the data": (lambda: lj.data.full_batch((jnp.ones(5), jnp.ones(()))), ValueError, r"a scalar"),
    "no data": (lambda: lj.data.full_batch(()), ValueError, r"holds no array: pass at least one"),
    "a vector for a loss": (
        lambda: run(dynamics=descend(optax.sgd(0.1), vector_loss)),
        ValueError,
        r"loss gives an array of shape \(1,\).*not one real number: average",
    ),
    "the curvature of a vector": (
        lambda: lj.curvature.hessian(vector_loss)(THETA, DATA),
        ValueError,
        r"loss gives an array of shape \(1,\).*average over the examples",
    ),
    "a tuple for a loss": (
        lambda: run(dynamics=descend(optax.sgd(0.1), lambda p, b: (loss(p, b), {}))),
        ValueError,
        r"loss gives a tuple of .*, not one real number",
    ),
    "square of other shapes": (
        lambda: lj.losses.square(jnp.ones((4, 1)), jnp.ones(4)),
        ValueError,
        r"square: outputs \(4, 1\) and targets \(4,\) differ .*reshape or one-hot",
    ),
    "cross_entropy of other shapes": (
        lambda: lj.losses.cross_entropy(jnp.ones((4, 3)), jnp.ones((4, 2))),
        ValueError,
        r"cross_entropy: outputs \(4, 3\) and targets \(4, 2\) differ",
    ),
    "cross_entropy of too many classes": (
        lambda: lj.losses.cross_entropy(jnp.ones((4, 3)), jnp.ones((4, 3), jnp.int32)),
        ValueError,
        r"integer targets \(4, 3\) do not fit .*one class per example",
    ),
    "logistic of two outputs": (
        lambda: lj.losses.logistic(jnp.ones((4, 2)), jnp.ones(4)),
        ValueError,
        r"logistic: outputs \(4, 2\) .*use cross_entropy",
    ),
    "minibatch larger than the data": (
        lambda: lj.data.minibatch(DATA, 7),
        ValueError,
        r"minibatch: batch_size=7 must lie between 1 and the 6 examples.*full_batch",
    ),
    "epochs of nothing": (lambda: lj.data.epochs(DATA, 0), ValueError, r"epochs: batch_size=0 must lie between 1 and"),
    "full_batch of nothing": (
        lambda: lj.data.full_batch((jnp.ones((0, 2)), jnp.ones((0, 1)))),
        ValueError,
        r"full_batch: data holds no example: .*length 0; pass at least one",
    ),
    "minibatch of nothing": (
        lambda: lj.data.minibatch(jnp.ones((0, 2)), 1),
        ValueError,
        r"minibatch: data holds no example",
    ),
    "epochs of no data": (lambda: lj.data.epochs(jnp.ones((0, 2)), 1), ValueError, r"epochs: data holds no example"),
    "independent of nothing": (lambda: lj.data.independent(jnp.ones((0, 2)), 1), ValueError, r"data holds no example"),
    "lists for data": (
        lambda: lj.data.full_batch(([[1.0, 2.0]], [1.0])),
        TypeError,
        r"full_batch: data\[0\]\[0\]\[0\] is a float, not an array: make one by jnp\.asarray",
    ),
    "batch_size of a float": (lambda: lj.data.minibatch(DATA, 2.0), TypeError, r"batch_size must be an integer, but is 2\.0"),
    "batch_size is a bool": (lambda: lj.data.epochs(DATA, True), TypeError, r"batch_size must be an integer, but is True"),
    "batch_size is an array": (
        lambda: lj.data.independent(DATA, jnp.int32(3)),
        TypeError,
        r"independent: batch_size must be an integer, but is an array of shape \(\)",
    ),
    "5000 digits": (lambda: lj.data.digits(5000), ValueError, r"digits: n_train=5000 must .*at most 1797.*ask for fewer, or"),
    "digits below zero": (lambda: lj.data.digits(10, -1), ValueError, r"n_train=10 and n_test=-1 must be at least 1 and 0"),
    "half a digit": (lambda: lj.data.digits(10.5), TypeError, r"digits: n_train must be an integer, but is 10\.5"),
    "a million of MNIST": (lambda: lj.data.mnist(10**6), ValueError, r"mnist: n_train=1000000 must .*60000.*ask for fewer"),
    "no fashion": (lambda: lj.data.fashion_mnist(0), ValueError, r"fashion_mnist: n_train=0 must lie between 1 and 60000"),
    "MNIST of a float": (lambda: lj.data.mnist(1e3), TypeError, r"mnist: n_train must be an integer, but is 1000\.0"),
    "CIFAR below zero": (lambda: lj.data.cifar10(10, -5), ValueError, r"cifar10: .*n_test=-5 between 0 and 10000"),
    "too much of CIFAR-100": (
        lambda: lj.data.cifar100(10, 10**5),
        ValueError,
        r"cifar100: .*n_test=100000 between 0 and 10000",
    ),
    "no signals": (lambda: lj.data.signals(key(0), 0), ValueError, r"signals: n=0 must be at least 1"),
    "signals of one point": (lambda: lj.data.signals(key(0), 3, 1), ValueError, r"signals: length=1 must be at least 2"),
    "signals of a float": (lambda: lj.data.signals(key(0), 3.0), TypeError, r"signals: n must be an integer, but is 3\.0"),
    "a mixture of no classes": (
        lambda: lj.data.gaussian_mixture(key(0), 3, jnp.ones((0, 2))),
        ValueError,
        r"gaussian_mixture: means \(0, 2\) .*at least one of each",
    ),
    "no means": (lambda: lj.data.simplex_means(0, 3, 1.0), ValueError, r"simplex_means: num_classes=0 must be at least 1"),
    "a mixture of a negative number": (
        lambda: lj.data.gaussian_mixture(key(0), -3, jnp.ones((2, 2))),
        ValueError,
        r"gaussian_mixture: n=-3 must be at least 1",
    ),
    "magnitudes of no dimension": (
        lambda: lj.data.magnitudes(key(0), 3, 0),
        ValueError,
        r"magnitudes: dim=0 must be at least 1",
    ),
    "no magnitudes": (lambda: lj.data.magnitudes(key(0), 3, 2, ()), ValueError, r"magnitudes: scales is empty: give at least"),
    "sparse coding of no dimension": (
        lambda: lj.data.sparse_coding(key(0), 3, 0, 1.0),
        ValueError,
        r"sparse_coding: dim=0 must be at least 1",
    ),
    "whitened of no column": (lambda: lj.data.whitened(key(0), 3, jnp.ones((2, 0))), ValueError, r"whitened: n=3 .*\(2, 0\)"),
    "chebyshev of half a degree": (lambda: lj.data.chebyshev(1.5), TypeError, r"degree must be an integer, but is 1\.5"),
    "a teacher of nobody": (
        lambda: lj.data.teacher(key(0), jnp.ones((0, 2)), lambda theta, x: x, ()),
        ValueError,
        r"teacher: x holds no example",
    ),
    "noise on no label": (
        lambda: lj.data.with_label_noise(key(0), jnp.zeros(0, jnp.int32), 0.5),
        ValueError,
        r"with_label_noise: there are no targets",
    ),
    "characters of half a window": (
        lambda: lj.data.characters("abcdef", 2.5),
        TypeError,
        r"characters: length must be an integer, but is 2\.5",
    ),
    "shifted by half a pixel": (
        lambda: lj.data.shifted(key(0), jnp.ones((1, 4, 4, 1)), 1.5),
        TypeError,
        r"shifted: pixels must be an integer, but is 1\.5",
    ),
    "no training digits": (lambda: lj.data.digits(0), ValueError, r"n_train=0 .*at least 1"),
    "more digits than there are": (lambda: lj.data.digits(1798), ValueError, r"n_train=1798 .*sum to at most 1797"),
    "digits that overlap": (lambda: lj.data.digits(1000, 800), ValueError, r"n_test=800 .*sum to at most 1797"),
    "mlp of width zero": (lambda: lj.models.mlp((4, 0), 2), ValueError, r"widths=\(4, 0\) .*positive integers"),
    "mlp of half a width": (lambda: lj.models.mlp((4.5,), 2), ValueError, r"widths=\(4\.5,\) .*positive integers"),
    "mlp without outputs": (lambda: lj.models.mlp((4,), 0), ValueError, r"outputs=0 must be at least 1"),
    "mlp with too few scales": (
        lambda: lj.models.mlp((4, 4), 2, init_scale=(1.0, 2.0)),
        ValueError,
        r"init_scale has 2 numbers for 3 layers .*one per layer",
    ),
    "mlp with a negative scale": (
        lambda: lj.models.mlp((4,), 2, init_scale=-1.0),
        ValueError,
        r"init_scale=\(-1\.0, -1\.0\) .*can't be negative",
    ),
    # optimizers
    "negative rate": (lambda: begin(optax.sgd(-0.1)), ValueError, r"walks uphill.*learning rate must be positive"),
    "zero rate": (lambda: begin(optax.sgd(0.0)), ValueError, r"does not move.*learning rate must be positive"),
    "negative rate of adam": (lambda: begin(optax.adam(-0.1)), ValueError, r"learning rate must be positive"),
    "negative rate with momentum": (lambda: begin(optax.sgd(-0.1, momentum=0.9)), ValueError, r"must be positive"),
    "rate of NaN": (lambda: begin(optax.sgd(float("nan"))), ValueError, r"learning rate must be positive"),
    "negative injected rate": (
        lambda: begin(optax.inject_hyperparams(optax.sgd)(learning_rate=-0.1)),
        ValueError,
        r"walks uphill.*learning rate must be positive",
    ),
    "zero injected rate": (
        lambda: begin(optax.inject_hyperparams(optax.sgd)(learning_rate=0.0)),
        ValueError,
        r"does not move.*learning rate must be positive",
    ),
    "negative rate inside a compiled run": (
        lambda: run(dynamics=descend(optax.sgd(-0.1))),
        ValueError,
        r"learning rate must be positive",
    ),
    # spectra
    "eigsh: k more than p": (lambda: eigsh(k=4), ValueError, r"k=4 must lie between 1 and p=3"),
    "eigsh: k of zero": (lambda: eigsh(k=0), ValueError, r"k=0 must lie between 1 and p=3"),
    "eigsh: k more than num_steps": (
        lambda: eigsh(k=3, num_steps=2),
        ValueError,
        r"k=3 is more than num_steps=2: each eigenpair needs",
    ),
    "eigsh: num_steps and a tolerance": (
        lambda: eigsh(k=1, num_steps=2, tol=1e-3),
        ValueError,
        r"num_steps fixes the number of products; leave it out",
    ),
    "eigsh: both ends more than p": (
        lambda: eigsh(k=2, smallest=2),
        ValueError,
        r"k=2 and smallest=2 must lie between 1 and p=3",
    ),
    "eigsh: both ends more than num_steps": (
        lambda: eigsh(k=2, smallest=1, num_steps=2),
        ValueError,
        r"k=2 and smallest=1 are more than num_steps=2",
    ),
    "block_eigsh: depth no more than the block": (
        lambda: spectrum.block_eigsh(HESSIAN(THETA, DATA), stack(2), k=1, depth=2),
        ValueError,
        r"depth=2 must be more than the 2 start vectors",
    ),
    "eigsh: fewer than no confirmation": (
        lambda: eigsh(k=1, confirm=-1),
        ValueError,
        r"confirm=-1 must be at least 0",
    ),
    "density: no probe": (
        lambda: spectrum.density(HESSIAN(THETA, DATA), key(0), THETA, num_probes=0),
        ValueError,
        r"num_probes=0 .*must be at least 1",
    ),
    "trace: one probe": (
        lambda: spectrum.trace(HESSIAN(THETA, DATA), key(0), THETA, num_probes=1),
        ValueError,
        r"num_probes is 1, but a standard error needs at least 2",
    ),
    "xtrace: more probes than p": (
        lambda: spectrum.xtrace(HESSIAN(THETA, DATA), key(0), THETA, num_products=10),
        ValueError,
        r"num_products // 2 is 5, more than the p=3 dimensions",
    ),
    # curvatures
    "chunked: no chunk": (lambda: lj.curvature.chunked(HESSIAN, 0), ValueError, r"num_chunks=0 must be at least 1"),
    "chunked: more chunks than examples": (
        lambda: lj.curvature.chunked(HESSIAN, 7)(THETA, DATA),
        ValueError,
        r"num_chunks=7 is more than the n=6 examples",
    ),
    "chunked: the covariance": (
        lambda: lj.curvature.chunked(lj.curvature.shifted(COVARIANCE, 1.0), 2),
        ValueError,
        r"chunked: gradient_covariance is centred over its whole batch",
    ),
    "sharded: the covariance": (
        lambda: lj.curvature.sharded(COVARIANCE, MESH),
        ValueError,
        r"sharded: gradient_covariance is centred over its whole batch",
    ),
    "sharded: an axis that is not there": (
        lambda: lj.curvature.sharded(HESSIAN, MESH, "data"),
        ValueError,
        r"the mesh has axes \('examples',\), not 'data'",
    ),
    "ggn: a batch without targets": (
        lambda: lj.curvature.ggn(lambda theta, x: x, lj.losses.square)(THETA, DATA[0]),
        TypeError,
        r"batch must be a pair \(inputs, targets\)",
    ),
    "sampled_fisher: a criterion of one's own": (
        lambda: lj.curvature.sampled_fisher(lambda theta, x: x, lambda f, y: f[:, 0], key(0)),
        ValueError,
        r"no model is known .*pass sample=",
    ),
    "restricted: nothing selected": (
        lambda: lj.curvature.restricted(HESSIAN, lambda path: path == "c")(THETA, DATA),
        ValueError,
        r"no leaf is selected: the paths are a, b/0",
    ),
    "dense: too large": (
        lambda: lj.curvature.dense(HESSIAN, like=jnp.zeros(30_000))(THETA, DATA),
        ValueError,
        r"a 30000 × 30000 matrix is 3 GiB: use",
    ),
    "preconditioner: plain SGD": (
        lambda: lj.curvature.preconditioner(optax.sgd(0.1).init(THETA)),
        ValueError,
        r"holds no preconditioner",
    ),
    "eigsh: depth no more than k": (lambda: eigsh(k=2, depth=2), ValueError, r"depth=2 must be more than k=2"),
    "lanczos: more steps than p": (
        lambda: spectrum.lanczos(HESSIAN(THETA, DATA), stack(1), 4),
        ValueError,
        r"num_steps=4.*p=3",
    ),
    "warm_up: no look": (
        lambda: lj.warm_up(None, None, {}, 0),
        ValueError,
        r"warm_up: looks=0 must be at least 1",
    ),
    "recurrence: no step": (
        lambda: spectrum.recurrence(HESSIAN(THETA, DATA), THETA, 0),
        ValueError,
        r"recurrence: num_steps=0 must be at least 1",
    ),
    "recurrence: no vector": (
        lambda: spectrum.recurrence(lambda v: v, {}, 2),
        ValueError,
        r"start is an empty pytree",
    ),
    "ritz: k more than num_steps": (
        lambda: spectrum.ritz(spectrum.lanczos(HESSIAN(THETA, DATA), stack(1), 2), 3),
        ValueError,
        r"k=3",
    ),
    "sharpness: k more than p": (lambda: watch_sharpness(k=4), ValueError, r"k=4 .*p=3"),
    "sharpness: k more than num_steps": (lambda: watch_sharpness(k=3, num_steps=2), ValueError, r"k=3 .*num_steps=2"),
    "sharpness: k of zero": (lambda: watch_sharpness(k=0), ValueError, r"k=0 .*must be at least 1"),
    "alignment: k more than p": (
        lambda: run(watch={"a": lj.observe.alignment(HESSIAN, k=4)}),
        ValueError,
        r"k=4 .*p=3",
    ),
    "alignment: k of zero": (lambda: lj.observe.alignment(HESSIAN, k=0), ValueError, r"k=0 .*at least 1"),
    "redrawn: no minibatch": (
        lambda: lj.observe.redrawn(loss, lj.data.full_batch(DATA), num=0),
        ValueError,
        r"redrawn: num=0 must be at least 1",
    ),
    "random_cosine: no dimensions": (lambda: lj.observe.random_cosine(0), ValueError, r"p=0 must be at least 1"),
    "step_effect: no multiples": (
        lambda: lj.observe.step_effect(loss, HESSIAN, k=2, multiples=()),
        ValueError,
        r"step_effect: multiples is empty: pass at least one",
    ),
    "cross_sections: nowhere": (
        lambda: lj.observe.cross_sections(loss, HESSIAN, k=2, places=()),
        ValueError,
        r"cross_sections: places is empty",
    ),
    "nudged: uphill": (lambda: nudge(-0.1), ValueError, r"nudged: gamma=-0\.1 must be at least 0"),
    "nudged: gamma for each direction": (
        lambda: nudge(jnp.ones(2)),
        ValueError,
        r"gamma must be one real number, but is an array of shape \(2,\)",
    ),
    "nudged: never refreshed": (lambda: nudge(0.1, refresh=0), ValueError, r"nudged: refresh=0 must be at least 1"),
    "nudged: k more than p": (
        lambda: run(dynamics=nudge(0.1, k=4)),
        ValueError,
        r"k=4 eigenpairs are more than the p=3",
    ),
    "independent: no example": (lambda: lj.data.independent(DATA, 0), ValueError, r"batch_size=0 must be at least 1"),
}


@pytest.mark.parametrize("row", ROWS)
def test_says_what_is_wrong_and_what_to_do(row):
    call, error, words = ROWS[row]
    with pytest.raises(error, match=words) as caught:
        call()
    assert type(caught.value) is error


def test_the_same_calls_with_good_input_go_through():
    """The table can't pass for another reason."""
    run()
    drive(8, every=4, chunk=4)
    advance_with(WATCH)
    eigsh(k=2, num_steps=2)
    begin(optax.sgd(0.1, momentum=0.9))
    watch_sharpness(k=3, num_steps=3)
    run(dynamics=nudge(0.1, k=3))
