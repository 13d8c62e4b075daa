"""How do time and memory grow with p, n, k, m and the number of runs?

    python -m benchmarks.scaling [--axes p n k m runs] [--write]

One axis at a time, the others held small; synthetic data (Gaussian inputs, labels by turns), tanh networks, square loss:

    p      32-w-w-10, w = 15 to 3,130, n = 32: one Hessian product, and eigsh with 8 products
    n      64-100-100-10 (p = 17,610): one Hessian product
    k      32-64-64-10 (p = 6,922), n = 200: eigsh to a tolerance of 1e-3, and the products it takes
    m      32-w-w-10, w = 120 and 300, n = 32: eigsh with num_steps = m, which orthogonalises at up to 4 m² p multiply-adds
    runs   64-16-10 (p = 1,210), n = 100: 100 steps with sharpness every 10, one sharded grid

Seconds: medians of compiled calls. Memory: the compiler's account of a program's temporary buffers
(`compiled.memory_analysis()`), of one device; arguments and results are not in it. Exponents: least squares of logarithms over
the upper half of each axis; near 1 is linear growth. `--write` keeps the figures in results/<device>.json and draws
results/scaling-<device>.png. Three minutes on two cores, 1.5 GB at p = 10 million. Fails when an eigenvalue has not converged
or a longer sweep gives other runs.
"""

import json
import os
import statistics
import time
from typing import Any

import jax

if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    jax.config.update("jax_num_cpu_devices", os.cpu_count())

import jax.numpy as jnp
import matplotlib
import matplotlib.ticker
import numpy as np
import optax
from matplotlib.figure import Figure

import landscape_jax as lj
from benchmarks._results import RESULTS, device, keep, options

AXES = {
    "p": (15, 42, 120, 300, 980, 3130),  # widths
    "n": (64, 256, 1024, 4096, 16384),
    "k": (1, 2, 5, 10, 20),
    "m": (8, 16, 24, 32, 48, 64),
    "runs": (2, 4, 8, 16, 32, 64),
}
TITLES = {
    "p": "parameters p",
    "n": "examples n",
    "k": "eigenpairs k",
    "m": "Krylov depth m",
    "runs": "runs r in a sweep",
}
LEAST, TOL = 0.5, 1e-3  # seconds that the calls of one point take together; of eigsh


def problem(widths: tuple[int, ...], n: int):
    """Loss, θ, batch, and a vector shaped like θ."""
    inputs, *hidden, outputs = widths
    model = lj.models.mlp(hidden, outputs, activation=jnp.tanh)
    x_key, init_key, v_key = jax.random.split(jax.random.key(0), 3)
    batch = jax.random.normal(x_key, (n, inputs)), jax.nn.one_hot(jnp.arange(n) % outputs, outputs)
    params = jax.jit(model.init)(init_key, batch[0][:1])
    return lj.losses.mean(model.apply, lj.losses.square), params, batch, jax.jit(lj.tree.normal_like)(v_key, params)


def point(fn, *given) -> tuple[dict, Any]:
    """Seconds and bytes of a function of arrays, compiled; and its result."""
    compiled = jax.jit(fn).lower(*given).compile()
    result, times = jax.block_until_ready(compiled(*given)), []
    while len(times) < 3 or sum(times) < LEAST:
        begun = time.perf_counter()
        jax.block_until_ready(compiled(*given))
        times.append(time.perf_counter() - begun)
    return {"seconds": statistics.median(times), "bytes": compiled.memory_analysis().temp_size_in_bytes}, result


def product(loss, params, batch, v) -> dict:
    hessian = lj.curvature.hessian(loss)
    return point(lambda params, batch, v: hessian(params, batch)(v), params, batch, v)[0]


def eigenpairs(loss, params, batch, v, **options) -> tuple[dict, lj.types.Eigs]:
    matvec = lj.curvature.linearized_hessian(loss)
    return point(lambda params, batch, v: lj.spectrum.eigsh(matvec(params, batch), v, **options), params, batch, v)


def along_p(widths):
    for width in widths:
        given = problem((32, width, width, 10), 32)
        size = lj.tree.size(given[1])
        yield size, {"product": product(*given), "eigsh, 8 products": eigenpairs(*given, k=1, num_steps=8)[0]}


def along_n(lengths):
    for n in lengths:
        yield n, {"product": product(*problem((64, 100, 100, 10), n))}


def along_k(counts):
    given = problem((32, 64, 64, 10), 200)
    for k in counts:
        figures, eigs = eigenpairs(*given, k=k, tol=TOL)
        if not bool(eigs.converged):
            raise SystemExit(f"eigsh, k = {k}: residuals {eigs.residuals} after {eigs.products} products")
        yield k, {"eigsh": figures | {"products": int(eigs.products)}}


def along_m(depths):
    networks = [problem((32, width, width, 10), 32) for width in (120, 300)]
    for m in depths:
        yield m, {f"p = {lj.tree.size(given[1]):,}": eigenpairs(*given, k=1, num_steps=m)[0] for given in networks}


