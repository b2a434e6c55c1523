"""What an exported folder computes, in NumPy and from its own files: config.json and one tensor after the other.

Written from what transformers' classes are defined to do, and from nothing of the model's or the layouts' code: a
mistake there is a difference here.

B batch, T position, S position attended to, N heads, H head dim, D model, V vocabulary
"""

import json
from collections.abc import Callable
from math import erf
from pathlib import Path
from typing import Any

import numpy as np

from makelm.tensor_file import Stored

ROWS = 8192  # of the vocabulary that are computed at a time
ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "gelu_new": lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "gelu": lambda x: 0.5 * x * (1 + np.frompyfunc(erf, 1, 1)(x / np.sqrt(2)).astype(x.dtype)),
    "relu": lambda x: np.maximum(x, 0),
    "relu2": lambda x: np.maximum(x, 0) ** 2,
    "silu": lambda x: x / (1 + np.exp(-x)),
}


class Module:
    """The tensors whose names open alike, and what is computed with them."""

    def __init__(self, stored: Stored, opening: str):
        self.stored, self.opening = stored, opening

    def __getitem__(self, name: str) -> np.ndarray:
        return self.stored[f"{self.opening}{name}"].astype(np.float64)

    def linear(self, x: np.ndarray, name: str) -> np.ndarray:
        """A layer of torch: the weight is [out, in]."""
        y = x @ self[f"{name}.weight"].T
        return y + self[f"{name}.bias"] if f"{self.opening}{name}.bias" in self.stored else y

    def convolve(self, x: np.ndarray, name: str) -> np.ndarray:
        """A layer of GPT-2: the weight is [in, out]."""
        return x @ self[f"{name}.weight"] + self[f"{name}.bias"]

    def layer_norm(self, x: np.ndarray, name: str, eps: float) -> np.ndarray:
        centred = x - x.mean(-1, keepdims=True)
        deviation = np.sqrt((centred**2).mean(-1, keepdims=True) + eps)
        return centred / deviation * self[f"{name}.weight"] + self[f"{name}.bias"]

    def rms_norm(self, x: np.ndarray, name: str, eps: float) -> np.ndarray:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * self[f"{name}.weight"]


def logits(folder: Path, tokens_BT: np.ndarray) -> np.ndarray:
    """Returns logits_BTV of a folder of one of the four classes, in float64."""
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    stored = Stored(folder / "model.safetensors")
    compute, embedding = {
        "GPT2LMHeadModel": (gpt2, "transformer.wte.weight"),
        "GPTJForCausalLM": (gptj, "transformer.wte.weight"),
        "LlamaForCausalLM": (llama, "model.embed_tokens.weight"),
        "Qwen3ForCausalLM": (llama, "model.embed_tokens.weight"),
    }[settings["architectures"][0]]
    x_BTD = compute(settings, stored, stored[embedding][tokens_BT].astype(np.float64))
    head_VD = stored[embedding if settings["tie_word_embeddings"] else "lm_head.weight"]
    parts = [x_BTD @ head_VD[first : first + ROWS].astype(np.float64).T for first in range(0, len(head_VD), ROWS)]
    logits_BTV = np.concatenate(parts, -1)
    return logits_BTV + stored["lm_head.bias"].astype(np.float64) if "lm_head.bias" in stored else logits_BTV


def gpt2(settings: dict[str, Any], stored: Stored, x_BTD: np.ndarray) -> np.ndarray:
    """Returns the stream at the end: attention, then a feed-forward layer, in each layer."""
    heads, eps = settings["n_head"], settings["layer_norm_epsilon"]
    act = ACTIVATIONS[settings["activation_function"]]
    x_BTD = x_BTD + Module(stored, "transformer.")["wpe.weight"][: x_BTD.shape[1]]
    for number in range(settings["n_layer"]):
        layer = Module(stored, f"transformer.h.{number}.")
        fused = layer.convolve(layer.layer_norm(x_BTD, "ln_1", eps), "attn.c_attn")
        q, k, v = (split(each, heads) for each in np.split(fused, 3, axis=-1))
        x_BTD = x_BTD + layer.convolve(attend(q, k, v), "attn.c_proj")
        inner = act(layer.convolve(layer.layer_norm(x_BTD, "ln_2", eps), "mlp.c_fc"))
        x_BTD = x_BTD + layer.convolve(inner, "mlp.c_proj")
    return Module(stored, "transformer.").layer_norm(x_BTD, "ln_f", eps)


