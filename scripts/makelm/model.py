"""The Transformer: a decoder whose every choice is a key of the config.

Pre-norm blocks of causal attention and a feed-forward layer. Vaswani et al. 2017; RoPE: Su et al. 2021; QK-norm:
Henry et al. 2020; grouped queries: Ainslie et al. 2023; SwiGLU: Shazeer 2020; squared ReLU: So et al. 2021;
parallel residual: Wang & Komatsuzaki 2021 (GPT-J); soft-capped logits: Gemma Team 2024.

B batch, T position, S position attended to, D model, N heads, K key/value heads, H head dim, F hidden,
V vocabulary (rows, filled up to vocab_multiple), L layers
"""

from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jax.sharding import Mesh

from makelm import config, layers, sharding
from makelm.attention import causal_attention, largest_logit
from makelm.initialization import Weights
from makelm.layers import linear
from makelm.lookup import look_up

Parameters = Mapping[str, Array]  # name, such as blocks.0.mlp.up_DF -> weight
PLAIN = config.Compute(attention="xla", scan_layers=False, remat=False, accumulate=1, deterministic=True)


class Norm(nnx.Module):
    """RMSNorm or LayerNorm over the last dim, in float32."""

    def __init__(self, make: Weights, dim: int, kind: str, bias: bool):
        norm = make.shape.norm
        self.scale = make.constant((dim,), 1) if norm.scale else None
        self.bias = make.constant((dim,), 0) if bias else None
        self.centred, self.eps = {"rmsnorm": False, "layernorm": True}[kind], norm.eps
        self.dtype = jnp.dtype(make.shape.compute_dtype)
        self.apart = sharding.parts(make.mesh, "tensor") > 1

    def __call__(self, x: Array) -> Array:
        # as rows of a matrix: XLA on a CPU reduces the last dim of a larger array up to 8 times slower;
        # not where devices share the heads, whose parts do not lie one after the other in such rows
        rows = x.reshape(x.shape if self.apart else (-1, x.shape[-1]))
        rows = layers.norm(rows, None if self.scale is None else self.scale[...], self.eps, self.centred)
        if self.bias is not None:
            rows = rows + layers.along_last(self.bias[...], rows)
        return rows.astype(self.dtype).reshape(x.shape)


class Attention(nnx.Module):
    """Causal self-attention."""

    def __init__(self, make: Weights):
        shape = make.shape
        D, N, K, H = shape.d_model, shape.n_heads, shape.n_kv_heads, shape.d_head
        self.query_DNH = make.weight((D, N, H), "inner", D, N * H)
        self.key_DKH = make.weight((D, K, H), "inner", D, K * H)
        self.value_DKH = make.weight((D, K, H), "inner", D, K * H)
        self.output_NHD = make.weight((N, H, D), "output", N * H, D)
        biased = shape.biases.attention
        self.query_bias_NH = make.constant((N, H), 0) if biased else None
        self.key_bias_KH = make.constant((K, H), 0) if biased else None
        self.value_bias_KH = make.constant((K, H), 0) if biased else None
        self.output_bias_D = make.constant((D,), 0) if biased else None
        normed = shape.qk_norm
        self.query_norm = Norm(make, H, normed, bias=False) if normed else None
        self.key_norm = Norm(make, H, normed, bias=False) if normed else None
        self.positions, self.dropout = shape.positions, shape.dropout
        self.mesh = make.mesh

    def project(self, x_BTD: Array, positions_T: np.ndarray | Array) -> tuple[Array, Array, Array]:
        """Returns queries, keys and values."""

        def heads(weight: nnx.Param, bias: nnx.Param | None) -> Array:
            D, N, H = weight.shape
            matrix = weight[...].astype(x_BTD.dtype).reshape(D, N * H)
            x_BTNH = linear(x_BTD, matrix).reshape(*x_BTD.shape[:2], N, H)
            return x_BTNH if bias is None else x_BTNH + bias[...].astype(x_BTD.dtype)[None, None]

        q_BTNH = heads(self.query_DNH, self.query_bias_NH)
        k_BTKH = heads(self.key_DKH, self.key_bias_KH)
        v_BTKH = heads(self.value_DKH, self.value_bias_KH)
        if self.query_norm is not None:
            q_BTNH, k_BTKH = self.query_norm(q_BTNH), self.key_norm(k_BTKH)
        if self.positions.kind == "rope":
            dims, interleaved = self.positions.dims or q_BTNH.shape[-1], self.positions.pairs == "interleaved"
            cos, sin = layers.turns(positions_T, dims, self.positions.base)
            q_BTNH, k_BTKH = (layers.rotate(x, cos, sin, interleaved) for x in (q_BTNH, k_BTKH))
        return q_BTNH, k_BTKH, v_BTKH

    def __call__(self, x_BTD: Array, documents_BT: Array | None, kernel: str, keys_B: Array | None) -> Array:
        """Returns what is added to the stream; documents_BT numbers the document that a position is of."""
        T, N = x_BTD.shape[1], self.query_DNH.shape[1]
        heads = self.project(x_BTD, np.arange(T))
        kept_BNTS = None if keys_B is None else layers.kept(keys_B, self.dropout, (N, T, T), x_BTD.dtype)
        return self.combine(causal_attention(self.mesh, kernel, *heads, documents_BT, kept_BNTS))

    def combine(self, mixed_BTNH: Array) -> Array:
        """Returns the heads' results as one vector of the stream."""
        N, H, D = self.output_NHD.shape
        matrix = self.output_NHD[...].astype(mixed_BTNH.dtype).reshape(N * H, D)
        x_BTD = linear(mixed_BTNH.reshape(*mixed_BTNH.shape[:2], N * H), matrix)
        return x_BTD if self.output_bias_D is None else x_BTD + self.output_bias_D[...].astype(x_BTD.dtype)[None, None]


