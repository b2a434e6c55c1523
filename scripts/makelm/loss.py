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

ROWS = 512  # positions whose logits exist at a time
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


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def head_loss(x_RD: Array, head_VD: Array, bias_V: Array | None, targets_R: Array, terms: Terms) -> tuple[Array, Array]:
    """Returns what is minimised under an output head, summed over rows, and the cross-entropies losses_R.

    Rows whose target is NONE count nothing. Only the sum has a gradient; that of the logits, softmax - one-hot,
    is at hand while the logits are: it is computed in the forward pass, a few rows at a time, so that the logits
    of a whole batch never exist.
    """
    return head_loss_forward(x_RD, head_VD, bias_V, targets_R, terms)[0]


def head_loss_forward(x_RD, head_VD, bias_V, targets_R, terms: Terms) -> tuple[tuple[Array, Array], tuple]:
    matrix_VD, cap = head_VD.astype(x_RD.dtype), terms.soft_cap
    objective, losses, g_parts, g_VD, g_V = 0.0, [], [], 0.0, 0.0
    for first in range(0, len(targets_R), ROWS):
        x, targets = x_RD[first : first + ROWS], targets_R[first : first + ROWS]
        counted_R1 = (targets != NONE)[:, None]
        logits_RV = jnp.einsum("RD,VD->RV", x, matrix_VD).astype(jnp.float32)
        # the target's logit once more as a product: cheaper than to gather it from the logits
        hit_R1 = jnp.sum((x * matrix_VD[targets]).astype(jnp.float32), axis=-1, keepdims=True)
        if bias_V is not None:
            logits_RV, hit_R1 = logits_RV + bias_V[None], hit_R1 + bias_V[targets][:, None]
        if cap is not None:
            logits_RV, hit_R1 = cap * jnp.tanh(logits_RV / cap), cap * jnp.tanh(hit_R1 / cap)
        normalizer_R1 = jax.nn.logsumexp(logits_RV, axis=-1, keepdims=True)
        losses_R1 = jnp.where(counted_R1, normalizer_R1 - hit_R1, 0)
        losses.append(losses_R1[:, 0])
        objective += jnp.sum(losses_R1 + terms.z_loss * jnp.where(counted_R1, normalizer_R1**2, 0))
        hit_RV = jnp.arange(matrix_VD.shape[0])[None, :] == targets[:, None]
        g_RV = jnp.exp(logits_RV - normalizer_R1) * (1 + 2 * terms.z_loss * normalizer_R1) - hit_RV
        if cap is not None:
            g_RV = g_RV * (1 - (logits_RV / cap) ** 2)
        g_RV = jnp.where(counted_R1, g_RV, 0).astype(x.dtype)
        g_parts.append(jnp.einsum("RV,VD->RD", g_RV, matrix_VD))
        g_VD += jnp.einsum("RV,RD->VD", g_RV, x)
        g_V += jnp.sum(g_RV.astype(jnp.float32), axis=0)
    # what a gradient is cast to must be known without the weight itself: an array of no elements says it
    kinds = (head_VD[:0], None if bias_V is None else bias_V[:0])
    return (objective, jnp.concatenate(losses)), (jnp.concatenate(g_parts), g_VD, g_V, kinds)


def head_loss_backward(terms: Terms, saved: tuple, g: tuple[Array, Array]) -> tuple[Array | None, ...]:
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
    if groups == 1:
        objective, losses_R = head_loss(x_RD, head_VD, bias_V, targets_R, terms)
        return objective, losses_R.reshape(x_BTD.shape[:2])
    # each group a few of its own rows at a time; the sum over groups, of the head's gradient too, is the last thing
    x_GRD = sharding.rows(model.mesh, x_RD.reshape(groups, -1, x_RD.shape[-1]))
    targets_GR = sharding.rows(model.mesh, targets_R.reshape(groups, -1))
    objective_G, losses_GR = jax.vmap(lambda x, targets: head_loss(x, head_VD, bias_V, targets, terms))(
        x_GRD, targets_GR
    )
    return jnp.sum(objective_G), losses_GR.reshape(x_BTD.shape[:2])


def targets_in(windows_BT: Array) -> Array:
    """Returns how many tokens windows predict."""
    return jnp.sum(windows_BT[:, 1:] != NONE)


def mean_loss(model: Transformer, windows_BT: Array) -> Array:
    """Returns the mean cross-entropy of windows of T + 1 tokens."""
    return jnp.sum(losses(model, windows_BT)[1]) / targets_in(windows_BT)
