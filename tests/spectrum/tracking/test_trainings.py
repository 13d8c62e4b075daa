"""Short trainings of many kinds, each sampled look against dense eigenvalues in float64.

Where the dense Hessian in float32 is itself off by half of the tolerance, a look is not judged: near overflow, at losses of
1e10, products are rounding.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

import landscape_jax as lj

EXAMPLES, LOOKS, LANES = 100, 60, 8
SAMPLE = {"mlp": 4, "cnn": 12}  # looks: how often a dense Hessian is made
NETWORKS = {
    "mlp": lj.models.mlp((8,), 10),
    "cnn": lj.models.cnn((4, 4), 10),
}
CRITERIA = {"square": lj.losses.square, "cross_entropy": lj.losses.cross_entropy}
RATES = {  # from far below the edge to where most diverge
    ("square", "sgd"): (0.05, 1.5),
    ("square", "momentum"): (0.01, 0.3),
    ("cross_entropy", "sgd"): (0.1, 4.0),
    ("cross_entropy", "momentum"): (0.02, 0.8),
    ("square", "adam"): (1e-3, 0.1),
    ("cross_entropy", "adam"): (1e-3, 0.1),
}
OPTIMIZERS = {
    "sgd": optax.sgd,
    "momentum": functools.partial(optax.sgd, momentum=0.9),
    "adam": optax.adam,
}
KINDS = [
    (network, criterion, optimizer, sampled, every)
    for network in NETWORKS
    for criterion in CRITERIA
    for optimizer, sampled in (("sgd", False), ("momentum", False), ("sgd", True), ("adam", False))
    for every in (1, 10)
    if network == "mlp" or every == 1 or optimizer != "adam"
]


def images(network):
    (x, y), _ = lj.data.digits(EXAMPLES)
    x = x.reshape(-1, 8, 8, 1) if network == "cnn" else x.reshape(EXAMPLES, 64)
    return x, y


@functools.lru_cache
def looked(network, criterion, optimizer, sampled, every):
    """Parameters and what is told at each look, [lanes, looks]; and the Hessian's eigenvalues at the samples."""
    train, model = images(network), NETWORKS[network]
    loss = lj.losses.mean(model.apply, CRITERIA[criterion])
    batches = lj.data.minibatch(train, 20) if sampled else lj.data.full_batch(train)
    watch = {
        "theta": lj.observe.stateless(lambda m: ravel_pytree(m.params)[0]),
        "sharpness": lj.observe.sharpness(lj.curvature.hessian(loss), batch=train, told=True),
    }
    unravel = ravel_pytree(model.init(jax.random.key(0), train[0]))[1]

    def one(key, rate):
        one, two = jax.random.split(key)
        descent = lj.dynamics.gradient(loss, OPTIMIZERS[optimizer](rate), batches)
        return lj.run(two, model.init(one, train[0]), descent, watch, num_steps=LOOKS * every, every=every)[1]

    rates = np.geomspace(*RATES[criterion, optimizer], LANES)
    seed = 1000 + KINDS.index((network, criterion, optimizer, sampled, every))
    record = jax.device_get(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(seed), LANES), rates))

    judged = slice(SAMPLE[network] - 1, None, SAMPLE[network])
    theta = record["theta"][:, judged]
    true, size = extremes(loss, unravel, train, theta, jnp.float64)
    noise = np.abs(extremes(loss, unravel, train, theta, jnp.float32)[0] - true)
    told = {name: np.asarray(x)[:, judged] for name, x in record["sharpness"].items()}
    return told, true, size, noise


def extremes(loss, unravel, train, theta, dtype):
    """The largest eigenvalue and the largest |eigenvalue| of the dense Hessian at each θ, both [lanes, looks]."""
    cast = lambda t: jax.tree.map(lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, t)  # noqa: E731

    def ends(theta, train):
        gradient = jax.grad(lambda theta: loss(cast(unravel(theta)), train))
        row = lambda v: jax.jvp(gradient, (theta,), (v,))[1]  # noqa: E731
        values = jnp.linalg.eigvalsh(jax.lax.map(row, jnp.eye(len(theta), dtype=dtype)))
        return values[-1], jnp.max(jnp.abs(values))

    with jax.enable_x64(True):
        ends, train = jax.jit(ends), cast(train)
        nothing = np.nan, np.nan
        found = [[ends(jnp.asarray(x, dtype), train) if np.isfinite(x).all() else nothing for x in lane] for lane in theta]
        return np.moveaxis(np.array(found, np.float64), -1, 0)


@pytest.mark.slow
@pytest.mark.parametrize(("network", "criterion", "optimizer", "sampled", "every"), KINDS)
def test_no_value_is_outside_of_its_bracket(network, criterion, optimizer, sampled, every):
    told, true, size, noise = looked(network, criterion, optimizer, sampled, every)
    seen = np.isfinite(true) & np.isfinite(told["value"]) & (noise < 1e-3 * size)
    wrong = np.abs(told["value"] - true) / size
    rounding = 1e-4 * size
    outside = seen & ((true < told["low"] - rounding) | (true > told["high"] + rounding))
    sure = seen & told["converged"] & (wrong > 2e-3)
    print(
        f"looks {seen.sum()}, died {(~seen).any(1).sum()}, noise {(noise >= 1e-3 * size).sum()}, "
        f"worst {wrong[seen].max():.1e}, outside {outside.sum()}, "
        f"sure {sure.sum()}, unsure {(seen & ~told['converged']).sum()}, products {told['products'][seen].mean():.2f}"
    )
    assert seen.mean() > 0.5
    assert not outside.any(), (np.argwhere(outside), wrong[outside])
    assert not sure.any(), (np.argwhere(sure), wrong[sure])
