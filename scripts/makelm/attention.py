"""Attention: by XLA's products, or by a kernel of flash attention; each device computes that of its own rows and heads.

B batch, T position, S position attended to, N heads, K key/value heads, G heads that share one of those, H head dim,
A batch x key/value heads, Q query: a position of one of G heads
"""

from functools import partial
from itertools import pairwise
from math import sqrt

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, PartitionSpec

from makelm import flash, sharding

# Attention works on some queries at a time: half as many cost more than they spare, more pieces make long programs.
QUERIES = 128
MOST_PIECES = 4

HEADS = PartitionSpec(*sharding.BATCH, None, "tensor", None)
WEIGHTS = PartitionSpec(*sharding.BATCH, "tensor", None, None)


def causal_attention(
    mesh: Mesh | None,
    kernel: str,
    q_BTNH: Array,
    k_BTKH: Array,
    v_BTKH: Array,
    documents_BT: Array | None,
    kept_BNTS: Array | None = None,
) -> Array:
    """Returns what each position gathers from itself and those before it, of its own document where they are numbered.

    `kernel` is xla, cudnn or splash; `kept_BNTS` is dropout's, 0 where a weight is dropped and 1 / (1 - rate)
    elsewhere, of which only xla takes heed.
    """
    of_kernel = {
        "xla": by_products,
        "cudnn": flash.cudnn,
        "splash": partial(flash.splash, interpret=sharding.platform(mesh) != "tpu"),
    }
    specs = (HEADS, HEADS, HEADS, sharding.BATCH, WEIGHTS)
    return sharding.own(mesh, of_kernel[kernel], specs, HEADS)(q_BTNH, k_BTKH, v_BTKH, documents_BT, kept_BNTS)


def sees(query: Array, key: Array) -> Array:
    """Returns whether a position may see another one of its document, in training and in decoding.py alike.

    The kernels of flash.py and other people's classes know this rule only, and are left out where it is another.
    """
    return key <= query