def gptj(settings: dict[str, Any], stored: Stored, x_BTD: np.ndarray) -> np.ndarray:
    """Returns the stream at the end: attention and feed-forward layer read one norm; neighbours are turned."""
    heads, eps, turned = settings["n_head"], settings["layer_norm_epsilon"], settings["rotary_dim"]
    act, turn = ACTIVATIONS[settings["activation_function"]], turns(x_BTD.shape[1], turned, 10000)

    def rotate(x_BTNH: np.ndarray) -> np.ndarray:
        result = x_BTNH.copy()
        z = (x_BTNH[..., 0:turned:2] + 1j * x_BTNH[..., 1:turned:2]) * turn
        result[..., 0:turned:2], result[..., 1:turned:2] = z.real, z.imag
        return result

    for number in range(settings["n_layer"]):
        layer = Module(stored, f"transformer.h.{number}.")
        h = layer.layer_norm(x_BTD, "ln_1", eps)
        q, k, v = (split(layer.linear(h, f"attn.{name}_proj"), heads) for name in "qkv")
        mixed = layer.linear(attend(rotate(q), rotate(k), v), "attn.out_proj")
        x_BTD = x_BTD + mixed + layer.linear(act(layer.linear(h, "mlp.fc_in")), "mlp.fc_out")
    return Module(stored, "transformer.").layer_norm(x_BTD, "ln_f", eps)


def llama(settings: dict[str, Any], stored: Stored, x_BTD: np.ndarray) -> np.ndarray:
    """Returns the stream at the end: gated feed-forward layers, shared keys and values; halves are turned."""
    heads, shared, dim = (settings[f"{name}"] for name in ("num_attention_heads", "num_key_value_heads", "head_dim"))
    act, eps = ACTIVATIONS[settings["hidden_act"]], settings["rms_norm_eps"]
    turn = turns(x_BTD.shape[1], dim, settings["rope_parameters"]["rope_theta"])
    normed = settings["architectures"] == ["Qwen3ForCausalLM"]

    def rotate(x_BTNH: np.ndarray) -> np.ndarray:
        z = (x_BTNH[..., : dim // 2] + 1j * x_BTNH[..., dim // 2 :]) * turn
        return np.concatenate([z.real, z.imag], -1)

    for number in range(settings["num_hidden_layers"]):
        layer = Module(stored, f"model.layers.{number}.")
        h = layer.rms_norm(x_BTD, "input_layernorm", eps)
        q = split(layer.linear(h, "self_attn.q_proj"), heads)
        k, v = (split(layer.linear(h, f"self_attn.{name}_proj"), shared) for name in "kv")
        if normed:
            q, k = layer.rms_norm(q, "self_attn.q_norm", eps), layer.rms_norm(k, "self_attn.k_norm", eps)
        k, v = (np.repeat(each, heads // shared, axis=2) for each in (rotate(k), v))
        x_BTD = x_BTD + layer.linear(attend(rotate(q), k, v), "self_attn.o_proj")
        h = layer.rms_norm(x_BTD, "post_attention_layernorm", eps)
        inner = act(layer.linear(h, "mlp.gate_proj")) * layer.linear(h, "mlp.up_proj")
        x_BTD = x_BTD + layer.linear(inner, "mlp.down_proj")
    return Module(stored, "model.").rms_norm(x_BTD, "norm", eps)


def split(x: np.ndarray, heads: int) -> np.ndarray:
    """Returns x_BTNH, the last dim cut into heads."""
    return x.reshape(*x.shape[:2], heads, -1)


def turns(length: int, dims: int, base: float) -> np.ndarray:
    """Returns for each position and pair the complex number that turns it."""
    frequencies = float(base) ** (-np.arange(0, dims, 2) / dims)
    return np.exp(1j * np.arange(length)[:, None] * frequencies)[None, :, None, :]


def attend(q_BTNH: np.ndarray, k_BSNH: np.ndarray, v_BSNH: np.ndarray) -> np.ndarray:
    """Returns what each position gathers from itself and those before it, heads joined again."""
    B, T, N, H = q_BTNH.shape
    scores_BNTS = np.einsum("BTNH,BSNH->BNTS", q_BTNH, k_BSNH) / np.sqrt(H)
    scores_BNTS = np.where(np.tri(T, dtype=bool), scores_BNTS, -np.inf)
    e_BNTS = np.exp(scores_BNTS - scores_BNTS.max(-1, keepdims=True))
    p_BNTS = e_BNTS / e_BNTS.sum(-1, keepdims=True)
    return np.einsum("BNTS,BSNH->BTNH", p_BNTS, v_BSNH).reshape(B, T, N * H)
