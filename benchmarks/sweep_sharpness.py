"""How long do 64 seeds × 16 learning rates × 200 steps of a small network take, with sharpness, in one call?

    python -m benchmarks.sweep_sharpness [--write]

One `sweep.grid` over a plain `lj.run`, compilation included, and once more without. `--write` adds the numbers to
results/<device>.json.
"""

import json
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

import landscape_jax as lj
from benchmarks._results import keep, options

SEEDS, RATES, STEPS, EVERY, EXAMPLES, WIDTH = 64, 16, 200, 10, 64, 8


def main() -> None:
    write = options(__doc__).parse_args().write
    train, _ = lj.data.digits(EXAMPLES)
    model = lj.models.mlp((WIDTH,), 10)
    loss = lj.losses.mean(model.apply, lj.losses.square)
    watch = {"loss": lj.observe.loss, "sharpness": lj.observe.sharpness(lj.curvature.hessian(loss))}

    def trained(key, rate):
        init_key, run_key = jax.random.split(key)
        gd = lj.dynamics.gradient(loss, optax.sgd(rate), lj.data.full_batch(train))
        final, record = lj.run(run_key, model.init(init_key, train[0]), gd, watch, num_steps=STEPS, every=EVERY)
        return record, final.status

    sweep = lj.sweep.grid(trained)
    arguments = jax.random.split(jax.random.key(0), SEEDS), jnp.geomspace(0.01, 1.0, RATES)
    seconds = []
    for _ in range(2):
        begun = time.perf_counter()
        record, status = jax.block_until_ready(sweep(*arguments))
        seconds.append(round(time.perf_counter() - begun, 2))
    told = {
        "question": " ".join(__doc__.splitlines()[0].split()),
        "seeds": SEEDS,
        "rates": RATES,
        "steps": STEPS,
        "every": EVERY,
        "examples": EXAMPLES,
        "parameters": lj.tree.size(model.init(jax.random.key(0), train[0])),
        "seconds with compilation": seconds[0],
        "seconds without": seconds[1],
        "diverged": int(np.sum(np.asarray(status) == lj.Status.DIVERGED)),
    }
    print(json.dumps(told, indent=2))
    if write:
        keep(__file__, told)


def row(figures: dict) -> tuple[str, str]:
    f = figures
    return (
        f"{f['seeds']} seeds × {f['rates']} learning rates × {f['steps']} steps (p = {f['parameters']:,}, "
        f"{f['examples']} digits, sharpness every {f['every']} steps) in one call",
        f"{f['seconds with compilation']:.1f} s with compilation, {f['seconds without']:.1f} s without",
    )


if __name__ == "__main__":
    main()
