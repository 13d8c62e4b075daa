"""Following eigenvalues of a matrix that stands still: the first looks are right, the later ones cheap."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import landscape_jax as lj
from landscape_jax import spectrum, tree
from landscape_jax.spectrum.tracking.memory import ritz_coefficients, select_side, update_frame
from landscape_jax.spectrum.tracking.policy import POLICY
from landscape_jax.spectrum.tracking.search import orthogonalize_image

P = 600


def looking(track, diagonal):
    """A look at a diagonal matrix, (memory, step) ↦ (memory', eigs), one program."""
    return jax.jit(lambda memory, step: track.update(lambda v: diagonal * v, memory, step=step))


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


FIRST = [(1, {}, 50), (2, {"guards": 4}, 50), (5, {"guards": 4}, 50), (2, {}, 60), (5, {}, 60)]  # the fewer, the cheaper


@pytest.mark.parametrize(("k", "options", "most"), FIRST)
def test_the_first_look_has_the_vectors_too(problem, k, options, most):
    """Of a network with 610 parameters, against the dense Hessian; and the second look needs little more."""
    matvec = lj.curvature.hessian(problem.loss)(problem.params, problem.data)
    flat, unravel = jax.flatten_util.ravel_pytree(problem.params)
    dense = jax.hessian(lambda x: problem.loss(unravel(x), problem.data))(flat)
    values, vectors = (np.asarray(x)[..., : -k - 1 : -1] for x in jnp.linalg.eigh(dense))  # [k], [p, k]
    track = spectrum.tracker(k, **options)

    @jax.jit
    def looks(memory):
        memory, one = track.update(matvec, memory)
        return one, track.update(matvec, memory)[1]

    for eigs, limit in zip(looks(track.init(problem.params)), (most, 3 * k), strict=True):
        found = jax.vmap(lambda v: jax.flatten_util.ravel_pytree(v)[0])(eigs.vectors)  # [k, p]
        np.testing.assert_allclose(eigs.values, values, rtol=2e-5)
        np.testing.assert_allclose(np.abs(np.sum(found * vectors.T, axis=1)), 1, atol=2e-5)
        assert np.all(np.abs(eigs.values - values) <= eigs.residuals)
        assert eigs.converged
        assert eigs.products <= limit


def test_a_side_that_lags_far_behind_starts_from_the_other():
    track, diagonal = spectrum.tracker(1), 0.9 ** jnp.arange(P, dtype=jnp.float32)
    memory, look = track.init(diagonal), looking(track, diagonal)
    for step in range(7):  # until no side is in doubt for want of a change measured
        memory, _ = look(memory, step)
    sides, doubtful = memory.sides, memory.sides.above.at[1].set(jnp.eye(6))
    lagging = memory._replace(sides=sides._replace(above=doubtful))
    assert select_side(memory, jnp.int32(1), POLICY) == 1
    assert select_side(lagging, jnp.int32(1), POLICY) == 0
    assert select_side(lagging, jnp.int32(0), POLICY) == 0
    assert select_side(lagging._replace(looks=jnp.int32(9)), jnp.int32(0), POLICY) == 1  # its own is too long ago
    apart = lagging._replace(sides=sides._replace(above=doubtful, values=sides.values.at[0].multiply(1.5)))
    assert select_side(apart, jnp.int32(1), POLICY) == 1  # the valley's sides differ too much
    assert look(lagging, 7)[1].products <= 2


def test_what_was_multiplied_in_an_earlier_round_of_a_look_is_known_as_new():
    """At the last two looks, one on each side, the operator is mirrored along an axis of its twenty largest eigenvectors."""
    track, diagonal = spectrum.tracker(1), 0.9 ** jnp.arange(P, dtype=jnp.float32)
    axis = jnp.where(jnp.arange(P) < 20, 20**-0.5, 0)

    @jax.jit
    def looks(memory, axis):
        mirrored = lambda v: v - 2 * axis * jnp.dot(axis, v)  # noqa: E731
        look = lambda memory, _: track.update(lambda v: mirrored(diagonal * mirrored(v)), memory)  # noqa: E731
        return jax.lax.scan(look, memory, length=2)

    memory = track.init(diagonal)
    for mirror in (0, 0, 0, 1):
        memory, eigs = looks(memory, mirror * axis)
        np.testing.assert_allclose(eigs.values, 1, atol=2e-3)
    assert eigs.products.min() > 4  # more than a round has room for
    assert memory.sides.ages[:, 0].max() < 0.01


def test_in_double_precision():
    with jax.enable_x64(True):
        diagonal = 0.9 ** jnp.arange(P, dtype=jnp.float64)
        track = spectrum.tracker(1)
        memory, look = track.init(diagonal), looking(track, diagonal)
        for step in range(3):
            memory, eigs = look(memory, step)
    assert eigs.values.dtype == jnp.float64
    np.testing.assert_allclose(eigs.values, 1, atol=2e-3)


def test_with_more_guards_more_is_remembered():
    diagonal = 0.8 ** jnp.arange(P, dtype=jnp.float32)
    few, many = (spectrum.tracker(1, guards=guards) for guards in (4, 8))
    assert [len(track.init(diagonal).sides.values[0]) for track in (few, many)] == [5, 9]
    memory, look = many.init(diagonal), looking(many, diagonal)
    for step in range(2):
        memory, eigs = look(memory, step)
    np.testing.assert_allclose(eigs.values, 1, atol=2e-3)
    np.testing.assert_allclose(memory.sides.values[1], diagonal[:9], atol=2e-3)
    with pytest.raises(ValueError, match="guards=0 must be at least 1"):
        spectrum.tracker(guards=0)


def test_what_is_not_alive_takes_one_product_and_nobody_waits_for_it():
    """Of two runs side by side one has an operator that changes beyond all bounds; with it declared dead, the other's looks
    are what they are alone, in as many products."""
    track = spectrum.tracker(1)
    diagonal = jnp.r_[1, 0.95, 0.8 * jnp.linspace(-0.1, 1, P - 2) ** 3]
    scales = jnp.array([[1.0, 1.0, 1.01, 1.02, 1.02, 1.03], [1.0, 1e8, 1e-3, 1e12, 1e3, 1e15]])

    @jax.jit
    def looks(scales, alive):
        def look(memory, scale):
            turned = jnp.roll(diagonal, jnp.int32(scale % 97))
            counted = lambda v: scale * turned * v  # noqa: E731
            memory, eigs = track.update(counted, memory, alive)
            return memory, (eigs.values[0], eigs.products)

        return jax.lax.scan(look, track.init(diagonal), scales)

    memory, (values, products) = jax.vmap(looks)(scales, jnp.array([True, False]))
    _, (alone_values, alone_products) = looks(scales[0], True)
    np.testing.assert_allclose(products[0], alone_products, rtol=0, atol=1)  # batched, it rounds otherwise
    np.testing.assert_allclose(values[0], alone_values, rtol=1e-5)
    assert products[1].tolist() == [1] * 6
    assert looks(scales[1], True)[1][1].max() > 20
    chex.assert_trees_all_equal(tree.row(memory, 1), track.init(diagonal))  # and nothing of it is remembered
    nothing = looks(scales[1].at[2:].set(jnp.nan), False)[0]
    chex.assert_trees_all_equal(nothing, track.init(diagonal))


def test_what_is_new_in_a_product_is_orthogonal_to_all_before_however_little_it_is():
    random = np.random.default_rng(0)
    q = np.linalg.qr(random.normal(size=(P, 6)))[0].T  # [6, P]
    basis, new = jnp.asarray(q[:5], jnp.float32), q[5]
    for size in (1, 1e-2, 1e-4):
        w = jnp.asarray(q[0] + np.array([3.0, 1.0, -0.5, 0.5, 2.0]) @ q[:5] + size * new, jnp.float32)
        rest, column, length = jax.jit(orthogonalize_image)(basis, basis[0], jnp.eye(5)[0], w)
        np.testing.assert_allclose(column, [4.0, 1.0, -0.5, 0.5, 2.0], atol=2e-6)
        np.testing.assert_allclose(length, size, rtol=1e-5 / size**0.5)
        assert np.abs(q[:5] @ (np.asarray(rest, np.float64) / float(length))).max() < 1e-6


def test_nan_is_told_as_not_converged():
    track = spectrum.tracker(1)
    diagonal = jnp.r_[1, 0.8 * jnp.linspace(-0.1, 1, P - 1) ** 3]  # one apart: found at the first look

    @jax.jit
    def looks(scales):
        def look(memory, scale):
            memory, eigs = track.update(lambda v: scale * diagonal * v, memory)
            return memory, (eigs.values[0], eigs.converged)

        return jax.lax.scan(look, track.init(diagonal), scales)[1]

    values, converged = looks(jnp.array([1.0, 1.0, 1.0, jnp.nan]))
    assert converged.tolist() == [True, True, True, False]
    assert jnp.isnan(values).tolist() == [False, False, False, True]


def test_a_change_is_forgotten_by_the_clock_of_the_steps():
    """After ten looks at a matrix that changes by a tenth from one to the next, and more that see it stand still: these trust
    their guess the sooner the more steps lie between them."""
    track = spectrum.tracker(1)
    diagonal = jnp.r_[1, 0.9, 0.85, 0.8 * jnp.linspace(-0.1, 1, P - 3) ** 3]
    scales = 1.1 ** jnp.minimum(jnp.arange(60.0), 10)

    @jax.jit
    def looks(gap):
        def look(memory, at):
            i, scale = at
            memory, eigs = track.update(lambda v: scale * diagonal * v, memory, step=2 * i * gap)  # all on one side
            return memory, (eigs.values[0] / scale, eigs.products)

        return jax.lax.scan(look, track.init(diagonal), (jnp.arange(60), scales))[1]

    spent = {}
    for gap in (1, 2, 50):
        values, products = looks(gap)
        np.testing.assert_allclose(values[11:], 1, rtol=2e-3)
        assert products[-1] == 1
        spent[gap] = int(products[11:].sum())
    assert spent[50] < spent[2] < spent[1]


def test_what_writing_one_vector_would_lose_is_seen():
    frame, rotation = jnp.eye(4), jnp.eye(4, 5)
    assert update_frame(frame, rotation)[1] <= POLICY.most_lost
    exchanged = rotation[jnp.array([1, 0, 2, 3])]  # v₂ is first now: v₁ would be overwritten
    assert not update_frame(frame, exchanged)[1] <= POLICY.most_lost
    assert not update_frame(frame, rotation.at[3].set(jnp.eye(5)[4]))[1] <= POLICY.most_lost  # and a remainder among the others


LOOKS = 400
STEPS = {
    "every step": (np.arange(LOOKS), 0.8),
    "every tenth": (10 * np.arange(LOOKS), 0.8),
    "here and there": (np.cumsum(np.random.default_rng(4).choice([1, 2, 2, 4], LOOKS)), 0.5),  # one side for long, then both
}


@functools.partial(jax.jit, static_argnums=0)
def along_a_crossing(tol, steps):
    """What is told, the Gram matrices of all that is remembered, and the true eigenvalues, at each of 400 looks."""
    track, like = spectrum.tracker(1, tol=tol), {"tall": jnp.zeros((20, 5)), "wide": jnp.zeros((5, 12))}
    diagonal = jnp.r_[1, 0.8, 0.7, 0.6, jnp.linspace(-0.1, 0.5, 156) ** 3]
    one, two = jnp.linalg.qr(jax.random.normal(jax.random.key(5), (160, 2)))[0].T
    unravel, init = jax.flatten_util.ravel_pytree(like)[1], track.init(like)
    b = init.frame.shape[1]

    def matrix(t):
        x = jnp.cos(t / 200) * one + jnp.sin(t / 200) * two
        return jnp.diag(diagonal) + (0.9 + 0.2 * jnp.sin(t / 60)) * jnp.outer(x, x)

    def product(matrix, v):
        return unravel(jnp.matmul(matrix, jax.flatten_util.ravel_pytree(v)[0], precision="highest"))

    def look(memory, at):
        t, step = at
        a, side = matrix(t), step % 2
        memory, eigs = track.update(lambda v: product(a, v), memory, step=step)
        stored = jax.tree.map(lambda z: jax.lax.dynamic_slice_in_dim(z, side * b, b), memory.vectors)
        gram = tree.overlaps(tree.combine(ritz_coefficients(memory.frame[side]), stored))
        v = tree.row(eigs.vectors, 0)
        told = eigs.values[0], eigs.residuals[0], eigs.products, tree.vdot(v, product(a, v)), tree.vdot(v, v)
        return memory, (*told, gram, jnp.linalg.eigvalsh(a)[-1])

    return jax.lax.scan(look, init, (jnp.arange(LOOKS, dtype=jnp.float32), steps))[1]


@pytest.mark.parametrize("tol", [2e-3, 5e-2], ids=["within 0.2 %", "within 5 %"])
@pytest.mark.parametrize(("steps", "lone"), STEPS.values(), ids=STEPS)
def test_ritz_vectors_that_are_not_written_stay_orthonormal_and_right(tol, steps, lone):
    """Two of the largest eigenvalues cross and cross again, their vectors turn, over 400 looks; one matrix is tall. Most looks
    write only one vector: so many are content with one product."""
    values, residuals, products, rayleigh, squares, grams, true = along_a_crossing(tol, steps)
    np.testing.assert_allclose(values, true, rtol=2.5 * tol)
    assert np.all(np.abs(values - true) <= residuals + 1e-6 * true)
    np.testing.assert_allclose(rayleigh, values, rtol=2.5 * tol)
    np.testing.assert_allclose(squares, 1, atol=1e-5)
    np.testing.assert_allclose(grams, np.broadcast_to(np.eye(grams.shape[-1]), grams.shape), atol=2e-5)
    assert np.mean(products[2:] == 1) > lone, products
