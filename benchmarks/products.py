"""What do a gradient and one more Hessian product cost in JAX and in torch, and how far are both from what the machine can do?

    python -m benchmarks.products [--tasks a b cnn] [--rounds N] [--write]

Tasks a and b of `_tasks` (n = 1,000) and SimpleCNN on 64 images of CIFAR-10 (`_derivatives`), float32, each library in a
process of its own with as many threads as there are cores, timed in turns; the medians of the rounds. A product "linearised"
has gone through the gradient's linearisation before: in JAX the marginal time in a compiled loop, in torch a call of
`torch.func.linearize`'s function; "graph kept" is torch's double backward. "At once" is time a vector. Beside each time stands
its bound (`_roofline`): the bare matrix products at the measured speed of the faster library, or the bytes at the measured
bandwidth, if that is more. Rates are the best of the rounds. Fails where outputs differ by 1e-5 or derivatives by 1e-4.
"""

import importlib.util
import json

from benchmarks import _roofline
from benchmarks._derivatives import AT_ONCE, LAYERS, in_jax, in_torch
from benchmarks._results import keep, options
from benchmarks._turns import CORES, Side, in_turns

P = 656_810  # of task b: the vectors that bandwidth is measured on


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--tasks", nargs="+", choices=tuple(AT_ONCE), default=list(AT_ONCE))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--least", type=float, default=0.1, help="seconds a program takes in a turn, at least")
    asked = parser.parse_args()
    if importlib.util.find_spec("torch") is None:
        raise SystemExit('torch is not installed: pip install ".[bench]"')
    machine = rates([layer for name in asked.tasks for layer in LAYERS[name]], asked)
    told: dict = {"threads of each library": CORES}
    told |= {name: measured(name, machine["seconds"], machine["bandwidth"], asked) for name in asked.tasks}
    told |= {"the machine": machine["told"]}
    print(json.dumps(told, indent=2, ensure_ascii=False))
    if asked.write:
        keep(__file__, told)
    wrong = [f"{name}: {way}" for name in asked.tasks for way, apart in told[name]["apart"].items() if not apart <= limit(way)]
    if wrong:
        raise SystemExit("JAX and torch differ: " + "; ".join(wrong))


def limit(way: str) -> float:
    return 1e-5 if way.endswith("outputs") else 1e-4


def rates(layers: list, asked) -> dict:
    """The machine: seconds of each bare matrix product by library, and the bandwidth, bytes a second, of the faster."""
    sides = {"XLA": (_roofline.in_jax, layers, P), "torch": (_roofline.in_torch, layers, P)}
    with Side(*sides["XLA"]) as ours, Side(*sides["torch"]) as theirs:
        took = in_turns({"XLA": ours, "torch": theirs}, asked.rounds, asked.least / 4)
    seconds = {side: {name: times.least() for name, times in programs.items()} for side, programs in took.items()}
    speeds: dict = {}
    for layer in layers:
        for kind in _roofline.KINDS:
            name = f"{layer.shape} {kind}"
            speeds[name] = {side: round(layer.operations / 1e9 / seconds[side][name]) for side in seconds}
    moves = {
        name: {side: round(size / 1e9 / seconds[side][name], 1) for side in seconds}
        for name, size in _roofline.moved(P).items()
    }
    told = {"sgemm, GFLOP/s": speeds, "memory, GB/s": moves}
    bandwidth = 1e9 * max(max(moves[name].values()) for name in ("copy", "triad"))
    return {"seconds": seconds, "bandwidth": bandwidth, "told": told}


