"""Where each array lives: the mesh of devices, and how parameters (parameter_table.py) and batches lie on it.

Axes of the mesh: data (each device its own rows, whole weights), fsdp (its own rows, its own part of the
weights; Zhao et al. 2023), tensor (the same rows, its own heads, hidden units and vocabulary; Shoeybi et al. 2019).
"""

from collections.abc import Callable, Sequence
from functools import partial
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import mesh_utils
from jax.extend.core import Primitive
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from makelm import config, parameter_table
from makelm.errors import UserError
from makelm.meshes import AXES, mesh_shape

# The letter of a dim that devices share -> the key that says its size.
KEYS = {
    "V": "model.vocab_multiple",
    "D": "model.d_model",
    "N": "model.n_heads",
    "K": "model.n_kv_heads",
    "F": "model.d_ff",
}
BATCH = PartitionSpec(("data", "fsdp"))  # rows of a batch
Axes = str | tuple[str, ...] | None  # that a dim lies along


def make_mesh(mesh: config.Mesh, devices: Sequence[jax.Device]) -> Mesh:
    """Returns the mesh over these devices."""
    sizes = mesh_shape(mesh, len(devices))
    # on TPUs, neighbours along the last axis are neighbours on the torus; elsewhere the order of devices stays
    arranged = mesh_utils.create_device_mesh(tuple(sizes.values()), devices, allow_split_physical_axes=True)
    return Mesh(arranged, AXES)


def check_devices(hardware: config.Hardware, devices: Sequence[jax.Device]) -> None:
    """Raises UserError where a run is stated for another number of devices than there are."""
    if hardware.devices not in ("local", len(devices)):
        raise UserError(
            f"hardware.devices: {hardware.devices} devices are stated, JAX finds {len(devices)}"
            f" ({devices[0].platform}); run it where they are, or set hardware.devices to local"
        )


def parameter_sharding(mesh: Mesh, name: str, shape: tuple[int, ...]) -> NamedSharding:
    """Returns how a parameter lies on the mesh, or what is of its shape.

    Raises UserError where a dim does not divide over its axis.
    """
    axes = parameter_table.of(name).axes
    for letter, size, axis in zip(name.rpartition("_")[2], shape, axes, strict=False):  # a norm's name has no letters
        if axis and size % mesh.shape[axis]:
            raise UserError(
                f"mesh.{axis}: {name} has a dim of {size}, which {mesh.shape[axis]} devices cannot share evenly;"
                f" change mesh.{axis} or {KEYS.get(letter, 'the model')}"
            )
    return NamedSharding(mesh, PartitionSpec(*axes))


def check_batch(mesh: Mesh, batch_size: int, parts: int) -> None:
    """Raises UserError where the rows of a batch, or of one of its parts, do not divide over the devices."""
    groups = mesh.shape["data"] * mesh.shape["fsdp"]
    if batch_size % (groups * parts):
        over = f"{groups} devices (data x fsdp)" + (f" in {parts} parts (compute.accumulate)" if parts > 1 else "")
        raise UserError(f"train.batch_size: {batch_size} rows do not divide over {over}")


# ---- inside a compiled step; without a mesh, or on one of a single device, arrays stay as they are


def laid_out(mesh: Mesh | None, x: Array, *axes: Axes) -> Array:
    """Returns an array whose first dims lie along these axes of the mesh, the others whole."""
    if mesh is None or mesh.size == 1:
        return x
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(*axes)))


def parts(mesh: Mesh | None, *axes: str) -> int:
    """Returns how many parts the devices along these axes share something in."""
    return 1 if mesh is None else prod(mesh.shape[axis] for axis in axes)


def platform(mesh: Mesh | None) -> str:
    """Returns the kind of device that is computed on: cpu, gpu, tpu."""
    return jax.default_backend() if mesh is None else mesh.devices.flat[0].platform


def rows(mesh: Mesh | None, x: Array) -> Array:
    """Returns an array whose first dim are rows of the batch: each device has its own."""
    return laid_out(mesh, x, *BATCH)


def own(mesh: Mesh | None, function: Callable[..., Array], given: tuple, result: PartitionSpec) -> Callable[..., Array]:
    """Returns a function that each device computes of its part of the arrays; no part needs another's.

    `given` and `result` say along which axes arrays lie that go in and come out.
    """
    if mesh is None or mesh.size == 1:
        return function
    return jax.shard_map(function, mesh=mesh, in_specs=given, out_specs=result, check_vma=False)


def gathered(mesh: Mesh | None, name: str, weight: Array, dtype: jnp.dtype) -> Array:
    """Returns a weight as devices compute with it: whole along fsdp, a matrix in this dtype.

    Its gradient lies where the weight does: summed over the devices' rows, and each keeps its part only.
    """
    if parts(mesh, *AXES) == 1:
        return weight
    return gather(mesh, name, weight.astype(dtype) if weight.ndim > 1 else weight)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def gather(mesh: Mesh, name: str, weight: Array) -> Array:
    spec = parameter_sharding(mesh, name, weight.shape).spec
    return laid_out(mesh, weight, *(None if axis == "fsdp" else axis for axis in spec))


def scatter(mesh: Mesh, name: str, _: None, g: Array) -> tuple[Array]:
    return (laid_out(mesh, g, *parameter_sharding(mesh, name, g.shape).spec),)


gather.defvjp(lambda mesh, name, weight: (gather(mesh, name, weight), None), scatter)


def all_but_gathered(primitive: Primitive, *_: Any, **__: Any) -> bool:
    """Returns whether the backward pass keeps a result: a gathered weight it gathers again, from where it lies."""
    # what `gather` is while JAX differentiates, what comes of it, and a weight's view as a matrix
    return primitive.name not in ("custom_vjp_call", "sharding_constraint", "reshape")


def anew(mesh: Mesh | None, parameters: dict[str, Array], part: tuple[Array, Array]) -> dict[str, Array]:
    """Returns parameters for one part of a batch: XLA would else gather all of them before the first, and keep them."""
    return parameters if parts(mesh, "fsdp") == 1 else jax.lax.optimization_barrier((parameters, part))[0]
