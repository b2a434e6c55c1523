"""The Transformer: a decoder whose every choice is a key of the config.

Pre-norm blocks with RMSNorm, rotary positions, attention in which several query heads may share a key/value
head, normed queries and keys, and a feed-forward layer. Vaswani et al. 2017; RoPE: Su et al. 2021;
QK-norm: Henry et al. 2020; SwiGLU: Shazeer 2020; squared ReLU: So et al. 2021.

B batch, T position, S position attended to, D model, N heads, K key/value heads, H head dim, F hidden,
V vocabulary, L layers
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt

import jax
import jax.numpy as jnp
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


class Norm(nnx.Module):
    """RMSNorm over the last dim, in float32."""

    def __init__(self, dim: int, eps: float):
        self.scale = nnx.Param(jnp.ones(dim))
        self.eps = eps

    def __call__(self, x: Array) -> Array:
        wide = x.astype(jnp.float32)
        wide = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + self.eps)
        return (wide * jnp.expand_dims(self.scale[...], tuple(range(x.ndim - 1)))).astype(x.dtype)


def rotate(x_BTNH: Array, positions_T: Array, base: float) -> Array:
    """Returns queries or keys turned by their positions (RoPE; the halves of H are the two coordinates)."""
    half = x_BTNH.shape[-1] // 2
    frequencies = base ** (-jnp.arange(half) / half)
    # float32: bfloat16 has 8 bits, position 257 would become 256
    angles_1T1H = positions_T.astype(jnp.float32)[None, :, None, None] * frequencies[None, None, None, :]
    cos, sin = jnp.cos(angles_1T1H), jnp.sin(angles_1T1H)
    a, b = x_BTNH[..., :half], x_BTNH[..., half:]
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x_BTNH.dtype)


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

    def project(self, x_BTD: Array, positions_T: Array) -> tuple[Array, Array, Array]:
        """Returns queries, keys and values."""
        q_BTNH = jnp.einsum("BTD,DNH->BTNH", x_BTD, self.query_DNH[...].astype(x_BTD.dtype))
        k_BTKH = jnp.einsum("BTD,DKH->BTKH", x_BTD, self.key_DKH[...].astype(x_BTD.dtype))
        v_BTKH = jnp.einsum("BTD,DKH->BTKH", x_BTD, self.value_DKH[...].astype(x_BTD.dtype))
        if self.query_norm is not None:
            q_BTNH, k_BTKH = self.query_norm(q_BTNH), self.key_norm(k_BTKH)
        return rotate(q_BTNH, positions_T, self.rope_base), rotate(k_BTKH, positions_T, self.rope_base), v_BTKH

    def __call__(self, x_BTD: Array) -> Array:
        positions_T = jnp.arange(x_BTD.shape[1])
        q_BTNH, k_BTKH, v_BTKH = self.project(x_BTD, positions_T)
        mask_TS = positions_T[:, None] >= positions_T[None, :]
        return self.mix(q_BTNH, k_BTKH, v_BTKH, mask_TS)

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
        share = q_BTNH.shape[2] // k_BSKH.shape[2]
        k_BSNH, v_BSNH = jnp.repeat(k_BSKH, share, axis=2), jnp.repeat(v_BSKH, share, axis=2)
        scores_BNTS = jnp.einsum("BTNH,BSNH->BNTS", q_BTNH, k_BSNH) / sqrt(q_BTNH.shape[-1])
        scores_BNTS = jnp.where(mask_TS[None, None], scores_BNTS.astype(jnp.float32), -jnp.inf)
        weights_BNTS = jax.nn.softmax(scores_BNTS, axis=-1).astype(q_BTNH.dtype)
        mixed_BTNH = jnp.einsum("BNTS,BSNH->BTNH", weights_BNTS, v_BSNH)
        return jnp.einsum("BTNH,NHD->BTD", mixed_BTNH, self.output_NHD[...].astype(q_BTNH.dtype))


class Mlp(nnx.Module):
    """The feed-forward layer."""

    def __init__(self, shape: config.Model, rngs: nnx.Rngs):
        D, F = shape.d_model, shape.d_ff
        self.gate_DF = normal(rngs, (D, F), D) if shape.activation == "swiglu" else None
        self.up_DF = normal(rngs, (D, F), D)
        self.down_FD = zeros((F, D))

    def __call__(self, x_BTD: Array) -> Array:
        h_BTF = x_BTD @ self.up_DF[...].astype(x_BTD.dtype)
        if self.gate_DF is None:
            h_BTF = jnp.square(jax.nn.relu(h_BTF))
        else:
            h_BTF = jax.nn.silu(x_BTD @ self.gate_DF[...].astype(x_BTD.dtype)) * h_BTF
        return h_BTF @ self.down_FD[...].astype(x_BTD.dtype)


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
