"""Leading eigenpairs of an operator that changes a little from one look to the next."""

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import Array

from landscape_jax import tree
from landscape_jax.arguments import count, number, product
from landscape_jax.spectrum.eigsh import eigsh
from landscape_jax.spectrum.tracking.follow import Tracked, follow
from landscape_jax.spectrum.tracking.memory import Memory, new_memory
from landscape_jax.spectrum.tracking.policy import POLICY, Policy
from landscape_jax.spectrum.tracking.search import Plan
from landscape_jax.types import Eigs, MatVec, Params


class TrackerInit(Protocol):
    def __call__(self, params: Params, /) -> Any:
        """m₀, for vectors that are shaped like θ."""
        ...


class TrackerUpdate(Protocol):
    def __call__(
        self, matvec: MatVec, memory: Any, /, alive: Array | bool = True, step: Array | None = None
    ) -> tuple[Any, Tracked]:
        """One look at v ↦ A v. Not alive: one product an end, and the memory as it was. `step` [] int: number of the step."""
        ...


class Tracker(NamedTuple):
    """Eigenpairs that are followed from look to look."""

    init: TrackerInit  # θ ↦ m₀
    update: TrackerUpdate  # (matvec, m, alive=True, step=None) ↦ (m', Tracked)


class Ends(NamedTuple):
    """Memories of the two ends of a spectrum."""

    largest: Memory
    smallest: Memory


def tracker(
    k: int = 1,
    num_steps: int | None = None,
    *,
    tol: float | None = 2e-3,
    guards: int = 5,
    smallest: int = 0,
    policy: Policy = POLICY,
) -> Tracker:
    """The k largest eigenvalues and the `smallest` smallest with their vectors, from look to look, each with a bracket.

    A *look* is one call of `update`, often with one product. It remembers b = k + `guards` Ritz vectors V and bounds of the
    small matrix V A Vᵀ. The next look multiplies v₁. With G the small matrix on V and the remainders of products,

        G₋ ⪯ G ⪯ G₊   and so   λᵢ(G₋) ≤ λᵢ(G) ≤ λᵢ(G₊) .

    The bounds are exact on what this look has multiplied. On the rest they are the remembered ones, widened by how far the
    operator may have moved. While a bracket is too wide, the look multiplies the Ritz vector that contributes most to the upper
    bound. `tracking.md`, beside the code, has the rest.

    Args:
      k: how many of the largest; 0 with `smallest`.
      num_steps: products that the space of a look has room for; default max(10, k + 3), for each end with its own k. It bounds
        the memory, not the products: a look that needs more continues as a cold one (Lanczos, restarted).
      tol: of a bracket's width, relative to the largest |coefficient| of the look's products, about ‖A‖. The reported bracket
        has a margin besides, and may be 2.5 times as wide. A vector's angle to the true one is about √(tol · λ₁ / its gap).
        With leaves of 16 bits `tol` is at least twice their rounding. None: each look is Lanczos by itself, exactly `num_steps`
        products (default 2 (k + smallest) + 10) from a fixed direction, and nothing is remembered: for looks so far apart that
        old vectors are no guesses.
      guards: vectors remembered at an end beyond those asked for: rivals that may overtake them.
      smallest: how many of the smallest eigenvalues; they are followed as the largest of −A, with a memory of their own. With k
        their tolerance is relative to the largest eigenvalue too, if that is larger.
      policy: the other numbers.
    Returns: a `Tracker`. Its `update` takes the number of the step, [] int, whose parity tells the side of the valley; without,
      looks take turns, a step apart. It gives `Tracked`, [k + smallest] values in descending order.

    Cost: at least one product a look and end; two or three on average at the edge of stability, up to about 20 in rougher
    trainings, and as many as Lanczos needs in a first look or where the operator jumps. Memory, for each end: 3 b + `num_steps`
    vectors. Vmapped, all that are alive wait for the slowest.
    Error: a value may be wrong by its residual, under the assumptions of `tracking.md`.
    Source: the bracket is Weyl's inequality and Cauchy's interlacing; the rules are our own, derived in `tracking.md`.

    >>> track = lj.spectrum.tracker(k=1)
    >>> matvec = lj.curvature.hessian(loss)(params, batch)
    >>> memory, found = track.update(matvec, track.init(params))
    >>> np.asarray(found.values).round(2)
    array([0.43], dtype=float32)
    """
    _check_counts(k, smallest, num_steps, guards)
    if tol is None:
        return _memoryless(k, smallest, 2 * (k + smallest) + 10 if num_steps is None else num_steps)
    number("tracker", tol=tol, more_than=0)

    def plan(wanted: int) -> Plan:
        room = max(10, wanted + 3) if num_steps is None else max(2, num_steps)
        return Plan(wanted, wanted + guards, wanted + guards + room, tol, policy)

    ends = [plan(wanted) for wanted in (k, smallest) if wanted]
    few = 2 * sum(end.rows for end in ends)

    def init(params: Params) -> Memory | Ends | Params:
        tree.check(params)
        if _checked_size(k, smallest, params) <= few:
            return tree.scattered_like(0, params)  # so few parameters that Lanczos finds all eigenvalues
        memories = [new_memory(params, end.b, policy) for end in ends]
        return memories[0] if len(ends) == 1 else Ends(*memories)

    def update(
        matvec: MatVec, memory: Memory | Ends | Params, alive: Array | bool = True, step: Array | None = None
    ) -> tuple[Memory | Ends | Params, Tracked]:
        matvec, alive = product("tracker", matvec), jnp.asarray(alive)
        if not isinstance(memory, Memory | Ends):
            return memory, _as_tracked(eigsh(matvec, memory, k, smallest=smallest, num_steps=tree.size(memory)))
        negative = lambda v: tree.scale(-1, matvec(v))  # noqa: E731
        if isinstance(memory, Memory):
            memory, tracked = follow(matvec if k else negative, memory, step, alive, ends[0])
            return memory, tracked if k else _negate(tracked)
        largest, top = follow(matvec, memory.largest, step, alive, ends[0])
        size = jnp.where(top.converged, jnp.abs(top.values[0]), 0)
        least, bottom = follow(negative, memory.smallest, step, alive, ends[1], size)
        return Ends(largest, least), _join(top, _negate(bottom))

    return Tracker(init, update)