# computed again in the backward pass (jax.checkpoint), which costs less than to keep what tanh and sigmoid gave
ACTIVATIONS = {
    "gelu_tanh": jax.checkpoint(partial(jax.nn.gelu, approximate=True)),
    "gelu": layers.gelu,
    "relu_squared": lambda x: jnp.square(jax.nn.relu(x)),
}


@jax.checkpoint
def gated(gate: Array, up: Array) -> Array:
    """Returns what a gate lets through (SiLU)."""
    return jax.nn.silu(gate) * up


class Mlp(nnx.Module):
    """The feed-forward layer."""

    def __init__(self, make: Weights):
        shape = make.shape
        D, F = shape.d_model, shape.d_ff
        self.gate_DF = make.weight((D, F), "inner", D, F) if shape.activation == "swiglu" else None
        self.up_DF = make.weight((D, F), "inner", D, F)
        self.up_bias_F = make.constant((F,), 0) if shape.biases.mlp else None
        inside = shape.activation == "swiglu_layer"
        self.inner_gate_FF = make.weight((F, F), "gated", F, F) if inside else None
        self.inner_up_FF = make.weight((F, F), "gated", F, F) if inside else None
        self.inner_gate_bias_F = make.weight((F,), "gated", F, F) if inside else None
        self.inner_up_bias_F = make.weight((F,), "gated", F, F) if inside else None
        self.down_FD = make.weight((F, D), "output", F, D)
        self.down_bias_D = make.constant((D,), 0) if shape.biases.mlp else None
        self.activation = shape.activation

    def __call__(self, x_BTD: Array) -> Array:
        def layer(x: Array, weight: nnx.Param, bias: nnx.Param | None = None) -> Array:
            y = linear(x, weight[...].astype(x.dtype))
            return y if bias is None else y + bias[...].astype(x.dtype)[None, None]

        h_BTF = layer(x_BTD, self.up_DF, self.up_bias_F)
        if self.activation == "swiglu":
            h_BTF = gated(layer(x_BTD, self.gate_DF), h_BTF)
        elif self.activation == "swiglu_layer":
            gate_BTF = layer(h_BTF, self.inner_gate_FF, self.inner_gate_bias_F)
            h_BTF = gated(gate_BTF, layer(h_BTF, self.inner_up_FF, self.inner_up_bias_F))
        else:
            h_BTF = ACTIVATIONS[self.activation](h_BTF)
        return layer(h_BTF, self.down_FD, self.down_bias_D)


class Block(nnx.Module):
    """Attention and feed-forward layer, added to the residual stream one after the other or both at once."""

    def __init__(self, make: Weights):
        D, norm = make.shape.d_model, make.shape.norm
        self.attention_norm = Norm(make, D, norm.kind, norm.bias)
        self.attention = Attention(make)
        serial = {"serial": True, "parallel": False}[make.shape.residual]
        self.mlp_norm = Norm(make, D, norm.kind, norm.bias) if serial else None
        self.mlp = Mlp(make)
        self.dropout = make.shape.dropout

    def __call__(self, x_BTD: Array, documents_BT: Array | None, kernel: str, keys_B: Array | None) -> Array:
        def use(number: int) -> Array | None:
            return None if keys_B is None else layers.fold(keys_B, number)

        h_BTD = self.attention_norm(x_BTD)
        mixed_BTD = self.drop(self.attention(h_BTD, documents_BT, kernel, use(0)), use(1))
        return self.add(x_BTD, h_BTD, mixed_BTD, use(2))

    def add(self, x_BTD: Array, h_BTD: Array, mixed_BTD: Array, keys_B: Array | None) -> Array:
        """Returns the stream with what attention and the feed-forward layer add to it."""
        x_BTD = x_BTD + mixed_BTD
        return x_BTD + self.drop(self.mlp(h_BTD if self.mlp_norm is None else self.mlp_norm(x_BTD)), keys_B)

    def drop(self, x_BTD: Array, keys_B: Array | None) -> Array:
        """Returns an output with dropout (Srivastava et al. 2014), where there are keys to draw from."""
        return x_BTD if keys_B is None else x_BTD * layers.kept(keys_B, self.dropout, x_BTD.shape[1:], x_BTD.dtype)


