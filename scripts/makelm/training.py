"""One optimizer step, and the state it changes, laid out over a mesh.

B batch, T position, D model
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

from makelm import config, sharding
from makelm.loss import mean_loss
from makelm.model import Skeleton, initialize
from makelm.optimizer import make_optimizer, schedule

State = dict[str, Any]  # parameters: name -> weight; optimizer: Optax's state


@dataclass(frozen=True)
class Trainer:
    """What is compiled once for a run."""

    state_shapes: State  # shapes, dtypes and shardings, without memory
    initial_state: Callable[[], State]
    step: Callable[[State, Array, int], tuple[State, dict[str, Array]]]
    validate: Callable[[State, Array], Array]
    place: Callable[[np.ndarray], Array]


def make_trainer(shape: config.Model, train: config.Train, vocab_size: int, mesh: Mesh) -> Trainer:
    """Returns the compiled pieces of a run. Raises UserError where shapes do not divide over the mesh."""
    sharding.check_batch(mesh, train.batch_size)
    skeleton, optimizer, factor = Skeleton(shape, vocab_size), make_optimizer(train), schedule(train)
    seed = train.seed

    def initial_state() -> State:
        parameters = initialize(shape, vocab_size, seed)
        return {"parameters": parameters, "optimizer": optimizer.init(parameters)}

    def loss(parameters: dict, windows_BT: Array) -> Array:
        return mean_loss(skeleton(parameters), windows_BT)

    def step(state: State, windows_BT: Array, number: Array) -> tuple[State, dict[str, Array]]:
        value, gradients = jax.value_and_grad(loss)(state["parameters"], windows_BT)
        updates, moments = optimizer.update(gradients, state["optimizer"], state["parameters"])
        metrics = {
            "loss": value,
            "learning_rate": train.optimizer.learning_rates.matrices * factor(number),
            "grad_norm": optax.tree.norm(gradients),
        }
        return {"parameters": optax.apply_updates(state["parameters"], updates), "optimizer": moments}, metrics

    def validate(state: State, windows_BT: Array) -> Array:
        return loss(state["parameters"], windows_BT)

    shapes = jax.eval_shape(initial_state)
    layout = state_sharding(mesh, shapes)
    rows, whole = NamedSharding(mesh, sharding.BATCH), NamedSharding(mesh, PartitionSpec())
    return Trainer(
        state_shapes=jax.tree.map(lambda s, at: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=at), shapes, layout),
        initial_state=jax.jit(initial_state, out_shardings=layout),
        step=jax.jit(step, in_shardings=(layout, rows, whole), out_shardings=(layout, whole), donate_argnums=0),
        validate=jax.jit(validate, in_shardings=(layout, rows), out_shardings=whole),
        place=lambda windows_BT: jax.device_put(windows_BT, rows),
    )


def state_sharding(mesh: Mesh, shapes: State) -> State:
    """Returns the sharding of each leaf: a parameter's statistic in the optimizer lies where the parameter does."""
    names = shapes["parameters"]

    def where(path: tuple, leaf: jax.ShapeDtypeStruct) -> NamedSharding:
        name = next((key.key for key in reversed(path) if getattr(key, "key", None) in names), None)
        if name is None:
            return NamedSharding(mesh, PartitionSpec())
        return sharding.parameter_sharding(mesh, name, leaf.shape)

    return jax.tree_util.tree_map_with_path(where, shapes)


def parameter_count(shapes: State) -> int:
    """Returns the number of weights."""
    return sum(leaf.size for leaf in jax.tree.leaves(shapes["parameters"]))


def validation_loss(trainer: Trainer, state: State, windows_WT: np.ndarray, batch_size: int) -> float:
    """Returns the mean loss of validation windows, in batches of one shape; W is a multiple of the batch size."""
    batches = range(0, len(windows_WT), batch_size)
    losses = [trainer.validate(state, trainer.place(windows_WT[i : i + batch_size])) for i in batches]
    return float(jnp.mean(jnp.stack(losses)))
