"""Optimizers and learning-rate schedules, put together from Optax by kind of parameter.

AdamW: Loshchilov & Hutter 2019. Muon: Jordan et al. 2024 (its matrices' update is orthogonalised momentum).

D model, N heads, K key/value heads, H head dim, F hidden, V vocabulary
"""

from math import prod, sqrt

import jax
import jax.numpy as jnp
import optax
from jax import Array
from optax.contrib import MuonDimensionNumbers, scale_by_muon

from makelm import config

# A parameter's name ends in -> its kind, and for a matrix which dims it takes in and gives out.
KINDS = {"embedding_VD": "embedding", "unembedding_VD": "head", "scale": "norms"}
MATRICES = {
    "query_DNH": MuonDimensionNumbers(0, (1, 2)),
    "key_DKH": MuonDimensionNumbers(0, (1, 2)),
    "value_DKH": MuonDimensionNumbers(0, (1, 2)),
    "output_NHD": MuonDimensionNumbers((0, 1), 2),
    "gate_DF": MuonDimensionNumbers(0, 1),
    "up_DF": MuonDimensionNumbers(0, 1),
    "down_FD": MuonDimensionNumbers(0, 1),
}


def kind(name: str) -> str:
    """Returns the key of learning_rates that a parameter goes by."""
    last = name.rpartition(".")[2]
    assert last in KINDS or last in MATRICES, name
    return KINDS.get(last, "matrices")


def schedule(train: config.Train) -> optax.Schedule:
    """Returns step -> factor on every learning rate: a linear warm-up, the peak, then a decay to `final`."""
    plan = train.schedule
    decay = round(plan.decay_fraction * (train.steps - plan.warmup_steps)) if plan.kind != "constant" else 0

    def factor(step):
        warm = jnp.minimum(1.0, (step + 1) / (plan.warmup_steps + 1))
        if not decay:
            return warm
        left = jnp.clip((train.steps - step) / decay, 0.0, 1.0)
        shape = left if plan.kind == "linear" else 0.5 * (1 - jnp.cos(jnp.pi * left))
        return warm * (plan.final + (1 - plan.final) * shape)

    return factor


def make_optimizer(train: config.Train) -> optax.GradientTransformation:
    """Returns the optimizer for a flat dictionary of parameters by name."""
    options, factor = train.optimizer, schedule(train)

    def descend(rate: float) -> optax.GradientTransformation:
        return optax.scale_by_learning_rate(lambda step: rate * factor(step))

    def adam(rate: float, decay: float) -> optax.GradientTransformation:
        return optax.chain(
            optax.scale_by_adam(options.beta1, options.beta2, options.eps),
            optax.add_decayed_weights(decay) if decay else optax.identity(),
            descend(rate),
        )

    def muon(rate: float) -> optax.GradientTransformation:
        return optax.chain(
            scale_by_muon(beta=options.momentum, weight_dimension_numbers=dimensions),
            optax.stateless(lambda updates, _: jax.tree.map_with_path(stretch, updates)),
            optax.add_decayed_weights(options.weight_decay) if options.weight_decay else optax.identity(),
            descend(rate),
        )

    rates = options.learning_rates
    transforms = {
        "matrices": muon(rates.matrices) if options.kind == "muon" else adam(rates.matrices, options.weight_decay),
        # nanoGPT's rule: what has two dims decays
        "embedding": adam(rates.embedding, options.weight_decay if options.kind == "adamw" else 0),
        "head": adam(rates.head, options.weight_decay if options.kind == "adamw" else 0),
        "norms": adam(rates.norms, 0),
    }
    clip = optax.clip_by_global_norm(options.clip_norm) if options.clip_norm else optax.identity()
    return optax.chain(clip, optax.partition(transforms, lambda parameters: {name: kind(name) for name in parameters}))


def dimensions(parameters: dict) -> dict:
    """Returns how each matrix is one, for Muon; Optax has masked whatever is none."""
    return jax.tree.map_with_path(lambda path, _: matrix(path), parameters)


def matrix(path: tuple) -> MuonDimensionNumbers:
    """Returns the dims of the matrix at a path of one key, its name."""
    return MATRICES[path[0].key.rpartition(".")[2]]


def stretch(path: tuple, update: Array) -> Array:
    """Returns an update times sqrt(max(1, out / in)): it then changes the output as much whatever the shape."""
    spec = matrix(path)

    def size(axes: int | tuple[int, ...]) -> int:
        return prod(update.shape[axis] for axis in ((axes,) if isinstance(axes, int) else axes))

    return update * sqrt(max(1.0, size(spec.output_axis) / size(spec.reduction_axis)))
