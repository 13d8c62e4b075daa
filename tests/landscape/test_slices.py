"""Slices against direct evaluation, directions against their definitions."""

import functools
import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import landscape_jax as lj
from landscape_jax import landscape, programs, tree


@pytest.fixture(scope="module")
def relu():
    """A ReLU network with biases that are not zero, its loss, 50 digits."""
    model = lj.models.mlp((12, 9), 10, activation=jax.nn.relu, init_scale=2.0)
    train, _ = lj.data.digits(50, 0)
    params = jax.jit(model.init)(jax.random.key(0), train[0])
    shifts = tree.normal_like(jax.random.key(1), params)
    params = jax.tree.map(lambda x, n: x + 0.3 * n if x.ndim == 1 else x, params, shifts)
    return lj.losses.mean(model.apply, lj.losses.square), params, train


def point(params, directions, c):
    return jax.tree.map(lambda x, d: x + c[0] * d[0] + c[1] * d[1], params, directions)


@pytest.mark.parametrize("how", [{"progress": True}, {"mesh": 3, "size": 2}])
def test_a_plane_is_direct_evaluation(relu, how, capfd):
    loss, params, train = relu
    directions = landscape.random_directions(jax.random.key(2), params)
    if "mesh" in how:
        how = how | {"mesh": jax.sharding.Mesh(np.array(jax.devices()[: how["mesh"]]), ("points",))}
    xs, ys = np.linspace(-1, 1, 11), np.linspace(-2, 0.5, 7)
    values = landscape.plane(loss, params, directions, xs, ys, train, **how)
    assert values.shape == (11, 7)
    direct = jax.jit(loss)
    for i, j in np.random.default_rng(0).integers(0, (11, 7), (12, 2)):
        np.testing.assert_allclose(values[i, j], direct(point(params, directions, (xs[i], ys[j])), train), rtol=1e-6)
    assert ("77/77" in capfd.readouterr().err) == ("progress" in how)


def test_the_data_in_chunks_are_the_data(relu):
    loss, params, train = relu
    for num_chunks in (7, 50):
        part = lj.losses.chunked(loss, num_chunks)
        value, grads = jax.jit(jax.value_and_grad(part))(params, train)
        whole, whole_grads = jax.value_and_grad(loss)(params, train)
        np.testing.assert_allclose(value, whole, rtol=1e-6)
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), grads, whole_grads)
    with pytest.raises(ValueError, match="num_chunks=0 must be at least 1"):
        lj.losses.chunked(loss, 0)


def test_a_plane_of_the_data_in_chunks_is_the_plane(relu):
    loss, params, train = relu
    directions, xs = landscape.random_directions(jax.random.key(2), params), np.linspace(-1, 1, 3)
    parts = landscape.plane(lj.losses.chunked(loss, 5), params, directions, xs, xs, train)
    np.testing.assert_allclose(parts, landscape.plane(loss, params, directions, xs, xs, train), rtol=1e-6)


def test_interpolation_ends_at_its_ends(relu):
    loss, params, train = relu
    other = tree.scale(0.5, params)
    values = landscape.interpolation(loss, params, other, [0, 0.5, 1], train)
    np.testing.assert_allclose(values, [loss(tree.scale(s, params), train) for s in (1, 0.75, 0.5)], rtol=1e-5)


def test_what_is_not_finite_stays_where_it_is():
    def loss(params, batch):
        x, y = params["x"], params["y"]
        return jnp.sqrt(1 - x**2) + jnp.exp(y)  # NaN beyond 1, and overflow

    params = {"x": jnp.array(0.0), "y": jnp.array(0.0)}
    directions = {"x": jnp.array([1.0, 0.0]), "y": jnp.array([0.0, 1.0])}
    xs, ys = np.linspace(-2, 2, 9), np.array([0.0, 1000.0])
    for size in (1, 9):
        values = landscape.plane(loss, params, directions, xs, ys, None, size=size)
        np.testing.assert_array_equal(np.isnan(values[:, 0]), np.abs(xs) > 1)
        inner = np.abs(xs) <= 1
        np.testing.assert_allclose(values[inner, 0], np.sqrt(1 - xs[inner] ** 2) + 1, rtol=1e-6)
        assert np.isinf(values[inner, 1]).all()


