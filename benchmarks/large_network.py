"""How much memory do curvature and spectrum take where p is large?

An MLP with ten million parameters: one Hessian product over 20,000 examples in chunks, and the five largest eigenpairs on
1,000 examples with a Krylov depth of 12, each in a process of its own, so that the peak is its own too. Reported are the
peak of resident memory above what the process held before the call (data, parameters, compiled program) and, for the
compiler's own account, the sizes of its temporary and output buffers.

    python -m benchmarks.large_network [--write]
"""

import json
import multiprocessing
import resource
import sys
import time

from benchmarks._results import keep, options

LONG = True
WIDTHS = (2900, 2440)  # p = 10,005,750 with 1,000 inputs and 10 outputs


def resident() -> float:
    """MiB now."""
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS")) / 2**10


def peak() -> float:
    """MiB at most, so far."""
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def prepared(num_examples: int):
    import jax

    import landscape_jax as lj

    model = lj.models.mlp(WIDTHS, 10)
    loss = lj.losses.mean(model.apply, lj.losses.cross_entropy)
    x_key, y_key, init_key, v_key = jax.random.split(jax.random.key(0), 4)
    x = jax.random.normal(x_key, (num_examples, 1000))
    y = jax.random.randint(y_key, (num_examples,), 0, 10)
    params = jax.jit(model.init)(init_key, x[:1])
    v = jax.jit(lj.tree.normal_like)(v_key, params)
    return lj, jax.block_until_ready((params, (x, y), v)), loss


def measured(compiled, arguments, extra) -> dict:
    import jax

    before = resident()
    begun = time.perf_counter()
    out = jax.block_until_ready(compiled(*arguments))
    account = compiled.memory_analysis()
    return {
        "seconds": round(time.perf_counter() - begun, 1),
        "peak_above_start_mib": round(peak() - before),
        "temporaries_mib": round(account.temp_size_in_bytes / 2**20),
        "outputs_mib": round(account.output_size_in_bytes / 2**20),
    } | extra(out)


def product() -> dict:
    import jax

    lj, arguments, loss = prepared(20_000)
    curvature = lj.curvature.chunked(lj.curvature.hessian(loss), 20)
    compiled = jax.jit(lambda params, batch, v: curvature(params, batch)(v)).lower(*arguments).compile()
    return measured(compiled, arguments, lambda out: {"p": lj.tree.size(out)})


def eigenpairs() -> dict:
    import jax

    lj, arguments, loss = prepared(1000)
    curvature = lj.curvature.chunked(lj.curvature.hessian(loss), 4)

    def solve(params, batch, v):
        return lj.spectrum.eigsh(curvature(params, batch), v, k=5, depth=12, tol=1e-3)

    compiled = jax.jit(solve).lower(*arguments).compile()

    def told(eigs) -> dict:
        return {
            "values": [round(float(x), 4) for x in eigs.values],
            "residuals": [round(float(x), 6) for x in eigs.residuals],
            "converged": bool(eigs.converged),
            "products": int(eigs.products),
        }

    return measured(compiled, arguments, told)


def main() -> None:
    write = options(__doc__).parse_args().write
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        answer = {task.__name__: pool.apply(task) for task in (product, eigenpairs)}
    print(json.dumps(answer, indent=2))
    if write:
        keep(__file__, answer)


def row(figures: dict) -> tuple[str, str]:
    one, five = figures["product"], figures["eigenpairs"]
    return (
        f"Memory above data and compiled program, p = {one['p'] / 1e6:.0f} million: a Hessian product over 20,000 examples in "
        "20 chunks; the five largest eigenpairs on 1,000 examples, Krylov depth 12",
        f"{one['peak_above_start_mib']:,} MiB, {one['seconds']:.1f} s; {five['peak_above_start_mib']:,} MiB, "
        f"{five['products']} products, {five['seconds']:.0f} s",
    )


if __name__ == "__main__":
    main()
