"""What a machine computes and moves, by measurement, and what a network's gradient and Hessian product ask of it, by count.

A layer is one matrix product of its inputs [rows, fan in] with its weights [fan in, fan out]; a convolution's rows are its
n · h · w places, its fan in the pixels under the kernel. Three products go over each layer's three arrays: forwards (to
its outputs), backwards to the weights, and, but for the first layer, backwards to the inputs. A gradient takes each once.
A Hessian product takes the tangent of each, by the product rule two of its kind; the first layer's inputs have no tangent:

    gradient   first layer 1 + 1, others 1 + 1 + 1;     one more product   first layer 1 + 1, others 2 + 2 + 2.

Operations are 2 · rows · fan in · fan out each, bytes 4 · (inputs + weights + outputs) each, an array being moved once a
product (a convolution's inputs are its pixels, not its patches). Activations, pools and sums over examples are not counted.
"""

from typing import NamedTuple

from benchmarks._turns import CORES, Program

KINDS = ("forwards", "to weights", "to inputs")
PASSES = {"gradient": ((1, 1, 0), (1, 1, 1)), "product": ((1, 1, 0), (2, 2, 2))}  # first layer, others; by kind
WORDS = 2**26  # 256 MiB
ROWS = 20  # of Q, as many as a short Krylov basis has


class Layer(NamedTuple):
    rows: int
    fan_in: int
    fan_out: int
    inputs: int  # numbers that come in

    @property
    def shape(self) -> str:
        return f"{self.rows} × {self.fan_in} × {self.fan_out}"

    @property
    def operations(self) -> int:
        return 2 * self.rows * self.fan_in * self.fan_out

    @property
    def bytes(self) -> int:
        return 4 * (self.inputs + self.fan_in * self.fan_out + self.rows * self.fan_out)


def dense(n: int, widths: tuple[int, ...]) -> list[Layer]:
    return [Layer(n, i, o, n * i) for i, o in zip(widths[:-1], widths[1:], strict=True)]


def passes(layers: list[Layer], work: str):
    """(layer, kind, times) of a gradient, or of one more product."""
    for at, layer in enumerate(layers):
        yield from ((layer, kind, times) for kind, times in zip(KINDS, PASSES[work][at > 0], strict=True) if times)


def counted(layers: list[Layer], work: str) -> dict:
    each = list(passes(layers, work))
    return {
        "operations": sum(times * layer.operations for layer, _, times in each),
        "bytes": sum(times * layer.bytes for layer, _, times in each),
    }


def alone(layers: list[Layer], work: str, seconds: dict[str, float]) -> float:
    """The seconds of the bare matrix products, from the measured seconds of each."""
    return sum(times * seconds[f"{layer.shape} {kind}"] for layer, kind, times in passes(layers, work))


def in_jax(layers: list[Layer], p: int):
    """{name: Program} of XLA: matrix products in a loop of their own, and what moves memory."""
    import jax
    import jax.numpy as jnp

    from landscape_jax.backend import layout

    def looped(step, start):
        """count ↦ a call that takes so many steps, in one program for all counts."""

        @jax.jit
        def go(given, count):
            return jax.lax.fori_loop(0, count, lambda _, given: step(*given), given)

        return lambda count: lambda: jax.block_until_ready(go(start, count))

    def again(product):
        """The same product once more: the barrier makes its factors look new."""

        def step(one, two, last):
            one, two, last = jax.lax.optimization_barrier((one, two, last))
            return one, two, product(one, two)

        return step

    normal = lambda i, *shape: jax.random.normal(jax.random.key(i), shape)  # noqa: E731
    programs = {}
    for layer in dict.fromkeys(layers):
        x, w = normal(0, layer.rows, layer.fan_in), normal(1, layer.fan_in, layer.fan_out)
        d = normal(2, layer.rows, layer.fan_out)
        transposed = layout.prefers_transposed(layer.fan_in, layer.fan_out)  # then `models.dense` computes Δᵀ X
        forms = jnp.matmul, (lambda x, d: d.T @ x) if transposed else (lambda x, d: x.T @ d), lambda d, w: d @ w.T
        for kind, form, one, two in zip(KINDS, forms, (x, x, d), (w, d, w), strict=True):
            count = repeats(layer.operations)
            run = looped(again(form), (one, two, form(one, two)))
            programs[f"{layer.shape} {kind}"] = Program(run(1 + count), run(1), count)
    q, v = normal(3, ROWS, p), normal(4, p)
    for name, form, one, two in (("Q w", jnp.matmul, q, v), ("Qᵀ c", lambda q, c: c @ q, q, q @ v)):
        run = looped(again(form), (one, two, form(one, two)))
        programs[name] = Program(run(11), run(1), 10)
    a, b = jnp.ones(WORDS), jnp.ones(WORDS)
    for name, step, start in (
        ("copy", lambda a: (-a,), (a,)),
        ("triad", lambda a, b: (a * 0.5 + b, b), (a, b)),
    ):
        run = looped(step, start)
        programs[name] = Program(run(5), run(1), 4)
    for program in programs.values():
        program.run(), program.less()  # compile
    return programs, None


def in_torch(layers: list[Layer], p: int):
    """{name: Program} of torch's kernels, with outputs in place."""
    import torch

    torch.set_num_threads(CORES)
    torch.manual_seed(0)
    programs = {}

    def repeated(call, count):
        def run():
            for _ in range(count):
                call()

        return Program(run, None, count)

    for layer in dict.fromkeys(layers):
        x, w = torch.randn(layer.rows, layer.fan_in), torch.randn(layer.fan_in, layer.fan_out)
        d = torch.randn(layer.rows, layer.fan_out)
        for kind, one, two in zip(KINDS, (x, x.T, d), (w, d, w.T), strict=True):
            out = torch.empty(one.shape[0], two.shape[1])
            call = lambda one=one, two=two, out=out: torch.mm(one, two, out=out)  # noqa: E731
            programs[f"{layer.shape} {kind}"] = repeated(call, repeats(layer.operations))
    q, v, left, right = torch.randn(ROWS, p), torch.randn(p), torch.empty(ROWS), torch.empty(p)
    programs["Q w"] = repeated(lambda: torch.mv(q, v, out=left), 10)
    programs["Qᵀ c"] = repeated(lambda: torch.mv(q.T, left, out=right), 10)
    a, b = torch.ones(WORDS), torch.ones(WORDS)
    programs["copy"] = repeated(lambda: torch.neg(a, out=a), 4)
    programs["triad"] = repeated(lambda: torch.add(b, a, alpha=0.5, out=a), 4)
    return programs, None


def repeats(operations: int) -> int:
    """So many that clock and call don't count: a fiftieth of a second at 100 GFLOP/s."""
    return max(2, round(2e9 / operations))


def moved(p: int) -> dict[str, int]:
    """Bytes by program: each array read or written once."""
    return {"copy": 8 * WORDS, "triad": 12 * WORDS, "Q w": 4 * ROWS * p, "Qᵀ c": 4 * ROWS * p}
