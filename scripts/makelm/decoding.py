"""What a Transformer computes to write on token by token: the keys and values of what it has read are kept.

Position p of a row stands at index p modulo S of the row's own part of the cache. What a chunk of C tokens adds lies
beside it until the chunk ends, where all rows write to the same index: one write for all of them, and nothing of the
cache changes within the loop. Nothing a row computes depends on what other rows hold.

R rows read at once, B rows of the cache, P positions read, S positions kept, W of them looked at, C chunk, D model,
N heads, K key/value heads, G heads that share one of those, H head dim, V vocabulary
"""

from dataclasses import dataclass
from math import sqrt

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from makelm import attention, sharding
from makelm.lookup import look_up
from makelm.model import Parameters, Skeleton, Transformer

ROWS = sharding.BATCH[0]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Cache:
    """Keys and values, one array for each layer."""

    keys_BKSH: tuple[Array, ...]
    values_BKSH: tuple[Array, ...]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Places:
    """Where rows are: what a query may see follows from it."""

    start_B: Array  # the position at which the chunk began; what is before it is in the cache
    position_B: Array  # of the token that is read now
    begin_B: Array  # where the document begins that the row is in


def prepare(skeleton: Skeleton, parameters: Parameters) -> Parameters:
    """Returns parameters as decoding reads them: once for all tokens cast, and whole along fsdp."""
    shape = skeleton.shape
    inner, outer, last = (jnp.dtype(each) for each in (shape.compute_dtype, shape.residual_dtype, shape.head_dtype))

    def ready(name: str, weight: Array) -> Array:
        if name.startswith("blocks."):
            weight = weight.astype(inner) if weight.ndim > 1 else weight
            return sharding.gathered(skeleton.mesh, name, weight, inner)
        if name == "unembedding_VD":
            return weight.astype(last)
        # learned positions are added to the embedding in its own dtype
        alone = name == "embedding_VD" and shape.positions.kind != "learned"
        return weight.astype(jnp.promote_types(outer, last) if shape.tie_embeddings else outer) if alone else weight

    return jax.jit(lambda given: {name: ready(name, weight) for name, weight in given.items()})(dict(parameters))


def empty_cache(skeleton: Skeleton, batch: int, length: int) -> Cache:
    """Returns a cache for `length` positions (S) of `batch` rows."""
    shape = skeleton.shape
    dims, dtype = (batch, shape.n_kv_heads, length, shape.d_head), jnp.dtype(shape.compute_dtype)

    def zeros() -> tuple[Array, ...]:
        return tuple(settled(skeleton, jnp.zeros(dims, dtype)) for _ in range(shape.n_layers))

    return jax.jit(lambda: Cache(zeros(), zeros()))()


def settled(skeleton: Skeleton, x_BKSH: Array) -> Array:
    """Returns a part of the cache, laid out over the devices: rows along the batch's axes, heads along tensor."""
    return sharding.laid_out(skeleton.mesh, x_BKSH, ROWS, "tensor")


def read(model: Transformer, tokens_RP: Array) -> Cache:
    """Returns the keys and values of prompts, computed as in training."""
    positions_P = np.arange(tokens_RP.shape[1])
    documents_RP = model.documents(tokens_RP)
    x_RPD, keys, values = model.embed(tokens_RP, positions_P), [], []
    for block in model.blocks:
        h_RPD = block.attention_norm(x_RPD)
        q_RPNH, k_RPKH, v_RPKH = block.attention.project(h_RPD, positions_P)
        keys.append(jnp.swapaxes(k_RPKH, 1, 2))
        values.append(jnp.swapaxes(v_RPKH, 1, 2))
        mixed_RPNH = attention.causal_attention(model.mesh, "xla", q_RPNH, k_RPKH, v_RPKH, documents_RP)
        x_RPD = sharding.rows(model.mesh, block.add(x_RPD, h_RPD, block.attention.combine(mixed_RPNH), None))
    return Cache(tuple(keys), tuple(values))


def insert(skeleton: Skeleton, cache: Cache, prompts: Cache, slot_R: Array) -> Cache:
    """Returns a cache in which the rows slot_R begin with prompts' keys and values; no row has the number B."""

    def put(x_BKSH: Array, read_RKPH: Array) -> Array:
        placed = x_BKSH.at[slot_R, :, : read_RKPH.shape[2]].set(read_RKPH, mode="drop")
        return settled(skeleton, placed)

    return jax.tree.map(put, cache, prompts)


def looked_at(cache: Cache, width: int) -> Cache:
    """Returns the first `width` positions (W) of a cache."""
    return jax.tree.map(lambda x_BKSH: x_BKSH[:, :, :width], cache)


def keep(skeleton: Skeleton, cache: Cache, chunk: Cache, start_B: Array) -> Cache:
    """Returns a cache with a chunk's keys and values at their positions, in place of the oldest where it is full."""

    def put(x_BKSH: Array, new_BKCH: Array) -> Array:
        B, _, S, _ = x_BKSH.shape
        places_BC = (start_B[:, None] + jnp.arange(new_BKCH.shape[2])[None]) % S
        rows_B1 = jnp.arange(B)[:, None]
        moved = x_BKSH.at[rows_B1, :, places_BC].set(jnp.swapaxes(new_BKCH, 1, 2), unique_indices=True)
        return settled(skeleton, moved)

    return jax.tree.map(put, cache, chunk)