def test_a_second_slice_does_not_compile_again(relu):
    loss, params, train = relu
    traces = []

    def counted(params, batch):
        traces.append(1)
        return loss(params, batch)

    d = tree.normal_like(jax.random.key(0), params)
    landscape.line(counted, params, d, np.linspace(0, 1, 5), train)
    first = len(traces)
    landscape.line(counted, params, tree.scale(2.0, d), np.linspace(0, 3, 5), train)
    assert len(traces) == first


# ── directions ────────────────────────────────────────────────────────────────────────────────────────────────────────


def rescaled(params, factors):
    """The same function: hidden layer l's weights and biases times a_l, the next one's weights by a_l."""
    a = np.cumprod([1.0, *factors])  # of a layer's output
    last = len(factors)
    return {
        f"layer{l}": {
            "kernel": params[f"layer{l}"]["kernel"] * (factors[l] if l < last else 1 / a[last]),
            "bias": params[f"layer{l}"]["bias"] * (a[l + 1] if l < last else 1.0),
        }
        for l in range(last + 1)
    }


def test_filter_normalised_slices_do_not_see_relus_rescaling(relu):
    loss, params, train = relu
    other = rescaled(params, (3.0, 0.2))
    np.testing.assert_allclose(loss(other, train), loss(params, train), rtol=1e-5)
    raw, xs = tree.normal_like(jax.random.key(5), params), np.linspace(-1, 1, 5)

    def both(direction):
        return [landscape.line(loss, at, direction(at), xs, train) for at in (params, other)]

    np.testing.assert_allclose(*both(lambda at: landscape.filter_normalised(raw, at)), rtol=2e-5)
    plain = both(lambda at: raw)
    assert np.abs(plain[0] / plain[1] - 1).max() > 0.3  # without it, they do


def test_each_filter_has_its_own_length():
    shapes = {"conv0": {"kernel": jnp.zeros((3, 3, 2, 3)), "bias": jnp.ones(3)}, "outputs": {"kernel": jnp.zeros((5, 4))}}
    params = tree.normal_like(jax.random.key(0), shapes)
    d = landscape.filter_normalised(tree.normal_like(jax.random.key(1), params), params)
    conv, kernel = d["conv0"]["kernel"], params["conv0"]["kernel"]  # [3, 3, 2, 3]
    for f in range(3):
        np.testing.assert_allclose(jnp.linalg.norm(conv[..., f]), jnp.linalg.norm(kernel[..., f]), rtol=1e-5)
    dense, kernel = d["outputs"]["kernel"], params["outputs"]["kernel"]
    np.testing.assert_allclose(jnp.linalg.norm(dense, axis=0), jnp.linalg.norm(kernel, axis=0), rtol=1e-5)
    assert not d["conv0"]["bias"].any()
    out_first = landscape.filter_normalised(dense.T, kernel.T, axis=0)
    np.testing.assert_allclose(out_first, dense.T, rtol=1e-5)
    zero = landscape.filter_normalised(tree.zeros_like(params), params)
    assert lj.tree.all_finite(zero)


def filters(name, x):
    """Each leaf as [filters, weights], by hand; None for what stays."""
    if name.endswith(("bias", "scale")):
        return None
    if x.ndim == 3 and name.split("/")[-2] in ("query", "key", "value"):
        return x.reshape(x.shape[0], -1).T  # [d, heads, dim]: a neuron is one (head, dim)
    return x.reshape(-1, x.shape[-1]).T


def assert_filter_by_filter(direction, params):
    for (path, d), x in zip(jax.tree_util.tree_leaves_with_path(direction), jax.tree.leaves(params), strict=True):
        name = jax.tree_util.keystr(path, simple=True, separator="/").removesuffix("/value")
        if filters(name, x) is None:
            assert not d.any(), name
        else:
            lengths = [jnp.linalg.norm(filters(name, z), axis=1) for z in (d, x)]
            np.testing.assert_allclose(*lengths, rtol=1e-5, err_msg=name)


def attention(use_bias):
    import flax.linen as nn

    layer = nn.MultiHeadDotProductAttention(num_heads=2, use_bias=use_bias)
    return layer.init(jax.random.key(0), jnp.ones((1, 3, 4)))["params"]


