"""The Hugging Face layout computes what the model computes; here against a plain NumPy reading of that layout."""

import numpy as np
import pytest
from conftest import forward, random_parameters, shape

from makelm import export, weights

V = 40


def hugging_face_logits(tensors: dict, config: dict, tokens: np.ndarray) -> np.ndarray:
    """Computes a Llama or Qwen3 forward pass of one row from the exported files alone."""
    eps, head = config["rms_norm_eps"], config["head_dim"]
    act = {"silu": lambda x: x / (1 + np.exp(-x)), "relu": lambda x: np.maximum(x, 0)}[config["hidden_act"]]

    def norm(x, scale):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * scale

    angles = np.arange(len(tokens))[:, None] / config["rope_parameters"]["rope_theta"] ** (np.arange(0, head, 2) / head)
    cos, sin = (np.concatenate([f(angles)] * 2, -1)[:, None] for f in (np.cos, np.sin))

    def rotate(x):
        half = head // 2
        return x * cos + np.concatenate([-x[..., half:], x[..., :half]], -1) * sin

    def heads(x, name, count):
        x = (x @ tensors[f"{layer}.self_attn.{name}_proj.weight"].T).reshape(len(tokens), count, head)
        key = f"{layer}.self_attn.{name}_norm.weight"
        return norm(x, tensors[key]) if key in tensors else x

    n, k = config["num_attention_heads"], config["num_key_value_heads"]
    x = tensors["model.embed_tokens.weight"][tokens]
    for number in range(config["num_hidden_layers"]):
        layer = f"model.layers.{number}"
        y = norm(x, tensors[f"{layer}.input_layernorm.weight"])
        q, key = rotate(heads(y, "q", n)), rotate(heads(y, "k", k)).repeat(n // k, 1)
        value = heads(y, "v", k).repeat(n // k, 1)
        scores = np.einsum("tnh,snh->nts", q, key) / np.sqrt(head)
        scores = np.where(np.tri(len(tokens), dtype=bool), scores, -np.inf)
        p = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = np.einsum("nts,snh->tnh", p / p.sum(-1, keepdims=True), value).reshape(len(tokens), -1)
        x = x + mixed @ tensors[f"{layer}.self_attn.o_proj.weight"].T
        y = norm(x, tensors[f"{layer}.post_attention_layernorm.weight"])
        gate, up, down = (tensors[f"{layer}.mlp.{name}_proj.weight"] for name in ("gate", "up", "down"))
        x = x + (act(y @ gate.T) * (y @ up.T)) @ down.T
    out = tensors["model.embed_tokens.weight"] if config["tie_word_embeddings"] else tensors["lm_head.weight"]
    return norm(x, tensors["model.norm.weight"]) @ out.T


@pytest.mark.parametrize("activation", ["swiglu", "relu_squared"])
@pytest.mark.parametrize("qk_norm", [True, False])
@pytest.mark.parametrize("tied", [True, False])
def test_exported_tensors_give_the_same_logits(activation, qk_norm, tied):
    model = shape(activation=activation, qk_norm=qk_norm, tie_embeddings=tied)
    trained = weights.Weights(model, V, V - 1, "digest", random_parameters(model, V))
    tokens = np.random.default_rng(0).integers(0, V, 16)
    expected = forward(model, V, trained.parameters, tokens[None])[0]
    found = hugging_face_logits(export.tensors(trained), export.model_config(trained, "float32"), tokens)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert export.architecture(model) == ("Qwen3ForCausalLM" if qk_norm else "LlamaForCausalLM")
