"""Trainings of the sparse-coding network, and of a two-layer network with all its weights, for equal times η · steps.

Three things make the sweep cheap, none of them an approximation. The three-parameter network depends on its data through
sums of hinges in one shared bias, looked up in tables (`theory.hinges`): the same loss, to the last gradient, at a sixth of
the cost. Each run does its own number of steps, T/η, within one compiled program (`advance` with `gaps`). And runs are dealt to
the devices so that each has about the same number of steps to do (`dealt`).
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.sharding import Mesh

import landscape_jax as lj
from landscape_jax.theory import hinges, sparse_coding
from landscape_jax.types import Batch, BatchCoupled, Key, Loss, Observable, Params

GROWTH = 100.0  # the last gap between looks over the first: the bouncing is over early


class Runs(NamedTuple):
    """What to train, one entry a run."""

    table: Array | np.ndarray  # [r] int32: which data
    params: Params  # leaves [r]: θ₀
    rate: Array | np.ndarray  # [r]: η
    num_steps: Array | np.ndarray  # [r] int32


def dealt(cost: np.ndarray, hands: int) -> np.ndarray:
    """Run numbers in an order whose `hands` equally long parts cost about the same: the dearest first, each to the hand that
    has least so far. The cheapest is repeated until the hands divide them."""
    order = np.argsort(-cost, kind="stable")
    order = np.append(order, np.full(-len(order) % hands, order[-1]))
    parts: list[list[int]] = [[] for _ in range(hands)]
    for i in order:
        min((p for p in parts if len(p) < len(order) // hands), key=lambda p: cost[p].sum()).append(int(i))
    return np.concatenate(parts)


def steps_within(time: float | np.ndarray, rates: np.ndarray) -> np.ndarray:
    """How many steps of each rate make the time η · steps."""
    return np.rint(time / np.asarray(rates)).astype(np.int32)


# ── the network of three parameters ───────────────────────────────────────────────────────────────────────────────────


def tabulated(x: Array) -> hinges.Pieces:
    """The hinges of inputs [n, d] as functions of the bias: rows [2 · n], those of a⁻ first."""
    return hinges.pieces(np.concatenate([x, -np.asarray(x)]))


def network(params: Params, table: hinges.Pieces) -> Array:
    """f [n], as `sparse_coding.apply` has it, from the inputs' table."""
    return sparse_coding.combined(params, hinges.hinge_sums(table, params["bias"]).reshape(2, -1))


def _loss(params: Params, batch: Batch) -> Array:
    table, targets = batch
    return jnp.mean(lj.losses.logistic(network(params, table), targets))


loss: Loss = BatchCoupled(_loss, "its inputs are tables with all examples in each piece")


def trained(loss: Loss, batch: Batch, params: Params, rate: Any, num_steps: Any, records: int, more: dict) -> tuple:
    """Gradient descent, looked at `records` times: (θ, "loss", "sharpness", "time" and `more`, each [records])."""
    descent = lj.dynamics.gradient(loss, optax.sgd(rate), lambda key, step: batch)
    watch: dict[str, Observable] = {"loss": lj.observe.loss, "sharpness": lj.observe.sharpness(lj.curvature.hessian(loss))}
    run = lj.start(jax.random.key(0), params, descent, watch | more)
    run, record = lj.advance(run, descent, watch | more, gaps=lj.pace(num_steps, records, GROWTH), ceiling=1e6)
    return run.params, dict(record) | {"time": record["step"].astype(rate.dtype) * rate}


BIAS = lj.observe.stateless(lambda m: m.params["bias"])


@functools.partial(jax.jit, static_argnames=("records", "mesh"))
def train(runs: Runs, tables: Batch, records: int, mesh: Mesh | None) -> tuple[Params, dict[str, Array]]:
    """All runs, each on its own table: θ, leaves [r], and records, leaves [r, records]."""

    def one(run: Runs, tables: Batch):
        batch = jax.tree.map(lambda x: x[run.table], tables)
        return trained(loss, batch, run.params, run.rate, run.num_steps, records, {"bias": BIAS})

    return lj.sweep.over_runs(one, mesh)(runs, tables)