def measured(name: str, bare: dict, bandwidth: float, asked) -> dict:
    with Side(in_jax, name) as ours:
        given, answers, source = ours.answers
        with Side(in_torch, name, given) as theirs:
            took = in_turns({"JAX": ours, "torch": theirs}, asked.rounds, asked.least)
            apart = differences(answers, theirs.answers)
    layers = LAYERS[name]
    bounds = {work: bound(layers, work, bare, bandwidth) for work in _roofline.PASSES}
    ms = {side: {way: round(1e3 * times.middle(), 3) for way, times in programs.items()} for side, programs in took.items()}
    best = {side: fastest(times) for side, times in ms.items()}
    return {
        "parameters": sum(leaf.size for leaf in given["weights"]),
        "data": source,
        "examples": len(given["batch"][1]),
        "milliseconds": ms,
        "from, to": {
            side: {way: [round(1e3 * x, 3) for x in times.spread()] for way, times in programs.items()}
            for side, programs in took.items()
        },
        "bound": bounds,
        "best, ms": best,
        "times the bound": {
            side: {work: round(took / bounds[work.partition(",")[0]]["ms"], 2) for work, took in works.items()}
            for side, works in best.items()
        },
        "torch over JAX": {work: round(best["torch"][work] / best["JAX"][work], 2) for work in best["JAX"]},
        "apart": apart,
    }


def fastest(ms: dict) -> dict:
    """Of one library's ways: to a gradient (called; in a loop), to one more product, and to a product among several at once."""
    gradient = min(value for way, value in ms.items() if way in ("gradient", "gradient, channels last"))
    products = {way: value for way, value in ms.items() if way.startswith("product")}
    return {
        "gradient": gradient,
        "gradient, in a loop": ms.get("gradient, a step of a loop", gradient),  # torch's loop is Python's: calls
        "product": min(value for way, value in products.items() if "at once" not in way),
        "product, several at once": min(value for way, value in products.items() if "at once" in way),
    }


def bound(layers: list, work: str, bare: dict, bandwidth: float) -> dict:
    counted = _roofline.counted(layers, work)
    alone = {side: 1e3 * _roofline.alone(layers, work, seconds) for side, seconds in bare.items()}
    faster = {name: min(seconds[name] for seconds in bare.values()) for name in bare["XLA"]}
    products, moves = 1e3 * _roofline.alone(layers, work, faster), 1e3 * counted["bytes"] / bandwidth
    return counted | {
        "matrix products alone, ms": {side: round(value, 3) for side, value in alone.items()},
        "bytes at the bandwidth, ms": round(moves, 3),
        "ms": round(max(products, moves), 3),
    }


def differences(ours: dict, theirs: dict) -> dict:
    """Each answer's distance, relative, from JAX's outputs, gradient and forward-over-reverse products."""
    import numpy as np

    def apart(answer, truth) -> float:
        pairs = [(np.asarray(x, float), np.asarray(y, float)[: len(x)]) for x, y in zip(answer, truth, strict=True)]
        return float((sum(((x - y) ** 2).sum() for x, y in pairs) / sum((y**2).sum() for _, y in pairs)) ** 0.5)

    def truth(way: str):
        exact = "outputs" if way == "outputs" else "gradient" if "product" not in way else "products"
        return ours[exact]

    return {
        f"{side}: {way}": apart(answer, truth(way))
        for side, answers in (("JAX", ours), ("torch", theirs))
        for way, answer in answers.items()
        if side == "torch" or way not in ("outputs", "gradient", "products")
    }


NAMES = {"a": "64-100-100-10 on digits", "b": "3072-200-200-10 on CIFAR-10", "cnn": "SimpleCNN"}


def row(figures: dict) -> tuple[str, str]:
    def told(name: str) -> str:
        f = figures[name]
        ours, theirs, bounds = f["best, ms"]["JAX"], f["best, ms"]["torch"], f["bound"]
        work = lambda name: f"{name} {ours[name]:.3g} against {theirs[name]:.3g} ms"  # noqa: E731
        works = (
            f"{work('gradient')}, {ours['gradient, in a loop']:.3g} in a loop (bound {bounds['gradient']['ms']:.3g})",
            f"{work('product')} (bound {bounds['product']['ms']:.3g})",
        )
        return f"{NAMES[name]} (n = {f['examples']:,}, p = {f['parameters']:,}): {', '.join(works)}"

    return (
        "A gradient, and one more Hessian product once linearised: JAX against the fastest way in torch, and the bare matrix "
        "products",
        "; ".join(told(name) for name in NAMES if name in figures),
    )


if __name__ == "__main__":
    main()
