"""Many devices, on one machine or many: what is split over them.

    runs         sweep.sharded(fn, mesh), drive(..., mesh=mesh)                     no communication
    examples     losses.sharded(loss, mesh), curvature.sharded(curvature, mesh)     one all-reduce a gradient or product
    θ itself     devices.split(params, mesh)                                        as XLA partitions each operation

A mesh is JAX's own; `devices.mesh()` is all devices there are, those of other processes too.
"""

import functools
import os
import socket
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from landscape_jax import parts, tree
from landscape_jax.types import Batch, Params, Weight


def mesh(axis: str = "devices") -> Mesh:
    """All devices of all processes in a row."""
    return Mesh(np.array(jax.devices()), (axis,))


def automatic(mesh: Mesh) -> Mesh:
    """The same devices with automatic axes: explicit ones would ask for inputs placed beforehand."""
    return Mesh(mesh.devices, mesh.axis_names)


def split(params: Params, mesh: Mesh, axis: str | None = None) -> Params:
    """Each leaf split along the longest of its axes that the number of devices divides; whole where there is none.

    θ, and with it the optimizer's state and every Krylov vector, then takes 1/devices of the memory (fully sharded data
    parallelism, FSDP). Nothing else changes: each compiled program is partitioned to fit.

    Args:
      axis: the mesh axis to split over; default: its first.
    Source: Y. Xu et al. 2021, GSPMD, arXiv 2105.04663.
    """
    axis = _axis("split", mesh, axis)
    count = mesh.shape[axis]

    def leaf(x):
        x = jax.numpy.asarray(x)
        fitting = [i for i, n in enumerate(x.shape) if n % count == 0 and n > 0]
        longest = max(fitting, key=lambda i: x.shape[i], default=None)
        spec = [] if longest is None else [None] * longest + [axis]
        return placed(x, NamedSharding(automatic(mesh), PartitionSpec(*spec)))

    return jax.tree.map(leaf, params)


def mean_over(fn: Callable, mesh: Mesh, axis: str | None = None, weight: Weight | None = None) -> Callable:
    """Σ_d (w_d / Σ w) f(θ, batch_d, …) over the devices of a mesh, each with its own examples: one all-reduce a call.

    Args:
      fn: (θ, batch, …) ↦ a pytree of arrays, a mean over the batch's examples.
      axis: the mesh axis that examples are split over; default: its first. Examples beyond the largest multiple of its
        length are done by all.
      weight: batch ↦ w, shape []; default: the number of its examples. What has weight 0 is left out.
    Returns: a function with the arguments of `fn`, of which all but the batch are replicated.
    """
    axis = _axis("sharded", mesh, axis)
    count, mesh = mesh.shape[axis], automatic(mesh)

    def mean(params: Params, batch: Batch, *others):
        n = tree.num_examples(batch)
        even = n - n % count
        main, rest = (jax.tree.map(lambda x, part=part: x[part], batch) for part in (slice(even), slice(even, None)))
        if even == 0:
            return fn(params, batch, *others)

        def term(weight: Weight, params: Params, batch: Batch, others) -> tuple:
            """(w f, w); f is left out where w is 0, as it may be 0/0 there."""
            w = parts.weigh(weight, batch)
            zeros = tree.zeros_like(jax.eval_shape(fn, params, batch, *others))
            return tree.scale(w, jax.lax.cond(w != 0, lambda: fn(params, batch, *others), lambda: zeros)), w

        @functools.partial(
            jax.shard_map,
            mesh=mesh,
            in_specs=(PartitionSpec(), PartitionSpec(axis), PartitionSpec()),
            out_specs=PartitionSpec(),
            check_vma=False,  # with it, gradients of replicated parameters would be summed over devices on their own
        )
        def of_all(params, batch, others):
            if weight is None:
                return jax.lax.pmean(fn(params, batch, *others), axis)
            return jax.lax.psum(term(weight, params, batch, others), axis)

        total = jax.jit(of_all)(params, main, others)
        if weight is None:
            total = tree.scale(even / n, total)
            return tree.axpy(1 - even / n, fn(params, rest, *others), total) if even < n else total
        total, w = tree.add(total, term(weight, params, rest, others)) if even < n else total
        return tree.scale(1 / w, total)

    return mean


def _axis(name: str, mesh: Mesh, axis: str | None) -> str:
    if axis is not None and axis not in mesh.axis_names:
        raise ValueError(f"{name}: the mesh has axes {mesh.axis_names}, not {axis!r}")
    return str(mesh.axis_names[0]) if axis is None else axis


