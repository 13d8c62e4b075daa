"""Sharpness, alignment and the step's effect on a network that is somebody else's, through vmap over seeds."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import landscape_jax as lj

SHAPES = {
    "sharpness": (2,),
    "alignment": {"eigenvalues": (2,), "converged": (), "cosines": (2,), "energy": ()},
    "change": {"loss": (), "sharpest": (2, 2), "subspace": (2,), "random": (2,), "whole": (2,)}
    | dict.fromkeys(("eigenvalues", "slope", "first", "second"), (2,))
    | {"converged": ()},
    "sections": {"unit": (2,), "loss": (2, 2)},
}


@pytest.mark.slow
def test_every_observable_on_nnx_through_vmap_over_seeds_leaves_its_nudged_steps_alone():
    train, _ = lj.data.digits(40)
    graph, theta = nnx.split(nnx.Linear(64, 10, rngs=nnx.Rngs(0)))

    def loss(params, batch):
        return jnp.mean(lj.losses.cross_entropy(nnx.merge(graph, params)(batch[0]), batch[1]))

    hessian, batches = lj.curvature.hessian(loss), lj.data.minibatch(train, 8)
    sgd = lj.dynamics.gradient(loss, optax.sgd(0.1), batches)
    rule = lj.dynamics.nudged(sgd, hessian, 0.1, 2, refresh=3, batch=train, num_steps=8, tol=None)
    drawn = lj.observe.redrawn(loss, batches, 2, rate=0.1)
    measures = {  # one look at the eigenpairs for the three compiles in a third of the time
        "alignment": lj.observe.overlaps(drawn),
        "change": lj.observe.changes(loss, (1.0, 2.0), drawn, train),
        "sections": lj.observe.sections(loss, (0.0, 1.0), drawn, train),
    }
    sharpness = lj.observe.sharpness(hessian, 2, batch=train)
    watch = {"sharpness": sharpness, "sharpest": lj.observe.eigenpairs(hessian, 2, measures, 8, train, tol=None)}

    def trained(key, watch):
        start = lj.tree.axpy(0.1, lj.tree.normal_like(jax.random.fold_in(key, 0), theta), theta)
        return lj.run(jax.random.fold_in(key, 1), start, rule, watch, num_steps=4, every=2)

    keys = jax.random.split(jax.random.key(0), 2)
    watched, record = jax.jit(jax.vmap(lambda key: trained(key, watch)))(keys)
    bare, _ = jax.jit(jax.vmap(lambda key: trained(key, {})))(keys)
    chex.assert_trees_all_equal((watched.params, watched.state), (bare.params, bare.state))
    assert watched.status.tolist() == [lj.Status.RUNNING] * 2
    seen = {"sharpness": record["sharpness"], **record["sharpest"]}
    is_shape = lambda x: isinstance(x, tuple)  # noqa: E731
    assert jax.tree.map(jnp.shape, seen) == jax.tree.map(lambda shape: (2, 2, *shape), SHAPES, is_leaf=is_shape)
    assert all(np.isfinite(x).all() and np.ptp(x) > 0 for x in jax.tree.leaves(seen))
    np.testing.assert_allclose(seen["sharpness"][..., 0], seen["alignment"]["eigenvalues"][..., 0], rtol=1e-2)
