"""Each formula of the partly known matrix by itself, and that brackets hold whatever it is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landscape_jax.spectrum.tracking.brackets import (
    Complement,
    PartialMatrix,
    add_product,
    bounding_matrices,
    complement_bounds,
    compress,
    eigenvalue_brackets,
    powell_update,
    remove_multiplied,
)

R, B = 7, 4


def symmetric(key, rows: int):
    x = jax.random.normal(key, (rows, rows))
    return (x + x.T) / 2


def loewner(key, rows: int):
    x = jax.random.normal(key, (rows, rows))
    return jnp.matmul(x, x.T, precision="highest")


def random_case(key, products: int):
    """A symmetric G, what is known of it before, within bounds that hold, and after so many products in
    random directions."""
    keys = jax.random.split(key, 8)
    mid = symmetric(keys[0], R)
    part = jax.random.uniform(keys[4])
    below, above = 2 * part * loewner(keys[1], R), 2 * (1 - part) * loewner(keys[2], R)
    truth = mid + jax.random.uniform(keys[5]) * above - jax.random.uniform(keys[6]) * below
    nothing = jnp.zeros((R, R))
    g = PartialMatrix(mid, below, above, nothing, nothing, jnp.int32(R))
    directions = jnp.linalg.qr(jax.random.normal(keys[3], (R, R)))[0].T
    for a in directions[:products]:
        g = add_product(g, a, jnp.matmul(truth, a, precision="highest"))
    return truth, g


NONE = Complement(jnp.zeros(()), jnp.zeros(()), jnp.zeros(()))


@pytest.mark.parametrize("products", [0, 1, 3, 6])
def test_every_eigenvalue_lies_in_its_bracket(products):
    """2,500 random matrices for each number of products."""

    @jax.jit
    @jax.vmap
    def missed(key):
        truth, g = random_case(key, products)
        found = eigenvalue_brackets(g, NONE, jnp.int32(R), R)
        values = jnp.linalg.eigvalsh(truth)[::-1]
        size = jnp.max(jnp.abs(jnp.stack(bounding_matrices(g, NONE))))
        return jnp.max(jnp.maximum(found.low - values, values - found.high)) / size

    assert missed(jax.random.split(jax.random.key(products), 2500)).max() < 1e-5


def test_all_products_close_every_bracket():
    @jax.jit
    @jax.vmap
    def width(key):
        found = eigenvalue_brackets(random_case(key, R)[1], NONE, jnp.int32(R), R)
        return found.high - found.low

    assert width(jax.random.split(jax.random.key(0), 300)).max() < 1e-4


def test_powells_update_is_the_nearest_matrix_that_agrees():
    m, a = symmetric(jax.random.key(0), R), jnp.linalg.qr(jax.random.normal(jax.random.key(1), (R, 1)))[0][:, 0]
    column = jax.random.normal(jax.random.key(2), (R,))
    x, project = powell_update(m, a, column), jnp.eye(R) - jnp.outer(a, a)
    np.testing.assert_allclose(x @ a, column, atol=1e-5)
    np.testing.assert_allclose(x, x.T, atol=1e-6)
    np.testing.assert_allclose(project @ x @ project, project @ m @ project, atol=1e-5)
    np.testing.assert_allclose(powell_update(m, a, jnp.zeros(R)), project @ m @ project, atol=1e-5)


def test_what_was_not_multiplied_is_orthogonal_to_all_that_was():
    truth, g = random_case(jax.random.key(3), 3)
    y = jax.random.normal(jax.random.key(4), (R,))
    rest = remove_multiplied(g, y)
    np.testing.assert_allclose(g.projection @ rest, 0, atol=1e-6)
    np.testing.assert_allclose(remove_multiplied(g, rest), rest, atol=1e-6)
    assert abs(np.trace(g.projection) - 3) < 1e-5


def test_a_remainder_has_the_bounds_of_the_complement():
    """[θ, β; β, u] with u anywhere between the bounds of the complement."""
    mid, nothing = jnp.array([[2.0, 0.5], [0.5, 0.0]]), jnp.zeros((2, 2))
    g = PartialMatrix(mid, nothing, nothing, jnp.diag(jnp.array([0.0, 1.0])), jnp.diag(jnp.array([1.0, 0.0])), jnp.int32(2))
    found = eigenvalue_brackets(g, Complement(jnp.float32(-3), jnp.float32(0), jnp.float32(1)), jnp.int32(2), 1)
    for u, value in ((0, found.values[0]), (1, found.high[0])):
        np.testing.assert_allclose(value, np.linalg.eigvalsh([[2, 0.5], [0.5, u]])[-1], rtol=1e-6)
    exact = np.linalg.eigvalsh([[2, 0.5], [0.5, -3]])[-1]
    assert exact - 0.1 < found.low[0] < exact


def test_rows_that_are_not_reached_do_not_count():
    truth, g = random_case(jax.random.key(5), 2)
    found = eigenvalue_brackets(g, NONE, jnp.int32(3), 2)
    np.testing.assert_allclose(found.values[:3], np.linalg.eigvalsh(g.mid[:3, :3])[::-1], atol=1e-5)
    np.testing.assert_allclose(found.rotation[:3, 3:], 0, atol=1e-6)


def test_the_complement_is_below_the_smallest_of_the_leading_and_within_reach():
    g = PartialMatrix(jnp.diag(jnp.array([4.0, 3.0, 2.0])), *jnp.zeros((4, 3, 3)), jnp.int32(3))
    bounds = lambda *given: [float(x) for x in complement_bounds(g, 3, *map(jnp.float32, given))]  # noqa: E731
    # ceiling, reach, mean
    assert bounds(0, 9, 0.5) == [-9, 0.5, 2]
    assert bounds(2.5, 9, 0.5) == [-9, 0.5, 2.5]  # the ceiling may be higher
    assert bounds(99, 9, 99) == [-9, 9, 9]


def test_what_is_known_in_a_smaller_space_still_bounds():
    """Bounds of a matrix, in the span of some vectors, are bounds of it there; and above all that they lie below."""

    @jax.jit
    @jax.vmap
    def amiss(key):
        one, two = jax.random.split(key)
        truth, g = random_case(one, 2)
        rotation = jnp.linalg.qr(jax.random.normal(two, (R, R)))[0]
        weights = jnp.where(jnp.arange(R)[:, None] < B, rotation, 0)
        kept = compress(g, NONE, weights)
        inside = weights @ truth @ weights.T
        low, high = kept.mid - kept.below, kept.mid + kept.above
        return jnp.stack([jnp.linalg.eigvalsh(inside - low)[0], jnp.linalg.eigvalsh(high - inside)[0]])

    assert amiss(jax.random.split(jax.random.key(6), 500)).min() > -1e-3