def step(
    model: Transformer, tokens_B: Array, places: Places, number: Array, cache: Cache, length: int, chunk: Cache
) -> tuple[Array, Cache]:
    """Returns logits_BV after one more token per row, the chunk's `number`-th, and the chunk with it.

    `cache` are the W positions that are looked at, of the `length` (S) that are kept.
    """
    width, size = (each.keys_BKSH[0].shape[2] for each in (cache, chunk))
    masks = visible(places, model.shape.context_length, width, length, size)
    x_1BD = embed(model, tokens_B, places.position_B)
    keys, values = [], []
    for layer, block in enumerate(model.blocks):
        h_1BD = block.attention_norm(x_1BD)
        # rows are positions to what has no part in attention itself
        q_1BNH, k_1BKH, v_1BKH = block.attention.project(h_1BD, places.position_B)
        k_BKCH = jax.lax.dynamic_update_slice_in_dim(chunk.keys_BKSH[layer], k_1BKH[0][:, :, None], number, axis=2)
        v_BKCH = jax.lax.dynamic_update_slice_in_dim(chunk.values_BKSH[layer], v_1BKH[0][:, :, None], number, axis=2)
        old = cache.keys_BKSH[layer], cache.values_BKSH[layer]
        mixed_1BNH = attend(q_1BNH, *old, k_BKCH, v_BKCH, *masks)
        x_1BD = block.add(x_1BD, h_1BD, block.attention.combine(mixed_1BNH), None)
        keys.append(k_BKCH)
        values.append(v_BKCH)
    logits_BV = model.logits(model.final_norm(x_1BD).astype(model.head_dtype))[0]
    return logits_BV, Cache(tuple(keys), tuple(values))


def embed(model: Transformer, tokens_B: Array, position_B: Array) -> Array:
    """Returns the beginning of the residual stream, x_1BD."""
    x_B1D = look_up(model.mesh, model.embedding_VD[...], tokens_B[:, None])
    if model.positions_TD is not None:
        table_TD = sharding.gathered(model.mesh, "positions_TD", model.positions_TD[...], x_B1D.dtype)
        x_B1D = x_B1D + table_TD[position_B][:, None]
    return jnp.swapaxes(x_B1D.astype(model.dtype), 0, 1)


def visible(places: Places, context: int, width: int, length: int, size: int) -> tuple[Array, Array]:
    """Returns mask_BW and mask_BC: which positions of the cache and of the chunk each row sees."""
    start_B1, position_B1 = places.start_B[:, None], places.position_B[:, None]
    # what stands at an index is the last position before the chunk that belongs there; below 0: nothing yet
    held_BW = start_B1 - 1 - (start_B1 - 1 - jnp.arange(width)[None]) % length
    new_BC = start_B1 + jnp.arange(size)[None]
    oldest_B1 = jnp.maximum(places.begin_B[:, None], position_B1 - context + 1)

    def seen(key: Array) -> Array:
        return (key >= oldest_B1) & attention.sees(position_B1, key)

    return seen(held_BW), seen(new_BC)


def attend(
    q_1BNH: Array,
    k_BKWH: Array,
    v_BKWH: Array,
    k_BKCH: Array,
    v_BKCH: Array,
    mask_BW: Array,
    mask_BC: Array,
) -> Array:
    """Returns for each row the mean of the values it sees, weighted by the softmax of its scores, in float32."""
    _, B, N, H = q_1BNH.shape
    K = k_BKWH.shape[1]
    q_BKGH = (q_1BNH[0] / sqrt(H)).reshape(B, K, N // K, H)

    def scores(k: Array, mask: Array) -> Array:
        found = jnp.einsum("BKGH,BKSH->BKGS", q_BKGH, k).astype(jnp.float32)
        return jnp.where(mask[:, None, None], found, -jnp.inf)

    old_BKGW, new_BKGC = scores(k_BKWH, mask_BW), scores(k_BKCH, mask_BC)
    top_BKG1 = jnp.maximum(jnp.max(old_BKGW, -1, keepdims=True), jnp.max(new_BKGC, -1, keepdims=True))
    e_BKGW, e_BKGC = jnp.exp(old_BKGW - top_BKG1), jnp.exp(new_BKGC - top_BKG1)
    scale_BKG1 = 1 / (jnp.sum(e_BKGW, -1, keepdims=True) + jnp.sum(e_BKGC, -1, keepdims=True))
    mixed_BKGH = jnp.einsum("BKGS,BKSH->BKGH", e_BKGW.astype(v_BKWH.dtype), v_BKWH)
    mixed_BKGH = mixed_BKGH + jnp.einsum("BKGS,BKSH->BKGH", e_BKGC.astype(v_BKCH.dtype), v_BKCH)
    return (mixed_BKGH * scale_BKG1).astype(q_1BNH.dtype).reshape(1, B, N, H)
