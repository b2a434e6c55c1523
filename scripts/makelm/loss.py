"""The training loss: mean cross-entropy of the next token, in nats.

R row (a position of a window), B batch, T position, D model, V vocabulary
"""

import jax
import jax.numpy as jnp
from jax import Array

from makelm.model import Transformer


def token_losses(logits_BTV: Array, targets_BT: Array) -> Array:
    """Returns -log p of each target, loss_BT, in float32."""
    picked_BT = jnp.take_along_axis(logits_BTV, targets_BT[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits_BTV, axis=-1) - picked_BT


@jax.custom_vjp
def head_loss(x_RD: Array, head_VD: Array, targets_R: Array) -> Array:
    """Returns the mean loss of rows of the stream under an output head.

    The gradient of the logits is softmax - one-hot: written down as such, it needs no scatter, which costs
    XLA on a CPU a sixth of a small model's step.
    """
    return head_loss_forward(x_RD, head_VD, targets_R)[0]


def head_loss_forward(x_RD: Array, head_VD: Array, targets_R: Array) -> tuple[Array, tuple]:
    logits_RV = jnp.einsum("RD,VD->RV", x_RD, head_VD.astype(x_RD.dtype)).astype(jnp.float32)
    normalizer_R = jax.nn.logsumexp(logits_RV, axis=-1)
    # the target's logit once more as a product: cheaper than to gather it from the logits
    picked_R = jnp.sum((x_RD * head_VD[targets_R].astype(x_RD.dtype)).astype(jnp.float32), axis=-1)
    return jnp.mean(normalizer_R - picked_R), (x_RD, head_VD, targets_R, logits_RV, normalizer_R)


def head_loss_backward(kept: tuple, gradient: Array) -> tuple[Array, Array, None]:
    x_RD, head_VD, targets_R, logits_RV, normalizer_R = kept
    hit_RV = jnp.arange(head_VD.shape[0])[None, :] == targets_R[:, None]
    g_RV = (jnp.exp(logits_RV - normalizer_R[:, None]) - hit_RV) * (gradient / len(targets_R))
    g_RV = g_RV.astype(x_RD.dtype)
    g_RD = jnp.einsum("RV,VD->RD", g_RV, head_VD.astype(x_RD.dtype))
    return g_RD, jnp.einsum("RV,RD->VD", g_RV, x_RD).astype(head_VD.dtype), None


head_loss.defvjp(head_loss_forward, head_loss_backward)


def mean_loss(model: Transformer, windows_BT: Array) -> Array:
    """Returns the mean loss of windows of T + 1 tokens: each predicts the one after it."""
    x_BTD = model.hidden(windows_BT[:, :-1])
    return head_loss(x_BTD.reshape(-1, x_BTD.shape[-1]), model.head(), windows_BT[:, 1:].reshape(-1))