def _check_counts(k: int, smallest: int, num_steps: int | None, guards: int) -> None:
    count("tracker", k=k, smallest=smallest, at_least=0)
    count("tracker", guards=guards)
    if k + smallest < 1:
        raise ValueError(f"tracker: k={k} and smallest={smallest} ask for no eigenvalue: one of them must be at least 1")
    if num_steps is not None:
        count("tracker", num_steps=num_steps)
        if k + smallest > num_steps:
            text = _request_text(k, smallest)
            raise ValueError(f"tracker: {text} eigenpairs need at least as many products: num_steps={num_steps} is less")


def _checked_size(k: int, smallest: int, params: Params) -> int:
    """p, at least k + smallest."""
    p = tree.size(params)
    if k + smallest > p:
        raise ValueError(f"tracker: {_request_text(k, smallest)} eigenpairs are more than the p={p} parameters have")
    return p


def _request_text(k: int, smallest: int) -> str:
    return f"k={k} and smallest={smallest}" if smallest else f"k={k}"


def _memoryless(k: int, smallest: int, num_steps: int) -> Tracker:
    """A tracker whose looks are Lanczos from a fixed direction."""

    def init(params: Params) -> Params:
        _checked_size(k, smallest, params)
        return tree.scattered_like(0, params)

    def update(matvec: MatVec, start: Params, alive: Array | bool = True, step: Array | None = None) -> tuple[Params, Tracked]:
        return start, _as_tracked(eigsh(matvec, start, k, smallest=smallest, num_steps=num_steps))

    return Tracker(init, update)


def _as_tracked(eigs: Eigs) -> Tracked:
    return Tracked(*eigs, eigs.values - eigs.residuals, eigs.values + eigs.residuals)


def _negate(tracked: Tracked) -> Tracked:
    """What was found of −A, for A."""
    reverse = lambda x: jax.tree.map(lambda leaf: leaf[::-1], x)  # noqa: E731
    return Tracked(
        -reverse(tracked.values),
        reverse(tracked.vectors),
        reverse(tracked.residuals),
        tracked.converged,
        tracked.products,
        -reverse(tracked.high),
        -reverse(tracked.low),
    )


def _join(top: Tracked, bottom: Tracked) -> Tracked:
    both = jax.tree.map(lambda x, y: jnp.concatenate([x, y]) if x.ndim else x, top, bottom)
    return both._replace(converged=top.converged & bottom.converged, products=top.products + bottom.products)