def shared_out(fn, runs, cost: np.ndarray):
    """fn(runs, mesh) with runs [r] dealt to all devices by their cost; what it gives, [r, ...], in the order of `runs`."""
    count = min(jax.device_count(), len(cost))
    order = dealt(cost, count)
    mesh = Mesh(np.array(jax.devices()[:count]), ("runs",)) if count > 1 else None
    found = jax.device_get(fn(jax.tree.map(lambda x: jnp.asarray(x)[order], runs), mesh))
    first = np.unique(order, return_index=True)[1]  # where each run is, in order of its number
    return jax.tree.map(lambda x: x[first], found)


def train_all(runs: Runs, tables: Batch, records: int) -> tuple[Params, dict[str, np.ndarray]]:
    """`train` over all devices, each with its share of the steps, in the order of `runs`."""
    return shared_out(lambda runs, mesh: train(runs, tables, records, mesh), runs, np.asarray(runs.num_steps))


@functools.partial(jax.jit, static_argnames=("n", "dim"))
def accuracy(params: Params, keys: Key, n: int, dim: int, signal: float) -> Array:
    """Percent of n fresh examples, drawn from each key [s], on the right side for θ, leaves [s, r]: [s, r]."""

    def of_key(entry):
        params, key = entry
        x, y = lj.data.sparse_coding(key, n, dim, signal)
        return jax.lax.map(lambda p: 100 * jnp.mean(sparse_coding.apply(p, x) * y[:, 0] > 0), params)

    return jax.lax.map(of_key, (params, keys))


# ── all weights of a two-layer network ────────────────────────────────────────────────────────────────────────────────


class Whole(NamedTuple):
    """The setting of the two-layer network."""

    dim: int = 60
    width: int = 120
    n: int = 400
    signal: float = 4.0
    n_test: int = 4000


@functools.partial(jax.jit, static_argnames=("records", "setting", "mesh"))
def train_whole(runs, records: int, setting: Whole, mesh: Mesh | None) -> dict[str, Array]:
    """relu networks d → width → 1 from standard initialisations: a run for each of (key data, rates, num_steps), [r].

    Returns: "loss", "sharpness", "time" [r, records]; at the end "mean_bias" and "min_bias" of the hidden units, and
      "accuracy" on fresh examples, [r].
    """
    model = lj.models.mlp((setting.width,), 1, activation=jax.nn.relu)
    loss = lj.losses.mean(model.apply, lj.losses.logistic)

    def one(run, _):
        bits, rate, num_steps = run
        of_init, of_data, of_test = jax.random.split(jax.random.wrap_key_data(bits), 3)
        batch = lj.data.sparse_coding(of_data, setting.n, setting.dim, setting.signal)
        params, record = trained(loss, batch, model.init(of_init, batch[0]), rate, num_steps, records, {})
        x, y = lj.data.sparse_coding(of_test, setting.n_test, setting.dim, setting.signal)
        bias = params["layer0"]["bias"]
        right = 100 * jnp.mean(model.apply(params, x) * y > 0)
        return record | {"mean_bias": bias.mean(), "min_bias": bias.min(), "accuracy": right}

    return lj.sweep.over_runs(one, mesh)(runs, ())


def train_whole_all(keys: Key, seed: np.ndarray, rates: np.ndarray, num_steps: np.ndarray, records: int) -> dict:
    """`train_whole` for runs of keys[seed], rates and num_steps, [r], over all devices."""
    runs = jax.random.key_data(keys)[seed], rates, num_steps
    return shared_out(lambda runs, mesh: train_whole(runs, records, Whole(), mesh), runs, num_steps)
