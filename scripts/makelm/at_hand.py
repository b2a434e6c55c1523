"""A trained model on the devices at hand: the mesh over them, and the weights laid out on it."""

from collections.abc import Mapping
from math import prod

import jax
import numpy as np
from jax.sharding import Mesh

from makelm import config, meshes, sharding
from makelm.errors import UserError
from makelm.model import Parameters


def make_mesh(mesh: config.Mesh) -> Mesh:
    """Returns a run's mesh over the devices at hand, or as much of it as they are enough for.

    A run that was trained on a cluster is scored and sampled wherever its weights have room.
    """
    devices = jax.local_devices()
    try:
        sizes = meshes.mesh_shape(mesh, len(devices))
    except UserError:
        sizes = meshes.share({axis: max(size, 1) for axis, size in mesh}, len(devices))
    return sharding.make_mesh(config.Mesh(**sizes), devices[: prod(sizes.values())])


def place(parameters: Mapping[str, np.ndarray], mesh: Mesh) -> Parameters:
    """Returns parameters on the devices of a mesh, on each its own parts.

    Raises UserError where a dim does not divide over its axis.
    """
    return {
        name: jax.device_put(value, sharding.parameter_sharding(mesh, name, value.shape))
        for name, value in parameters.items()
    }