def is_causal(length: int) -> bool:
    """Returns whether positions see all before them: asked of the first, the middle and the last of so many."""
    queries, keys = np.array([[0], [length // 2], [length - 1]]), np.arange(length)[None]
    return bool((sees(queries, keys) == (keys <= queries)).all())


def by_products(
    q_BTNH: Array, k_BTKH: Array, v_BTKH: Array, documents_BT: Array | None, kept_BNTS: Array | None
) -> Array:
    """Returns causal attention by batched products of matrices.

    Heads that share keys and values are more queries of one product, and keys are never repeated: the CPU's XLA of JAX
    0.10.2 computes a product wrong whose keys are repeated within it (a dot, a broadcast and a dot in one YNN fusion).
    """
    B, T, N, H = q_BTNH.shape
    K = k_BTKH.shape[2]

    def grouped(x_BNTX: Array) -> Array:
        """Returns what there is for each head and position as A = B x K, Q = T x G."""
        x_BKGTX = x_BNTX.reshape(B, K, N // K, T, x_BNTX.shape[-1])
        return jnp.swapaxes(x_BKGTX, 2, 3).reshape(B * K, T * (N // K), x_BNTX.shape[-1])

    q_AQH = grouped(jnp.swapaxes(q_BTNH / sqrt(H), 1, 2))
    k_ATH, v_ATH = (jnp.swapaxes(x, 1, 2).reshape(B * K, T, H) for x in (k_BTKH, v_BTKH))
    positions_T = jnp.arange(T)
    # computed, not a constant: a program for 32,768 positions would carry a gigabyte of it
    mask_ATS = sees(positions_T[:, None], positions_T[None, :])[None]
    if documents_BT is not None:
        mask_ATS = jnp.repeat(mask_ATS & flash.alike(documents_BT), K, axis=0)
    mask_AQS = mask_ATS if N == K else jnp.repeat(mask_ATS, N // K, axis=1)
    kept_AQS = None if kept_BNTS is None else grouped(kept_BNTS)
    mixed_AQH = attend_causally(q_AQH, k_ATH, v_ATH, mask_AQS, kept_AQS)
    mixed_BKTGH = mixed_AQH.reshape(B, K, T, N // K, H)
    return jnp.swapaxes(mixed_BKTGH, 1, 2).reshape(B, T, N, H)


def attend_causally(q_AQH: Array, k_ATH: Array, v_ATH: Array, mask_AQS: Array, kept_AQS: Array | None) -> Array:
    """Returns what `attend` does, some queries at a time: what comes after all of them is not even multiplied."""
    Q, T = q_AQH.shape[1], k_ATH.shape[1]
    count = max(1, min(MOST_PIECES, T // QUERIES))
    ends = [T * number // count for number in range(count + 1)]
    mixed = [
        attend(
            q_AQH[:, queries],
            k_ATH[:, :last],
            v_ATH[:, :last],
            mask_AQS[:, queries, :last],
            None if kept_AQS is None else kept_AQS[:, queries, :last],
        )
        for last, queries in ((last, slice(first * Q // T, last * Q // T)) for first, last in pairwise(ends))
    ]
    return jnp.concatenate(mixed, axis=1) if count > 1 else mixed[0]


def largest_logit(q_BTNH: Array, k_BTKH: Array, documents_BT: Array | None) -> Array:
    """Returns the largest logit of attention, in float32, of a position to one that it gathers from."""
    B, T, K, H = k_BTKH.shape
    q_BTKGH = q_BTNH.reshape(B, T, K, -1, H)
    logits_BKGTS = jnp.einsum("BTKGH,BSKH->BKGTS", q_BTKGH, k_BTKH).astype(jnp.float32) / sqrt(H)
    positions_T = jnp.arange(T)
    seen_BTS = sees(positions_T[:, None], positions_T[None, :])[None]
    if documents_BT is not None:
        seen_BTS = seen_BTS & flash.alike(documents_BT)
    return jnp.max(jnp.where(seen_BTS[:, None, None], logits_BKGTS, -jnp.inf))


@jax.custom_vjp
def attend(q_ATH: Array, k_ASH: Array, v_ASH: Array, mask_ATS: Array, kept_ATS: Array | None) -> Array:
    """Returns for each query the mean of the values it may see, weighted by the softmax of its scores, in float32.

    The backward pass is that of FlashAttention (Dao et al. 2022) without its tiles: from the kept exponentials
    and the output it needs one pass over the scores less than the softmax's own, an eighth of a small step.
    """
    return attend_forward(q_ATH, k_ASH, v_ASH, mask_ATS, kept_ATS)[0]


def attend_forward(q_ATH, k_ASH, v_ASH, mask_ATS, kept_ATS) -> tuple[Array, tuple]:
    scores_ATS = jnp.einsum("ATH,ASH->ATS", q_ATH, k_ASH).astype(jnp.float32)
    # added, not chosen by: XLA on a CPU would look the mask up again in each of the softmax's passes
    scores_ATS = scores_ATS + jnp.where(mask_ATS, 0, -jnp.inf).astype(jnp.float32)
    e_ATS = jnp.exp(scores_ATS - jnp.max(scores_ATS, axis=-1, keepdims=True))
    scale_AT1 = 1 / jnp.sum(e_ATS, axis=-1, keepdims=True)
    e_ATS = e_ATS.astype(q_ATH.dtype)
    weights_ATS = e_ATS if kept_ATS is None else e_ATS * kept_ATS
    mixed_ATH = (jnp.einsum("ATS,ASH->ATH", weights_ATS, v_ASH) * scale_AT1).astype(q_ATH.dtype)
    return mixed_ATH, (q_ATH, k_ASH, v_ASH, kept_ATS, e_ATS, scale_AT1, mixed_ATH)


def attend_backward(saved: tuple, g_ATH: Array) -> tuple[Array | None, ...]:
    q_ATH, k_ASH, v_ASH, kept_ATS, e_ATS, scale_AT1, mixed_ATH = saved
    g_ATH = (g_ATH * scale_AT1).astype(q_ATH.dtype)
    shared_AT1 = jnp.sum(g_ATH * mixed_ATH, axis=-1, keepdims=True)
    g_weights_ATS, weights_ATS = jnp.einsum("ATH,ASH->ATS", g_ATH, v_ASH), e_ATS
    if kept_ATS is not None:
        g_weights_ATS, weights_ATS = g_weights_ATS * kept_ATS, e_ATS * kept_ATS
    g_scores_ATS = e_ATS * (g_weights_ATS - shared_AT1)
    g_k, g_v = jnp.einsum("ATS,ATH->ASH", g_scores_ATS, q_ATH), jnp.einsum("ATS,ATH->ASH", weights_ATS, g_ATH)
    return jnp.einsum("ATS,ASH->ATH", g_scores_ATS, k_ASH), g_k, g_v, None, None


attend.defvjp(attend_forward, attend_backward)
