"""What training computes: an optimizer step, and what else becomes of its state. Pure functions, to be compiled.

B batch, T position, D model, P part of a batch
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.sharding import Mesh

from makelm import config, sharding, statistics
from makelm.loss import NONE, losses, targets_in
from makelm.model import Skeleton, initialize
from makelm.optimizer import make_optimizer, schedule

# parameters: name -> weight; optimizer: Optax's state; average: Optax's, where weights are averaged; best: those of
# the least validation loss, that loss and its step, where they are published
State = dict[str, Any]


@dataclass(frozen=True)
class Computation:
    """The functions of a run's state; `number` is that of a step, from 0."""

    shape: config.Model
    train: config.Train
    compute: config.Compute
    vocab_size: int
    end_of_text: int | None
    mesh: Mesh

    @cached_property
    def skeleton(self) -> Skeleton:
        return Skeleton(self.shape, self.vocab_size, self.end_of_text, self.mesh)

    @cached_property
    def optimizer(self) -> optax.GradientTransformation:
        if not self.train.steps:  # whose statistics would take more memory than the weights
            return optax.identity()
        return make_optimizer(self.train, self.skeleton.paths, self.mesh)

    @cached_property
    def average(self) -> optax.GradientTransformation | None:
        """Returns what averages weights, where they are averaged."""
        decay = self.train.ema if self.train.steps else None
        return None if decay is None else optax.ema(decay, debias=True, accumulator_dtype=jnp.float32)

    def begin(self, parameters: dict) -> State:
        """Returns the state of a first step with these parameters."""
        state = {"parameters": parameters, "optimizer": self.optimizer.init(in_float32(parameters))}
        if self.average is not None:
            state["average"] = self.average.init(parameters)
        if self.train.publish == "best" and self.train.steps:
            state["best"] = {"parameters": parameters, "loss": jnp.float32(0), "step": jnp.int32(0)}
        return state

    def initial_state(self) -> State:
        """Returns the state of a first step with random parameters."""
        return self.begin(initialize(self.shape, self.vocab_size, self.train.seed))

    def at_step(self, state: State, number: Array) -> State:
        """Returns the state with the learning rates of another step."""
        return state | {"optimizer": with_schedule_at(state["optimizer"], number)} if self.train.steps else state

    def gradients(self, state: State, windows_BT: Array, number: Array) -> tuple[dict, Array, Array | None]:
        """Returns what `batch_gradients` does, of a step's batch."""
        key = jax.random.fold_in(jax.random.key(self.train.seed), number)
        return batch_gradients(self.skeleton, state["parameters"], windows_BT, self.compute, self.train.z_loss, key)

    def step(self, state: State, windows_BT: Array, number: Array) -> tuple[State, dict[str, Array]]:
        """Returns the state after a step, and its metrics."""
        parameters = state["parameters"]
        gradients, loss, power = self.gradients(state, windows_BT, number)
        updates, moments = self.optimizer.update(gradients, state["optimizer"], parameters)
        metrics = {
            "loss": loss,
            "learning_rate": self.train.optimizer.learning_rates.matrices * schedule(self.train)(number),
            "grad_norm": norm(gradients),
            "parameter_norm": norm(parameters),
            "update_norm": norm(updates),
        }
        if power is not None:
            metrics |= noise(power, metrics["grad_norm"] ** 2, targets_in(windows_BT), self.compute.accumulate)
        after = state | {"parameters": optax.apply_updates(parameters, updates), "optimizer": moments}
        if self.average is not None:
            after["average"] = self.average.update(after["parameters"], state["average"])[1]
        if self.train.bad_steps == "stop":
            return after, metrics
        limit = self.train.max_gradient_norm or jnp.inf
        good = jnp.isfinite(loss) & jnp.isfinite(metrics["grad_norm"]) & (metrics["grad_norm"] <= limit)
        return kept_where(good, after, state), metrics | {"skipped": ~good}

    def statistics_of(self, state: State, windows_BT: Array, number: Array) -> dict[str, Array]:
        """Returns what a step would do to each tensor."""
        parameters = state["parameters"]
        gradients, _, _ = self.gradients(state, windows_BT, number)
        updates, _ = self.optimizer.update(gradients, state["optimizer"], parameters)
        few_BT = statistics.one_row_each(windows_BT, sharding.parts(self.mesh, "data", "fsdp"))
        logits = statistics.of_attention(self.skeleton(parameters), jnp.maximum(few_BT[:, :-1], 0))
        return statistics.of_tensors(parameters, gradients, updates) | logits

    def keep_best(self, state: State, loss: Array, number: Array) -> State:
        """Returns the state after step `number` with its own weights as the best, if their validation loss is."""
        best, own = state["best"], {"parameters": self.current(state), "loss": loss, "step": number}
        better = (best["step"] == 0) | (loss < best["loss"])
        return state | {"best": jax.tree.map(lambda new, old: jnp.where(better, new, old), own, best)}

    def result(self, state: State) -> dict[str, Array]:
        """Returns the parameters that come out of training."""
        return state["best"]["parameters"] if "best" in state else self.current(state)

    def current(self, state: State) -> dict[str, Array]:
        """Returns the parameters as they are, or their average."""
        if self.average is None:
            return state["parameters"]
        sums = state["average"]
        unbiased = optax.tree.bias_correction(sums.ema, self.train.ema, jnp.maximum(sums.count, 1))

        def averaged(parameter: Array, mean: Array) -> Array:
            return jnp.where(sums.count > 0, mean.astype(parameter.dtype), parameter)  # of no step there is no mean

        return jax.tree.map(averaged, state["parameters"], unbiased)

    def validate(self, state: State, windows_BT: Array) -> tuple[Array, Array]:
        """Returns of each window the sum of its losses, and its targets."""
        losses_BT = losses(self.skeleton(self.current(state)), windows_BT, self.compute)[1]
        return jnp.sum(losses_BT, axis=1), jnp.sum(windows_BT[:, 1:] != NONE, axis=1)


