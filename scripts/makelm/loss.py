"""The training loss: mean cross-entropy of the next token, in nats.

R row (a position of a window), B batch, T position, D model, V vocabulary
"""

import jax
import jax.numpy as jnp
from jax import Array

from makelm.model import Transformer

ROWS = 512  # positions whose logits exist at a time


def token_losses(logits_BTV: Array, targets_BT: Array) -> Array:
    """Returns -log p of each target, loss_BT, in float32."""
    picked_BT = jnp.take_along_axis(logits_BTV, targets_BT[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits_BTV, axis=-1) - picked_BT


@jax.custom_vjp
def head_loss(x_RD: Array, head_VD: Array, targets_R: Array) -> Array:
    """Returns the mean loss of rows of the stream under an output head.

    The gradient of the logits, softmax - one-hot, is at hand while the logits are: it is computed in the
    forward pass, a few rows at a time, so that the logits of a whole batch never exist.
    """
    return head_loss_forward(x_RD, head_VD, targets_R)[0]


def head_loss_forward(x_RD: Array, head_VD: Array, targets_R: Array) -> tuple[Array, tuple[Array, Array]]:
    rows, head_VD = len(targets_R), head_VD.astype(x_RD.dtype)
    total, g_parts, g_VD = 0.0, [], 0.0
    for first in range(0, rows, ROWS):
        x, targets = x_RD[first : first + ROWS], targets_R[first : first + ROWS]
        logits_RV = jnp.einsum("RD,VD->RV", x, head_VD).astype(jnp.float32)
        normalizer_R1 = jax.nn.logsumexp(logits_RV, axis=-1, keepdims=True)
        # the target's logit once more as a product: cheaper than to gather it from the logits
        total += jnp.sum(normalizer_R1) - jnp.sum((x * head_VD[targets]).astype(jnp.float32))
        hit_RV = jnp.arange(head_VD.shape[0])[None, :] == targets[:, None]
        g_RV = ((jnp.exp(logits_RV - normalizer_R1) - hit_RV) / rows).astype(x.dtype)
        g_parts.append(jnp.einsum("RV,VD->RD", g_RV, head_VD))
        g_VD += jnp.einsum("RV,RD->VD", g_RV, x)
    return total / rows, (jnp.concatenate(g_parts), g_VD)


def head_loss_backward(kept: tuple[Array, Array], gradient: Array) -> tuple[Array, Array, None]:
    g_RD, g_VD = kept
    return (g_RD * gradient).astype(g_RD.dtype), (g_VD * gradient).astype(jnp.float32), None


head_loss.defvjp(head_loss_forward, head_loss_backward)


def mean_loss(model: Transformer, windows_BT: Array) -> Array:
    """Returns the mean loss of windows of T + 1 tokens: each predicts the one after it."""
    x_BTD = model.hidden(windows_BT[:, :-1])
    return head_loss(x_BTD.reshape(-1, x_BTD.shape[-1]), model.head(), windows_BT[:, 1:].reshape(-1))
