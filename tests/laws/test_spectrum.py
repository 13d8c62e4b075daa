"""Every eigensolver against LAPACK, on the matrices where Lanczos is known to fail."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import landscape_jax as lj
from landscape_jax import spectrum, tree

P, K = 48, 4
rng = np.random.default_rng


def shaped(x):
    """A vector [P] as a tree with leaves of rank 0, 1 and 2."""
    return {"a": x[:20].reshape(4, 5), "b": (x[20].reshape(()), x[21:])}


def flat(stack):
    """A stack of such trees as a matrix [m, P]."""
    return np.concatenate([np.asarray(x, np.float64).reshape(len(x), -1) for x in jax.tree.leaves(stack)], axis=1)


def product(matrix):
    return lambda v: shaped(jnp.matmul(matrix, ravel_pytree(v)[0], precision="highest"))


# name: (eigenvalues [P] from a generator, start [P] from generator and eigenvectors)
VALUES = {
    "both signs": lambda g: g.normal(size=P),
    "ten-fold top": lambda g: np.r_[np.full(10, 1.0), g.uniform(-0.5, 0.5, P - 10)],
    "all negative": lambda g: -g.uniform(1, 3, P),
    "rank one": lambda g: np.r_[3.0, np.zeros(P - 1)],
    "rank one, negative": lambda g: np.r_[-3.0, np.zeros(P - 1)],
    "low rank": lambda g: np.r_[2.0, 1.0, 0.5, -1.5, np.zeros(P - 4)],
    "zero": lambda g: np.zeros(P),
    "identity": lambda g: np.ones(P),
    "close": lambda g: 1 - 1e-4 * np.arange(P),
    "condition 1e8": lambda g: np.geomspace(1, 1e-8, P),
    "large": lambda g: 1e10 * g.normal(size=P),
}
STARTS = {
    "random": lambda g, q: g.normal(size=P),
    "orthogonal to the top": lambda g, q: q[:, 1:] @ g.normal(size=P - 1),
    "the top itself": lambda g, q: q[:, 0],
    "zero": lambda g, q: np.zeros(P),
}
CASES = [(values, "random") for values in VALUES] + [("both signs", start) for start in STARTS if start != "random"]


@functools.cache
def example(values, start, seed, dtype):
    """A matrix, a start vector, and the matrix's eigenvalues by LAPACK in float64, descending."""
    g = rng(seed)
    eigenvalues = np.sort(VALUES[values](g))[::-1]
    q = np.linalg.qr(g.normal(size=(P, P)))[0]
    matrix = (q * eigenvalues) @ q.T
    matrix = ((matrix + matrix.T) / 2).astype(dtype)
    return matrix, STARTS[start](g, q).astype(dtype), np.linalg.eigvalsh(matrix.astype(np.float64))[::-1]


def block(start, b):
    """b start vectors: the given one and others, fixed."""
    others = jnp.asarray(rng(99).normal(size=(b - 1, P)), start.dtype)
    return jax.vmap(shaped)(jnp.concatenate([start[None], others]))


def to_tolerance(matrix, start):
    return spectrum.eigsh(product(matrix), shaped(start), k=K)


def all_steps(matrix, start):
    return spectrum.eigsh(product(matrix), shaped(start), k=K, num_steps=P)


def smallest(matrix, start):
    return spectrum.eigsh(product(matrix), shaped(start), k=0, smallest=K)


def both_ends(matrix, start):
    return spectrum.eigsh(product(matrix), shaped(start), k=2, smallest=2)


def from_a_block(matrix, start):
    return spectrum.block_eigsh(product(matrix), block(start, 3), k=K, smallest=1)


SOLVERS = {  # name: (solver, how many of the largest and of the smallest it gives)
    "eigsh": (jax.jit(to_tolerance), K, 0),
    "eigsh num_steps": (jax.jit(all_steps), K, 0),
    "smallest": (jax.jit(smallest), 0, K),
    "both ends": (jax.jit(both_ends), 2, 2),
    "block": (jax.jit(from_a_block), K, 1),
}
EXACT = {"float32": 1e-5, "float64": 1e-10}


def check(eigs, matrix, true, tol, ends=(K, 0)):
    """Values equal LAPACK's; a true eigenvalue within each residual, and the residual true; vectors orthonormal."""
    check_honest(eigs, matrix, true)
    size = np.abs(true).max()
    largest, smallest = ends
    expected = np.r_[true[:largest], true[len(true) - smallest :]]
    np.testing.assert_allclose(eigs.values, expected, rtol=0, atol=tol * size)
    assert (eigs.residuals <= tol**0.5 * size).all()  # a value to tol has a vector to √tol


