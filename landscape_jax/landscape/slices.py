"""The loss on a line or a plane through θ, and directions for them.

    plane(loss, params, random_directions(key, params), xs, ys, batch)

A slice is L(θ + Σᵢ cᵢ dᵢ) at many points c, computed by one compiled program. The directions may be:

    random, scaled filter by filter      random_directions(key, params)
    sharpest                             sharpest(curvature, params, batch).vectors
    where training went                  principal(path), with the path's own coordinates
    any two                              a stack: leaves [2, ...]

For more data than fit into memory at once, pass `losses.chunked(loss, num_chunks)` as the loss.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, PartitionSpec

from landscape_jax import devices, losses, programs, tree
from landscape_jax.arguments import count, product_at, require
from landscape_jax.backend import policy
from landscape_jax.spectrum import eigsh
from landscape_jax.types import Batch, Curvature, Eigs, Key, Loss, Params

# ── the loss at many points ───────────────────────────────────────────────────────────────────────────────────────────


def values(loss: Loss, params: Params, directions: Params, points: Array, batch: Batch, *, size: int | None = None) -> Array:
    """L(θ + Σᵢ cᵢ dᵢ) for each point c. Pure: jit it, vmap it, differentiate it.

    Args:
      directions: a stack of k directions, leaves [k, ...].
      points: c, [n, k].
      size: points side by side under vmap, each with its own activations; default: one after the other on a CPU, 16 on
        accelerators.
    Returns: [n]. A loss that is NaN or infinite at one point does not affect the others.
    Cost: n losses; memory: `size` losses' and θ's.

    >>> directions = lj.landscape.random_directions(key, params)
    >>> lj.landscape.values(loss, params, directions, jnp.array([[0.0, 0.0], [1.0, -1.0]]), batch).shape
    (2,)
    """

    def one(c: Array) -> Array:
        return loss(tree.add(params, tree.combine(c, directions)), batch)

    at_once = policy.points_at_once(size)
    return jax.lax.map(one, points, batch_size=None if at_once == 1 else at_once)


def line(loss: Loss, params: Params, direction: Params, xs, batch: Batch, **how) -> np.ndarray:
    """L(θ + x d) for each x: [n]. Options: as for `plane`.

    >>> direction = lj.tree.normal_like(key, params)
    >>> lj.landscape.line(loss, params, direction, [-1.0, 0.0, 1.0], batch).shape
    (3,)
    """
    tree.check(direction, "direction")
    return _grid("line", loss, params, jax.tree.map(lambda x: jnp.asarray(x)[None], direction), (xs,), batch, **how)


def interpolation(loss: Loss, start: Params, end: Params, ts, batch: Batch, **how) -> np.ndarray:
    """L((1 − t) θ₀ + t θ₁) for each t, in [0, 1] or beyond: [n]. Options: as for `plane`.

    Source: I. Goodfellow, O. Vinyals and A. Saxe 2015, arXiv 1412.6544.

    >>> ends = params, lj.tree.scale(2.0, params)
    >>> lj.landscape.interpolation(loss, *ends, [0.0, 0.5, 1.0], batch).shape
    (3,)
    """
    return line(loss, start, tree.sub(end, start), ts, batch, **how)


def plane(loss: Loss, params: Params, directions: Params, xs, ys, batch: Batch, **how) -> np.ndarray:
    """L(θ + xᵢ d₁ + yⱼ d₂) over a grid: [len(xs), len(ys)], for `plots.contour` and `plots.relief`.

    Args:
      directions: a stack of two, leaves [2, ...], of any lengths and angle.
      xs, ys: the grid, in units of the directions' lengths.
      progress: show a bar on the terminal (default: no); Ctrl-C stops it.
      size: as for `values`.
      mesh: split the points over these devices; on a CPU with one device a core, `devices.mesh()` uses all cores.
    Cost: as for `values`. Compiled once for each loss, shape and size of the grid.

    >>> directions = lj.landscape.random_directions(key, params)
    >>> lj.landscape.plane(loss, params, directions, [-1.0, 0.0, 1.0], [0.0, 1.0], batch).shape
    (3, 2)
    """
    return _grid("plane", loss, params, directions, (xs, ys), batch, **how)


def _grid(
    name: str,
    loss: Loss,
    params: Params,
    directions: Params,
    axes: tuple,
    batch: Batch,
    *,
    progress: bool = False,
    size: int | None = None,
    mesh: Mesh | None = None,
) -> np.ndarray:
    require(name, loss=loss)
    tree.check(params)
    losses.check(loss, params, batch)
    _check_directions(name, params, directions, len(axes))
    if any(np.ndim(axis) != 1 or np.size(axis) == 0 for axis in axes):
        raise ValueError(f"{name}: coordinates have shapes {', '.join(str(np.shape(a)) for a in axes)}: give lists of numbers")
    if size is not None and size < 1:
        raise ValueError(f"{name}: size={size} must be at least 1")
    points = np.stack([x.ravel() for x in np.meshgrid(*axes, indexing="ij")], axis=1).astype(tree.dtype(params))  # [n, k]
    count = 1 if mesh is None else mesh.size
    part = _part(len(points), count * (size or 1), pieces=25 if progress else 1)
    padded = np.resize(points, (-(-len(points) // part) * part, len(axes)))
    go, arrays = programs.program(_compiled, loss)
    found = []
    with _bar(name, len(points), progress and devices.is_first_process()) as show:
        for start in range(0, len(padded), part):
            found.append(devices.to_host(go(arrays, params, directions, padded[start : start + part], batch, size, mesh)))
            show(min(start + part, len(points)))
    return np.concatenate(found)[: len(points)].reshape([len(axis) for axis in axes])


def _part(points: int, unit: int, pieces: int) -> int:
    """The number of points a call, a multiple of `unit`, so that there are about `pieces` equal calls."""
    return -(-points // (pieces * unit)) * unit


def _compiled(rebuild: Callable) -> Callable:
    @functools.partial(jax.jit, static_argnames=("size", "mesh"))
    def go(arrays, params, directions, points, batch, size, mesh):
        def local(points, shared):
            arrays, params, directions, batch = shared
            return values(rebuild(arrays), params, directions, points, batch, size=size)

        if mesh is not None:
            split, replicated = PartitionSpec(mesh.axis_names), PartitionSpec()
            in_specs = (split, replicated)
            local = jax.shard_map(local, mesh=devices.automatic(mesh), in_specs=in_specs, out_specs=split, check_vma=False)
        return local(points, (arrays, params, directions, batch))

    return go


def _check_directions(name: str, params: Params, directions: Params, k: int) -> None:
    same = jax.tree.structure(params) == jax.tree.structure(directions)
    pairs = zip(jax.tree.leaves(params), jax.tree.leaves(directions), strict=True) if same else ()
    if not same or any(np.shape(d) != (k, *np.shape(x)) for x, d in pairs):
        raise ValueError(
            f"{name}: the directions must be a stack of {k} shaped like the parameters, each leaf [{k}, ...]: "
            "jax.tree.map(lambda *leaves: jnp.stack(leaves), d1, d2) makes one of two"
            if k > 1
            else f"{name}: the direction must have the shapes of the parameters"
        )


@contextlib.contextmanager
def _bar(name: str, total: int, progress: bool) -> Iterator[Callable[[int], None]]:
    if not progress:
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(name), BarColumn(), MofNCompleteColumn(), TextColumn("points"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=total)
        yield lambda done: bar.update(task, completed=done)


# ── directions ────────────────────────────────────────────────────────────────────────────────────────────────────────


Outputs = Callable[[str, Array], tuple[int, ...] | None]  # (path, leaf) ↦ its axes of outputs; None for a leaf that stays


def filter_normalised(direction: Params, params: Params, axis: int | Outputs = -1) -> Params:
    """d_f ← d_f ‖θ_f‖ / ‖d_f‖ for each filter f, and d = 0 for biases and the scales of norms.

    A filter is all weights into one output, a channel or a neuron. A network with ReLUs computes the same with one layer's
    weights and biases times a and the next one's weights by a; slices along such directions are then the same too, where plain
    random ones would stretch. Which leaf is what, in this order:

        1. A leaf of one axis or none stays, and one whose own name is "b" or "scale" or contains "bias".
        2. A bias of several axes tells the axes of outputs of the other leaves in its node of the tree: kernel [d, heads, dim]
           and bias [heads, dim] have an output for each (head, dim). Layers stacked along leading axes (`nn.scan`) have these
           in both. A leaf of the bias's own shape is a scale, and stays.
        3. Otherwise outputs lie along `axis`; for "query", "key" and "value" kernels of three axes, along the last two.

    Names are those of Flax (Linen and NNX), Equinox and Haiku. A tree without names is read by its axes alone, as rules 1 and 3
    say: pass a function for `axis` where they are wrong.

    Args:
      direction: shaped like θ.
      axis: the output's axis: −1 for kernels [..., in, out] (Flax, Haiku), 0 for [out, in, ...] (Equinox, PyTorch); or
        (path, leaf) ↦ the leaf's axes of outputs, None if it stays; paths read "layer0/kernel".
    Source: H. Li et al. 2018, arXiv 1712.09913, §4; that biases and norms stay is their code's.

    >>> d = lj.landscape.filter_normalised(lj.tree.normal_like(key, params), params)
    >>> bool(jnp.allclose(jnp.linalg.norm(d["w"], axis=0), jnp.linalg.norm(params["w"], axis=0)))
    True
    """
    outputs = axis if callable(axis) else _outputs(params, axis)

    def leaf(path, d: Array, x: Array) -> Array:
        kept = outputs("/".join(_names(path)), x)
        if kept is None:
            return jnp.zeros_like(d)
        kept = {i % x.ndim for i in kept}
        rest = tuple(i for i in range(x.ndim) if i not in kept)
        length, target = (jnp.expand_dims(tree.norms(z, rest), rest) for z in (d, x))
        return d / jnp.where(length > 0, length, 1) * target

    return jax.tree_util.tree_map_with_path(leaf, direction, params)


def _names(path) -> list[str]:
    names = [jax.tree_util.keystr((entry,), simple=True) for entry in path]
    held = len(path) > 1 and path[-1] == jax.tree_util.GetAttrKey("value")  # of an NNX variable
    return names[:-1] if held else names


def _is_bias(name: str) -> bool:
    return name == "b" or "bias" in name.lower()


def _outputs(params: Params, axis: int) -> Outputs:
    """The rule of `filter_normalised`."""
    biases: dict[str, list[tuple[int, ...]]] = {}
    for path, x in jax.tree_util.tree_leaves_with_path(params):
        *node, name = _names(path) or [""]
        if _is_bias(name) and x.ndim > 1:
            biases.setdefault("/".join(node), []).append(x.shape)

    def outputs(path: str, x: Array) -> tuple[int, ...] | None:
        *node, name = path.split("/")
        if x.ndim < 2 or _is_bias(name) or name == "scale":
            return None
        for shape in biases.get("/".join(node), ()):
            found = _axes_of(shape, x.shape, first=axis % x.ndim == 0)
            if found is not None:
                return found if len(found) < x.ndim else None
        if axis == -1 and x.ndim == 3 and node and node[-1] in ("query", "key", "value"):
            return (1, 2)
        return (axis,)

    return outputs


def _axes_of(bias: tuple[int, ...], kernel: tuple[int, ...], first: bool) -> tuple[int, ...] | None:
    """Where a kernel has the axes of its bias: as few as can be in front, for stacked layers, the rest at the end (or, `first`,
    after these)."""
    n, m = len(kernel), len(bias)
    for stacked in range(m):
        start = stacked if first else n - (m - stacked)
        axes = (*range(stacked), *range(start, start + m - stacked))
        if m <= n and tuple(kernel[i] for i in axes) == bias:
            return axes
    return None


def random_directions(key: Key, params: Params, k: int = 2, axis: int | Outputs = -1) -> Params:
    """A stack of k Gaussian directions, filter-normalised: nearly orthogonal where p is large. See `filter_normalised`.

    >>> jax.tree.map(jnp.shape, lj.landscape.random_directions(key, params, k=2))
    {'b': (2, 3), 'w': (2, 2, 3)}
    """
    require("random_directions", key=key)
    tree.check(params)
    count("random_directions", k=k)
    return jax.vmap(lambda key: filter_normalised(tree.normal_like(key, params), params, axis))(jax.random.split(key, k))


def sharpest(curvature: Curvature, params: Params, batch: Batch, k: int = 2) -> Eigs:
    """The k leading eigenpairs there; `.vectors` is a stack of unit directions. `spectrum.eigsh` has all options.

    >>> eigs = lj.landscape.sharpest(lj.curvature.hessian(loss), params, batch, k=2)
    >>> eigs.values.shape, bool(eigs.converged)
    ((2,), True)
    """
    require("sharpest", curvature=curvature)
    tree.check(params)
    at = functools.partial(product_at, "sharpest", curvature)
    return jax.jit(lambda params, batch: eigsh(at(params, batch), tree.scattered_like(0, params), k))(params, batch)


class Principal(NamedTuple):
    """The plane that a path keeps to most."""

    directions: Params  # a stack of k orthonormal directions
    coordinates: Array  # [T, k]: where the path's points are, from its origin
    explained: Array  # [k]: the part of the path's squared distances from its origin that lies along each


def principal(path: Params, origin: Params | None = None, k: int = 2) -> Principal:
    """The k principal directions of the differences θ_t − θ_origin along a path of training.

    Args:
      path: a stack of points, leaves [T, ...], e.g. the record of an observable that returns θ.
      origin: where the plane lies; default: the path's last point, which differences in the reference are taken from.
    Returns: `Principal`. Beware: two directions explain 81 % and 9 % of a random walk in many dimensions, too, and it draws
      a smooth curve there (J. Antognini and J. Sohl-Dickstein 2018, arXiv 1806.08805).
    Cost: T² p for the products, and one more path of memory.
    Source: H. Li et al. 2018, arXiv 1712.09913, §7.

    >>> path = jnp.array([[0.0, 0.0], [2.0, 0.0], [2.0, 1.0]])
    >>> lj.landscape.principal(path, k=1).directions.shape
    (1, 2)
    """
    length = tree.num_examples(path)
    if not 1 <= k < length:
        raise ValueError(f"principal: k={k} must be at least 1 and less than the path's {length} points")
    origin = tree.row(path, length - 1) if origin is None else origin
    away = jax.tree.map(lambda x, o: x - o[None], path, origin)  # X  [T, p]
    gram = jax.lax.map(lambda x: tree.dots(away, x), away)  # X Xᵀ  [T, T]
    squares, left = jnp.linalg.eigh(gram)
    top, left = jnp.maximum(squares[::-1][:k], 0), left[:, ::-1][:, :k]
    lengths = jnp.sqrt(top)  # singular values of X
    directions = tree.combine((left / jnp.where(lengths > 0, lengths, 1)[None]).T, away)
    return Principal(directions, left * lengths[None], top / jnp.trace(gram))


def coordinates(path: Params, origin: Params, directions: Params) -> Array:
    """[T, k]: where the points of a path, leaves [T, ...], are on the plane through the origin, projected orthogonally.

    Cost: T k p.

    >>> path = jnp.array([[1.0, 2.0, 5.0], [1.0, 3.0, 5.0]])
    >>> lj.landscape.coordinates(path, path[0], jnp.eye(3)[:2])
    Array([[0., 0.],
           [0., 1.]], dtype=float32)
    """
    gram = jax.vmap(lambda d: tree.dots(directions, d))(directions)  # D Dᵀ  [k, k]
    products = jax.lax.map(lambda x: tree.dots(directions, tree.sub(x, origin)), path)  # [T, k]
    return jnp.linalg.solve(gram, products.T).T
