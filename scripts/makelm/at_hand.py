"""A trained model on the devices at hand: the mesh over them, and the weights laid out on it."""

from collections.abc import Mapping

import jax
import numpy as np
from jax.sharding import Mesh

from makelm import config, sharding
from makelm.errors import UserError
from makelm.meshes import mesh_shape
from makelm.model import Parameters


def make_mesh(mesh: config.Mesh) -> Mesh:
    """Returns a run's mesh over the devices at hand; of one device, where it does not fit so many.

    A run that was trained on a cluster is scored and sampled wherever its weights have room.
    """
    devices = jax.local_devices()
    try:
        mesh_shape(mesh, len(devices))
    except UserError:
        devices, mesh = devices[:1], config.Mesh(data=1, fsdp=1, tensor=1)
    return sharding.make_mesh(mesh, devices)


def place(parameters: Mapping[str, np.ndarray], mesh: Mesh) -> Parameters:
    """Returns parameters on the devices of a mesh, on each its own parts.

    Raises UserError where a dim does not divide over its axis.
    """
    return {
        name: jax.device_put(value, sharding.parameter_sharding(mesh, name, value.shape))
        for name, value in parameters.items()
    }
