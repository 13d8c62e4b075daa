"""Orders of examples as pure functions (key, step) ↦ batch: no iterator, no state, nothing to save or resume.

`key` is the run's key, the same at every step; runs vmapped over keys each see an order of their own. Each maker returns
a `jax.tree_util.Partial`, a function that is also a pytree of its data: the engine hands the arrays to the compiled
program as arguments, where a closure would bake them in as constants.
"""

import functools
import math
import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.tree_util import Partial

from landscape_jax import tree
from landscape_jax.arguments import count
from landscape_jax.types import Batch, Batches, Key


def full_batch(data: Batch) -> Batches:
    """Every example at every step: full-batch gradient descent.

    >>> inputs, targets = lj.data.full_batch(batch)(key, 7)
    >>> bool((inputs == batch[0]).all())
    True
    """
    tree.num_examples(data, "full_batch: data")
    return Partial(_full_batch, jax.tree.map(jnp.asarray, data))


def minibatch(data: Batch, batch_size: int) -> Batches:
    """`batch_size` distinct examples, drawn afresh and uniformly at every step.

    Cost: one shuffle of n indices a step.

    >>> inputs, targets = lj.data.minibatch(batch, 3)(key, 0)
    >>> inputs.shape, targets.shape
    ((3, 2), (3, 3))
    """
    return _batches("minibatch", _drawn, data, batch_size)


def independent(data: Batch, batch_size: int) -> Batches:
    """`batch_size` independent, uniform draws at every step: an example may come twice, and the noise of the gradient is
    exactly its covariance over the data divided by `batch_size`, up to b = n and beyond.

    Cost: b random integers a step, and no shuffle.

    >>> lj.data.independent(jnp.arange(8), 3)(key, 0).shape
    (3,)
    """
    tree.num_examples(data, "independent: data")
    count("independent", batch_size=batch_size)
    pick = functools.partial(_chosen, functools.partial(_independent, batch_size))
    return Partial(pick, jax.tree.map(jnp.asarray, data))


def epochs(data: Batch, batch_size: int) -> Batches:
    """Shuffled epochs: each example exactly once in every n consecutive draws, a new order each epoch.

    Step t takes draws [t·b, (t+1)·b) of the endless sequence order₀, order₁, … of independent permutations, so that no
    example is dropped when b = `batch_size` does not divide n: the batch then reaches into the next epoch.

    Cost: one shuffle of n indices a step, two where b does not divide n.

    >>> batches = lj.data.epochs(jnp.arange(4), 2)
    >>> sorted(jnp.concatenate([batches(key, 0), batches(key, 1)]).tolist())  # each example once
    [0, 1, 2, 3]
    """
    return _batches("epochs", _in_epochs, data, batch_size)


def source(batches: Batches) -> Batch | None:
    """The whole data set that batches made here, or `augmented` ones of these, are taken from; None for batches of your own."""
    if _made_here(batches):
        return batches.args[0]
    inner = batches.args[0] if isinstance(batches, Partial) and batches.args else None
    return source(inner) if isinstance(inner, Partial) else None


def _made_here(batches: Batches) -> bool:
    return isinstance(batches, Partial) and getattr(batches.func, "func", batches.func) in (_full_batch, _chosen)


def check_repeats(batches: Batches) -> None:
    """Raise `ValueError` if `batches`, traced twice with equal arguments, gives different batches.

    It then reads an iterator, or another state of Python's, and a compiled program would see one batch for ever.

    Cost: two traces of `batches`; none for what this module made.
    """
    if _made_here(batches):
        return
    key, step = jax.eval_shape(lambda: jax.random.key(0)), jax.ShapeDtypeStruct((), jnp.int32)
    one, two = (jax.make_jaxpr(lambda key, t: batches(key, t))(key, step) for _ in range(2))  # one function is traced once
    same = len(one.consts) == len(two.consts) and all(map(_equal, one.consts, two.consts))
    texts = [re.sub(r"0x[0-9a-f]+", "", str(jaxpr.jaxpr)) for jaxpr in (one, two)]  # without addresses
    if not same or texts[0] != texts[1]:
        raise ValueError(
            "batches: two calls with the same key and step gave different batches, as a function does that reads an iterator "
            "or draws NumPy's random numbers. A compiled step would call it once and train on that one batch for ever: choose "
            f"examples by (key, step) alone, as data.epochs and data.minibatch do; {_STREAMS}"
        )


_STREAMS = "data too large for memory can be read by jax.pure_callback(load, shapes, step), with load a function of the step"


def _equal(x, y) -> bool:
    if x is y or isinstance(x, Tracer) or isinstance(y, Tracer):
        return True
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        x, y = jax.random.key_data(x), jax.random.key_data(y)
    return x.dtype == y.dtype and np.asarray(x).tobytes() == np.asarray(y).tobytes() and x.shape == y.shape


def _batches(name: str, places: Callable, data: Batch, batch_size: int) -> Batches:
    n = tree.num_examples(data, f"{name}: data")
    count(name, None, batch_size=batch_size)
    if not 1 <= batch_size <= n:
        raise ValueError(
            f"{name}: batch_size={batch_size} must lie between 1 and the {n} examples of the data; "
            "for all of them at every step use full_batch"
        )
    # a functools.partial keeps batch_size static: an argument of the outer Partial would be traced
    pick = functools.partial(_chosen, functools.partial(places, batch_size))
    return Partial(pick, jax.tree.map(jnp.asarray, data))


def _full_batch(data: Batch, key: Key, step: Array) -> Batch:
    return data


def _chosen(places: Callable[[Key, Array, int], Array], data: Batch, key: Key, step: Array) -> Batch:
    index = places(key, step, tree.num_examples(data))  # [b]
    return jax.tree.map(lambda x: x[index], data)


def _order(key: Key, i: Array, n: int) -> Array:
    return jax.random.permutation(jax.random.fold_in(key, i), n)  # [n]


def _drawn(batch_size: int, key: Key, step: Array, n: int) -> Array:
    return _order(key, step, n)[:batch_size]


def _independent(batch_size: int, key: Key, step: Array, n: int) -> Array:
    return jax.random.randint(jax.random.fold_in(key, step), (batch_size,), 0, n)


def _in_epochs(batch_size: int, key: Key, step: Array, n: int) -> Array:
    # draw step · b is place `start % n` of epoch step · b // n; written so that no integer passes lcm(n, b)
    common = math.gcd(n, batch_size)
    cycle, phase = jnp.divmod(step, n // common)
    start = phase * batch_size
    epoch = cycle * (batch_size // common) + start // n
    order = _order(key, epoch, n)
    if common != batch_size:
        order = jnp.concatenate([order, _order(key, epoch + 1, n)])
    return order[start % n + jnp.arange(batch_size)]