def runs_over(mesh: Mesh) -> NamedSharding:
    """The leading axis, one of runs, split over all devices of a mesh: `jax.device_put(runs, runs_over(mesh))`."""
    return NamedSharding(automatic(mesh), PartitionSpec(mesh.axis_names))


def alike_on(mesh: Mesh) -> NamedSharding:
    """The same on all devices of a mesh."""
    return NamedSharding(automatic(mesh), PartitionSpec())


def placed(arrays: Any, sharding: NamedSharding) -> Any:
    """`jax.device_put`, also onto devices of other processes, each of which must hold the same arrays.

    On a CPU arrays go by way of NumPy: `device_put` compiles a program for each to cut it up.
    """
    if sharding.is_fully_addressable and jax.default_backend() != "cpu":
        return jax.device_put(arrays, sharding)

    def put(x):
        if isinstance(x, jax.Array) and (not x.is_fully_addressable or x.sharding.is_equivalent_to(sharding, x.ndim)):
            return jax.device_put(x, sharding)
        key = jax.numpy.issubdtype(jax.numpy.asarray(x).dtype, jax.dtypes.prng_key)
        whole = np.asarray(jax.random.key_data(x) if key else x)
        spread = jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])
        return jax.random.wrap_key_data(spread, impl=jax.random.key_impl(x)) if key else spread

    return jax.tree.map(put, arrays)


def fetched(arrays: Any) -> Any:
    """NumPy arrays of what may lie on other machines. All processes must call it together."""
    if jax.process_count() == 1:
        return jax.device_get(arrays)

    def whole(x):
        far = isinstance(x, jax.Array) and not x.is_fully_addressable and not x.is_fully_replicated
        return multihost_utils.process_allgather(x, tiled=True) if far else np.asarray(x)

    return jax.tree.map(whole, arrays)


def dividing(runs: int) -> Mesh | None:
    """As many devices as divide a number of runs; None where that is one. Several processes take all devices or none."""
    everyone = jax.devices()
    counts = [n for n in range(1, len(everyone) + 1) if runs % n == 0]
    count = counts[-1] if jax.process_count() == 1 else (len(everyone) if runs % len(everyone) == 0 else 1)
    return Mesh(np.array(everyone[:count]), ("runs",)) if count > 1 else None


# ── several processes ─────────────────────────────────────────────────────────────────────────────────────────────────


def join(
    coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None, *, timeout: int = 120
) -> bool:
    """Become one of several processes that run one program on all their devices, if asked to, or if started by Slurm or
    Open MPI as one of several tasks. Call it before anything else of JAX.

    Args:
      coordinator: address:port of process 0.
      timeout: seconds to wait for it, or for the others.
    Returns: whether there are several.
    Raises: `ConnectionError` where nobody answers at the coordinator's address in time.
    """
    given = (coordinator, num_processes, process_id)
    if given == (None, None, None):
        if max(int(os.environ.get(name, 1)) for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")) < 2:
            return False
        jax.distributed.initialize(initialization_timeout=timeout)
        return True
    if coordinator is None or num_processes is None or process_id is None:
        raise ValueError("several processes need all three: the coordinator's address:port, their number, and this one's id")
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit():
        raise ValueError(f"coordinator={coordinator!r} must be address:port, e.g. 10.0.0.1:1234")
    if not 0 <= process_id < num_processes:
        raise ValueError(f"process_id={process_id} must lie between 0 and num_processes − 1 = {num_processes - 1}")
    if process_id:  # JAX's own client aborts the process, without a word of whom it looked for
        _reached(host.strip("[]"), int(port), timeout)
    jax.distributed.initialize(coordinator, num_processes, process_id, initialization_timeout=timeout)
    return True


def _reached(host: str, port: int, timeout: float) -> None:
    """Wait until somebody listens there."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            socket.create_connection((host, port), timeout=max(0.1, deadline - time.monotonic())).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise ConnectionError(
                    f"no coordinator at {host}:{port} after {timeout:g} s ({error}): is process 0 running there, and is "
                    "the port open between the machines?"
                ) from error
            time.sleep(0.2)


def first() -> bool:
    """Whether this is the process that writes and speaks."""
    return jax.process_index() == 0


def agreed(value: int) -> int:
    """The first process's value, for all."""
    return value if jax.process_count() == 1 else int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def anywhere(flag: bool) -> bool:
    """Whether any process says so."""
    return flag if jax.process_count() == 1 else bool(np.any(multihost_utils.process_allgather(np.bool_(flag))))


def together(name: str) -> None:
    """Wait until all processes are here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)
