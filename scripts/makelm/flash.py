"""Flash attention (Dao et al. 2022) by other people's kernels: cuDNN's on NVIDIA's GPUs, splash attention on TPUs.

B batch, T position, N heads, K key/value heads, H head dim
"""

from math import sqrt

import jax
from jax import Array
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel, splash_attention_mask

# Splash attention takes so many queries, and keys, at a time: a multiple of what a TPU computes on at once, as MaxText.
LANES = 128
MOST_AT_ONCE = 512


def cudnn(q_BTNH: Array, k_BTKH: Array, v_BTKH: Array, documents_BT: Array | None, kept: None = None) -> Array:
    """Returns causal attention, of positions with one number in `documents_BT` where it is given; `kept` is nothing."""
    mask_BNTS = None if documents_BT is None else alike(documents_BT)[:, None]
    return jax.nn.dot_product_attention(q_BTNH, k_BTKH, v_BTKH, mask=mask_BNTS, is_causal=True, implementation="cudnn")


def splash(
    q_BTNH: Array, k_BTKH: Array, v_BTKH: Array, documents_BT: Array | None, kept: None = None, interpret: bool = False
) -> Array:
    """Returns what `cudnn` does; T is a multiple of LANES. Elsewhere than on TPUs the kernel is to be interpreted."""
    T, N, H = q_BTNH.shape[1:]
    documents = None if documents_BT is None else splash_attention_kernel.SegmentIds(documents_BT, documents_BT)
    q_BNTH, k_BKTH, v_BKTH = (x.swapaxes(1, 2) for x in (q_BTNH / sqrt(H), k_BTKH, v_BTKH))
    return jax.vmap(causal_splash(T, N, interpret))(q_BNTH, k_BKTH, v_BKTH, documents).swapaxes(1, 2)


def alike(numbers_BT: Array) -> Array:
    """Returns mask_BTS: which positions have one number."""
    return numbers_BT[:, :, None] == numbers_BT[:, None, :]


def causal_splash(T: int, N: int, interpret: bool) -> splash_attention_kernel.SplashAttentionKernel:
    """Returns the kernel of one row, of N heads; a position sees those before it."""
    at_once = max(size for size in range(LANES, MOST_AT_ONCE + 1, LANES) if T % size == 0)
    return splash_attention_kernel.make_splash_mha(
        splash_attention_mask.MultiHeadMask([splash_attention_mask.CausalMask((T, T))] * N),
        head_shards=1,
        q_seq_shards=1,
        interpret=interpret,
        block_sizes=splash_attention_kernel.BlockSizes(
            block_q=at_once,
            block_kv=at_once,
            block_q_dkv=at_once,
            block_kv_dkv=at_once,
            block_q_dq=at_once,
            block_kv_dq=at_once,
        ),
    )
