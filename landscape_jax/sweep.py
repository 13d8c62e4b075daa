"""Many runs as one array program."""

import jax


def grid(fn, *, looped: int | None = None):
    """The outer product of a function over its array arguments, compiled as one program.

    `grid(fn)(xs [a], ys [b])` has leaves [a, b, ...]: entry (i, j) is `fn(xs[i], ys[j])`. Every leaf of every argument
    needs a leading axis, one per argument.

    Args:
      fn: a function of one or more pytrees of arrays.
      looped: how many of the leading arguments are gone through one by one (`lax.map`), the rest being vmapped. The
        default is none on accelerators, where vmap fills the machine, and all on a CPU: there batched small products are
        no faster than one after the other, and in a vmapped `while` (the sharpness tracker) all runs wait for the slowest.

    Cost: len(xs) · len(ys) · … times that of `fn`; as much memory, divided by the lengths of the looped arguments.
    """

    @jax.jit
    def outer(*args):
        loops = (len(args) if jax.default_backend() == "cpu" else 0) if looped is None else looped
        return _product(fn, args, (), loops)

    return outer


def _product(fn, left: tuple, fixed: tuple, loops: int):
    """fn over all combinations of entries of the arguments that are left, the first `loops` of them by a loop."""
    if not left:
        return fn(*fixed)
    first, *rest = left

    def one(x):
        return _product(fn, tuple(rest), (*fixed, x), loops - 1)

    return jax.lax.map(one, first) if loops > 0 else jax.vmap(one)(first)
