"""The landscape of one digits network at the edge: where training went, what lies around its end, and how it swings there."""

import math
from typing import Any

import jax
import matplotlib
import numpy as np
import optax

import landscape_jax as lj
from landscape_jax import landscape, plots, tree
from landscape_jax.plots import Figure
from landscape_jax.types import Key, Params

POINTS = 51  # along each side of a plane
REACH = 3.0  # of the lines, in unit directions
SWINGS = 100  # further steps, seen one by one
LINES = "sharpest", "second", "gradient", "random"


def pictured(config: Any, key: Key) -> dict[str, Any]:
    """The tanh network with square loss, trained at the largest of `rates`.

    "path": "coordinates" [T, 2] and "loss" [T] along the training, the part "explained" [2] by its two principal directions;
    "principal", "random", "sharpest": planes through θ_T, "xs" and "ys" [a], "loss" [a, a], spanned by these directions, by two
    filter-normalised random ones, and by the two leading eigenvectors of the Hessian, with their "values" [2] and the steps
    from there, "swing" [steps, 2]; "lines": "xs" [n] and "loss" [line, n] along unit vectors.
    """
    of_init, of_run, of_plane = jax.random.split(key, 3)
    train, _ = lj.data.digits(config.n_train, 0, scale=lj.data.per_pixel)
    model = lj.models.mlp(config.widths, 10, init_scale=1.0)
    loss, mesh = lj.losses.mean(model.apply, lj.losses.square), lj.devices.mesh()
    descent = lj.dynamics.gradient(loss, optax.sgd(config.rates[-1]), lj.data.full_batch(train))
    watch = {"loss": lj.observe.loss, "params": lj.observe.stateless(lambda m: m.params)}
    every = math.gcd(config.num_steps, 20)
    count = config.num_steps // every

    @jax.jit
    def trained(key: Key) -> lj.Record:
        run = lj.start(key, model.init(of_init, train[0]), descent, watch)
        return lj.advance(run, descent, watch, gaps=np.repeat(np.array([every, 1], np.int32), [count, SWINGS]))[1]

    record = trained(of_run)
    path, late = (jax.tree.map(lambda x, part=part: x[part], dict(record)) for part in (slice(count + 1), slice(count, None)))
    end = tree.row(late["params"], 0)

    def cut(directions: Params, xs: np.ndarray, ys: np.ndarray) -> dict[str, Any]:
        return {"xs": xs, "ys": ys, "loss": landscape.plane(loss, end, directions, xs, ys, train, mesh=mesh)}

    way = jax.jit(landscape.principal)(path["params"], end)
    filters = jax.jit(landscape.random_directions)(of_plane, end)
    eigs = landscape.sharpest(lj.curvature.hessian(loss), end, train)
    swing = jax.jit(landscape.coordinates)(late["params"], end, eigs.vectors)
    far, side = 1.3 * float(np.abs(swing).max()), np.linspace(-1, 1, POINTS)
    slope = jax.grad(loss)(end, train)
    along = [tree.row(eigs.vectors, 0), tree.row(eigs.vectors, 1), slope, tree.row(filters, 0)]
    xs = np.linspace(-REACH, REACH, 2 * POINTS - 1)
    lines = [landscape.line(loss, end, tree.scale(1 / tree.norm(d), d), xs, train, mesh=mesh) for d in along]
    return jax.tree.map(
        np.asarray,
        {
            "path": {"coordinates": way.coordinates, "loss": path["loss"], "explained": way.explained},
            "principal": cut(way.directions, *map(framed, np.asarray(way.coordinates).T)),
            "random": cut(filters, side, side),
            "sharpest": cut(eigs.vectors, far * side, far * side) | {"values": eigs.values, "swing": swing},
            "lines": {"xs": xs, "loss": np.stack(lines)},
        },
    )


def framed(places: np.ndarray, margin: float = 0.3) -> np.ndarray:
    """A grid over these coordinates and a margin on both sides."""
    low, high = float(np.min(places)), float(np.max(places))
    room = margin * max(high - low, 1e-6)
    return np.linspace(low - room, high + room, POINTS)


def drawn(found: dict[str, Any], config: Any) -> Figure:
    """Where training went, what lies around its end, and how it swings there."""
    style: Any = plots.STYLE | {"font.size": 8, "axes.labelsize": 8, "legend.fontsize": 7, "axes.titlesize": 8.5}
    way, plane, around, top = found["path"], found["principal"], found["random"], found["sharpest"]
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(8.6, 6.4), dpi=150)
        above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=(1.25, 1))[:, 0]
        way_there, relief = above.add_subplot(121), above.add_subplot(122, projection="3d", computed_zorder=False)
        panels = [way_there, relief, *below.subplots(1, 3)]
        names = [f"principal direction {i} ({100 * x:.0f} % of the way)" for i, x in enumerate(way["explained"], 1)]
        plots.contour(plane["xs"], plane["ys"], plane["loss"], way["coordinates"], names=names, axes=way_there)
        names = [f"filter-normalised direction {i}" for i in (1, 2)]
        plots.relief(around["xs"], around["ys"], around["loss"], names=names, axes=relief)
        plots.contour(around["xs"], around["ys"], around["loss"], names=names, axes=panels[2])
        names = [f"eigenvector {i}, λ η/2 = {x * config.rates[-1] / 2:.3f}" for i, x in enumerate(top["values"], 1)]
        plots.contour(top["xs"], top["ys"], top["loss"], names=names, axes=panels[3])
        for first, colour in enumerate(("white", "crimson")):  # every other step
            panels[3].plot(*top["swing"][first::2].T, "o-", ms=2.2, mew=0, lw=0.6, color=colour)
        plots.section(found["lines"]["xs"], found["lines"]["loss"], LINES, log=True, axes=panels[4])
        panels[4].set_ylim(found["lines"]["loss"].min() / 300)  # room for the legend
        panels[4].legend(loc="lower left")
        titles = (
            "a training, in the plane of its path",
            "around its end, along random directions",
            "the same from above",
            f"its next {len(top['swing'])} steps, even and odd",
            "lines through its end",
        )
        for axes, letter, title in zip(panels, "abcde", titles, strict=True):
            axes.set_title(f"{letter}   {title}", loc="left", pad=4)
        told = f"{config.n_train} digits, square loss, η = {config.rates[-1]:g}, {config.num_steps} steps"
        figure.suptitle(f"tanh network on {told}", fontsize=9)
        return figure
