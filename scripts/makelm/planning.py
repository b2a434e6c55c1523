"""What a run will take, from shapes alone: no weight is allocated."""

import re
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from makelm import compiled, config, devices, sharding
from makelm.devices import Target
from makelm.errors import UserError
from makelm.flops import flops_per_token
from makelm.training import Trainer, parameter_count

ADVICE = (
    "raise compute.accumulate, set compute.remat, lower train.batch_size or model.context_length, or give mesh.fsdp"
    " or mesh.tensor more devices"
)


def plan(
    trainer: Trainer,
    target: Target,
    mesh: Mesh,
    shape: config.Model,
    train: config.Train,
    compute: config.Compute,
) -> dict[str, Any]:
    """Returns the plan of a run. Raises UserError where the step cannot be compiled for devices of this memory."""
    names = trainer.state_shapes["parameters"]
    tokens = train.batch_size * shape.context_length
    per_token = flops_per_token(shape, names)
    state = state_bytes(trainer, train)
    compiled_step = compile_step(trainer, target, mesh, train, compute, shape.context_length + 1)
    memory = compiled_step.memory_analysis()
    temporary = memory.temp_size_in_bytes + memory.generated_code_size_in_bytes - state["gradients"]
    found = compiled.exchanged(compiled_step.as_text())
    return {
        "parameters": parameter_count(names),
        "flops_per_token": per_token,
        "bytes_per_device": state | {"temporary": max(0, temporary)},
        "collective_bytes": found.bytes_by_kind,
        "devices": mesh.size,
        "device": target.name,
        "attention": trainer.attention,
        "mesh": dict(mesh.shape),
        "steps": train.steps,
        "tokens_per_step": tokens,
        "tokens": train.steps * tokens,
        "flops": per_token * train.steps * tokens,
        "method": method(target, found.complete),
    }


def method(target: Target, complete: bool) -> dict[str, str]:
    """Returns how a plan's bytes came about, for each kind of them."""
    step = f"{devices.METHODS[target.how]} ({devices.compiler(target)})"
    loops = "" if complete else "; a loop that does not say how often it goes round counts once"
    return {
        "state": "parameters, optimizer, average, best and gradients: exact, from shapes and shardings",
        "temporary": f"all else that the program holds at its worst, itself too, less the gradients; {step}",
        "collectives": "of a step on one device, the operands of its collectives, of an all-gather the result, times"
        f" the rounds of the loops they are in{loops}; {step}",
    }


def state_bytes(trainer: Trainer, train: config.Train) -> dict[str, int]:
    """Returns what lives on a device from step to step, and the gradients, in bytes: exact on any mesh."""
    shapes = trainer.state_shapes
    parts = {name: device_bytes(part) for name, part in shapes.items()}
    shards = [prod(leaf.sharding.shard_shape(leaf.shape)) for leaf in shapes["parameters"].values()]
    return parts | {"gradients": 4 * sum(shards) if train.steps else 0}


def device_bytes(shapes: Any) -> int:
    """Returns what arrays of these shapes and shardings take on one device."""
    return sum(leaf.dtype.itemsize * prod(leaf.sharding.shard_shape(leaf.shape)) for leaf in jax.tree.leaves(shapes))


def compile_step(
    trainer: Trainer, target: Target, mesh: Mesh, train: config.Train, compute: config.Compute, length: int
) -> jax.stages.Compiled:
    """Returns the compiled step of batches of windows so long, where there is none validation; no array is made."""
    rows = jax.sharding.NamedSharding(mesh, sharding.BATCH)
    count = train.batch_size if train.steps else train.batch_size // compute.accumulate
    windows_BT = jax.ShapeDtypeStruct((count, length), jnp.int32, sharding=rows)
    try:
        if not train.steps:
            return trainer.validate.lower(trainer.state_shapes, windows_BT).compile()
        return trainer.step.lower(trainer.state_shapes, windows_BT, 0).compile()
    except jax.errors.JaxRuntimeError as error:
        # libtpu refuses what is too large for these TPUs, in powers of two
        if not (found := re.search(r"\((\S+)G\) exceeds available HBM \((\S+)G\)", str(error))):
            raise
        needs = f"the step needs {found[1]} GiB beside the state on each device"
        raise UserError(f"{needs}, {target.name} has {found[2]} GiB; {ADVICE}") from None


def check_fit(needed: int, target: Target) -> None:
    """Raises UserError where a device has less memory than the run needs."""
    if target.memory is not None and needed > target.memory:
        have = f"{target.name} has {target.memory / 1e9:.2f} GB"
        raise UserError(f"the run needs {needed / 1e9:.2f} GB on each device, {have}; {ADVICE}")
