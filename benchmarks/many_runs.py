"""What do 512 runs (32 seeds × 16 learning rates) cost in one call, against a Python loop over the same compiled single run?

    python -m benchmarks.many_runs [--write]

Digits, 500 examples, tanh network 64-32-10, 100 steps with sharpness every 10. The loop makes its calls one after the
other on one device; `sweep.grid` is one program on one device, `sweep.sharded(sweep.grid(...))` one program on all. A CPU
counts as one device a core. Times are without compilation, the better of two in turns, so that a busy machine is fair to all.
"""

import json
import os
import time

import jax

if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    jax.config.update("jax_num_cpu_devices", os.cpu_count())

import jax.numpy as jnp
import numpy as np
import optax

import landscape_jax as lj
from benchmarks._results import keep, options

LONG = True
SEEDS, RATES, STEPS, EVERY, EXAMPLES, WIDTH = 32, 16, 100, 10, 500, 32


def main() -> None:
    write = options(__doc__).parse_args().write
    train, _ = lj.data.digits(EXAMPLES)
    model = lj.models.mlp((WIDTH,), 10)
    loss = lj.losses.mean(model.apply, lj.losses.square)
    watch = {"loss": lj.observe.loss, "sharpness": lj.observe.sharpness(lj.curvature.hessian(loss))}

    def trained(key, rate):
        gd = lj.dynamics.gradient(loss, optax.sgd(rate), lj.data.full_batch(train))
        final, record = lj.run(key, model.init(jax.random.clone(key), train[0]), gd, watch, num_steps=STEPS, every=EVERY)
        return record, final.status

    keys, rates = jax.random.split(jax.random.key(0), SEEDS), jnp.geomspace(0.01, 1.0, RATES)
    one = jax.jit(trained)

    def looped(keys, rates):
        return [jax.device_get(one(key, rate)) for key in keys for rate in rates]

    grid = lj.sweep.grid(trained)
    ways = {
        "loop": looped,
        "grid": grid,
        "grid, side by side": lj.sweep.chunked(grid, 32),
        "sharded grid": lj.sweep.sharded(grid),
        "sharded grid, side by side": lj.sweep.sharded(lj.sweep.chunked(grid, 16)),
    }
    seconds, results = {}, {}
    for name, way in ways.items():  # compile
        begun = time.perf_counter()
        results[name] = jax.device_get(way(keys, rates))
        print(f"{name}: {time.perf_counter() - begun:.1f} s with compilation", flush=True)
    for _ in range(2):
        for name, way in ways.items():
            begun = time.perf_counter()
            jax.block_until_ready(way(keys, rates))
            seconds[name] = min(seconds.get(name, np.inf), time.perf_counter() - begun)
    first = np.stack([record["loss"] for record, _ in results["loop"]]).reshape(SEEDS, RATES, -1)
    trains = np.nanmax(first, axis=-1) <= first[..., 0]  # a run that diverges amplifies the last bit
    for name in ways:
        if name != "loop":
            np.testing.assert_allclose(results[name][0]["loss"][trains], first[trains], rtol=1e-3, err_msg=name)
    told = {
        "question": " ".join(__doc__.splitlines()[0].split()),
        "seeds": SEEDS,
        "rates": RATES,
        "steps": STEPS,
        "every": EVERY,
        "examples": EXAMPLES,
        "devices": jax.device_count(),
        "parameters": lj.tree.size(model.init(jax.random.key(0), train[0])),
        "runs compared": int(trains.sum()),
        "seconds": {name: round(s, 2) for name, s in seconds.items()},
        "times as fast as the loop": {name: round(seconds["loop"] / s, 2) for name, s in seconds.items() if name != "loop"},
    }
    print(json.dumps(told, indent=2))
    if write:
        keep(__file__, told)


def row(figures: dict) -> tuple[str, str]:
    f, s, fast = figures, figures["seconds"], figures["times as fast as the loop"]
    return (
        f"{f['seeds'] * f['rates']} runs ({f['seeds']} seeds × {f['rates']} rates, p = {f['parameters']:,}, {f['examples']} "
        f"digits, {f['steps']} steps, sharpness every {f['every']}): one call against a Python loop over the same compiled run",
        f"loop {s['loop']:.1f} s; `grid` {s['grid']:.1f} s ({fast['grid']:.2f} ×); `sharded(grid)`, a device a core, "
        f"{s['sharded grid']:.1f} s ({fast['sharded grid']:.2f} ×); side by side under vmap "
        f"{fast['grid, side by side']:.2f} × and {fast['sharded grid, side by side']:.2f} ×",
    )


if __name__ == "__main__":
    main()
