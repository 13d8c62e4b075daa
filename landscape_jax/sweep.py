"""Many runs as one array program."""

import jax


def grid(fn):
    """The outer product of a function over its array arguments, compiled as one program.

    `grid(fn)(xs [a], ys [b])` has leaves [a, b, ...]: entry (i, j) is `fn(xs[i], ys[j])`. Every leaf of every argument
    needs a leading axis, one per argument.

    Cost: len(xs) · len(ys) · … times that of `fn`, and as much memory, all at once.
    """

    @jax.jit
    def outer(*args):
        mapped = fn
        for i in reversed(range(len(args))):
            mapped = jax.vmap(mapped, in_axes=tuple(0 if j == i else None for j in range(len(args))))
        return mapped(*args)

    return outer
