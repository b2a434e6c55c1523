"""What a run will take, from shapes alone: no weight is allocated."""

from math import prod
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from makelm import config, sharding
from makelm.errors import UserError
from makelm.flops import flops_per_token
from makelm.training import Trainer, parameter_count


def plan(shape: config.Model, mesh: Mesh, trainer: Trainer, batch_size: int, steps: int) -> dict[str, Any]:
    """Returns the plan of a run. Temporary bytes are those of the compiled step on the devices at hand."""
    names = trainer.state_shapes["parameters"]
    parameters = parameter_count(names)
    tokens = batch_size * shape.context_length
    per_token = flops_per_token(shape, names)
    state = state_bytes(trainer)
    temporary = temporary_bytes(trainer, shape, mesh, batch_size) - state["gradients"]
    bytes_per_device = state | {"temporary": max(0, temporary)}
    return {
        "parameters": parameters,
        "flops_per_token": per_token,
        "bytes_per_device": bytes_per_device,
        "devices": mesh.size,
        "mesh": dict(mesh.shape),
        "steps": steps,
        "tokens_per_step": tokens,
        "tokens": steps * tokens,
        "flops": per_token * steps * tokens,
        "method": "state: exact, from shapes and shardings; temporary: the step compiled here, gradients apart",
    }


def state_bytes(trainer: Trainer) -> dict[str, int]:
    """Returns what lives on a device from step to step, and the gradients, in bytes: exact on any mesh."""
    shapes = trainer.state_shapes
    parts = {name: device_bytes(part) for name, part in shapes.items()}
    shards = [prod(leaf.sharding.shard_shape(leaf.shape)) for leaf in shapes["parameters"].values()]
    return parts | {"gradients": 4 * sum(shards)}


def device_bytes(shapes: Any) -> int:
    """Returns what arrays of these shapes and shardings take on one device."""
    return sum(leaf.dtype.itemsize * prod(leaf.sharding.shard_shape(leaf.shape)) for leaf in jax.tree.leaves(shapes))


def temporary_bytes(trainer: Trainer, shape: config.Model, mesh: Mesh, batch_size: int) -> int:
    """Returns what the compiled step holds on a device beside its inputs and outputs; gradients among it."""
    rows = jax.sharding.NamedSharding(mesh, sharding.BATCH)
    windows_BT = jax.ShapeDtypeStruct((batch_size, shape.context_length + 1), jnp.int32, sharding=rows)
    compiled = trainer.step.lower(trainer.state_shapes, windows_BT, 0).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def check_fit(needed: int, available: int | None, device: str) -> None:
    """Raises UserError where a device has less memory than the run needs."""
    if available is not None and needed > available:
        raise UserError(
            f"the run needs {needed / 1e9:.2f} GB on each device, {device} has {available / 1e9:.2f} GB;"
            " lower train.batch_size or model.context_length, or give mesh.fsdp more devices"
        )
