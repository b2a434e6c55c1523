"""One optimizer step, and the state it changes, laid out over a mesh.

B batch, T position, D model, P part of a batch
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from makelm import config, sharding, statistics
from makelm.errors import UserError
from makelm.loss import NONE, losses, targets_in
from makelm.model import Skeleton, initialize
from makelm.optimizer import make_optimizer, schedule

# parameters: name -> weight; optimizer: Optax's state; average: Optax's, where weights are averaged
State = dict[str, Any]
Rows = Callable[[int, int], np.ndarray]  # first and last row -> these rows of a batch, windows of T + 1 tokens


@dataclass(frozen=True)
class Trainer:
    """What is compiled once for a run."""

    state_shapes: State  # shapes, dtypes and shardings, without memory
    initial_state: Callable[[], State]
    begin: Callable[[dict[str, Array]], State]  # the state of a first step with these parameters
    at_step: Callable[[State, int], State]  # the same with the learning rates of another step
    step: Callable[[State, Array, int], tuple[State, dict[str, Array]]]
    statistics: Callable[[State, Array, int], dict[str, Array]]  # what a step would do to each tensor
    validate: Callable[[State, Array], tuple[Array, Array]]  # of each window the sum of its losses, and its targets
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
    platform = mesh.devices.flat[0].platform
    if compute.attention == "cudnn" and platform != "gpu":
        raise UserError(f"compute.attention: cudnn is for NVIDIA GPUs, this is a {platform}; set it to xla")
    skeleton, factor = Skeleton(shape, vocab_size, end_of_text, mesh), schedule(train)
    optimizer = make_optimizer(train, skeleton.paths, mesh)
    average = None if train.ema is None else optax.ema(train.ema, debias=True, accumulator_dtype=jnp.float32)

    def begin(parameters: dict) -> State:
        state = {"parameters": parameters, "optimizer": optimizer.init(in_float32(parameters))}
        return state if average is None else state | {"average": average.init(parameters)}

    def initial_state() -> State:
        return begin(initialize(shape, vocab_size, train.seed))

    def at_step(state: State, number: Array) -> State:
        return state | {"optimizer": with_schedule_at(state["optimizer"], number)}

    def gradients_of(state: State, windows_BT: Array, number: Array) -> tuple[dict, Array, Array | None]:
        key = jax.random.fold_in(jax.random.key(train.seed), number)
        return batch_gradients(skeleton, state["parameters"], windows_BT, compute, train.z_loss, key)

    def step(state: State, windows_BT: Array, number: Array) -> tuple[State, dict[str, Array]]:
        parameters = state["parameters"]
        gradients, loss, power = gradients_of(state, windows_BT, number)
        updates, moments = optimizer.update(gradients, state["optimizer"], parameters)
        metrics = {
            "loss": loss,
            "learning_rate": train.optimizer.learning_rates.matrices * factor(number),
            "grad_norm": norm(gradients),
            "parameter_norm": norm(parameters),
            "update_norm": norm(updates),
        }
        if power is not None:
            metrics |= noise(power, metrics["grad_norm"] ** 2, targets_in(windows_BT), compute.accumulate)
        after = {"parameters": optax.apply_updates(parameters, updates), "optimizer": moments}
        if average is not None:
            after["average"] = average.update(after["parameters"], state["average"])[1]
        if train.bad_steps == "stop":
            return after, metrics
        limit = train.max_gradient_norm or jnp.inf
        good = jnp.isfinite(loss) & jnp.isfinite(metrics["grad_norm"]) & (metrics["grad_norm"] <= limit)
        return kept_where(good, after, state), metrics | {"skipped": ~good}

    def statistics_of(state: State, windows_BT: Array, number: Array) -> dict[str, Array]:
        parameters = state["parameters"]
        gradients, _, _ = gradients_of(state, windows_BT, number)
        updates, _ = optimizer.update(gradients, state["optimizer"], parameters)
        few_BT = statistics.one_row_each(windows_BT, sharding.parts(mesh, "data", "fsdp"))
        logits = statistics.of_attention(skeleton(parameters), jnp.maximum(few_BT[:, :-1], 0))
        return statistics.of_tensors(parameters, gradients, updates) | logits

    def result(state: State) -> dict[str, Array]:
        if average is None:
            return state["parameters"]
        sums = state["average"]
        unbiased = optax.tree.bias_correction(sums.ema, train.ema, sums.count)
        return jax.tree.map(lambda p, mean: mean.astype(p.dtype), state["parameters"], unbiased)

    def validate(state: State, windows_BT: Array) -> tuple[Array, Array]:
        losses_BT = losses(skeleton(result(state)), windows_BT, compute)[1]
        return jnp.sum(losses_BT, axis=1), jnp.sum(windows_BT[:, 1:] != NONE, axis=1)

    shapes = jax.eval_shape(initial_state)
    layout = state_sharding(mesh, shapes)
    rows, whole = NamedSharding(mesh, sharding.BATCH), NamedSharding(mesh, PartitionSpec())
    own = layout["parameters"]
    return Trainer(
        state_shapes=jax.tree.map(lambda s, at: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=at), shapes, layout),
        initial_state=jax.jit(initial_state, out_shardings=layout),
        begin=jax.jit(begin, in_shardings=(own,), out_shardings=layout, donate_argnums=0),
        at_step=jax.jit(at_step, in_shardings=(layout, whole), out_shardings=layout, donate_argnums=0),
        step=jax.jit(step, in_shardings=(layout, rows, whole), out_shardings=(layout, whole), donate_argnums=0),
        statistics=jax.jit(statistics_of, in_shardings=(layout, rows, whole), out_shardings=whole),
        validate=jax.jit(validate, in_shardings=(layout, rows), out_shardings=whole),
        result=jax.jit(result, in_shardings=(layout,), out_shardings=own),
        place=lambda windows_BT: place_rows(rows, lambda a, b: windows_BT[a:b], windows_BT.shape),
        place_rows=lambda read, count: place_rows(rows, read, (count, shape.context_length + 1)),
    )


def batch_gradients(
    skeleton: Skeleton, parameters: dict, windows_BT: Array, compute: config.Compute, z_loss: float, key: Array
) -> tuple[dict, Array, Array | None]:
    """Returns the gradients of a batch's mean loss, in float32, that loss, and None.

    In parts, the mean is still that over the tokens of the whole batch, whatever part they are in; the third is the
    mean over parts of the squared norm of a part's own gradient then.
    """
    batch, targets = windows_BT.shape[0], targets_in(windows_BT)
    keys_B = jax.vmap(lambda row: jax.random.fold_in(key, row))(jnp.arange(batch))

    def objective(parameters: dict, part_BT: Array, own_B: Array) -> tuple[Array, Array]:
        dropping_B = own_B if skeleton.shape.dropout else None
        minimised, losses_BT = losses(skeleton(parameters), part_BT, compute, z_loss, dropping_B)
        return minimised / targets, jnp.sum(losses_BT) / targets

    differentiate = jax.value_and_grad(objective, has_aux=True)
    parts = compute.accumulate
    if parts == 1:
        (_, loss), gradients = differentiate(parameters, windows_BT, keys_B)
        return in_float32(gradients), loss, None

    def add(sums: tuple[dict, Array, Array], part: tuple[Array, Array]) -> tuple[tuple[dict, Array, Array], None]:
        (_, loss), gradients = differentiate(sharding.anew(skeleton.mesh, parameters, part), *part)
        gradients = in_float32(gradients)
        own = norm(gradients) ** 2 * (targets / jnp.maximum(targets_in(part[0]), 1)) ** 2
        return jax.tree.map(jnp.add, sums, (gradients, loss, own / parts)), None

    def split(rows: Array) -> Array:
        # row by row over the parts: each part has as many rows of each device
        return jnp.swapaxes(rows.reshape(batch // parts, parts, *rows.shape[1:]), 0, 1)

    zeros = jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), parameters), jnp.float32(0), jnp.float32(0)
    return jax.lax.scan(add, zeros, (split(windows_BT), split(keys_B)))[0]


def noise(of_parts: Array, of_batch: Array, targets: Array, parts: int) -> dict[str, Array]:
    """Returns what the gradient noise scale is made of: the variance of one token's gradient and the true power.

    Both are unbiased estimates from squared norms of the gradient of a batch and, on average, of its parts: McCandlish
    et al. 2018, appendix A.1. They are noisy: their ratio, in tokens, wants each averaged over many steps.
    """
    return {
        "gradient_variance": (of_parts - of_batch) * targets / (parts - 1),
        "gradient_power": (parts * of_batch - of_parts) / (parts - 1),
    }


def norm(tree: Any) -> Array:
    """Returns the Euclidean norm of all arrays together; as products, which XLA on a CPU sums faster than squares."""
    leaves = jax.tree.leaves(in_float32(tree))
    return jnp.sqrt(sum(jnp.tensordot(leaf, leaf, leaf.ndim) for leaf in leaves))


def in_float32(tree: Any) -> Any:
    """Returns arrays in float32: moments of eight bits would stand still."""
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), tree)


def kept_where(good: Array, after: State, before: State) -> State:
    """Returns the state after a step, or where it is not good the one before it; counts of steps go on."""

    def leaf(new: Array, old: Array) -> Array:
        return jnp.where(good, new, old) if jnp.issubdtype(new.dtype, jnp.floating) else new

    return jax.tree.map(leaf, after, before)


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


def with_schedule_at(optimizer_state: Any, step: Array) -> Any:
    """Returns an optimizer's state whose learning rates are those after `step` steps; its moments stay."""

    def of_a_schedule(path: tuple, _: Any) -> bool:
        return path[-1].tuple_name == "ScaleByScheduleState"

    return optax.tree_utils.tree_set(optimizer_state, of_a_schedule, count=jnp.asarray(step, jnp.int32))


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
