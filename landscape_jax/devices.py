"""Several devices, on one machine or on several: what can be split over them.

    runs         sweep.sharded(fn, mesh), drive(..., mesh=mesh)                     no communication
    examples     losses.sharded(loss, mesh), curvature.sharded(curvature, mesh)     one all-reduce a gradient or product
    θ itself     devices.split(params, mesh)                                        as XLA partitions each operation

A mesh is a `jax.sharding.Mesh`. `devices.mesh()` has all devices, those of other processes too.
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
from landscape_jax.backend import policy
from landscape_jax.types import Batch, Params, Weight


def mesh(axis: str = "devices") -> Mesh:
    """All devices of all processes, along one axis."""
    return Mesh(np.array(jax.devices()), (axis,))


def automatic(mesh: Mesh) -> Mesh:
    """The same devices with automatic axes. Explicit axes would need inputs that are on the mesh already."""
    return Mesh(mesh.devices, mesh.axis_names)


def split(params: Params, mesh: Mesh, axis: str | None = None) -> Params:
    """Splits each leaf along the longest of its axes that the number of devices divides; a leaf without one stays whole.

    θ, and with it the optimizer's state and every Krylov vector, then takes 1/devices of the memory (fully sharded data
    parallelism, FSDP). XLA partitions each compiled program accordingly.

    Args:
      axis: the mesh axis to split over; default: the first.
    Source: Y. Xu et al. 2021, GSPMD, arXiv 2105.04663.
    """
    axis = _axis("split", mesh, axis)
    count = mesh.shape[axis]

    def leaf(x):
        x = jax.numpy.asarray(x)
        fitting = [i for i, n in enumerate(x.shape) if n % count == 0 and n > 0]
        longest = max(fitting, key=lambda i: x.shape[i], default=None)
        spec = [] if longest is None else [None] * longest + [axis]
        return to_mesh(x, NamedSharding(automatic(mesh), PartitionSpec(*spec)))

    return jax.tree.map(leaf, params)


def mean_over(fn: Callable, mesh: Mesh, axis: str | None = None, weight: Weight | None = None) -> Callable:
    """Σ_d (w_d / Σ w) f(θ, batch_d, …) over the devices of a mesh, each with its own examples: one all-reduce a call.

    Args:
      fn: (θ, batch, …) ↦ a pytree of arrays, a mean over the batch's examples.
      axis: the mesh axis that examples are split over; default: the first. The examples that remain after an equal split are
        computed by every device.
      weight: batch ↦ w, shape []; default: the number of its examples. A part with weight 0 is left out.
    Returns: a function with the arguments of `fn`; all but the batch are replicated.
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
            """(w f, w). Where w is 0, f is not computed: it may be 0/0 there."""
            w = parts.weigh(weight, batch)
            zeros = tree.zeros_like(jax.eval_shape(fn, params, batch, *others))
            return tree.scale(w, jax.lax.cond(w != 0, lambda: fn(params, batch, *others), lambda: zeros)), w

        @functools.partial(
            jax.shard_map,
            mesh=mesh,
            in_specs=(PartitionSpec(), PartitionSpec(axis), PartitionSpec()),
            out_specs=PartitionSpec(),
            check_vma=False,  # with it, JAX would sum the gradients of replicated parameters over devices once more
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


def run_sharding(mesh: Mesh) -> NamedSharding:
    """The leading axis, one of runs, split over all devices of a mesh: `jax.device_put(runs, run_sharding(mesh))`."""
    return NamedSharding(automatic(mesh), PartitionSpec(mesh.axis_names))


def replicated_sharding(mesh: Mesh) -> NamedSharding:
    """A copy on each device of a mesh."""
    return NamedSharding(automatic(mesh), PartitionSpec())


def to_mesh(arrays: Any, sharding: NamedSharding) -> Any:
    """`jax.device_put`, also onto devices of other processes, each of which must hold the same arrays."""
    if sharding.is_fully_addressable and not policy.splits_on_host():
        return jax.device_put(arrays, sharding)

    def put(x):
        if isinstance(x, jax.Array) and (not x.is_fully_addressable or x.sharding.is_equivalent_to(sharding, x.ndim)):
            return jax.device_put(x, sharding)
        key = jax.numpy.issubdtype(jax.numpy.asarray(x).dtype, jax.dtypes.prng_key)
        whole = np.asarray(jax.random.key_data(x) if key else x)
        split = jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])
        return jax.random.wrap_key_data(split, impl=jax.random.key_impl(x)) if key else split

    return jax.tree.map(put, arrays)


def to_host(arrays: Any) -> Any:
    """NumPy arrays from arrays that may be on other machines. All processes must call it together."""
    if jax.process_count() == 1:
        return jax.device_get(arrays)

    def whole(x):
        remote = isinstance(x, jax.Array) and not x.is_fully_addressable and not x.is_fully_replicated
        return multihost_utils.process_allgather(x, tiled=True) if remote else np.asarray(x)

    return jax.tree.map(whole, arrays)


def mesh_for_runs(runs: int) -> Mesh | None:
    """The largest mesh whose number of devices divides that of the runs; None for one device.

    With several processes: all devices or None.
    """
    devices = jax.devices()
    counts = [n for n in range(1, len(devices) + 1) if runs % n == 0]
    count = counts[-1] if jax.process_count() == 1 else (len(devices) if runs % len(devices) == 0 else 1)
    return Mesh(np.array(devices[:count]), ("runs",)) if count > 1 else None


# ── several processes ─────────────────────────────────────────────────────────────────────────────────────────────────


def join(
    coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None, *, timeout: int = 120
) -> bool:
    """Makes this process one of several that run one program on all their devices. Call it before anything else of JAX.

    Without arguments: only if Slurm or Open MPI started it as one of several tasks.

    Args:
      coordinator: address:port of process 0.
      timeout: seconds to wait for the coordinator, or for the other processes.
    Returns: whether there are several processes.
    Raises: `ConnectionError` if nothing listens at the coordinator's address in time.
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
    if process_id:  # JAX's own client would abort the process without naming the address
        _wait_for_listener(host.strip("[]"), int(port), timeout)
    jax.distributed.initialize(coordinator, num_processes, process_id, initialization_timeout=timeout)
    return True


def _wait_for_listener(host: str, port: int, timeout: float) -> None:
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


def is_first_process() -> bool:
    """Whether this is the process that writes files and prints."""
    return jax.process_index() == 0


def broadcast_from_first(value: int) -> int:
    """The first process's value, in all processes."""
    return value if jax.process_count() == 1 else int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def any_process(flag: bool) -> bool:
    """Whether the flag is True in any process."""
    return flag if jax.process_count() == 1 else bool(np.any(multihost_utils.process_allgather(np.bool_(flag))))


def barrier(name: str) -> None:
    """Waits until all processes have called it."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)
