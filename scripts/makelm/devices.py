"""The devices that a plan is for: those of this machine, a TPU topology, or what stands for those that are not here."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata, util
from typing import Literal

import jax
import psutil
from jax.experimental import topologies
from jax.extend import backend

from makelm import config
from makelm.errors import UserError

# how the step is compiled -> what that means for its bytes
METHODS = {
    "here": "the step compiled on the devices at hand",
    "topology": "the step compiled for these TPUs by libtpu",
    "simulated": "an estimate: the step compiled for as many simulated CPU devices, where bfloat16 is computed in"
    " float32, attention has no flash kernel and a reduce-scatter is an all-reduce of which a part is kept",
}


@dataclass(frozen=True)
class Target:
    """What a plan is compiled for."""

    devices: Sequence[jax.Device]
    how: Literal["here", "topology", "simulated"]  # see METHODS
    name: str  # of one device
    memory: int | None  # bytes of one device; None: unknown


def find(hardware: config.Hardware, say: Callable[[str], None]) -> Target:
    """Returns what a plan for this hardware is compiled for.

    Must be called before JAX computes: devices that are not here are simulated in place of those that are.
    """
    here = jax.devices()
    count = len(here) if hardware.devices == "local" else hardware.devices
    stated = None if hardware.memory_gb is None else int(hardware.memory_gb * 1e9)
    if len(here) == count and hardware.topology is None:
        return Target(here, "here", here[0].device_kind, stated or memory(here[0], count))
    if hardware.topology and util.find_spec("libtpu"):
        devices = topology(hardware.topology, count)
        return Target(devices, "topology", devices[0].device_kind, stated)
    if hardware.topology:
        say("libtpu is not installed, so the step is not compiled for TPUs; pip install libtpu does without a TPU")
    say(f"{count} devices are stated, here is {described(here)}: {METHODS['simulated']}")
    return Target(simulated(count), "simulated", hardware.topology or "stated device", stated)


def described(devices: Sequence[jax.Device]) -> str:
    """Returns for example '8 x NVIDIA H100'."""
    return f"{len(devices)} x {devices[0].device_kind}"


def topology(name: str, count: int) -> Sequence[jax.Device]:
    """Returns the devices of a TPU topology, which can be compiled for and hold nothing.

    Raises UserError where libtpu knows no such topology, or it has another number of devices.
    """
    # it only compiles, so another process may have libtpu too
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    try:
        devices = topologies.get_topology_desc(name, "tpu").devices
    except RuntimeError as error:
        why = str(error).strip().split("\n")[0]
        raise UserError(f"hardware.topology: libtpu does not make {name!r}, as it would v3:16x8: {why}") from None
    if len(devices) != count:
        raise UserError(f"hardware.topology: {name} has {len(devices)} devices, hardware.devices states {count}")
    return devices


def simulated(count: int) -> Sequence[jax.Device]:
    """Returns so many devices that are one CPU, which from now on are all that JAX has."""
    backend.clear_backends()
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", count)
    return jax.devices()


def memory(device: jax.Device, devices: int) -> int | None:
    """Returns the bytes a device has; the devices of a CPU share the machine's."""
    if device.platform == "cpu":
        return psutil.virtual_memory().total // devices
    return (device.memory_stats() or {}).get("bytes_limit")


def compiler(target: Target) -> str:
    """Returns what compiles for a target, for example 'libtpu 0.0.52'."""
    package = "libtpu" if target.how == "topology" else "jaxlib"
    return f"{package} {metadata.version(package)}"
