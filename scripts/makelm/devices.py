"""The devices that a plan is for: those of this machine, a topology, or what stands for those that are not here."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata, util
from typing import Literal

import jax
import psutil
from jax.experimental import topologies
from jax.extend import backend

from makelm import config, extras, gpus
from makelm.errors import UserError

# how the step is compiled -> what that means for its bytes
METHODS = {
    "here": "the step compiled on the devices at hand",
    "topology": "the step compiled for these devices by their own compiler",
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
    compiler: str = "jaxlib"  # the package that compiles


def find(hardware: config.Hardware, say: Callable[[str], None]) -> Target:
    """Returns what a plan for this hardware is compiled for.

    Must be called before JAX computes: devices that are not here are simulated in place of those that are.
    """
    wanted = hardware.topology
    gpu = gpus.named(wanted) if wanted else None
    if gpu:
        gpus.without_a_driver()
    here = jax.devices()
    count = len(here) if hardware.devices == "local" else hardware.devices
    stated = None if hardware.memory_gb is None else int(hardware.memory_gb * 1e9)
    if len(here) == count and (wanted is None or (gpu and here[0].device_kind == gpu.kind)):
        return Target(here, "here", here[0].device_kind, stated or memory(here[0], count))
    known = stated or (int(gpu.memory) if gpu else None)
    if wanted:
        package = gpus.plugin() if gpu else tpu_compiler()
        if package:
            devices = topology(wanted, count)
            return Target(devices, "topology", devices[0].device_kind, known, package)
        how = extras.command("cuda" if gpu else "tpu")
        say(f"the step can be compiled for {wanted} without these devices, after: {how}")
    say(f"{count} devices are stated, here is {described(here)}: {METHODS['simulated']}")
    return Target(simulated(count), "simulated", wanted or "stated device", known)


def tpu_compiler() -> str | None:
    """Returns the package that compiles for TPUs, if it is installed."""
    return "libtpu" if util.find_spec("libtpu") else None


def described(devices: Sequence[jax.Device]) -> str:
    """Returns for example '8 x NVIDIA H100'."""
    return f"{len(devices)} x {devices[0].device_kind}"


def topology(name: str, count: int) -> Sequence[jax.Device]:
    """Returns the devices of a topology, which can be compiled for and hold nothing.

    Raises UserError where there is no such topology, or it has another number of devices.
    """
    devices = gpus.devices(name) if gpus.named(name) else tpus(name)
    if len(devices) != count:
        raise UserError(f"hardware.topology: {name} has {len(devices)} devices, hardware.devices states {count}")
    return devices


def tpus(name: str) -> Sequence[jax.Device]:
    """Returns the TPUs of a topology. Raises UserError where libtpu knows no such topology."""
    # it only compiles, so another process may have libtpu too
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    try:
        return topologies.get_topology_desc(name, "tpu").devices
    except RuntimeError as error:
        why = str(error).strip().split("\n")[0]
        raise UserError(f"hardware.topology: libtpu does not make {name!r}, as it would v3:16x8: {why}") from None


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
    return f"{target.compiler} {metadata.version(target.compiler)}"
