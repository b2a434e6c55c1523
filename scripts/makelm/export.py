"""Weights in the layouts of Hugging Face's transformers: Llama, or Qwen3 where queries and keys are normed.

D model, N heads, K key/value heads, H head dim, F hidden, V vocabulary
"""

from typing import Any

import numpy as np

from makelm import config
from makelm.weights import Weights


def architecture(shape: config.Model) -> str:
    """Returns the name of the class of transformers that computes this model."""
    return "Qwen3ForCausalLM" if shape.qk_norm else "LlamaForCausalLM"


def tensors(weights: Weights) -> dict[str, np.ndarray]:
    """Returns the parameters under transformers' names and in its shapes: a linear layer is [out, in]."""
    own, shape = weights.parameters, weights.model
    result = {"model.embed_tokens.weight": own["embedding_VD"], "model.norm.weight": own["final_norm.scale"]}
    if not shape.tie_embeddings:
        result["lm_head.weight"] = own["unembedding_VD"]
    for layer in range(shape.n_layers):
        parts = block(own, f"blocks.{layer}", shape)
        result |= {f"model.layers.{layer}.{name}": value for name, value in parts.items()}
    return {name: np.ascontiguousarray(value) for name, value in result.items()}


def block(own: dict[str, np.ndarray], prefix: str, shape: config.Model) -> dict[str, np.ndarray]:
    """Returns one layer's tensors."""
    D = shape.d_model
    result = {
        "input_layernorm.weight": own[f"{prefix}.attention_norm.scale"],
        "post_attention_layernorm.weight": own[f"{prefix}.mlp_norm.scale"],
        "self_attn.q_proj.weight": own[f"{prefix}.attention.query_DNH"].reshape(D, -1).T,
        "self_attn.k_proj.weight": own[f"{prefix}.attention.key_DKH"].reshape(D, -1).T,
        "self_attn.v_proj.weight": own[f"{prefix}.attention.value_DKH"].reshape(D, -1).T,
        "self_attn.o_proj.weight": own[f"{prefix}.attention.output_NHD"].reshape(-1, D).T,
        "mlp.up_proj.weight": own[f"{prefix}.mlp.up_DF"].T,
        "mlp.down_proj.weight": own[f"{prefix}.mlp.down_FD"].T,
        # relu(x) * x is relu(x) squared: a gated layer whose gate equals its up-projection
        "mlp.gate_proj.weight": own[f"{prefix}.mlp.{'gate' if shape.activation == 'swiglu' else 'up'}_DF"].T,
    }
    if shape.qk_norm:
        result["self_attn.q_norm.weight"] = own[f"{prefix}.attention.query_norm.scale"]
        result["self_attn.k_norm.weight"] = own[f"{prefix}.attention.key_norm.scale"]
    return result


def model_config(weights: Weights, dtype: str) -> dict[str, Any]:
    """Returns config.json."""
    shape = weights.model
    return {
        "architectures": [architecture(shape)],
        "model_type": "qwen3" if shape.qk_norm else "llama",
        "vocab_size": weights.vocab_size,
        "hidden_size": shape.d_model,
        "intermediate_size": shape.d_ff,
        "num_hidden_layers": shape.n_layers,
        "num_attention_heads": shape.n_heads,
        "num_key_value_heads": shape.n_kv_heads,
        "head_dim": shape.d_head,
        "hidden_act": "silu" if shape.activation == "swiglu" else "relu",
        "max_position_embeddings": shape.context_length,
        "rms_norm_eps": shape.norm_eps,
        "rope_theta": shape.rope_base,  # read by transformers before 5
        "rope_parameters": {"rope_type": "default", "rope_theta": shape.rope_base},
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": shape.tie_embeddings,
        "bos_token_id": weights.end_of_text,  # a document begins after the end of another
        "eos_token_id": weights.end_of_text,
        "dtype": dtype,
    }


def generation_config(weights: Weights) -> dict[str, Any]:
    """Returns generation_config.json."""
    return {"bos_token_id": weights.end_of_text, "eos_token_id": weights.end_of_text, "do_sample": True}
