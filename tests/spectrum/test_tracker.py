"""Following eigenvalues of a matrix that stands still: the first looks are right, the later ones cheap."""

import jax
import jax.numpy as jnp
import numpy as np

from landscape_jax import spectrum

P = 600


def test_the_first_looks_find_the_largest_and_keep_it():
    """Twenty spectra like a network's at its start: two rivals within a tenth, a bulk that decays, both signs."""
    track = spectrum.tracker(1)

    @jax.jit
    def looks(diagonal):
        def look(memory, _):
            memory, eigs = track.update(lambda v: diagonal * v, memory)
            return memory, eigs.values[0]

        return jax.lax.scan(look, track.init(diagonal), length=6)[1]

    for seed in range(20):
        g = np.random.default_rng(seed)
        largest = np.r_[1, g.uniform(0.9, 0.98, 2), g.uniform(0.2, 0.85, 12)]
        diagonal = g.permutation(np.r_[largest, 0.1 * g.normal(size=P - len(largest))]).astype(np.float32)
        np.testing.assert_allclose(looks(jnp.asarray(diagonal)), 1, rtol=0, atol=5e-3)
