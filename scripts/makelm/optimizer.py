"""Optimizers and learning-rate schedules, put together from Optax by kind of parameter.

AdamW: Loshchilov & Hutter 2019. Lion: Chen et al. 2023. Adafactor: Shazeer & Stern 2018. Muon: Jordan et al. 2024, a
matrix's update is its momentum made orthogonal, here with the coefficients of Polar Express (Amsel et al. 2025);
twice as fast on a CPU as Optax's own, which is otherwise alike.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from math import prod, sqrt
from typing import assert_never

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.sharding import Mesh

from makelm import config, parameter_table, sharding
from makelm.config_training import Optimizer

MIN_DIM_TO_FACTOR = 128  # Adafactor keeps the whole statistic of a smaller matrix
POLAR_EXPRESS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
)


# share of a decay's steps that is left -> share that is left of what the peak is above `final`
DECAYS = {
    "linear": lambda left: left,
    "cosine": lambda left: 0.5 * (1 - jnp.cos(jnp.pi * left)),
    "constant": None,
    "rsqrt": None,  # no part of the steps, but all of them
}


def schedule(train: config.Train) -> optax.Schedule:
    """Returns step -> factor on every learning rate: a linear warm-up, the peak, then a decay to `final`.

    Step 0 is at warmup_start, step warmup_steps at the peak. rsqrt decays from there as Vaswani et al. 2017 do.
    """
    plan = train.schedule
    warmup, end = plan.warmup_steps, plan.decay_end or train.steps
    start = 1 / (warmup + 1) if plan.warmup_start is None else plan.warmup_start
    decay = round(plan.decay_fraction * (end - warmup))
    shape = DECAYS[plan.kind]

    def decayed(step):
        if plan.kind == "rsqrt":
            return jnp.sqrt((1 + warmup) / (1 + jnp.maximum(step, warmup)))
        if shape is None or not decay:
            return 1.0
        return plan.final + (1 - plan.final) * shape(jnp.clip((end - step) / decay, 0.0, 1.0))

    def factor(step):
        warm = jnp.minimum(1.0, start + (1 - start) * step / warmup) if warmup else 1.0
        return warm * decayed(step)

    return factor


def make_optimizer(train: config.Train, names: Iterable[str], mesh: Mesh | None = None) -> optax.GradientTransformation:
    """Returns the optimizer for a flat dictionary of the parameters with these names, shared out over a mesh."""
    options, factor = train.optimizer, schedule(train)
    treatments = {name: Treatment.of(name, options) for name in names}

    def transform(how: Treatment) -> optax.GradientTransformation:
        rate = getattr(options.learning_rates, how.kind)
        decay = options.weight_decay / (rate if options.independent_decay else 1) if how.decays else 0
        return optax.chain(
            rule(options, how.kind, mesh),
            optax.add_decayed_weights(decay) if decay else optax.identity(),
            optax.scale_by_learning_rate(lambda step: how.multiplier * rate * factor(step)),
        )

    clip = optax.clip_by_global_norm(options.clip_norm) if options.clip_norm else optax.identity()
    by_label = {str(how): transform(how) for how in treatments.values()}
    return optax.chain(clip, optax.partition(by_label, {name: str(how) for name, how in treatments.items()}))


@dataclass(frozen=True)
class Treatment:
    """How a parameter is changed."""

    kind: str
    multiplier: float  # on its learning rate
    decays: bool

    @classmethod
    def of(cls, name: str, options: Optimizer) -> "Treatment":
        """Returns the treatment of the parameter with this name."""
        # maps have no order; of two parts as long the later one is the nearer
        fitting = {
            (len(part), name.rfind(part)): times for part, times in options.rate_multipliers.items() if part in name
        }
        multiplier = fitting[max(fitting)] if fitting else 1.0
        spared = any(part in name for part in options.decay_except)
        kind = parameter_table.of(name).kind
        return cls(kind, multiplier, kind in options.decay and not spared)

    def __str__(self) -> str:
        return f"{self.kind} x{self.multiplier:g} {'decays' if self.decays else 'keeps'}"


def rule(options: Optimizer, kind: str, mesh: Mesh | None) -> optax.GradientTransformation:
    """Returns what makes a parameter's update of its gradient, before decay and learning rate."""
    match options.kind:
        case "lion":
            return optax.scale_by_lion(options.beta1, options.beta2)
        case "adafactor":
            return optax.chain(
                optax.scale_by_factored_rms(epsilon=options.eps, min_dim_size_to_factor=MIN_DIM_TO_FACTOR),
                optax.clip_by_block_rms(1.0),
                optax.scale_by_param_block_rms(),
            )
        case "muon" if kind == "matrices":
            return optax.chain(
                optax.trace(options.momentum, nesterov=True),
                optax.stateless(lambda updates, _: jax.tree.map_with_path(partial(orthogonal, mesh), updates)),
            )
        case "muon" | "adamw":
            return optax.scale_by_adam(options.beta1, options.beta2, options.eps)
        case _:
            assert_never(options.kind)


def orthogonal(mesh: Mesh | None, path: tuple, update: Array) -> Array:
    """Returns the matrix nearest to an update whose singular values are all sqrt(max(1, out / in)).

    So it changes the output by as much whatever its shape and whatever the gradient's size. Four steps of a
    Newton-Schulz iteration leave all but the smallest within about 0.4 and 1.6 of that. Devices hold some columns
    each, of one matrix at a time; only its square, as wide as its shorter side, is summed over them.
    """
    parameter = parameter_table.of(path[0].key)
    rows, axes = prod(update.shape[: parameter.inputs]), parameter.matrix_axes
    matrix = sharding.laid_out(mesh, update.reshape(rows, -1), *axes)
    wide, along = (matrix, axes) if rows <= matrix.shape[1] else (matrix.T, axes[::-1])

    def in_columns(x: Array) -> Array:
        return sharding.laid_out(mesh, x, None, tuple(filter(None, along[::-1])))

    wide = in_columns(wide)
    x = wide / (1.02 * jnp.linalg.norm(wide) + 1e-7)  # the iteration diverges above a norm of 1
    for a, b, c in POLAR_EXPRESS:
        square = sharding.laid_out(mesh, x @ x.T)
        x = in_columns(a * x + (b * square + c * (square @ square)) @ x)
    x = sharding.laid_out(mesh, x if rows <= matrix.shape[1] else x.T, *axes)
    return sqrt(max(1.0, matrix.shape[1] / rows)) * x.reshape(update.shape)
