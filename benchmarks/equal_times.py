"""What do trainings of equal time η · steps, from 837 to 31,831 steps long, cost: one at a time, or as one program?

    python -m benchmarks.equal_times [--write]

The sparse-coding network (d = 200, n = 300) at seven steps η, each for time 10, with loss, sharpness and bias at 100 places.
One at a time: one call of a compiled training for each, whatever its length, of the network as defined and of the same by
look-up (`theory.hinges`). Side by side: all under vmap, where every run waits for the longest. The sweep: dealt to the devices,
each training its own number of steps. Compilation is left out. `--write` adds the numbers to results/<device>.json.
"""

import json
import os
import time

import jax

if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    jax.config.update("jax_num_cpu_devices", os.cpu_count())

import jax.numpy as jnp
import numpy as np

import landscape_jax as lj
from benchmarks._results import keep, options
from experiments import _ahn2023_network as networks
from landscape_jax.theory import hinges, sparse_coding

LONG = True
DIM, N, SIGNAL, TIME, RECORDS, DRAWS = 200, 300, 3.0, 10.0, 100, 4
RATIOS = np.array([0.5, 0.8, 1.15, 1.3, 1.6, 5.0, 19.0])


def seconds(fn, draws: int = 1) -> tuple[float, float]:
    """Of the second call, by the clock and of all cores together, a draw: the first compiles."""
    jax.block_until_ready(fn())
    begun, worked = time.perf_counter(), time.process_time()
    jax.block_until_ready(fn())
    return (time.perf_counter() - begun) / draws, (time.process_time() - worked) / draws


def main() -> None:
    write = options(__doc__).parse_args().write
    draws = [lj.data.sparse_coding(jax.random.key(200 + i), N, DIM, SIGNAL) for i in range(DRAWS)]
    tables = hinges.stacked([networks.tabulated(x) for x, _ in draws]), np.stack([y for _, y in draws])
    tables = jax.tree.map(jnp.asarray, tables)
    which, ratio = (x.ravel() for x in np.meshgrid(np.arange(DRAWS, dtype=np.int32), RATIOS, indexing="ij"))
    rates = (ratio * sparse_coding.critical_rate(DIM)).astype(np.float32)
    start = np.full(len(rates), (0.5 / DIM) ** 0.5, np.float32)
    params = {"minus": start, "plus": start, "bias": 0 * start}
    runs = networks.Runs(which, params, rates, networks.steps_within(TIME, rates))
    each = [jax.tree.map(lambda x, i=i: x[i], tables) for i in range(DRAWS)]
    few = len(RATIOS)  # one draw
    plain = lj.losses.mean(sparse_coding.apply, lj.losses.logistic)

    def one_by_one(loss, batches, count: int):
        @jax.jit
        def one(batch, params, rate, num_steps):
            return networks.trained(loss, batch, params, rate, num_steps, RECORDS, {"bias": networks.BIAS})

        own = [jax.tree.map(lambda x, i=i: jnp.asarray(x[i]), runs) for i in range(count)]
        return lambda: [jax.block_until_ready(one(batches[int(r.table)], r.params, r.rate, r.num_steps)) for r in own]

    @jax.jit
    def side_by_side(runs, tables):
        def one(run, tables):
            batch = jax.tree.map(lambda x: x[run.table], tables)
            return networks.trained(networks.loss, batch, run.params, run.rate, run.num_steps, RECORDS, {"bias": networks.BIAS})

        return lj.sweep.over_runs(one, size=few)(runs, tables)

    of_one = jax.tree.map(lambda x: jnp.asarray(x[:few]), runs)
    took = {
        "one at a time, as defined": seconds(one_by_one(plain, draws, few)),
        "one at a time, by look-up": seconds(one_by_one(networks.loss, each, few)),
        "side by side under vmap, by look-up": seconds(lambda: side_by_side(of_one, tables)),
        "the sweep": seconds(lambda: networks.train_all(runs, tables, RECORDS), DRAWS),
    }
    first = took["one at a time, as defined"]
    told = {
        "question": " ".join(__doc__.splitlines()[0].split()),
        "dim": DIM,
        "examples": N,
        "draws in the sweep": DRAWS,
        "steps in a draw": int(runs.num_steps[:few].sum()),
        "devices": jax.device_count(),
        "seconds a draw": {name: round(wall, 2) for name, (wall, _) in took.items()},
        "core seconds a draw": {name: round(cores, 2) for name, (_, cores) in took.items()},
        "times as fast as the first": {name: round(first[0] / wall, 2) for name, (wall, _) in took.items()},
        "times less core time": {name: round(first[1] / cores, 2) for name, (_, cores) in took.items()},
    }
    print(json.dumps(told, indent=2, ensure_ascii=False))
    if write:
        keep(__file__, told)


def row(figures: dict) -> tuple[str, str]:
    f, wall, cores = figures, figures["seconds a draw"], figures["core seconds a draw"]

    def took(way: str) -> str:
        return f"{wall[way]:.1f} ({cores[way]:.1f})"

    return (
        f"Trainings of equal time η · steps (seven rates, 837 to 31,831 steps, p = 3, {f['examples']} examples), seconds for "
        "the seven by the clock (core seconds)",
        f"one at a time, network as defined {took('one at a time, as defined')}; "
        f"by look-up {took('one at a time, by look-up')}; side by side under vmap, all waiting for the longest, "
        f"{took('side by side under vmap, by look-up')}; the sweep {took('the sweep')}: "
        f"{f['times as fast as the first']['the sweep']:.1f} × faster",
    )


if __name__ == "__main__":
    main()
