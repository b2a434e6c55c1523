"""Several processes that train one model: one for each host, or one for each device, joined by JAX's own runtime.

Each runs the same program and the same steps. The first one alone writes metrics, manifests and weights; what a
single process would decide by itself (to stop, to save now) they decide together.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from makelm.errors import Interrupted, UserError

HEARTBEAT = 30  # seconds without a sign of life after which a process counts as dead, and all end
JOINING = 180  # seconds in which all must have come
PORTS = range(10000, 30000)  # below those that systems give to connections
LEAVING = 20  # seconds in which all must have come to the end


@dataclass(frozen=True)
class Place:
    """Where this process stands among all."""

    coordinator: str  # host:port of the first one
    count: int
    index: int
    devices: tuple[int, ...] | None  # those of this host that are this process's; None: all


def slurm_place(environment: Mapping[str, str], per_device: bool) -> Place:
    """Returns the place of a process that Slurm's srun started: one of one for each node, or for each device.

    Raises UserError where srun did not start it.
    """
    try:
        nodes, job = environment["SLURM_STEP_NODELIST"], int(environment["SLURM_JOB_ID"])
        count, index = int(environment["SLURM_STEP_NUM_TASKS"]), int(environment["SLURM_PROCID"])
        on_node = int(environment["SLURM_LOCALID"])
    except KeyError as missing:
        raise UserError(f"--launcher is for a program that srun starts; {missing.args[0]} is not set") from None
    # as n[01-03,07],m1: of each bracket its first, and of names the first
    first = re.sub(r"\[(\w+)[^]]*]", r"\1", nodes).split(",")[0]
    port = PORTS[job % len(PORTS)]  # jobs beside each other on a node have others
    return Place(f"{first}:{port}", count, index, (on_node,) if per_device else None)


def join(place: Place) -> None:
    """Joins the others. Comes before anything that makes JAX look for devices.

    Raises UserError where the place cannot be, Interrupted where the others do not come.
    """
    if not 0 <= place.index < place.count:
        raise UserError(f"--process must be from 0 to {place.count - 1}, got {place.index}")
    if ":" not in place.coordinator:
        raise UserError(f"--coordinator must be host:port of process 0, got {place.coordinator}")
    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM away from the stage
    try:
        jax.distributed.initialize(
            place.coordinator,
            place.count,
            place.index,
            local_device_ids=place.devices,
            initialization_timeout=JOINING,
            heartbeat_timeout_seconds=HEARTBEAT,
            shutdown_timeout_seconds=LEAVING,
        )
    except RuntimeError as error:
        raise Interrupted(
            f"process {place.index} waited {JOINING} s for all {place.count} to come to {place.coordinator}"
            f" ({str(error).splitlines()[0][:100]}); start all of them again"
        ) from error


def leave() -> None:
    """Parts from the others when all have come to the end."""
    if jax.process_count() > 1:
        jax.distributed.shutdown()


def leads() -> bool:
    """Returns whether this is the first process, which writes what is written once."""
    return jax.process_index() == 0


def wait_for_all(what: str) -> None:
    """Returns when all processes have come to this point."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


def anywhere(flag: bool) -> bool:
    """Returns whether a flag is set in any of the processes, all of which must ask."""
    return flag if jax.process_count() == 1 else bool(np.any(multihost_utils.process_allgather(np.array(flag))))


def of_first(number: int) -> int:
    """Returns the number that the first process has; all must ask."""
    return number if jax.process_count() == 1 else int(multihost_utils.broadcast_one_to_all(np.array(number)))


def whole(array: jax.Array | np.ndarray) -> np.ndarray:
    """Returns an array's values; those on devices of other processes come over the network.

    All processes must ask, one array after the other.
    """
    if isinstance(array, jax.Array) and not array.is_fully_addressable and not array.is_fully_replicated:
        array = jax.jit(lambda x: x, out_shardings=NamedSharding(array.sharding.mesh, PartitionSpec()))(array)
    return np.asarray(array)


Ask = Callable[[list[bool]], list[bool]]


def make_vote(mesh: Mesh) -> Ask:
    """Returns the function that all processes call once a step, each with its own flags.

    A single process gets its own flags back. Several get the union of those of the call before, so that none waits
    for the others: what one of them wants happens in all of them after the same step.
    """
    if jax.process_count() == 1:
        return lambda flags: flags
    rows = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    union = jax.jit(lambda flags_PF: flags_PF.any(axis=0), out_shardings=NamedSharding(mesh, PartitionSpec()))
    asked: list[jax.Array] = []

    def vote(flags: list[bool]) -> list[bool]:
        own = np.array([flags])
        asked.append(union(jax.make_array_from_callback((mesh.size, len(flags)), rows, lambda index: own)))
        return np.asarray(asked.pop(0)).tolist() if len(asked) > 1 else [False] * len(flags)

    return vote