def check_honest(eigs, matrix, true):
    values, residuals, vectors = np.float64(eigs.values), np.float64(eigs.residuals), flat(eigs.vectors)
    for x in (values, residuals, vectors):
        assert np.isfinite(x).all()
    assert (np.diff(values) <= 0).all()
    assert (np.abs(values[:, None] - true[None]).min(axis=1) <= residuals).all()
    left = np.linalg.norm(vectors @ matrix.astype(np.float64) - values[:, None] * vectors, axis=1)
    assert (left <= residuals).all()
    eps = np.finfo(eigs.values.dtype).eps
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(len(values)), rtol=0, atol=50 * eps)


# where a flag may say that the answer is not reached: (solver, values, dtype)
UNREACHED = {
    # 1e-8 apart at the lower end of [0, 1], to be told apart within 4e-11 in a space of 32 or 33
    ("smallest", "condition 1e8", "float64"),
    ("both ends", "condition 1e8", "float64"),
    ("block", "condition 1e8", "float64"),
}


def check_all(solver, values, start, dtype):
    solve, *ends = SOLVERS[solver]
    for seed in range(3):
        matrix, first, true = example(values, start, seed, dtype)
        eigs = solve(matrix, first)
        assert eigs.values.dtype == dtype
        if not eigs.converged:
            assert (solver, values, dtype) in UNREACHED
        if eigs.converged:
            check(eigs, matrix, true, EXACT[dtype], ends)
        else:
            check_honest(eigs, matrix, true)


@pytest.mark.parametrize(("values", "start"), CASES)
@pytest.mark.parametrize("solver", SOLVERS)
def test_equals_lapack_in_float32(solver, values, start):
    check_all(solver, values, start, "float32")


@pytest.mark.parametrize(("values", "start"), CASES)
@pytest.mark.parametrize("solver", SOLVERS)
def test_equals_lapack_in_float64(x64, solver, values, start):
    check_all(solver, values, start, "float64")


def test_vmap_equals_lapack_for_each_matrix():
    examples = [example(*case, 0, "float32") for case in CASES]
    matrices, starts = (np.stack([e[i] for e in examples]) for i in (0, 1))
    batched = jax.jit(jax.vmap(to_tolerance))(matrices, starts)
    for i, (matrix, _, true) in enumerate(examples):
        check(tree.row(batched, i), matrix, true, EXACT["float32"])


def test_residuals_are_honest_where_it_stops_too_early():
    solve = jax.jit(lambda a, v: spectrum.eigsh(product(a), shaped(v), k=K, depth=6, max_restarts=1))
    for seed in range(3):
        matrix, start, true = example("both signs", "random", seed, "float32")
        eigs = solve(matrix, start)
        error = np.abs(np.float64(eigs.values)[:, None] - true[None]).min(axis=1)
        assert (error <= eigs.residuals).all()
        assert eigs.residuals.max() > 1e-2
        assert not eigs.converged
        assert eigs.products == 7  # 6, and one more after the restart, which kept 5


@pytest.mark.slow
def test_every_product_is_counted():
    """`products` against the calls of a matvec that counts them on the host."""
    calls = []
    matrix, start, _ = example("both signs", "random", 0, "float32")

    def counting(v):
        jax.debug.callback(lambda: calls.append(1))
        return product(matrix)(v)

    for options in ({"k": 3}, {"k": 2, "smallest": 2}, {"k": 2, "num_steps": 9}):
        calls.clear()
        eigs = spectrum.eigsh(counting, shaped(start), **options)
        jax.effects_barrier()
        assert eigs.products == len(calls)


@pytest.mark.parametrize("solver", SOLVERS)
def test_nan_gives_nan_and_comes_back(solver):
    matrix, start, _ = example("both signs", "random", 0, "float32")
    matrix = matrix.copy()
    matrix[3, 5] = np.nan
    eigs = SOLVERS[solver][0](matrix, start)
    assert np.isnan(eigs.values).all()
    assert not eigs.converged


def test_an_asymmetric_operator_is_told():
    matrix, _, _ = example("both signs", "random", 0, "float32")
    like = shaped(np.ones(P, np.float32))
    spectrum.assert_symmetric(product(matrix), like)
    scale = np.linspace(0.5, 2, P, dtype=np.float32)
    spectrum.assert_symmetric(product(scale[:, None] * matrix * scale[None]), like)
    with pytest.raises(ValueError, match=r"not symmetric: .*preconditioned"):
        spectrum.assert_symmetric(product(scale[:, None] * matrix), like)
    slightly = matrix + 0.01 * rng(0).normal(size=matrix.shape).astype(np.float32)
    with pytest.raises(ValueError, match="not symmetric"):
        spectrum.assert_symmetric(product(slightly), like)
    with pytest.raises(ValueError, match="not symmetric"):
        spectrum.assert_symmetric(product(np.nan * matrix), like)


