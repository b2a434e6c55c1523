"""Four classes of Hugging Face's transformers: which models fit one, and where their parameters stand in its tensors.

One table per class is read in both directions: by the export (export.py) and by the import
(hugging_face.py).

D model, N heads, K key/value heads, H head dim, F hidden, V vocabulary (rows), T positions
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from makelm import config, nested
from makelm.errors import UserError


class NoClass(UserError):
    """No class of transformers that makelm knows computes a model; it can be handed on as it is."""

    def __init__(self, why: str):
        super().__init__(f"no class of Hugging Face's transformers that makelm knows computes this model; {why}")


@dataclass(frozen=True)
class Tensor:
    """One tensor of theirs, and the parameters of ours that it holds side by side along its last dim.

    `dims` are its dims in our letters: "NH D" is a matrix of N x H rows and D columns. A class that always has a
    scale or a bias holds `absent` where our model has none.
    """

    name: str
    dims: str
    ours: tuple[str, ...]
    absent: float | None = None

    def order(self, parameter: str) -> list[int]:
        """Returns which of a parameter's dims comes first in theirs, which second, ..."""
        own, wanted = letters(parameter), self.dims.replace(" ", "")
        if "K" not in wanted:  # held beside the queries, and as many
            own = own.replace("K", "N")
        return [own.index(letter) for letter in wanted]

    def shape(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """Returns the shape of the whole; `sizes` are those of the letters."""
        *rows, last = (prod(sizes[letter] for letter in group) for group in self.dims.split())
        return (*rows, last * len(self.ours))

    def join(self, parameters: Mapping[str, np.ndarray], sizes: Mapping[str, int]) -> np.ndarray:
        """Returns the tensor made of our parameters. Raises NoClass where one is not there that the class must have."""
        whole = self.shape(sizes)
        if self.ours[0] not in parameters:
            if self.absent is None:
                raise NoClass(f"it has no {self.ours[0]}, which {self.name} would hold")
            return np.full(whole, self.absent, np.float32)
        part = (*whole[:-1], whole[-1] // len(self.ours))
        parts = [np.transpose(parameters[name], self.order(name)).reshape(part) for name in self.ours]
        return np.concatenate(parts, axis=-1) if len(parts) > 1 else parts[0]

    def part(self, array: np.ndarray, parameter: str, shape: tuple[int, ...]) -> np.ndarray:
        """Returns the parameter that is the part `array` of the tensor, in float32."""
        order = self.order(parameter)
        apart = array.reshape([shape[dim] for dim in order])
        return np.ascontiguousarray(np.transpose(apart, np.argsort(order)), np.float32)


def letters(parameter: str) -> str:
    """Returns the letters of a parameter's dims."""
    *_, owner, name = f".{parameter}".split(".")
    if name in ("scale", "bias"):
        return "H" if owner in ("query_norm", "key_norm") else "D"
    return name.rpartition("_")[2]


@dataclass(frozen=True)
class Layout:
    """What one class of transformers can compute, how its config.json says it and where its tensors stand."""

    architecture: str
    model_type: str
    base: str  # opens the names of all tensors but the head's
    blocks: str  # what follows for those of a layer
    wants: dict[str, tuple]  # key of the model -> the values that fit
    relations: tuple[str, ...]  # of RELATIONS
    keys: dict[str, str]  # key of the model -> key of config.json
    activations: dict[str, str]  # ours -> theirs
    fixed: dict[str, Any]  # keys of config.json with the one value that fits
    whole: tuple[Tensor, ...]
    block: tuple[Tensor, ...]

    def tensors(self, n_layers: int, activation: str, tied: bool) -> Iterator[Tensor]:
        """Yields all tensors of a model, under full names."""
        for each in self.whole:
            if not (tied and each.ours == ("unembedding_VD",)):
                yield each if each.name.startswith("lm_head.") else replace(each, name=f"{self.base}{each.name}")
        for layer in range(n_layers):
            for each in self.block:
                ours = each.ours
                if activation == "relu_squared" and ours == ("mlp.gate_DF",):
                    ours = ("mlp.up_DF",)  # relu(x) * x is relu(x) squared: a gate that equals the up-projection
                own = tuple(f"blocks.{layer}.{name}" for name in ours)
                yield replace(each, name=f"{self.base}{self.blocks}.{layer}.{each.name}", ours=own)


RELATIONS: dict[str, Callable[[config.Model], bool]] = {
    "n_kv_heads equal to n_heads": lambda model: model.n_kv_heads == model.n_heads,
    "n_heads x d_head equal to d_model": lambda model: model.n_heads * model.d_head == model.d_model,
    "d_model a multiple of n_heads": lambda model: model.d_model % model.n_heads == 0,
}

# keys that no layout need ask for: tensors and export.py say what they are, or they change no logit of a trained model
HELD = {
    *("vocab_multiple", "n_kv_heads", "d_head", "norm.scale", "norm.bias"),
    *("biases.attention", "biases.mlp", "biases.head", "positions.base", "positions.dims", "positions.pairs"),
    *("dropout", "mask_documents", "init", "compute_dtype", "residual_dtype", "head_dtype", "parameter_dtype"),
}
OFF = (None, False)

PLAIN = {"gelu_tanh": "gelu_new", "gelu": "gelu", "relu_squared": "relu2"}
GATED = {"swiglu": "silu", "relu_squared": "relu"}
GPT_KEYS = {
    "context_length": "n_positions",
    "n_layers": "n_layer",
    "d_model": "n_embd",
    "n_heads": "n_head",
    "d_ff": "n_inner",
    "norm.eps": "layer_norm_epsilon",
    "activation": "activation_function",
    "tie_embeddings": "tie_word_embeddings",
}
LLAMA_KEYS = {
    "context_length": "max_position_embeddings",
    "n_layers": "num_hidden_layers",
    "d_model": "hidden_size",
    "n_heads": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads",
    "d_head": "head_dim",
    "d_ff": "intermediate_size",
    "norm.eps": "rms_norm_eps",
    "activation": "hidden_act",
    "tie_embeddings": "tie_word_embeddings",
}

GPT2 = Layout(
    architecture="GPT2LMHeadModel",
    model_type="gpt2",
    base="transformer.",
    blocks="h",
    wants={
        "norm.kind": ("layernorm",),
        "qk_norm": (None,),
        "positions.kind": ("learned", "none"),
        "activation": tuple(PLAIN),
        "residual": ("serial",),
        "biases.head": (False,),
        "logit_soft_cap": (None,),
    },
    relations=("n_kv_heads equal to n_heads", "n_heads x d_head equal to d_model"),
    keys=GPT_KEYS,
    activations=PLAIN,
    fixed={"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False},
    whole=(
        Tensor("wte.weight", "V D", ("embedding_VD",)),
        Tensor("wpe.weight", "T D", ("positions_TD",), absent=0),
        Tensor("ln_f.weight", "D", ("final_norm.scale",), absent=1),
        Tensor("ln_f.bias", "D", ("final_norm.bias",), absent=0),
        Tensor("lm_head.weight", "V D", ("unembedding_VD",)),
    ),
    block=(
        Tensor("ln_1.weight", "D", ("attention_norm.scale",), absent=1),
        Tensor("ln_1.bias", "D", ("attention_norm.bias",), absent=0),
        Tensor("attn.c_attn.weight", "D NH", ("attention.query_DNH", "attention.key_DKH", "attention.value_DKH")),
        Tensor(
            "attn.c_attn.bias",
            "NH",
            ("attention.query_bias_NH", "attention.key_bias_KH", "attention.value_bias_KH"),
            absent=0,
        ),
        Tensor("attn.c_proj.weight", "NH D", ("attention.output_NHD",)),
        Tensor("attn.c_proj.bias", "D", ("attention.output_bias_D",), absent=0),
        Tensor("ln_2.weight", "D", ("mlp_norm.scale",), absent=1),
        Tensor("ln_2.bias", "D", ("mlp_norm.bias",), absent=0),
        Tensor("mlp.c_fc.weight", "D F", ("mlp.up_DF",)),
        Tensor("mlp.c_fc.bias", "F", ("mlp.up_bias_F",), absent=0),
        Tensor("mlp.c_proj.weight", "F D", ("mlp.down_FD",)),
        Tensor("mlp.c_proj.bias", "D", ("mlp.down_bias_D",), absent=0),
    ),
)

GPTJ = Layout(
    architecture="GPTJForCausalLM",
    model_type="gptj",
    base="transformer.",
    blocks="h",
    wants={
        "norm.kind": ("layernorm",),
        "qk_norm": (None,),
        "positions.kind": ("rope",),
        "positions.pairs": ("interleaved",),
        "positions.base": (10000,),
        "activation": tuple(PLAIN),
        "residual": ("parallel",),
        "biases.attention": (False,),
        "logit_soft_cap": (None,),
    },
    relations=("n_kv_heads equal to n_heads", "n_heads x d_head equal to d_model"),
    keys=GPT_KEYS,
    activations=PLAIN,
    fixed={},
    whole=(
        Tensor("wte.weight", "V D", ("embedding_VD",)),
        Tensor("ln_f.weight", "D", ("final_norm.scale",), absent=1),
        Tensor("ln_f.bias", "D", ("final_norm.bias",), absent=0),
        Tensor("lm_head.weight", "V D", ("unembedding_VD",)),
        Tensor("lm_head.bias", "V", ("head_bias_V",), absent=0),
    ),
    block=(
        Tensor("ln_1.weight", "D", ("attention_norm.scale",), absent=1),
        Tensor("ln_1.bias", "D", ("attention_norm.bias",), absent=0),
        Tensor("attn.q_proj.weight", "NH D", ("attention.query_DNH",)),
        Tensor("attn.k_proj.weight", "KH D", ("attention.key_DKH",)),
        Tensor("attn.v_proj.weight", "KH D", ("attention.value_DKH",)),
        Tensor("attn.out_proj.weight", "D NH", ("attention.output_NHD",)),
        Tensor("mlp.fc_in.weight", "F D", ("mlp.up_DF",)),
        Tensor("mlp.fc_in.bias", "F", ("mlp.up_bias_F",), absent=0),
        Tensor("mlp.fc_out.weight", "D F", ("mlp.down_FD",)),
        Tensor("mlp.fc_out.bias", "D", ("mlp.down_bias_D",), absent=0),
    ),
)

LLAMA = Layout(
    architecture="LlamaForCausalLM",
    model_type="llama",
    base="model.",
    blocks="layers",
    wants={
        "norm.kind": ("rmsnorm",),
        "norm.bias": (False,),
        "qk_norm": (None,),
        "positions.kind": ("rope",),
        "positions.pairs": ("halves",),
        "positions.dims": (None,),
        "activation": tuple(GATED),
        "residual": ("serial",),
        "biases.attention": (False,),
        "biases.mlp": (False,),
        "biases.head": (False,),
        "logit_soft_cap": (None,),
    },
    relations=("d_model a multiple of n_heads",),
    keys=LLAMA_KEYS,
    activations=GATED,
    fixed={"attention_bias": False, "mlp_bias": False},
    whole=(
        Tensor("embed_tokens.weight", "V D", ("embedding_VD",)),
        Tensor("norm.weight", "D", ("final_norm.scale",), absent=1),
        Tensor("lm_head.weight", "V D", ("unembedding_VD",)),
    ),
    block=(
        Tensor("input_layernorm.weight", "D", ("attention_norm.scale",), absent=1),
        Tensor("post_attention_layernorm.weight", "D", ("mlp_norm.scale",), absent=1),
        Tensor("self_attn.q_proj.weight", "NH D", ("attention.query_DNH",)),
        Tensor("self_attn.k_proj.weight", "KH D", ("attention.key_DKH",)),
        Tensor("self_attn.v_proj.weight", "KH D", ("attention.value_DKH",)),
        Tensor("self_attn.o_proj.weight", "D NH", ("attention.output_NHD",)),
        Tensor("mlp.gate_proj.weight", "F D", ("mlp.gate_DF",)),
        Tensor("mlp.up_proj.weight", "F D", ("mlp.up_DF",)),
        Tensor("mlp.down_proj.weight", "D F", ("mlp.down_FD",)),
    ),
)

QWEN3 = replace(
    LLAMA,
    architecture="Qwen3ForCausalLM",
    model_type="qwen3",
    wants=LLAMA.wants | {"qk_norm": ("rmsnorm",)},
    relations=(),
    fixed={"attention_bias": False, "use_sliding_window": False},
    block=(
        *LLAMA.block,
        Tensor("self_attn.q_norm.weight", "H", ("attention.query_norm.scale",), absent=1),
        Tensor("self_attn.k_norm.weight", "H", ("attention.key_norm.scale",), absent=1),
    ),
)

LAYOUTS = (GPT2, GPTJ, LLAMA, QWEN3)


def layout(model: config.Model) -> Layout:
    """Returns the layout that fits a model. Raises NoClass with one line that says why none does."""
    found = [(list(misfits(each, model)), each) for each in LAYOUTS]
    wrong, nearest = min(found, key=lambda pair: len(pair[0]))
    if wrong:
        raise NoClass(f"{nearest.architecture}, the nearest, wants {', '.join(wrong)}")
    return nearest


def misfits(wanted: Layout, model: config.Model) -> Iterator[str]:
    """Yields what a layout wants of a model that is otherwise."""
    known = flat(model.model_dump())
    for key, values in wanted.wants.items():
        if known[key] not in values:
            yield f"model.{key} {' or '.join(map(spell, values))} (here {spell(known[key])})"
    yield from (f"model.{relation}" for relation in wanted.relations if not RELATIONS[relation](model))
    for key, value in known.items():  # a key that is new: who adds it says here what has it
        if value not in OFF and key not in {*wanted.wants, *wanted.keys, *HELD}:
            yield f"model.{key} null (here {spell(value)})"


def flat(keys: dict[str, Any]) -> dict[str, Any]:
    """Returns a model's keys with dots in place of nesting; to turn all dims of a head is null, however it is said."""
    result = nested.flat(keys)
    if result.get("positions.dims") == keys["d_head"]:
        result["positions.dims"] = None
    return result


def spell(value: Any) -> str:
    """Returns a value as YAML has it."""
    return value if isinstance(value, str) else json.dumps(value)


def sizes(keys: Mapping[str, Any], rows: int) -> dict[str, int]:
    """Returns the size of each letter, from a model's keys and the rows of its vocabulary."""
    names = {"D": "d_model", "N": "n_heads", "K": "n_kv_heads", "H": "d_head", "F": "d_ff", "T": "context_length"}
    return {letter: keys[name] for letter, name in names.items()} | {"V": rows}
