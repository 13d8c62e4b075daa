"""Short trainings of many kinds, each sampled look against dense eigenvalues.

Known to fail for some kinds, as `tracking.md` says: where a network has died, or a run is on its way to infinity.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

import landscape_jax as lj

EXAMPLES, LOOKS, SAMPLE, LANES = 100, 60, 4, 8
NETWORKS = {
    "mlp": lj.models.mlp((8,), 10),
    "cnn": lj.models.cnn((4, 4), 10),
}
CRITERIA = {"square": lj.losses.square, "cross_entropy": lj.losses.cross_entropy}
RATES = {  # from far below the edge to where most diverge
    ("square", "sgd"): (0.05, 1.5), ("square", "momentum"): (0.01, 0.3),
    ("cross_entropy", "sgd"): (0.1, 4.0), ("cross_entropy", "momentum"): (0.02, 0.8),
    ("square", "adam"): (1e-3, 0.1), ("cross_entropy", "adam"): (1e-3, 0.1),
}  # fmt: skip
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

    @jax.jit
    def ends(theta):
        values = jnp.linalg.eigvalsh(jax.hessian(lambda theta: loss(unravel(theta), train))(theta))
        return values[-1], jnp.max(jnp.abs(values))

    theta = record["theta"][:, SAMPLE - 1 :: SAMPLE]
    true = np.array([[ends(x) if np.isfinite(x).all() else (np.nan, np.nan) for x in lane] for lane in theta])
    told = {name: np.asarray(x)[:, SAMPLE - 1 :: SAMPLE] for name, x in record["sharpness"].items()}
    return told, true[..., 0], true[..., 1]


@pytest.mark.slow
@pytest.mark.parametrize(("network", "criterion", "optimizer", "sampled", "every"), KINDS)
def test_no_value_is_outside_of_its_bracket(network, criterion, optimizer, sampled, every):
    told, true, size = looked(network, criterion, optimizer, sampled, every)
    seen = np.isfinite(true) & np.isfinite(told["value"])
    wrong = np.abs(told["value"] - true) / size
    rounding = 1e-4 * size
    outside = seen & ((true < told["low"] - rounding) | (true > told["high"] + rounding))
    sure = seen & told["converged"] & (wrong > 2e-3)
    print(
        f"looks {seen.sum()}, died {(~seen).any(1).sum()}, worst {wrong[seen].max():.1e}, outside {outside.sum()}, "
        f"sure {sure.sum()}, unsure {(seen & ~told['converged']).sum()}, products {told['products'][seen].mean():.2f}"
    )
    assert seen.sum() > 40
    assert not outside.any(), (np.argwhere(outside), wrong[outside])
    assert not sure.any(), (np.argwhere(sure), wrong[sure])