class Transformer(nnx.Module):
    """Token ids in, for each position the logits of the next token out."""

    def __init__(
        self, shape: config.Model, vocab_size: int, end_of_text: int | None, rngs: nnx.Rngs, mesh: Mesh | None = None
    ):
        make, D, T, V = Weights(shape, rngs, mesh), shape.d_model, shape.context_length, vocab_rows(shape, vocab_size)
        self.embedding_VD = make.weight((V, D), "embedding", V, D)
        learned = {"learned": True, "rope": False, "none": False}[shape.positions.kind]
        self.positions_TD = make.weight((T, D), "embedding", T, D) if learned else None
        self.blocks = nnx.List([Block(make) for _ in range(shape.n_layers)])
        self.final_norm = Norm(make, D, shape.norm.kind, shape.norm.bias)
        self.unembedding_VD = None if shape.tie_embeddings else make.weight((V, D), "head", D, V)
        self.head_bias_V = make.constant((V,), 0) if shape.biases.head else None
        self.shape, self.end_of_text = shape, end_of_text if shape.mask_documents else None
        self.dtype, self.head_dtype, self.mesh = jnp.dtype(shape.residual_dtype), jnp.dtype(shape.head_dtype), mesh

    def embed(self, tokens_BT: Array, positions_T: np.ndarray | Array) -> Array:
        """Returns the beginning of the residual stream."""
        x_BTD = look_up(self.mesh, self.embedding_VD[...], tokens_BT)
        if self.positions_TD is not None:
            table_TD = sharding.gathered(self.mesh, "positions_TD", self.positions_TD[...], x_BTD.dtype)
            # known when compiling, each stands there once: so the gradient is no sum
            once = isinstance(positions_T, np.ndarray)
            x_BTD = x_BTD + jnp.asarray(table_TD).at[positions_T].get(unique_indices=once)[None]
        return x_BTD.astype(self.dtype)

    def hidden(self, tokens_BT: Array, compute: config.Compute = PLAIN, keys_B: Array | None = None) -> Array:
        """Returns the normed residual stream at the end, as the head takes it, x_BTD. `keys_B` switch dropout on."""
        documents_BT = self.documents(tokens_BT)
        x_BTD = self.embed(tokens_BT, np.arange(tokens_BT.shape[1]))
        if keys_B is not None:
            x_BTD = self.blocks[0].drop(x_BTD, keys_B)
        graph, _ = nnx.split(self.blocks[0])

        def block(x_BTD: Array, weights: nnx.State, layer: int | Array) -> Array:
            own_B = None if keys_B is None else layers.fold(keys_B, layer + 1)
            x_BTD = nnx.merge(graph, self.gathered(weights))(x_BTD, documents_BT, compute.attention, own_B)
            return sharding.rows(self.mesh, x_BTD)

        if compute.remat:
            # a loop keeps XLA from undoing it, nothing else needs a fence
            block = jax.checkpoint(block, prevent_cse=not compute.scan_layers)
        elif sharding.parts(self.mesh, "fsdp") > 1:
            block = jax.checkpoint(block, prevent_cse=not compute.scan_layers, policy=sharding.all_but_gathered)
        states = [nnx.state(each) for each in self.blocks]
        if compute.scan_layers:
            x_BTD, _ = jax.lax.scan(lambda x, scanned: (block(x, *scanned), None), x_BTD, self.stack(states))
        else:
            for layer, weights in enumerate(states):
                x_BTD = block(x_BTD, weights, layer)
        return self.final_norm(x_BTD).astype(self.head_dtype)

    def documents(self, tokens_BT: Array) -> Array | None:
        """Returns the number of each position's document in its row, or None where all may see each other."""
        # the end of a text is the first token of what follows
        return None if self.end_of_text is None else jnp.cumsum(tokens_BT == self.end_of_text, axis=1)

    def largest_logits(self, tokens_BT: Array) -> list[Array]:
        """Returns the largest attention logit of each layer, over rows, heads and pairs of positions."""
        positions_T, documents_BT = np.arange(tokens_BT.shape[1]), self.documents(tokens_BT)
        x_BTD, found = self.embed(tokens_BT, positions_T), []
        for each in self.blocks:
            q_BTNH, k_BTKH, _ = each.attention.project(each.attention_norm(x_BTD), positions_T)
            found.append(largest_logit(q_BTNH, k_BTKH, documents_BT))
            x_BTD = each(x_BTD, documents_BT, "xla", None)
        return found

    def gathered(self, weights: nnx.State) -> nnx.State:
        """Returns a block's weights as devices compute with them."""
        dtype = jnp.dtype(self.shape.compute_dtype)
        return jax.tree.map_with_path(lambda path, w: sharding.gathered(self.mesh, name_of(path), w, dtype), weights)

    def stack(self, states: list[nnx.State]) -> tuple[nnx.State, Array]:
        """Returns the blocks' weights with a dim of layers, and the layers' numbers.

        Matrices are cast before: the copy takes no more memory than those in the dtype of the computation do.
        """
        dtype = jnp.dtype(self.shape.compute_dtype)

        def join(*weights: Array) -> Array:
            return jnp.stack([weight.astype(dtype) if weight.ndim > 1 else weight for weight in weights])

        return jax.tree.map(join, *states), jnp.arange(len(states))

    def head(self) -> tuple[Array, Array | None]:
        """Returns the matrix w_VD that turns the stream into logits, and their bias b_V if there is one."""
        name = "embedding_VD" if self.unembedding_VD is None else "unembedding_VD"
        matrix = sharding.gathered(self.mesh, name, getattr(self, name)[...], self.head_dtype)
        return matrix, None if self.head_bias_V is None else self.head_bias_V[...]

    def logits(self, x_BTD: Array) -> Array:
        """Returns logits_BTV in float32."""
        head_VD, bias_V = self.head()
        logits_BTV = jnp.einsum("BTD,VD->BTV", x_BTD, head_VD.astype(x_BTD.dtype)).astype(jnp.float32)
        if bias_V is not None:
            logits_BTV = logits_BTV + bias_V[None, None]
        cap = self.shape.logit_soft_cap
        return logits_BTV if cap is None else cap * jnp.tanh(logits_BTV / cap)

    def __call__(self, tokens_BT: Array) -> Array:
        return self.logits(self.hidden(tokens_BT))