@pytest.mark.parametrize("b", [1, 3])
def test_a_krylov_space_holds_what_it_says(b):
    """A q_j = Σ_i gram[i, j] q_i with orthonormal rows; the Ritz values lie within A's range."""
    matrix, _, true = example("both signs", "random", 0, "float32")
    block = rng(5).normal(size=(b, P)).astype(np.float32)
    m = 10
    krylov = jax.jit(lambda a, s: spectrum.lanczos(product(a), jax.vmap(shaped)(s), m))(matrix, block)
    basis, gram = flat(krylov.basis), np.float64(krylov.gram)
    assert gram.shape == (m + b, m)
    np.testing.assert_allclose(basis @ basis.T, np.eye(m + b), rtol=0, atol=1e-6)
    np.testing.assert_allclose(basis[:m] @ matrix, gram.T @ basis, rtol=0, atol=1e-5)
    spanned = block @ basis[:b].T @ basis[:b]
    np.testing.assert_allclose(spanned, block, rtol=0, atol=1e-5)
    eigs = spectrum.ritz(krylov, 3)
    mine = np.linalg.eigvalsh(basis[:m] @ matrix @ basis[:m].T)[::-1]
    np.testing.assert_allclose(eigs.values, mine[:3], rtol=0, atol=1e-5)
    assert eigs.values[0] <= true[0] + 1e-5
    assert (np.abs(np.float64(eigs.values)[:, None] - true[None]).min(axis=1) <= eigs.residuals).all()


@pytest.mark.parametrize("values", ["both signs", "low rank", "condition 1e8", "zero"])
def test_slack_keeps_what_it_says_and_the_projection_exact(values):
    """|⟨q_i, q_j⟩| within the slack, far fewer orthogonalisations than products, and the same Ritz values."""
    matrix, start, true = example(values, "random", 0, "float32")
    m = 20

    def space(slack):
        return jax.jit(lambda a, v: spectrum.lanczos(product(a), jax.vmap(shaped)(v[None]), m, slack=slack))(matrix, start)

    exact, eps = space(0.0), np.finfo(np.float32).eps
    for slack in (eps**0.75, eps**0.5):
        krylov = space(slack)
        rows = flat(krylov.basis)
        assert np.abs(rows @ rows.T - np.eye(m + 1)).max() <= slack
        if values == "both signs":
            cleaned = int((krylov.overlap[0, 1:] == eps).sum())
            assert 0 < cleaned < m
        mine, theirs = spectrum.ritz(krylov, 4), spectrum.ritz(exact, 4)
        np.testing.assert_allclose(mine.values, theirs.values, rtol=0, atol=2e-6 * np.abs(true).max())


def test_the_first_end_is_trusted_when_nothing_is_to_confirm_it():
    matrix, start, true = example("both signs", "random", 0, "float32")

    def solve(confirm):
        return jax.jit(lambda a, v: spectrum.eigsh(product(a), shaped(v), k=2, tol=1e-3, confirm=confirm))(matrix, start)

    eigs, sure = solve(0), solve(1)
    check(eigs, matrix, true, 1e-4, (2, 0))
    assert eigs.converged
    assert eigs.residuals.max() <= 1e-3 * np.abs(true).max()
    assert eigs.products < sure.products
    blind = example("both signs", "orthogonal to the top", 1, "float64")
    found = jax.jit(lambda a, v: spectrum.eigsh(product(a), shaped(v), k=1, tol=1e-3, confirm=0))(*blind[:2])
    assert abs(found.values[0] - blind[2][1]) < 1e-2  # the second largest: what confirmation is for


def test_it_ends_at_the_first_product_that_meets_the_tolerance():
    diagonal = jnp.asarray(np.r_[np.linspace(1, 0.8, 5), rng(0).uniform(-0.2, 0.7, 595)], jnp.float32)
    until = jax.jit(lambda v: spectrum.eigsh(lambda x: diagonal * x, v, 5, tol=1e-2, depth=60, confirm=0))
    lanczos = jax.jit(lambda v: spectrum.lanczos(lambda x: diagonal * x, v[None], 40))
    for i in range(4):
        start = tree.scattered_like(i, diagonal)
        m, gram = int(until(start).products), np.asarray(lanczos(start).gram, np.float64)
        values, vectors = np.linalg.eigh(gram[: m - 1, : m - 1], UPLO="U")
        assert (gram[m - 1, m - 2] * np.abs(vectors[-1, -5:])).max() > 0.99e-2 * values[-1]  # one product fewer does not


