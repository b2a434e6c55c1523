"""Models that classes of transformers compute: changes to conftest's SHAPE, for the tests of exports and imports.

Imported without JAX too.
"""

from typing import Any

BIASED = {"kind": "layernorm", "scale": True, "bias": True, "eps": 1e-5}
SQUARE = {"n_kv_heads": 4, "d_head": 4, "qk_norm": None}  # all heads together are as wide as the model
GPT2 = SQUARE | {
    "norm": BIASED,
    "positions": {"kind": "learned"},
    "activation": "gelu_tanh",
    "biases": {"attention": True, "mlp": True},
    "tie_embeddings": True,
}
GPTJ = SQUARE | {
    "norm": BIASED,
    "positions": {"kind": "rope", "dims": 2, "pairs": "interleaved"},
    "activation": "gelu_tanh",
    "residual": "parallel",
    "biases": {"mlp": True, "head": True},
    "vocab_multiple": 16,
}
PLAIN = {"scale": False}

# name -> class, changes
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2LMHeadModel", GPT2 | {"vocab_multiple": 16}),
    "nanogpt": (
        "GPT2LMHeadModel",
        GPT2 | {"norm": BIASED | {"bias": False}, "biases": {"attention": False, "mlp": False}, "activation": "gelu"},
    ),
    "gpt2_bare": (
        "GPT2LMHeadModel",
        GPT2
        | {
            "norm": BIASED | {"scale": False, "bias": False},
            "positions": {"kind": "none"},
            "activation": "relu_squared",
            "biases": {"mlp": True},
            "tie_embeddings": False,
        },
    ),
    "gptj": ("GPTJForCausalLM", GPTJ),
    "gptj_bare": (
        "GPTJForCausalLM",
        GPTJ
        | {
            "positions": {"dims": None, "pairs": "interleaved"},
            "activation": "gelu",
            "biases": {"mlp": False, "head": False},
            "tie_embeddings": True,
        },
    ),
    "llama": ("LlamaForCausalLM", {"qk_norm": None, "vocab_multiple": 16, "positions": {"base": 500000}}),
    "llama_bare": (
        "LlamaForCausalLM",
        {"qk_norm": None, "norm": PLAIN, "activation": "relu_squared", "tie_embeddings": True},
    ),
    "qwen3": ("Qwen3ForCausalLM", {"tie_embeddings": True}),
    "qwen3_bare": ("Qwen3ForCausalLM", {"norm": PLAIN, "activation": "relu_squared", "vocab_multiple": 16}),
}
# one layer, so that its gradient compiles fast
GOLDEN = {name: CASES[name][1] | {"n_layers": 1} for name in ("gpt2", "gptj", "llama", "qwen3")}
