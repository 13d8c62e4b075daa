"""How many short trainings a second: the mapped grid of the phase diagram, or the same code run one by one?

    python -m benchmarks.phase_diagram [--write]

Ten steps at each of 21 values of c from 10 initialisations of one network (depth 4, width 64, 128 digits), with and without
sharpness at every step, and the line to the start walked: as one `sweep.grid` over starts and rows of c, and as 210 calls of
one jitted function. Compilation is left out of both. `--write` adds the numbers to results/<device>.json.
"""

import functools
import json
import os
import time

import jax

if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    jax.config.update("jax_num_cpu_devices", os.cpu_count())

import jax.numpy as jnp

from benchmarks._results import keep, options
from experiments import _kalra2023_first_steps as early
from experiments import kalra2023_phase_diagram as kalra

DEPTH, WIDTH, INITS = 4, 64, 10


def seconds(fn) -> float:
    """Of the second call: the first compiles."""
    jax.block_until_ready(fn())
    begun = time.perf_counter()
    jax.block_until_ready(fn())
    return time.perf_counter() - begun


def main() -> None:
    write = options(__doc__).parse_args().write
    config = kalra.SMALL
    train = kalra.training_set(config, config.n_train)
    begin = jax.jit(functools.partial(kalra.begin, config, DEPTH, WIDTH))
    starts = begin(train, jax.random.split(jax.random.key(0), INITS), jnp.ones(INITS))
    cs = jnp.asarray(config.cs, jnp.float32)
    together = jax.jit(functools.partial(kalra.train_all, config, DEPTH, WIDTH))
    task = functools.partial(kalra.task, config, depth=DEPTH, width=WIDTH)
    given = dict(num_steps=config.num_steps, ceiling=config.ceiling, num_between=config.num_between)

    @jax.jit
    def alone(train, start, c, sharp, line):
        return early.first_steps(task(train=train), start, c, sharp, line, **given)

    def one_by_one(sharp):
        each = [jax.tree.map(lambda x, i=i: x[i], starts) for i in range(INITS)]
        return [alone(train, start, c, sharp, jnp.array(True)) for start in each for c in cs]

    count = INITS * len(cs)
    told = {
        "question": " ".join(__doc__.splitlines()[0].split()),
        "depth": DEPTH,
        "width": WIDTH,
        "examples": config.n_train,
        "trainings": count,
        "steps": config.num_steps,
        "devices": jax.device_count(),
    }
    walked = jnp.ones((INITS, len(cs)), bool)
    for name, sharp in (("with sharpness", True), ("without", False)):
        grid, wanted = jnp.broadcast_to(cs, (INITS, len(cs))), jnp.full((INITS, len(cs)), sharp)
        mapped = seconds(lambda grid=grid, wanted=wanted: together(train, starts, grid, wanted, walked))
        single = seconds(lambda sharp=sharp: one_by_one(jnp.asarray(sharp)))
        told |= {f"trainings a second, mapped, {name}": round(count / mapped, 1)}
        told |= {f"trainings a second, one by one, {name}": round(count / single, 1)}
    print(json.dumps(told, indent=2))
    if write:
        keep(__file__, told)


def row(figures: dict) -> tuple[str, str]:
    f = figures

    def ways(which: str) -> tuple[str, str]:
        mapped, single = (f[f"trainings a second, {way}, {which}"] for way in ("mapped", "one by one"))
        return f"{which} {mapped:,.0f} against {single:,.0f}", f"({mapped / single:.1f} ×)"

    (sharp, gain), (plain, more) = ways("with sharpness"), ways("without")
    return (
        f"{f['trainings']} trainings of the phase diagram (depth {f['depth']}, width {f['width']}, {f['steps']} steps): mapped "
        "over all cores against one call each",
        f"{sharp} trainings a second {gain}, {plain} {more}",
    )


if __name__ == "__main__":
    main()
