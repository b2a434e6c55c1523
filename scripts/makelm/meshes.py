"""How many devices lie along each axis of a run's mesh. Without JAX: what only plans jobs asks this too."""

from collections.abc import Mapping
from math import gcd, prod

from makelm import config
from makelm.errors import UserError

AXES = ("data", "fsdp", "tensor")


def mesh_shape(mesh: config.Mesh, devices: int) -> dict[str, int]:
    """Returns the size of each axis on so many devices. Raises UserError where they do not come out even."""
    sizes = {axis: getattr(mesh, axis) for axis in AXES}
    known = prod(size for size in sizes.values() if size > 0)
    if devices % known or (-1 not in sizes.values() and known != devices):
        asked = " x ".join(f"{axis} {size}" for axis, size in sizes.items())
        raise UserError(f"mesh: {asked} does not fit {devices} device{'s' * (devices > 1)}; change mesh or the devices")
    return {axis: devices // known if size == -1 else size for axis, size in sizes.items()}


def share(sizes: Mapping[str, int], devices: int) -> dict[str, int]:
    """Returns a mesh's part that has room on so many devices: first of `tensor`, which layers may not fit without.

    Each size divides its own of the whole mesh, so what divides over that divides over this.
    """
    found = {}
    for axis in reversed(AXES):
        found[axis] = gcd(sizes[axis], devices // prod(found.values()))
    return {axis: found[axis] for axis in AXES}