def batch_gradients(
    skeleton: Skeleton, parameters: dict, windows_BT: Array, compute: config.Compute, z_loss: float, key: Array
) -> tuple[dict, Array, Array | None]:
    """Returns the gradients of a batch's mean loss, in float32, that loss, and None.

    In parts, the mean is still that over the tokens of the whole batch, whatever part they are in; the third is the
    mean over parts, by their tokens, of the squared norm of a part's own gradient then.
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
        power = norm(gradients) ** 2 * targets / jnp.maximum(targets_in(part[0]), 1)
        return jax.tree.map(jnp.add, sums, (gradients, loss, power)), None

    def split(rows: Array) -> Array:
        # row by row over the parts: each part has as many rows of each device
        return jnp.swapaxes(rows.reshape(batch // parts, parts, *rows.shape[1:]), 0, 1)

    zeros = jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), parameters), jnp.float32(0), jnp.float32(0)
    return jax.lax.scan(add, zeros, (split(windows_BT), split(keys_B)))[0]


def noise(of_parts: Array, of_batch: Array, targets: Array, parts: int) -> dict[str, Array]:
    """Returns what the gradient noise scale is made of: the variance of one token's gradient and the true power.

    Both are unbiased estimates from squared norms of the gradient of a batch and, on average by tokens, of its parts,
    which need not be alike then: McCandlish et al. 2018, appendix A.1. They are noisy: their ratio, in tokens, wants
    each averaged over many steps.
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
    """Returns the state after a step, or where it is not good the one before it; only the schedule goes on.

    The other counts are of what went into the moments and averages, which are divided by what follows from them.
    """

    def is_schedule(node: Any) -> bool:
        return isinstance(node, optax.ScaleByScheduleState)

    def kept(new: Any, old: Any) -> Any:
        return new if is_schedule(new) else jnp.where(good, new, old)

    return jax.tree.map(kept, after, before, is_leaf=is_schedule)


def with_schedule_at(optimizer_state: Any, step: Array) -> Any:
    """Returns an optimizer's state whose learning rates are those after `step` steps; its moments stay."""

    def of_a_schedule(path: tuple, _: Any) -> bool:
        return path[-1].tuple_name == "ScaleByScheduleState"

    return optax.tree_utils.tree_set(optimizer_state, of_a_schedule, count=jnp.asarray(step, jnp.int32))
