"""A model's config.json as Hugging Face's transformers writes it, in our words, or why makelm does not compute it."""

from pathlib import Path
from typing import Any, NamedTuple

from makelm import tensor_header
from makelm.errors import UserError
from makelm.hugging_face_layouts import GPTJ, LAYOUTS, Layout, spell

FILE = "config.json"
SAME_ACTIVATION = {"gelu_pytorch_tanh": "gelu_new", "swish": "silu"}
# what transformers takes where config.json does not say; None: follows from other keys
UNSAID = {
    "n_inner": None,
    "num_key_value_heads": None,
    "head_dim": None,
    "layer_norm_epsilon": 1e-5,
    "rms_norm_eps": 1e-6,
    "activation_function": "gelu_new",
    "hidden_act": "silu",
}


class Settings(NamedTuple):
    """What config.json says."""

    layout: Layout
    shape: dict[str, Any]  # the keys of config.Model that the weights decide
    context_length: int
    vocab_rows: int


def read(folder: Path) -> Settings:
    """Returns what a folder's config.json says. Raises UserError where makelm does not compute such a model."""
    raw = tensor_header.json_object(folder / FILE)
    try:
        layout = find_layout(raw)
        context_length = whole(raw, layout.keys["context_length"])
        return Settings(layout, shape(layout, raw), context_length, whole(raw, "vocab_size"))
    except UserError as error:
        raise UserError(f"{folder / FILE}: {error}") from None


def find_layout(raw: dict[str, Any]) -> Layout:
    """Returns the layout that config.json is of. Raises UserError where it asks for what makelm does not compute."""
    found = {each.model_type: each for each in LAYOUTS}.get(raw.get("model_type"))
    if found is None:
        known = ", ".join(each.model_type for each in LAYOUTS)
        raise UserError(f"model_type is {spell(raw.get('model_type'))}; makelm reads {known}")
    fixed = found.fixed | {"quantization_config": None}
    layer_types = raw.get("layer_types") or []
    if any(each != "full_attention" for each in layer_types):
        raise UserError("layer_types: makelm computes full_attention only")
    for key, value in fixed.items():
        if raw.get(key, value) not in (value, None):
            raise UserError(f"{key} is {spell(raw[key])}; makelm computes {spell(value)} only")
    return found


def shape(chosen: Layout, raw: dict[str, Any]) -> dict[str, Any]:
    """Returns the keys of config.Model that the weights decide."""
    said = {ours: raw.get(theirs, UNSAID.get(theirs)) for ours, theirs in chosen.keys.items()}
    result = {ours: whole(raw, chosen.keys[ours]) for ours in ("n_layers", "d_model", "n_heads")}
    result["n_kv_heads"] = said.get("n_kv_heads") or result["n_heads"]
    result["d_head"] = said.get("d_head") or result["d_model"] // result["n_heads"]
    result["d_ff"] = said["d_ff"] or 4 * result["d_model"]
    tied = said["tie_embeddings"]
    held = [name for each in (*chosen.whole, *chosen.block) for name in each.ours]

    def holds(ending: str) -> bool:
        return any(name.endswith(ending) for name in held)

    def only(key: str) -> Any:
        return chosen.wants[key][0]

    norm = {"kind": only("norm.kind"), "scale": True, "bias": holds("norm.bias"), "eps": said["norm.eps"]}
    return result | {
        "norm": norm,
        "qk_norm": only("qk_norm"),
        "positions": positions(chosen, raw, result["d_head"]),
        "activation": activation(chosen, said["activation"]),
        "residual": only("residual"),
        "biases": {
            "attention": holds("output_bias_D"),
            "mlp": holds("down_bias_D"),
            "head": holds("head_bias_V"),
        },
        "tie_embeddings": chosen.model_type == "gpt2" if tied is None else tied,
        "logit_soft_cap": None,
    }


def whole(raw: dict[str, Any], key: str) -> int:
    """Returns a count that config.json must have."""
    value = raw.get(key)
    if type(value) is not int or value < 1:
        raise UserError(f"{key} is {spell(value)}; it should be a positive whole number")
    return value


def activation(chosen: Layout, name: str) -> str:
    """Returns what we call an activation."""
    ours = {theirs: ours for ours, theirs in chosen.activations.items()}
    found = ours.get(SAME_ACTIVATION.get(name, name))
    if found is None:
        key = chosen.keys["activation"]
        raise UserError(f"{key} is {spell(name)}; makelm computes {', '.join(ours)} in a {chosen.architecture}")
    return found


def positions(chosen: Layout, raw: dict[str, Any], d_head: int) -> dict[str, Any]:
    """Returns what the weights decide of the keys of positions."""
    kind = chosen.wants["positions.kind"][0]
    if kind == "learned":
        return {"kind": kind}
    rope = {"kind": kind, "pairs": chosen.wants["positions.pairs"][0]}
    if chosen is GPTJ:
        return rope | {"base": chosen.wants["positions.base"][0], "dims": whole(raw, "rotary_dim")}
    return rope | {"base": rope_base(raw), "dims": None}


def rope_base(raw: dict[str, Any]) -> float:
    """Returns the base of rotary positions. Raises UserError where they are scaled."""
    # the old spelling has rope_theta and rope_scaling, that of transformers 5 rope_parameters
    said = {"rope_theta": raw.get("rope_theta", 10000)} | (raw.get("rope_scaling") or {})
    said |= raw.get("rope_parameters") or {}
    scaling = {key: value for key, value in said.items() if key != "rope_theta" and value not in ("default", None)}
    if scaling:
        raise UserError(f"rotary positions are not the default ones ({spell(scaling)}); makelm computes only those")
    return said["rope_theta"]
