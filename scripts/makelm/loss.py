"""The training loss: cross-entropy of the next token, in nats, and what is added to it.

G group of devices with rows of their own, R row (a position of a window), B batch, T position, D model, V vocabulary
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from makelm import config, sharding
from makelm.model import PLAIN, Transformer

LEAST_ROWS = 512  # of one product with the head
# logits that exist at a time: on a CPU what its caches hold; elsewhere few enough for memory, and so many that the sum
# of the head's gradients, read and written for each part, costs little beside the products
LOGITS = {"cpu": 2**20}
LOGITS_ELSEWHERE = 2**28
NONE = -1  # as a target: nothing to predict here


@dataclass(frozen=True)
class Terms:
    """What there is beside the plain cross-entropy."""

    z_loss: float = 0.0  # weight of the squared log-normalizer (Chowdhery et al. 2022, PaLM)
    soft_cap: float | None = None  # logits are held within it by tanh


def token_losses(logits_BTV: Array, targets_BT: Array) -> Array:
    """Returns -log p of each target, loss_BT, in float32."""
    picked_BT = jnp.take_along_axis(logits_BTV, targets_BT[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits_BTV, axis=-1) - picked_BT


def rows_at_a_time(platform: str, vocab_rows: int) -> int:
    """Returns of how many positions logits exist at a time on such devices, a power of two."""
    fitting = LOGITS.get(platform, LOGITS_ELSEWHERE) // vocab_rows
    return max(LEAST_ROWS, 1 << max(0, fitting.bit_length() - 1))


@partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def head_loss(
    x_RD: Array, head_VD: Array, bias_V: Array | None, targets_R: Array, terms: Terms, rows: int
) -> tuple[Array, Array]:
    """Returns what is minimised under an output head, summed over rows, and the cross-entropies losses_R.

    Rows whose target is NONE count nothing. Only the sum has a gradient; that of the logits, softmax - one-hot,
    is at hand while the logits are: it is computed in the forward pass, about `rows` rows at a time, so that the
    logits of a whole batch never exist.
    """
    return head_loss_forward(x_RD, head_VD, bias_V, targets_R, terms, rows)[0]


def head_loss_forward(x_RD, head_VD, bias_V, targets_R, terms: Terms, rows: int) -> tuple[tuple[Array, Array], tuple]:
    matrix_VD = jnp.asarray(head_VD, x_RD.dtype)
    bias_V = None if bias_V is None else jnp.asarray(bias_V)
    split = partial(divided, parts=-(-len(targets_R) // rows))

    def add(sums: tuple[Array, ...], part: tuple[Array, Array]) -> tuple[tuple[Array, ...], tuple[Array, Array]]:
        shared, own = part_loss(*part, matrix_VD, bias_V, terms)
        return jax.tree.map(jnp.add, sums, shared), own

    zeros = jnp.float32(0), jnp.zeros(matrix_VD.shape, jnp.float32), jnp.zeros(len(matrix_VD), jnp.float32)
    # a loop: XLA for GPUs would else compute the logits of many parts at once, and keep the products of all to sum them
    (objective, g_VD, g_V), own = jax.lax.scan(add, zeros, (split(x_RD, 0), split(targets_R, NONE)))
    losses_R, g_RD = (each.reshape(-1, *each.shape[2:])[: len(targets_R)] for each in own)
    # what a gradient is cast to must be known without the weight itself: an array of no elements says it
    kinds = (head_VD[:0], None if bias_V is None else bias_V[:0])
    return (objective, losses_R), (g_RD, g_VD, g_V, kinds)


def divided(rows: Array, filler: int, parts: int) -> Array:
    """Returns rows in equal parts, the last one filled up."""
    missing = -len(rows) % parts
    filled = jnp.pad(rows, [(0, missing)] + [(0, 0)] * (rows.ndim - 1), constant_values=filler) if missing else rows
    return filled.reshape(parts, -1, *rows.shape[1:])


def part_loss(
    x_RD: Array, targets_R: Array, matrix_VD: Array, bias_V: Array | None, terms: Terms
) -> tuple[tuple[Array, Array, Array], tuple[Array, Array]]:
    """Returns what rows add to the objective and to the gradients of matrix and bias, and their losses and gradient."""
    cap = terms.soft_cap
    counted_R1 = (targets_R != NONE)[:, None]
    logits_RV = jnp.einsum("RD,VD->RV", x_RD, matrix_VD).astype(jnp.float32)
    # the target's logit once more as a product: cheaper than to gather it from the logits
    hit_R1 = jnp.sum((x_RD * matrix_VD[targets_R]).astype(jnp.float32), axis=-1, keepdims=True)
    if bias_V is not None:
        logits_RV, hit_R1 = logits_RV + bias_V[None], hit_R1 + bias_V[targets_R][:, None]
    if cap is not None:
        logits_RV, hit_R1 = cap * jnp.tanh(logits_RV / cap), cap * jnp.tanh(hit_R1 / cap)
    normalizer_R1 = jax.nn.logsumexp(logits_RV, axis=-1, keepdims=True)
    losses_R1 = jnp.where(counted_R1, normalizer_R1 - hit_R1, 0)
    objective = jnp.sum(losses_R1 + terms.z_loss * jnp.where(counted_R1, normalizer_R1**2, 0))
    hit_RV = jnp.arange(matrix_VD.shape[0])[None, :] == targets_R[:, None]
    g_RV = jnp.exp(logits_RV - normalizer_R1) * (1 + 2 * terms.z_loss * normalizer_R1) - hit_RV
    if cap is not None:
        g_RV = g_RV * (1 - (logits_RV / cap) ** 2)
    g_RV = jnp.where(counted_R1, g_RV, 0).astype(x_RD.dtype)
    # in float32: summed over the parts in bfloat16, most of what a late part adds would be rounded away
    g_VD = jnp.einsum("RV,RD->VD", g_RV, x_RD, preferred_element_type=jnp.float32)
    g_V = jnp.sum(g_RV.astype(jnp.float32), axis=0)
    return (objective, g_VD, g_V), (losses_R1[:, 0], jnp.einsum("RV,VD->RD", g_RV, matrix_VD))


def head_loss_backward(terms: Terms, rows: int, saved: tuple, g: tuple[Array, Array]) -> tuple[Array | None, ...]:
    g_RD, g_VD, g_V, (head, bias) = saved
    g_bias_V = None if bias is None else (g_V * g[0]).astype(bias.dtype)
    return (g_RD * g[0]).astype(g_RD.dtype), (g_VD * g[0]).astype(head.dtype), g_bias_V, None


head_loss.defvjp(head_loss_forward, head_loss_backward)


def losses(
    model: Transformer,
    windows_BT: Array,
    compute: config.Compute = PLAIN,
    z_loss: float = 0.0,
    keys_B: Array | None = None,
) -> tuple[Array, Array]:
    """Returns what is minimised, summed over windows of T + 1 tokens, and the cross-entropies losses_BT.

    Each token predicts the one after it; a token of NONE fills up and is neither predicted nor seen by others
    before it. `keys_B` switch dropout on.
    """
    x_BTD = model.hidden(jnp.maximum(windows_BT[:, :-1], 0), compute, keys_B)
    x_RD, targets_R = x_BTD.reshape(-1, x_BTD.shape[-1]), windows_BT[:, 1:].reshape(-1)
    (head_VD, bias_V), terms = model.head(), Terms(z_loss, model.shape.logit_soft_cap)
    groups = sharding.parts(model.mesh, "data", "fsdp")
    rows = rows_at_a_time(sharding.platform(model.mesh), len(head_VD))
    if groups == 1:
        objective, losses_R = head_loss(x_RD, head_VD, bias_V, targets_R, terms, rows)
        return objective, losses_R.reshape(x_BTD.shape[:2])
    # each group a few of its own rows at a time; the sum over groups, of the head's gradient too, is the last thing
    x_GRD = sharding.rows(model.mesh, x_RD.reshape(groups, -1, x_RD.shape[-1]))
    targets_GR = sharding.rows(model.mesh, targets_R.reshape(groups, -1))
    of_group = jax.vmap(lambda x, targets: head_loss(x, head_VD, bias_V, targets, terms, rows))
    objective_G, losses_GR = of_group(x_GRD, targets_GR)
    return jnp.sum(objective_G), losses_GR.reshape(x_BTD.shape[:2])


def targets_in(windows_BT: Array) -> Array:
    """Returns how many tokens windows predict."""
    return jnp.sum(windows_BT[:, 1:] != NONE)
