"""Each threshold against the optimizer itself on a quadratic: it shrinks just below and grows just above."""

import jax
import jax.numpy as jnp
import optax
import pytest

from landscape_jax.theory import stability

RATE, BETA = 0.3, 0.6

# name: (threshold, the optimizer with its preconditioner, if any, held at 1)
CASES = {
    "gradient descent": (stability.gradient_descent(RATE), optax.sgd(RATE)),
    "polyak": (stability.polyak(RATE, BETA), optax.sgd(RATE, momentum=BETA)),
    "nesterov": (stability.nesterov(RATE, BETA), optax.sgd(RATE, momentum=BETA, nesterov=True)),
    "adam": (stability.adam(RATE, BETA), optax.chain(optax.ema(BETA, debias=False), optax.scale(-RATE))),
    "nadam": (
        stability.nadam(RATE, BETA),
        optax.chain(optax.scale(1 - BETA), optax.trace(BETA, nesterov=True), optax.scale(-RATE)),
    ),
}


def test_adam_at_the_usual_beta():
    assert stability.adam(1.0) == pytest.approx(38)


@pytest.mark.parametrize("name", CASES)
def test_shrinks_below_and_grows_above(name):
    threshold, optimizer = CASES[name]

    @jax.jit
    def later(curvature):
        def step(carry, _):
            x, state = carry
            updates, state = optimizer.update(curvature * x, state)
            return (optax.apply_updates(x, updates), state), jnp.abs(x)

        x = jnp.ones(())
        return jax.lax.scan(step, (x, optimizer.init(x)), length=2000)[1]

    below, above = later(0.995 * threshold), later(1.005 * threshold)
    assert below[-50:].max() < 1e-2 * below[:50].max()
    assert above[-50:].max() > 1e2 * above[:50].max()