def nnx_attention():
    from flax import nnx

    layer = nnx.MultiHeadAttention(num_heads=2, in_features=4, decode=False, rngs=nnx.Rngs(0))
    return nnx.split(layer, nnx.Param, ...)[1]


NETWORKS = {
    "vit": lambda: lj.models.vit(3, width=8, depth=1, heads=2).init(jax.random.key(0), jnp.ones((1, 8, 8, 1))),
    "transformer": lambda: lj.models.transformer(5, length=3, width=8, depth=1, heads=4).init(
        jax.random.key(0), jnp.zeros((1, 3), int)
    ),
    "linen": lambda: attention(True),
    "linen without biases": lambda: attention(False),
    "nnx": nnx_attention,
}


@pytest.mark.parametrize("network", [n if n in ("vit", "nnx") else pytest.param(n, marks=pytest.mark.slow) for n in NETWORKS])
def test_a_filter_is_what_one_neuron_reads_in_attention_too(network):
    params = NETWORKS[network]()
    params = jax.tree.map(jnp.add, params, tree.normal_like(jax.random.key(3), params))  # biases that are not zero
    raw = tree.normal_like(jax.random.key(1), params)
    assert_filter_by_filter(landscape.filter_normalised(raw, params), params)
    assert_filter_by_filter(tree.row(jax.jit(landscape.random_directions)(jax.random.key(2), params), 1), params)


def test_filters_of_other_trees():
    scanned = {"kernel": jnp.zeros((2, 4, 3)), "bias": jnp.zeros((2, 3)), "scale": jnp.zeros((2, 3))}  # nn.scan over 2 layers
    grouped = {"weight": jnp.zeros((3, 5)), "bias": jnp.zeros((3, 5))}  # a norm over two axes
    equinox = {"weight": jnp.zeros((3, 2, 5, 5)), "bias": jnp.zeros((3, 1, 1))}
    plain = [jnp.zeros((4, 3)), jnp.zeros((1, 3)), jnp.zeros(3)]
    params = tree.normal_like(jax.random.key(0), [scanned, grouped, equinox, plain])
    raw = tree.normal_like(jax.random.key(1), params)
    norm = lambda z, *axis: np.asarray(jnp.sqrt(jnp.sum(z**2, axis=axis)))  # noqa: E731
    last = landscape.filter_normalised(raw, params)
    np.testing.assert_allclose(norm(last[0]["kernel"], 1), norm(params[0]["kernel"], 1), rtol=1e-5)
    assert not any(leaf.any() for leaf in (last[0]["bias"], last[0]["scale"], *last[1].values(), last[2]["bias"], last[3][2]))
    np.testing.assert_allclose(norm(last[3][0], 0), norm(params[3][0], 0), rtol=1e-5)
    np.testing.assert_allclose(norm(last[3][1], 0), norm(params[3][1], 0), rtol=1e-5)  # a kernel of one input
    first = landscape.filter_normalised(raw, params, axis=0)
    np.testing.assert_allclose(norm(first[2]["weight"], 1, 2, 3), norm(params[2]["weight"], 1, 2, 3), rtol=1e-5)
    assert not first[2]["bias"].any()
    own = landscape.filter_normalised(raw, params, axis=lambda path, leaf: (0, -1) if path == "2/weight" else None)
    np.testing.assert_allclose(norm(own[2]["weight"], 1, 2), norm(params[2]["weight"], 1, 2), rtol=1e-5)
    assert not any(leaf.any() for leaf in jax.tree.leaves(own[:2] + own[3:]))


def test_sharpest_directions_are_eigenvectors():
    bends = jnp.array([3.0, 1.0, 7.0, 2.0])

    def loss(params, batch):
        return 0.5 * jnp.sum(bends * params**2) + jnp.sum(params)

    at = jnp.ones(4)
    eigs = landscape.sharpest(lj.curvature.hessian(loss), at, None)
    np.testing.assert_allclose(eigs.values, [7, 3], rtol=1e-5)
    np.testing.assert_allclose(jnp.abs(eigs.vectors), np.eye(4)[[2, 0]], atol=1e-4)
    xs = np.array([-1.0, 0, 1])
    for i in range(2):
        below, here, above = landscape.line(loss, at, tree.row(eigs.vectors, i), xs, None)
        assert below - 2 * here + above == pytest.approx(float(eigs.values[i]), rel=1e-4)


