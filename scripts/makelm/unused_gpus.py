"""NVIDIA GPUs of this machine beside which a stage would compute on CPUs without a word."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

from makelm import extras

NODES = ("nvidia[0-9]*", "dxg")  # as the driver names GPUs; in Windows' Linux, what stands for them all
PLUGINS = ("jax_cuda13_plugin", "jax_cuda12_plugin")


def advice(platform: str, devices: Path = Path("/dev")) -> str | None:
    """Returns how a GPU that is here would be used, where JAX computes on another platform; None: nothing is lost."""
    if platform != "cpu" or os.environ.get("JAX_PLATFORMS") or not any(any(devices.glob(name)) for name in NODES):
        return None
    if any(find_spec(plugin) for plugin in PLUGINS):
        why = f"{sys.executable} -c 'import jax; jax.devices()'"
        return f"JAX cannot use the NVIDIA GPU of this machine; {why} says the reason"
    return f"this machine has an NVIDIA GPU; to use it: {extras.command('cuda')}"
