"""The Transformer: a decoder whose every choice is a key of the config.

Pre-norm blocks with RMSNorm, rotary positions, attention in which several query heads may share a key/value
head, normed queries and keys, and a feed-forward layer. Vaswani et al. 2017; RoPE: Su et al. 2021;
QK-norm: Henry et al. 2020; SwiGLU: Shazeer 2020; squared ReLU: So et al. 2021.

B batch, A batch x heads, T position, S position attended to, D model, N heads, K key/value heads, H head dim, F hidden,
V vocabulary, L layers
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from makelm import config

Parameters = Mapping[str, Array]  # name, such as blocks.0.mlp.up_DF -> weight


def normal(rngs: nnx.Rngs, shape: tuple[int, ...], fan_in: int) -> nnx.Param:
    """Returns a weight that keeps the variance of its input."""
    return nnx.Param(jax.random.normal(rngs.params(), shape) / sqrt(fan_in))


def zeros(shape: tuple[int, ...]) -> nnx.Param:
    """Returns a weight that starts at nothing: each block begins as the identity (Zhang et al. 2019, Fixup)."""
    return nnx.Param(jnp.zeros(shape))


@jax.custom_vjp
def linear(x: Array, w: Array) -> Array:
    """Returns x @ w for x of any rank and a matrix w.

    The gradient of w is written as x transposed times g: XLA on a CPU would else copy the wider g transposed,
    a tenth of a small model's step.
    """
    return x @ w


def linear_backward(kept: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x, w = kept
    rows, g_rows = x.reshape(-1, x.shape[-1]), g.reshape(-1, g.shape[-1])
    return (g_rows @ w.T).reshape(x.shape), jax.lax.dot_general(rows, g_rows, (((0,), (0,)), ((), ())))


linear.defvjp(lambda x, w: (x @ w, (x, w)), linear_backward)


class Norm(nnx.Module):
    """RMSNorm over the last dim, in float32."""

    def __init__(self, dim: int, eps: float):
        self.scale = nnx.Param(jnp.ones(dim))
        self.eps = eps

    def __call__(self, x: Array) -> Array:
        # as rows of a matrix: XLA on a CPU reduces the last dim of a larger array up to 8 times slower
        rows = x.astype(jnp.float32).reshape(-1, x.shape[-1])
        rows = rows * jax.lax.rsqrt(jnp.mean(rows * rows, axis=-1, keepdims=True) + self.eps)
        return (rows * self.scale[...][None, :]).astype(x.dtype).reshape(x.shape)


def turns(positions_T: np.ndarray | Array, dim: int, base: float) -> tuple[Array, Array]:
    """Returns cosine and sine of the angles by which positions turn the pairs of a head (RoPE), each _1T1H.

    For positions known when compiling they are constants: left to XLA, a CPU would compute them again for
    each element they are multiplied with.
    """
    xp = np if isinstance(positions_T, np.ndarray) else jnp
    frequencies_H = base ** (-np.arange(dim // 2, dtype=np.float32) / (dim // 2))
    # float32: bfloat16 has 8 bits, position 257 would become 256
    angles_1T1H = xp.einsum("T,H->TH", positions_T.astype(np.float32), frequencies_H)[None, :, None, :]
    return xp.cos(angles_1T1H), xp.sin(angles_1T1H)


def rotate(x_BTNH: Array, cos_1T1H: Array, sin_1T1H: Array) -> Array:
    """Returns queries or keys turned; the halves of H are the two coordinates."""
    half = x_BTNH.shape[-1] // 2
    a, b = x_BTNH[..., :half], x_BTNH[..., half:]
    turned = [a * cos_1T1H - b * sin_1T1H, b * cos_1T1H + a * sin_1T1H]
    return jnp.concatenate(turned, axis=-1).astype(x_BTNH.dtype)


@jax.custom_vjp
def attend(q_ATH: Array, k_ASH: Array, v_ASH: Array, mask_TS: Array) -> Array:
    """Returns for each query the mean of the values it may see, weighted by the softmax of its scores.

    The backward pass is that of FlashAttention (Dao et al. 2022) without its tiles: from the kept exponentials
    and the output it needs one pass over the scores less than the softmax's own, an eighth of a small step.
    """
    return attend_forward(q_ATH, k_ASH, v_ASH, mask_TS)[0]


def attend_forward(q_ATH: Array, k_ASH: Array, v_ASH: Array, mask_TS: Array) -> tuple[Array, tuple]:
    scores_ATS = jnp.einsum("ATH,ASH->ATS", q_ATH, k_ASH).astype(jnp.float32)
    scores_ATS = jnp.where(mask_TS[None], scores_ATS, -jnp.inf)
    e_ATS = jnp.exp(scores_ATS - jnp.max(scores_ATS, axis=-1, keepdims=True))
    scale_AT1 = 1 / jnp.sum(e_ATS, axis=-1, keepdims=True)
    e_ATS = e_ATS.astype(q_ATH.dtype)
    mixed_ATH = (jnp.einsum("ATS,ASH->ATH", e_ATS, v_ASH) * scale_AT1).astype(q_ATH.dtype)
    return mixed_ATH, (q_ATH, k_ASH, v_ASH, e_ATS, scale_AT1, mixed_ATH)


def attend_backward(kept: tuple, g_ATH: Array) -> tuple[Array, Array, Array, None]:
    q_ATH, k_ASH, v_ASH, e_ATS, scale_AT1, mixed_ATH = kept
    g_ATH = (g_ATH * scale_AT1).astype(q_ATH.dtype)
    shared_AT1 = jnp.sum(g_ATH * mixed_ATH, axis=-1, keepdims=True)
    g_ATS = e_ATS * (jnp.einsum("ATH,ASH->ATS", g_ATH, v_ASH) - shared_AT1)
    g_k, g_v = jnp.einsum("ATS,ATH->ASH", g_ATS, q_ATH), jnp.einsum("ATS,ATH->ASH", e_ATS, g_ATH)
    return jnp.einsum("ATS,ASH->ATH", g_ATS, k_ASH), g_k, g_v, None


attend.defvjp(attend_forward, attend_backward)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Cache:
    """Keys and values of the last S positions: position p stands at index p modulo S."""

    keys_LBSKH: Array
    values_LBSKH: Array


class Attention(nnx.Module):
    """Causal self-attention."""

    def __init__(self, shape: config.Model, rngs: nnx.Rngs):
        D, N, K, H = shape.d_model, shape.n_heads, shape.n_kv_heads, shape.d_head
        self.query_DNH = normal(rngs, (D, N, H), D)
        self.key_DKH = normal(rngs, (D, K, H), D)
        self.value_DKH = normal(rngs, (D, K, H), D)
        self.output_NHD = zeros((N, H, D))
        self.query_norm = Norm(H, shape.norm_eps) if shape.qk_norm else None
        self.key_norm = Norm(H, shape.norm_eps) if shape.qk_norm else None
        self.rope_base = shape.rope_base

    def project(self, x_BTD: Array, positions_T: np.ndarray | Array) -> tuple[Array, Array, Array]:
        """Returns queries, keys and values."""

        def heads(weight: nnx.Param) -> Array:
            D, N, H = weight.shape
            matrix = weight[...].astype(x_BTD.dtype).reshape(D, N * H)
            return linear(x_BTD, matrix).reshape(*x_BTD.shape[:2], N, H)

        q_BTNH, k_BTKH, v_BTKH = heads(self.query_DNH), heads(self.key_DKH), heads(self.value_DKH)
        if self.query_norm is not None:
            q_BTNH, k_BTKH = self.query_norm(q_BTNH), self.key_norm(k_BTKH)
        cos, sin = turns(positions_T, q_BTNH.shape[-1], self.rope_base)
        return rotate(q_BTNH, cos, sin), rotate(k_BTKH, cos, sin), v_BTKH

    def __call__(self, x_BTD: Array) -> Array:
        positions_T = np.arange(x_BTD.shape[1])
        q_BTNH, k_BTKH, v_BTKH = self.project(x_BTD, positions_T)
        return self.mix(q_BTNH, k_BTKH, v_BTKH, positions_T[:, None] >= positions_T[None, :])

    def decode(self, x_B1D: Array, position: Array, keys_BSKH: Array, values_BSKH: Array) -> tuple[Array, ...]:
        """Returns the output for one new position and the cache with it in place of the oldest."""
        q_B1NH, k_B1KH, v_B1KH = self.project(x_B1D, position[None])
        S = keys_BSKH.shape[1]
        keys_BSKH = jax.lax.dynamic_update_slice_in_dim(keys_BSKH, k_B1KH, position % S, axis=1)
        values_BSKH = jax.lax.dynamic_update_slice_in_dim(values_BSKH, v_B1KH, position % S, axis=1)
        mask_1S = jnp.arange(S)[None, :] <= position  # what was never written; later all is
        return self.mix(q_B1NH, keys_BSKH, values_BSKH, mask_1S), keys_BSKH, values_BSKH

    def mix(self, q_BTNH: Array, k_BSKH: Array, v_BSKH: Array, mask_TS: Array) -> Array:
        """Returns what each position gathers from those that it may see."""
        B, T, N, H = q_BTNH.shape
        share = N // k_BSKH.shape[2]
        k_BSNH, v_BSNH = jnp.repeat(k_BSKH, share, axis=2), jnp.repeat(v_BSKH, share, axis=2)

        def merge(x_BXNH: Array) -> Array:
            return jnp.swapaxes(x_BXNH, 1, 2).reshape(B * N, x_BXNH.shape[1], H)

        mixed_ATH = attend(merge(q_BTNH / sqrt(H)), merge(k_BSNH), merge(v_BSNH), mask_TS)
        mixed_BTNH = jnp.swapaxes(mixed_ATH.reshape(B, N, T, H), 1, 2)
        return linear(mixed_BTNH.reshape(B, T, N * H), self.output_NHD[...].astype(q_BTNH.dtype).reshape(N * H, -1))


class Mlp(nnx.Module):
    """The feed-forward layer."""

    def __init__(self, shape: config.Model, rngs: nnx.Rngs):
        D, F = shape.d_model, shape.d_ff
        self.gate_DF = normal(rngs, (D, F), D) if shape.activation == "swiglu" else None
        self.up_DF = normal(rngs, (D, F), D)
        self.down_FD = zeros((F, D))

    def __call__(self, x_BTD: Array) -> Array:
        h_BTF = linear(x_BTD, self.up_DF[...].astype(x_BTD.dtype))
        if self.gate_DF is None:
            h_BTF = jnp.square(jax.nn.relu(h_BTF))
        else:
            h_BTF = jax.nn.silu(linear(x_BTD, self.gate_DF[...].astype(x_BTD.dtype))) * h_BTF
        return linear(h_BTF, self.down_FD[...].astype(x_BTD.dtype))


class Block(nnx.Module):
    """Attention and feed-forward layer, each added to the residual stream."""

    def __init__(self, shape: config.Model, rngs: nnx.Rngs):
        self.attention_norm = Norm(shape.d_model, shape.norm_eps)
        self.attention = Attention(shape, rngs)
        self.mlp_norm = Norm(shape.d_model, shape.norm_eps)
        self.mlp = Mlp(shape, rngs)

    def __call__(self, x_BTD: Array) -> Array:
        x_BTD = x_BTD + self.attention(self.attention_norm(x_BTD))
        return x_BTD + self.mlp(self.mlp_norm(x_BTD))

    def decode(self, x_B1D: Array, position: Array, keys_BSKH: Array, values_BSKH: Array) -> tuple[Array, ...]:
        """Returns the block's output for one new position, and the cache."""
        mixed_B1D, keys_BSKH, values_BSKH = self.attention.decode(
            self.attention_norm(x_B1D), position, keys_BSKH, values_BSKH
        )
        x_B1D = x_B1D + mixed_B1D
        return x_B1D + self.mlp(self.mlp_norm(x_B1D)), keys_BSKH, values_BSKH