def path_in_a_plane(params, num=30):
    q = jax.tree.map(lambda *x: jnp.stack(x), *(tree.normal_like(jax.random.key(i), params) for i in range(2)))
    t = np.linspace(0, 3, num)
    c = jnp.asarray(np.stack([3 * np.cos(t), np.sin(t)], axis=1), jnp.float32)  # [T, 2]
    away = tree.combine(c, q)
    return jax.tree.map(lambda x, a: x[None] + a, params, away)


def test_principal_directions_hold_a_path_that_is_plane():
    params = {"w": jnp.ones((4, 3)), "b": jnp.zeros(3)}
    path = path_in_a_plane(params)
    found = landscape.principal(path)
    assert float(found.explained.sum()) == pytest.approx(1, abs=1e-4)
    assert found.explained[0] > found.explained[1]
    gram = jax.vmap(lambda d: tree.dots(found.directions, d))(found.directions)
    np.testing.assert_allclose(gram, np.eye(2), atol=1e-4)
    last = tree.row(path, 29)
    for t in (0, 11, 29):
        back = tree.add(last, tree.combine(found.coordinates[t], found.directions))
        truth = tree.row(path, t)
        assert float(tree.norm(tree.sub(back, truth))) < 1e-3 * float(tree.norm(truth))
    skew = jax.tree.map(lambda d: jnp.stack([2 * d[0], d[0] + d[1]]), found.directions)
    c = landscape.coordinates(path, last, skew)  # on a skew frame of the same plane
    np.testing.assert_allclose(np.asarray(c) @ np.array([[2.0, 0], [1, 1]]), found.coordinates, atol=1e-3)


def test_a_random_walk_looks_like_a_plane():
    steps = jax.random.normal(jax.random.key(0), (100, 4000))
    explained = landscape.principal({"w": jnp.cumsum(steps, axis=0)}).explained
    np.testing.assert_allclose(explained, [8 / np.pi**2, 8 / (9 * np.pi**2)], rtol=0.1)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda loss, p, d, b: landscape.plane(loss, p, jax.tree.map(lambda x: x[:1], d), [0.0], [0.0], b), "stack of 2"),
        (lambda loss, p, d, b: landscape.line(loss, p, d, [0.0], b), "must have the shapes of the parameters"),
        (lambda loss, p, d, b: landscape.plane(loss, p, d, 0.0, [0.0], b), "give lists of numbers"),
        (lambda loss, p, d, b: landscape.plane(loss, p, d, [], [0.0], b), "give lists of numbers"),
        (lambda loss, p, d, b: landscape.plane(loss, p, d, [0.0], [0.0], b, size=0), "size=0"),
        (lambda loss, p, d, b: landscape.principal(d), "less than the path's 2 points"),
    ],
)
def test_wrong_arguments_are_answered(relu, call, said):
    loss, params, train = relu
    with pytest.raises(ValueError, match=said):
        call(loss, params, landscape.random_directions(jax.random.key(0), params), train)


def test_a_slice_leaves_no_program_behind_its_loss():
    gc.collect()
    before = len(programs._cache)

    def cut(a):
        loss = lambda params, batch: a * jnp.sum(params**2)  # noqa: E731
        landscape.line(loss, jnp.ones(2), jnp.ones(2), [0.0, 1.0], None)
        assert len(programs._cache) == before + 1

    cut(1.0)
    cut(2.0)
    gc.collect()
    assert len(programs._cache) == before


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_filters_of_any_scale_have_the_length_of_their_weights(scale):
    params = {"kernel": scale * jnp.arange(1.0, 7).reshape(2, 3)}
    direction = {"kernel": jnp.ones((2, 3)) / scale}
    found = lj.landscape.filter_normalised(direction, params)["kernel"]
    expected = jnp.linalg.norm(jnp.arange(1.0, 7).reshape(2, 3), axis=0)
    np.testing.assert_allclose(lj.tree.norms(found) / scale, expected, rtol=1e-5)
