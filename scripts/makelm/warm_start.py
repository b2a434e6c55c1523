"""Weights to begin with instead of random ones: those of another run or of other people (fine-tuning).

Each tensor is read, laid out over the mesh and let go of before the next one is.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from makelm import checkpoints, config, processes
from makelm.errors import UserError
from makelm.seals import Seals

Read = Callable[[str, tuple[int, ...]], np.ndarray]  # a parameter's name and shape -> its values
# what may differ between a run and the one it starts from: nothing of it is in the shape of a weight
DTYPES = {"compute_dtype", "residual_dtype", "head_dtype", "parameter_dtype"}
FREE = {"context_length", "dropout", "mask_documents", "init"} | DTYPES


def place(read: Read, shapes: dict[str, jax.ShapeDtypeStruct]) -> dict[str, jax.Array]:
    """Returns parameters of these shapes, dtypes and shardings, read one after the other."""
    placed = {}
    for name, leaf in shapes.items():
        values = read(name, leaf.shape)
        placed[name] = jax.make_array_from_callback(
            leaf.shape, leaf.sharding, lambda index, whole=values, to=leaf.dtype: whole[index].astype(to, copy=False)
        )
        placed[name].block_until_ready()
    return placed


def check_same(shape: config.Model, other: config.Model, where: str) -> None:
    """Raises UserError where the weights of one model are not those of the other; a context may be shorter."""
    own, theirs = shape.model_dump(), other.model_dump()
    parts = [
        f"model.{key} is {own[key]}, there {theirs[key]}" for key in own if own[key] != theirs[key] and key not in FREE
    ]
    if shape.positions.kind == "learned" and shape.context_length > other.context_length:
        parts.append(f"model.context_length is {shape.context_length}, there are {other.context_length} positions")
    if parts:
        raise UserError(f"{where} cannot be started from: {'; '.join(parts)}")


def reader(parameters: Mapping[str, np.ndarray]) -> Read:
    """Returns what reads another run's parameters; of learned positions the first, where the context is shorter."""
    return lambda name, dims: parameters[name][: dims[0]] if name == "positions_TD" else parameters[name]


def first_step(start: config.Start, done: int, steps: int) -> int:
    """Returns the steps that count as done. Raises UserError where the schedule is kept and none is left."""
    if start.schedule == "fresh":
        return 0
    if done >= steps:
        raise UserError(
            f"train.steps: {steps} include the {done} of the run this one starts from, since its schedule is kept;"
            " set more, or start.schedule: fresh"
        )
    return done


def kept_optimizer(folder: Path, content: dict, step: int, train: config.Train, shapes: Any) -> Any:
    """Returns the optimizer's state at the end of another run, whose manifest's content is given.

    Raises UserError where it is gone, damaged or does not fit.
    """
    kind = content["config"]["train"]["optimizer"]["kind"]
    if kind != train.optimizer.kind:
        raise UserError(
            f"start.optimizer: {folder} was trained with {kind}, so {train.optimizer.kind} cannot keep its statistics;"
            " set it to fresh"
        )
    saved = folder / "checkpoints" / content["facts"]["identity"]
    problem = Seals(saved).broken(step) if processes.leads() else None  # which reads all of it
    if processes.anywhere(problem is not None):
        problem = problem or "is damaged"
        raise UserError(f"{saved}: the checkpoint of step {step} {problem}; set start.optimizer: fresh")
    state = checkpoints.read_step(saved, step, {"optimizer": shapes})
    if state is None:
        raise UserError(f"{saved} has no checkpoint of step {step} with such an optimizer; set start.optimizer: fresh")
    return state["optimizer"]
