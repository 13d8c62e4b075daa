"""What does a plane of 101 × 101 losses of a CNN on 1,000 images cost in one call, against a Python loop over its points?

    python -m benchmarks.plane [--data mnist] [--points 101] [--filters 4 8] [--write]

The plane is filter-normalised, and split over all devices; a CPU counts as one device a core. The loop calls the same loss,
compiled, at one point after the other, each made by a compiled function too; of its points every `--sample`-th is timed and the
rest reckoned from these. Images: MNIST, or CIFAR-10; where neither is at hand, `--data random` has noise of MNIST's size.
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

LONG = True


def images(name: str, n: int) -> lj.types.Batch:
    if name != "random":
        return getattr(lj.data, name)(n, 0)[0]
    x, labels = jax.random.normal(jax.random.key(1), (n, 28, 28, 1)), jnp.arange(n) % 10
    return x, jax.nn.one_hot(labels, 10)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--data", choices=("mnist", "cifar10", "random"), default="mnist")
    parser.add_argument("--examples", type=int, default=1000)
    parser.add_argument("--points", type=int, default=101, help="along each axis")
    parser.add_argument("--filters", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--sample", type=int, default=50)
    asked = parser.parse_args()
    train, model = images(asked.data, asked.examples), lj.models.cnn(asked.filters)
    loss = lj.losses.mean(model.apply, lj.losses.cross_entropy)
    params = jax.jit(model.init)(jax.random.key(0), train[0][:1])
    directions = lj.landscape.random_directions(jax.random.key(2), params)
    xs = np.linspace(-1, 1, asked.points)

    begun = time.perf_counter()
    values = lj.landscape.plane(loss, params, directions, xs, xs, train, progress=True, mesh=lj.devices.mesh())
    seconds = time.perf_counter() - begun

    @jax.jit
    def moved(params, directions, c):
        return lj.tree.add(params, lj.tree.combine(c, directions))

    single = jax.jit(loss)
    points = np.stack([x.ravel() for x in np.meshgrid(xs, xs, indexing="ij")], axis=1).astype(np.float32)
    chosen = np.arange(0, len(points), asked.sample)
    float(single(moved(params, directions, points[0]), train))
    begun = time.perf_counter()
    looped = [float(single(moved(params, directions, points[i]), train)) for i in chosen]
    each = (time.perf_counter() - begun) / len(chosen)
    answer = {
        "data": asked.data,
        "examples": asked.examples,
        "filters": asked.filters,
        "parameters": lj.tree.size(params),
        "points": values.size,
        "one_call_seconds": round(seconds, 1),
        "loop_seconds": round(each * values.size, 1),
        "loop_points_timed": len(chosen),
        "devices": len(jax.devices()),
        "largest_relative_difference": float(np.max(np.abs(values.ravel()[chosen] / looped - 1))),
    }
    print(json.dumps(answer, indent=2))
    if asked.write:
        keep(__file__, answer)


def row(figures: dict) -> tuple[str, str]:
    f, side = figures, round(figures["points"] ** 0.5)
    call, loop = f["one_call_seconds"], f["loop_seconds"]
    images = {"mnist": "MNIST images", "cifar10": "CIFAR-10 images", "random": "random images"}[f["data"]]
    return (
        f"A filter-normalised plane of {side} × {side} losses of a CNN (p = {f['parameters']:,}) on {f['examples']:,} {images} "
        "in one call, against a Python loop over its points",
        f"{call:.0f} s; the loop {loop:.0f} s ({loop / call:.1f} ×; reckoned from {f['loop_points_timed']} points)",
    )


if __name__ == "__main__":
    main()
