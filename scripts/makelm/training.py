"""Training, compiled: an optimizer step and what else there is to compute (step.py), laid out over a mesh.

B batch, T position, W windows
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from makelm import config, kernels, sharding
from makelm.step import Computation, State

Rows = Callable[[int, int], np.ndarray]  # first and last row -> these rows of a batch, windows of T + 1 tokens


@dataclass(frozen=True)
class Trainer:
    """What is compiled once for a run."""

    attention: str  # the kernel that computes it
    state_shapes: State  # shapes, dtypes and shardings, without memory
    initial_state: Callable[[], State]
    begin: Callable[[dict[str, Array]], State]  # the state of a first step with these parameters
    at_step: Callable[[State, int], State]  # the same with the learning rates of another step
    step: Callable[[State, Array, int], tuple[State, dict[str, Array]]]
    statistics: Callable[[State, Array, int], dict[str, Array]]  # what a step would do to each tensor
    validate: Callable[[State, Array], tuple[Array, Array]]  # of each window the sum of its losses, and its targets
    keep_best: Callable[[State, float, int], State]  # the state after a step, of which this is the validation loss
    result: Callable[[State], dict[str, Array]]  # the parameters that come out of training
    place: Callable[[np.ndarray], Array]  # windows_BT, each row where its device is
    place_rows: Callable[[Rows, int], Array]  # the same of so many rows, of which only those needed here are read


def make_trainer(
    shape: config.Model,
    train: config.Train,
    compute: config.Compute,
    vocab_size: int,
    end_of_text: int | None,
    mesh: Mesh,
) -> Trainer:
    """Returns the compiled pieces of a run. Raises UserError where the mesh does not fit what is asked of it."""
    sharding.check_batch(mesh, train.batch_size, compute.accumulate)
    kernel = kernels.of_attention(compute, shape, mesh.devices.flat[0])
    compute = compute.model_copy(update={"attention": kernel})
    how = compiler_options(compute, mesh)
    of = Computation(shape, train, compute, vocab_size, end_of_text, mesh)
    shapes = jax.eval_shape(of.initial_state)
    layout = state_sharding(mesh, shapes)
    rows, whole = NamedSharding(mesh, sharding.BATCH), NamedSharding(mesh, PartitionSpec())
    own = layout["parameters"]
    return Trainer(
        attention=kernel,
        state_shapes=jax.tree.map(lambda s, at: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=at), shapes, layout),
        initial_state=jax.jit(of.initial_state, out_shardings=layout),
        begin=jax.jit(of.begin, in_shardings=(own,), out_shardings=layout, donate_argnums=0),
        at_step=jax.jit(of.at_step, in_shardings=(layout, whole), out_shardings=layout, donate_argnums=0),
        step=jax.jit(
            of.step,
            in_shardings=(layout, rows, whole),
            out_shardings=(layout, whole),
            donate_argnums=0,
            compiler_options=how,
        ),
        statistics=jax.jit(
            of.statistics_of, in_shardings=(layout, rows, whole), out_shardings=whole, compiler_options=how
        ),
        validate=jax.jit(of.validate, in_shardings=(layout, rows), out_shardings=whole, compiler_options=how),
        keep_best=jax.jit(of.keep_best, in_shardings=(layout, whole, whole), out_shardings=layout, donate_argnums=0),
        result=jax.jit(of.result, in_shardings=(layout,), out_shardings=own),
        place=lambda windows_BT: place_rows(rows, lambda a, b: windows_BT[a:b], windows_BT.shape),
        place_rows=lambda read, count: place_rows(rows, read, (count, shape.context_length + 1)),
    )


def compiler_options(compute: config.Compute, mesh: Mesh) -> dict[str, bool] | None:
    """Returns what XLA is asked for when it compiles for these devices.

    On GPUs a scatter or the backward pass of flash attention else adds up in the order in which threads come by, so
    that the same program does not give the same bits twice.
    """
    if not compute.deterministic or sharding.platform(mesh) != "gpu":
        return None
    # for GPUs that are not here XLA cannot try kernels out, and would refuse those whose order it does not know
    return {"xla_gpu_exclude_nondeterministic_ops": True} if mesh.devices.flat[0] in jax.devices() else None


def place_rows(layout: NamedSharding, read: Rows, dims: tuple[int, ...]) -> Array:
    """Returns windows_BT of these dims laid out over the devices; each process reads its own devices' rows only."""
    parts: dict[tuple[int, int], np.ndarray] = {}  # devices that share rows share the reading

    def part(index: tuple[slice, ...]) -> np.ndarray:
        first, last, _ = index[0].indices(dims[0])
        if (first, last) not in parts:
            parts[first, last] = read(first, last)
        return parts[first, last]

    return jax.make_array_from_callback(dims, layout, part)


def state_sharding(mesh: Mesh, shapes: State) -> State:
    """Returns the sharding of each leaf: what is of a parameter's shape lies where the parameter does.

    The rest is small, and whole on each device: counts, and the rows and columns that Adafactor keeps of a matrix.
    """
    names = shapes["parameters"]

    def where(path: tuple, leaf: jax.ShapeDtypeStruct) -> NamedSharding:
        name = next((key.key for key in reversed(path) if getattr(key, "key", None) in names), None)
        if name is None or leaf.shape != names[name].shape:
            return NamedSharding(mesh, PartitionSpec())
        return sharding.parameter_sharding(mesh, name, leaf.shape)

    return jax.tree_util.tree_map_with_path(where, shapes)


def parameter_count(shapes: dict[str, Any]) -> int:
    """Returns the number of weights among parameters by name."""
    return sum(leaf.size for leaf in shapes.values())


def begin_validation(
    trainer: Trainer, state: State, windows_WT: np.ndarray, batch_size: int
) -> Callable[[], dict[str, float]]:
    """Sets the devices to work on validation windows, W a multiple of the batch size; returns what reads the result.

    That is validation_loss, the mean over the windows' tokens, and validation_loss_sem, its standard error by window.
    """
    batches = range(0, len(windows_WT), batch_size)
    sums = [trainer.validate(state, trainer.place(windows_WT[first : first + batch_size])) for first in batches]

    def read() -> dict[str, float]:
        losses_W, targets_W = np.concatenate([np.asarray(pair, np.float64) for pair in sums], axis=1)
        mean = losses_W.sum() / targets_W.sum()
        windows = np.count_nonzero(targets_W)
        squares = np.sum((losses_W - mean * targets_W) ** 2)
        sem = np.sqrt(squares * windows / (windows - 1)) / targets_W.sum() if windows > 1 else np.nan
        return {"validation_loss": float(mean), "validation_loss_sem": float(sem)}

    return read