def along_runs(counts):
    loss, params, batch, _ = problem((64, 16, 10), 100)
    watch = {"loss": lj.observe.loss, "sharpness": lj.observe.sharpness(lj.curvature.hessian(loss))}

    def trained(seed, batch):
        key = jax.random.fold_in(jax.random.key(1), seed)
        start = lj.tree.axpy(0.1, lj.tree.normal_like(key, params), params)
        gd = lj.dynamics.gradient(loss, optax.sgd(0.05), lj.data.full_batch(batch))
        return lj.run(key, start, gd, watch, num_steps=100, every=10)[1]

    first = None
    for count in counts:
        sweep = lj.sweep.sharded(lj.sweep.grid(lambda seed: trained(seed, batch)))
        figures, record = point(sweep, jnp.arange(count))
        losses = np.asarray(record["loss"])[: counts[0]]
        first = losses if first is None else first
        np.testing.assert_allclose(losses, first, rtol=1e-4, err_msg=f"the first runs of {count} are not those of {counts[0]}")
        yield count, {"sweep": figures}


WALKS = {"p": along_p, "n": along_n, "k": along_k, "m": along_m, "runs": along_runs}


def measured(axis: str) -> dict:
    """The points of an axis, and {work: {"at", "seconds", "bytes", ..., "exponents"}}."""
    works: dict[str, dict] = {}
    for at, figures in WALKS[axis](AXES[axis]):
        took = ", ".join(f"{work} {1e3 * values['seconds']:.3g} ms" for work, values in figures.items())
        print(f"{axis} = {at:,}: {took}", flush=True)
        for work, values in figures.items():
            for name, value in (values | {axis: at}).items():
                works.setdefault(work, {}).setdefault(name, []).append(value)
    for work in works.values():
        work["exponents"] = {name: exponent(work[axis], work[name]) for name in ("seconds", "bytes")}
        work["seconds"] = [float(f"{x:.4g}") for x in work["seconds"]]
    return works


def exponent(at: list[float], values: list[float]) -> float:
    """Of a power law through the upper half of the points; NaN where something is nothing."""
    x, y = (np.log(np.array(z[len(z) // 2 :], float)) for z in (at, values))
    return round(float(np.polyfit(x, y, 1)[0]), 2) if np.isfinite(y).all() else float("nan")


def drawn(axes: dict[str, dict]) -> Figure:
    """Time above, memory below, against each axis; the fitted power laws dashed over the points they were fitted to."""
    with matplotlib.rc_context(lj.plots.STYLE):
        figure = Figure(figsize=(2.15 * len(axes), 4.6), dpi=200)
        panels = figure.subplots(2, len(axes), sharex="col", squeeze=False)
        for column, (axis, works) in zip(panels.T, axes.items(), strict=True):
            for panel, name, unit in zip(column, ("seconds", "bytes"), (1e-3, 2**20), strict=True):
                laws = []
                for (work, told), marker, colour in zip(works.items(), "os", lj.plots.colours(2), strict=False):
                    x, y = np.array(told[axis], float), np.array(told[name]) / unit
                    panel.loglog(x, y, marker, color=colour, ms=4, label=work)
                    slope, x, y = told["exponents"][name], x[len(x) // 2 :], y[len(x) // 2 :]
                    panel.loglog(x, np.exp(np.mean(np.log(y / x**slope))) * x**slope, color=colour, ls="--", lw=1, zorder=1)
                    laws.append((f"{work}: " if len(works) > 1 else "") + f"∝ {axis[0]}$^{{{slope:.2f}}}$")
                panel.set_title("\n".join(laws), fontsize=8.5)
                decades(panel)
            ticked(column[1], next(iter(works.values()))[axis])
            column[1].set_xlabel(TITLES[axis])
            if len(works) > 1:
                column[1].legend(loc="lower right", fontsize=7, handletextpad=0.1, borderpad=0.1)
        panels[0, 0].set_ylabel("time, ms")
        panels[1, 0].set_ylabel("temporary memory, MiB")
        return figure


def decades(panel) -> None:
    """Whole decades, and their numbers in full."""
    low, high = (np.log10(x) for x in panel.dataLim.intervaly)
    panel.set_ylim(10 ** np.floor(low - 0.05), 10 ** np.ceil(high + 0.05))
    panel.yaxis.set_major_locator(matplotlib.ticker.LogLocator(numticks=5))
    panel.yaxis.set_major_formatter(lambda x, _: f"{x:,.10g}")
    panel.yaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())


def ticked(panel, points: list[int]) -> None:
    """A short axis has its points for ticks, a long one powers of ten."""
    if max(points) <= 100:
        panel.set_xticks(points, labels=[str(x) for x in points])
        panel.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
    else:
        panel.xaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--axes", nargs="+", choices=tuple(AXES), default=list(AXES))
    asked = parser.parse_args()
    told: dict = {axis: measured(axis) for axis in asked.axes}
    print(json.dumps(told, indent=2, ensure_ascii=False))
    if asked.write:
        keep(__file__, told)
        drawn(told).savefig(RESULTS / f"scaling-{device()}.png")


def row(figures: dict) -> tuple[str, str]:
    def told(axis: str) -> str:
        each = (f"{work} {f['exponents']['seconds']:.2f} ({f['exponents']['bytes']:.2f})" for work, f in figures[axis].items())
        return f"{TITLES[axis]}: {', '.join(each)}"

    return (
        "Exponents of time (of memory) along p = 10³ … 10⁷, n, k, Krylov depth and runs, over the upper half of each axis",
        "; ".join(told(axis) for axis in AXES if axis in figures),
    )


if __name__ == "__main__":
    main()