def test_the_finest_tolerance_allowed_is_met():
    matrix, start, true = example("both signs", "random", 2, "float32")
    least = 10 * np.finfo(np.float32).eps * 20**0.5
    solve = jax.jit(lambda a, v: spectrum.eigsh(product(a), shaped(v), k=2, depth=20, tol=1.01 * least))
    eigs = solve(matrix, start)
    check(eigs, matrix, true, 1e-5, (2, 0))
    assert eigs.converged
    assert eigs.products < 100
    with pytest.raises(ValueError, match="is less than what rounding leaves"):
        spectrum.eigsh(product(matrix), shaped(start), k=2, depth=20, tol=0.99 * least)


def test_a_deep_space_still_meets_the_default_tolerance():
    """With 300 products in float32 their rounding alone is put at 2.1e-5, of the 2.4e-5 that would be asked for."""
    diagonal = jnp.linspace(-1, 1, 400) ** 3
    start = jnp.asarray(rng(0).normal(size=400), jnp.float32)
    by_depth = jax.jit(lambda v: spectrum.eigsh(lambda x: diagonal * x, v, k=3, depth=300))(start)
    by_steps = jax.jit(lambda v: spectrum.eigsh(lambda x: diagonal * x, v, k=3, num_steps=300))(start)
    for eigs in (by_depth, by_steps):
        assert eigs.converged
        np.testing.assert_allclose(eigs.values, diagonal[::-1][:3], rtol=0, atol=1e-5)


def test_a_second_copy_is_found_beside_a_close_third():
    """95, 95, 94.5: a fresh direction may settle on the third before it shows the second."""
    solve = jax.jit(lambda a, v: spectrum.eigsh(lambda x: jnp.matmul(a, x, precision="highest"), v, k=2, smallest=1, depth=8))
    for seed in range(20):
        g = rng(seed)
        q = np.linalg.qr(g.normal(size=(12, 12)))[0]
        matrix = ((q * np.r_[95, 95, 94.5, 94, 75, 4, 1, np.zeros(5)]) @ q.T).astype(np.float32)
        eigs = solve((matrix + matrix.T) / 2, g.normal(size=12).astype(np.float32))
        np.testing.assert_allclose(eigs.values, [95, 95, 0], rtol=0, atol=1e-2)


# ── the Hessians of networks ──────────────────────────────────────────────────────────────────────────────────────────


def linear_square():
    """½ ‖W x + b − y‖² with 10 outputs: every eigenvalue is 10-fold."""
    return lj.models.mlp((), 10), lj.losses.square, 1.0


def linear_negated():
    return lj.models.mlp((), 10), lj.losses.square, -1.0


def tanh_cross_entropy():
    return lj.models.mlp((6,), 10), lj.losses.cross_entropy, 1.0


@pytest.mark.parametrize(
    ("network", "signs"),
    [(linear_square, {1}), (linear_negated, {-1}), (tanh_cross_entropy, {1, -1})],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_eigsh_on_a_network_equals_lapack_on_its_dense_hessian(network, signs):
    model, criterion, sign = network()
    mean = lj.losses.mean(model.apply, criterion)
    g = rng(3)
    batch = g.normal(size=(40, 6)).astype(np.float32), np.eye(10, dtype=np.float32)[g.integers(0, 10, 40)]
    params = tree.scattered_like(1, jax.eval_shape(model.init, jax.random.key(0), batch[0]))

    def loss(params, batch):
        return sign * mean(params, batch)

    vector, unravel = ravel_pytree(params)
    dense = np.float64(jax.jit(jax.hessian(lambda x, batch: loss(unravel(x), batch)))(vector, batch))
    true = np.linalg.eigvalsh((dense + dense.T) / 2)[::-1]
    size = np.abs(true).max()
    assert {int(s) for s in np.sign(true[np.abs(true) > 1e-4 * size])} == signs

    @jax.jit
    def solve(params, batch, start):
        return spectrum.eigsh(lj.curvature.hessian(loss)(params, batch), start, k=12)

    eigs = solve(params, batch, tree.scattered_like(2, params))
    np.testing.assert_allclose(eigs.values, true[:12], rtol=0, atol=1e-5 * size)
    near = np.abs(np.float64(eigs.values)[:, None] - true[None]).min(axis=1)
    assert (near <= np.float64(eigs.residuals) + 1e-6 * size).all()  # the dense matrix is rounded too
    if network is linear_square:
        assert np.ptp(eigs.values[:10]) <= 1e-5 * size < true[9] - true[10]
    rows = flat(eigs.vectors)
    np.testing.assert_allclose(rows @ rows.T, np.eye(12), rtol=0, atol=1e-5)
    chex.assert_tree_shape_prefix(eigs.vectors, (12,))