class Transformer(nnx.Module):
    """Token ids in, for each position the logits of the next token out."""

    def __init__(self, shape: config.Model, vocab_size: int, rngs: nnx.Rngs):
        self.embedding_VD = nnx.Param(jax.random.normal(rngs.params(), (vocab_size, shape.d_model)))
        self.blocks = nnx.List([Block(shape, rngs) for _ in range(shape.n_layers)])
        self.final_norm = Norm(shape.d_model, shape.norm_eps)
        self.unembedding_VD = None if shape.tie_embeddings else zeros((vocab_size, shape.d_model))
        self.dtype = jnp.dtype(shape.compute_dtype)

    def hidden(self, tokens_BT: Array) -> Array:
        """Returns the normed residual stream at the end, x_BTD."""
        x_BTD = self.embedding_VD[...][tokens_BT].astype(self.dtype)
        for block in self.blocks:
            x_BTD = block(x_BTD)
        return self.final_norm(x_BTD)

    def head(self) -> Array:
        """Returns the matrix w_VD that turns the stream into logits."""
        return (self.embedding_VD if self.unembedding_VD is None else self.unembedding_VD)[...]

    def logits(self, x_BTD: Array) -> Array:
        """Returns logits_BTV in float32."""
        return jnp.einsum("BTD,VD->BTV", x_BTD, self.head().astype(self.dtype)).astype(jnp.float32)

    def __call__(self, tokens_BT: Array) -> Array:
        return self.logits(self.hidden(tokens_BT))

    def decode(self, tokens_B: Array, position: Array, cache: Cache) -> tuple[Array, Cache]:
        """Returns logits_BV after one more token per row, all at the same position, and the cache with it."""
        x_B1D = self.embedding_VD[...][tokens_B[:, None]].astype(self.dtype)
        keys, values = [], []
        for layer, block in enumerate(self.blocks):
            x_B1D, keys_BSKH, values_BSKH = block.decode(
                x_B1D, position, cache.keys_LBSKH[layer], cache.values_LBSKH[layer]
            )
            keys.append(keys_BSKH)
            values.append(values_BSKH)
        logits_BV = self.logits(self.final_norm(x_B1D))[:, 0]
        return logits_BV, Cache(jnp.stack(keys), jnp.stack(values))


