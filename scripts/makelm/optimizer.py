"""Optimizers and learning-rate schedules, put together from Optax by kind of parameter.

AdamW: Loshchilov & Hutter 2019. Muon: Jordan et al. 2024, a matrix's update is its momentum made orthogonal, here with
the coefficients of Polar Express (Amsel et al. 2025); twice as fast on a CPU as Optax's own, which is otherwise alike.

D model, N heads, K key/value heads, H head dim, F hidden, V vocabulary
"""

from math import prod, sqrt

import jax
import jax.numpy as jnp
import optax
from jax import Array

from makelm import config

# A parameter's name ends in -> its kind, and for a matrix which dims it takes in and gives out.
KINDS = {"embedding_VD": "embedding", "unembedding_VD": "head", "scale": "norms"}
# The dims of a matrix that it takes in come first; how many they are.
MATRICES = {
    "query_DNH": 1,
    "key_DKH": 1,
    "value_DKH": 1,
    "output_NHD": 2,
    "gate_DF": 1,
    "up_DF": 1,
    "down_FD": 1,
}
POLAR_EXPRESS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
)


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
            optax.trace(options.momentum, nesterov=True),
            optax.stateless(lambda updates, _: jax.tree.map_with_path(orthogonal, updates)),
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


def orthogonal(path: tuple, update: Array) -> Array:
    """Returns the matrix nearest to an update whose singular values are all sqrt(max(1, out / in)).

    So it changes the output by as much whatever its shape and whatever the gradient's size. Four steps of a
    Newton-Schulz iteration leave the singular values within about 0.5 and 1.6 of that.
    """
    rows = prod(update.shape[: MATRICES[path[0].key.rpartition(".")[2]]])
    matrix = update.reshape(rows, -1)
    wide = matrix if rows <= matrix.shape[1] else matrix.T
    x = wide / (1.02 * jnp.linalg.norm(wide) + 1e-7)  # the iteration diverges above a norm of 1
    for a, b, c in POLAR_EXPRESS:
        square = x @ x.T
        x = a * x + (b * square + c * (square @ square)) @ x
    x = x if rows <= matrix.shape[1] else x.T
    return sqrt(max(1.0, matrix.shape[1] / rows)) * x.reshape(update.shape)