def vocab_rows(shape: config.Model, vocab_size: int) -> int:
    """Returns V: the vocabulary filled up to a multiple of vocab_multiple, so that devices can share it."""
    return -(-vocab_size // shape.vocab_multiple) * shape.vocab_multiple


def initialize(shape: config.Model, vocab_size: int, seed: int) -> dict[str, Array]:
    """Returns fresh parameters by name; the same for a seed on every mesh."""
    state = nnx.state(Transformer(shape, vocab_size, None, nnx.Rngs(seed)), nnx.Param)
    return {".".join(map(str, path)): parameter[...] for path, parameter in nnx.to_flat_state(state)}


def shapes(shape: config.Model, vocab_size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the parameters' names, shapes and dtypes without allocating one."""
    return jax.eval_shape(lambda: initialize(shape, vocab_size, 0))


def name_of(path: tuple) -> str:
    """Returns the name of a parameter by its path in a tree of weights."""
    return ".".join(str(key.key) for key in path if hasattr(key, "key"))


class Skeleton:
    """A Transformer without weights: joins itself to parameters inside a jitted function."""

    def __init__(self, shape: config.Model, vocab_size: int, end_of_text: int | None = None, mesh: Mesh | None = None):
        """`end_of_text` is what parts documents, for a model that masks them from each other.

        `mesh` are the devices that share the parameters and the rows of a batch, where they do.
        """
        assert end_of_text is not None or not shape.mask_documents, "masking documents needs an end-of-text token"
        self.shape, self.vocab_size, self.mesh = shape, vocab_size, mesh
        model = nnx.eval_shape(lambda: Transformer(shape, vocab_size, end_of_text, nnx.Rngs(0), mesh))
        self.graph, state = nnx.split(model, nnx.Param)
        self.paths = {".".join(map(str, path)): path for path, _ in nnx.to_flat_state(state)}

    def __call__(self, parameters: Parameters) -> Transformer:
        """Returns the model with these parameters."""
        state = nnx.from_flat_state([(path, nnx.Param(parameters[name])) for name, path in self.paths.items()])
        return nnx.merge(self.graph, state)