def empty_cache(shape: config.Model, batch: int, length: int) -> Cache:
    """Returns a cache for `length` positions (S) of `batch` rows."""
    dims = (shape.n_layers, batch, length, shape.n_kv_heads, shape.d_head)
    dtype = jnp.dtype(shape.compute_dtype)
    return Cache(jnp.zeros(dims, dtype), jnp.zeros(dims, dtype))


def initialize(shape: config.Model, vocab_size: int, seed: int) -> dict[str, Array]:
    """Returns fresh parameters by name; the same for a seed on every mesh."""
    state = nnx.state(Transformer(shape, vocab_size, nnx.Rngs(seed)), nnx.Param)
    return {".".join(map(str, path)): parameter[...] for path, parameter in nnx.to_flat_state(state)}


def shapes(shape: config.Model, vocab_size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the parameters' names, shapes and dtypes without allocating one."""
    return jax.eval_shape(lambda: initialize(shape, vocab_size, 0))


class Skeleton:
    """A Transformer without weights: joins itself to parameters inside a jitted function."""

    def __init__(self, shape: config.Model, vocab_size: int):
        self.shape, self.vocab_size = shape, vocab_size
        model = nnx.eval_shape(lambda: Transformer(shape, vocab_size, nnx.Rngs(0)))
        self.graph, state = nnx.split(model, nnx.Param)
        self.paths = {".".join(map(str, path)): path for path, _ in nnx.to_flat_state(state)}

    def __call__(self, parameters: Parameters) -> Transformer:
        """Returns the model with these parameters."""
        state = nnx.from_flat_state([(path, nnx.Param(parameters[name])) for name, path in self.paths.items()])
        return nnx.merge(self.graph, state)
