"""Training in a few dimensions: on a random affine plane through θ₀, or on its image on the sphere through θ₀.

    plane    θ = θ₀ + P z                              sphere   θ = ‖θ₀‖ (θ₀ + P z)/‖θ₀ + P z‖

P [p, d] has orthonormal columns, PᵀP = I. A `Basis` is P as two linear maps and never need be a matrix: `generated_basis`
applies a fast transform, in the memory of a few vectors whatever d is, up to d = p.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.tree_util import Partial

from landscape_jax import losses, tree
from landscape_jax.arguments import count, described, require
from landscape_jax.data.batches import check_repeats
from landscape_jax.dynamics.gradient import check_descends, check_loss, optimizer_update
from landscape_jax.types import Batches, Dynamics, Key, Loss, Moment, Params


class Basis(NamedTuple):
    """d orthonormal directions in the space of θ. A pytree of arrays: it may be traced, vmapped, or part of a state."""

    zero: Array  # [d], the origin of the coordinates
    embed: Callable  # z [d] ↦ P z, shaped like θ
    project: Callable  # v shaped like θ ↦ Pᵀ v [d]


def dense_basis(key: Key, like: Params, d: int) -> Basis:
    """A uniform random basis, stored: d p numbers, and 2 d p multiply-adds for each of its two maps.

    Args:
      like: a vector of the space, e.g. θ; its values don't matter.
      d: how many directions, 1 ≤ d ≤ p.

    >>> basis = lj.dynamics.dense_basis(key, params, d=2)
    >>> jax.tree.map(jnp.shape, basis.embed(jnp.ones(2)))
    {'b': (3,), 'w': (2, 3)}
    """
    require("dense_basis", key=key)
    flat = _flat("dense_basis", like, d)
    frame, upper = jnp.linalg.qr(jax.random.normal(key, (flat.size, d), flat.dtype))
    frame = frame * jnp.where(jnp.diagonal(upper) < 0, -1, 1).astype(flat.dtype)[None]  # QR's own signs are not uniform
    return Basis(jnp.zeros(d, flat.dtype), Partial(_embed_dense, flat, frame), Partial(_project_dense, flat, frame))


def _embed_dense(flat: "_Flat", frame: Array, z: Array) -> Params:
    return flat.tree(jnp.matmul(frame, z, precision="highest"))


def _project_dense(flat: "_Flat", frame: Array, v: Params) -> Array:
    return jnp.matmul(frame.T, flat.vector(v), precision="highest")


def generated_basis(key: Key, like: Params, d: int) -> Basis:
    """d of the p columns of a random orthonormal matrix that is never formed: P = S F Π.

    F is the orthonormal cosine transform of length p, S random signs of the p numbers, Π puts the d coordinates at random
    frequencies. Orthonormal to rounding, and every direction spreads evenly over all of θ; but made of p random signs where a
    uniform basis is made of d p random numbers.

    Cost: one fast Fourier transform of length p a map, whatever d is; p signs of one byte and d integers stored.
    Args: as for `dense_basis`.
    Source: N. Ailon and B. Chazelle 2009, SIAM J. Comput. 39(1), 302–322; for training, with another transform, C. Li et al.
      2018, arXiv 1804.08838, §S7.

    >>> basis = lj.dynamics.generated_basis(key, params, d=2)
    >>> basis.project(params).shape
    (2,)
    """
    require("generated_basis", key=key)
    flat = _flat("generated_basis", like, d)
    for_signs, for_places = jax.random.split(key)
    signs = jax.random.rademacher(for_signs, (flat.size,), jnp.int8)
    places = jax.random.permutation(for_places, flat.size)[:d]
    arrays = flat, signs, places
    return Basis(jnp.zeros(d, flat.dtype), Partial(_embed_generated, *arrays), Partial(_project_generated, *arrays))


def _embed_generated(flat: "_Flat", signs: Array, places: Array, z: Array) -> Params:
    spread = jnp.zeros(signs.size, z.dtype).at[places].set(z, unique_indices=True)  # Π z  [p]
    return flat.tree(signs.astype(z.dtype) * jax.scipy.fft.idct(spread, norm="ortho"))


def _project_generated(flat: "_Flat", signs: Array, places: Array, v: Params) -> Array:
    vector = flat.vector(v)
    return jax.scipy.fft.dct(signs.astype(vector.dtype) * vector, norm="ortho")[places]


def leading(basis: Basis, d: int | Array) -> Basis:
    """The first d directions of a basis, all others held at 0: d may be traced, so that one program maps over dimensions.

    >>> basis = lj.dynamics.leading(lj.dynamics.dense_basis(key, params, d=3), 1)
    >>> bool((basis.project(params)[1:] == 0).all())
    True
    """
    kept = jnp.arange(basis.zero.size) < d
    return Basis(basis.zero, Partial(_embed_leading, basis, kept), Partial(_project_leading, basis, kept))


def _embed_leading(basis: Basis, kept: Array, z: Array) -> Params:
    return basis.embed(jnp.where(kept, z, 0))


def _project_leading(basis: Basis, kept: Array, v: Params) -> Array:
    return jnp.where(kept, basis.project(v), 0)


def plane(origin: Params, shift: Params) -> Params:
    """θ₀ + s.

    >>> lj.dynamics.plane(jnp.array([3.0, 0.0]), jnp.array([0.0, 4.0]))
    Array([3., 4.], dtype=float32)
    """
    return tree.add(origin, shift)


def sphere(origin: Params, shift: Params) -> Params:
    """‖θ₀‖ (θ₀ + s)/‖θ₀ + s‖: a great sphere of the radius of θ₀.

    >>> jnp.linalg.norm(lj.dynamics.sphere(jnp.array([3.0, 0.0]), jnp.array([0.0, 4.0]))).round(4)
    Array(3., dtype=float32)
    """
    beside = tree.add(origin, shift)
    return tree.scale(tree.norm(origin) / tree.norm(beside), beside)


class Subspace(NamedTuple):
    """The state of a subspace dynamics."""

    origin: Params  # θ₀
    basis: Basis  # P: runs vmapped together may differ in it
    z: Array  # [d], where θ is
    inner: Any  # the optimizer's own


def subspace(
    loss: Loss,
    optimizer: optax.GradientTransformation,
    batches: Batches,
    basis: Basis,
    surface: Callable[[Params, Params], Params] = plane,
) -> Dynamics:
    """θ_t = s(θ₀, P z_t), z_{t+1} = z_t + u_t,  (u_t, ·) = optimizer(∂L/∂z, ·, z_t): the optimizer sees d numbers only.

        subspace(loss, optax.adam(0.1), batches, generated_basis(key, params, 1000))

    θ is computed from z at each step, so that it never drifts off the surface. Everything else sees the whole θ: the moment has
    ∇L(θ) in p dimensions and θ_{t+1} − θ_t.

    Args:
      loss, optimizer, batches: as for `gradient`. Learning rates are those of z: of θ's own scale on the plane, and on the
        sphere for z ≪ ‖θ₀‖. Steps that should be alike in angle need a rate in proportion to ‖θ₀‖ there.
      basis: `dense_basis(key, params, d)`, `generated_basis(key, params, d)`, or of your own. It lives in the state, so that
        one `Dynamics` serves runs vmapped over planes: `run._replace(state=run.state._replace(basis=...))`.
      surface: (θ₀, P z) ↦ θ with θ₀ at z = 0: `plane`, `sphere`.

    Cost: one value and gradient, one `project`, one `embed` and some p-vectors a step.
    Source: C. Li et al. 2018, arXiv 1804.08838 (plane); S. Fort and A. Scherlis 2018, arXiv 1807.02581 (sphere).

    >>> basis = lj.dynamics.dense_basis(key, params, d=2)
    >>> rule = lj.dynamics.subspace(loss, optax.sgd(0.1), lj.data.full_batch(batch), basis)
    >>> final, _ = lj.run(key, params, rule, {}, num_steps=3)
    >>> final.state.z.shape
    (2,)
    """
    require("subspace", loss=loss, optimizer=optimizer, batches=batches)
    if not isinstance(basis, Basis):
        raise TypeError(f"subspace: basis must be a Basis, but is {described(basis)}: write dense_basis(key, params, d)")
    optimizer = optax.with_extra_args_support(optimizer)

    def init(batches: Batches, basis: Basis, params: Params) -> Subspace:
        check_repeats(batches)
        message = "subspace: the basis was made for other parameters than these: make it with like=params"
        shapes = jax.eval_shape(basis.embed, basis.zero)
        chex.assert_trees_all_equal_shapes(shapes, params, exception_type=ValueError, custom_message=message)
        check_loss(loss, params, batches)
        check_descends(optimizer, basis.zero)
        return Subspace(params, basis, basis.zero, optimizer.init(basis.zero))

    def step(batches: Batches, basis: Basis, key: Key, t: Array, params: Params, state: Subspace):
        batch = batches(key, t)
        losses.check(loss, params, batch)
        value, grads = jax.value_and_grad(loss)(params, batch)

        def at(z) -> Params:
            return surface(state.origin, state.basis.embed(z))

        shift = state.basis.embed(state.z)
        slope = state.basis.project(jax.vjp(lambda s: surface(state.origin, s), shift)[1](grads)[0])  # ∂L/∂z  [d]
        updates, inner = optimizer_update(optimizer, slope, state.inner, state.z, value, lambda z: loss(at(z), batch))
        z = optax.apply_updates(state.z, updates)
        moved = at(z)
        state = state._replace(z=z, inner=inner)
        return moved, state, Moment(t, params, batch, value, grads, tree.sub(moved, params), state)

    return Dynamics(Partial(init, batches, basis), Partial(step, batches, basis))


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class _Flat:
    """Vectors shaped like θ as flat ones, and back. No pytree of arrays, and equal for equal shapes: bases of one network can
    stand in for each other in a compiled program."""

    treedef: Any
    shapes: tuple
    dtypes: tuple

    @property
    def size(self) -> int:
        return sum(map(math.prod, self.shapes))

    @property
    def dtype(self):
        return tree.dtype([jax.ShapeDtypeStruct((), dtype) for dtype in self.dtypes])

    def vector(self, v: Params) -> Array:  # [p]
        return jnp.concatenate([x.reshape(-1).astype(self.dtype) for x in jax.tree.leaves(v)])

    def tree(self, vector: Array) -> Params:
        ends = np.cumsum([math.prod(shape) for shape in self.shapes])[:-1]
        parts = zip(jnp.split(vector, ends), self.shapes, self.dtypes, strict=True)
        return self.treedef.unflatten([x.reshape(shape).astype(dtype) for x, shape, dtype in parts])


def _flat(name: str, like: Params, d: int) -> _Flat:
    tree.check(like, "like")
    count(name, None, d=d)
    leaves, treedef = jax.tree.flatten(like)
    flat = _Flat(treedef, tuple(x.shape for x in leaves), tuple(jnp.dtype(x.dtype) for x in leaves))
    if not 1 <= d <= flat.size:
        raise ValueError(f"{name}: d={d} directions must lie between 1 and p={flat.size}, the number of parameters")
    return flat
