"""A model as Hugging Face's transformers reads it: its tensors, its config.json and how it generates."""

from functools import partial
from typing import Any

from makelm import attention, config
from makelm.hugging_face_layouts import GPTJ, LLAMA, QWEN3, Layout, NoClass, flat, layout, sizes
from makelm.model import vocab_rows
from makelm.tensor_file import Planned
from makelm.weights import Weights


def tensors(weights: Weights) -> list[Planned]:
    """Returns the tensors of an export, each made from the parameters when it is to be written.

    Raises NoClass where some parameter would not be among them, or attention is another.
    """
    model, chosen = weights.model, layout(weights.model)
    sized = sizes(model.model_dump(), vocab_rows(model, weights.vocab_size))
    listed = list(chosen.tensors(model.n_layers, model.activation, model.tie_embeddings))
    left_out = sorted(set(weights.parameters) - {name for each in listed for name in each.ours})
    if left_out:
        raise NoClass(f"{chosen.architecture}, the nearest, has no place for {', '.join(left_out)}")
    if not attention.is_causal(model.context_length):
        raise NoClass("in each of them a position sees all before it, here attention.sees says which")
    return [Planned(each.name, each.shape(sized), partial(each.join, weights.parameters, sized)) for each in listed]


def model_config(weights: Weights, dtype: str, first: int | None) -> dict[str, Any]:
    """Returns config.json; `first` is the id that a document begins after, or with."""
    model, chosen = weights.model, layout(weights.model)
    known = flat(model.model_dump()) | {"activation": chosen.activations[model.activation]}
    return {
        "architectures": [chosen.architecture],
        "model_type": chosen.model_type,
        "vocab_size": vocab_rows(model, weights.vocab_size),
        **{theirs: known[ours] for ours, theirs in chosen.keys.items()},
        **chosen.fixed,
        **positions(chosen, model),
        "bos_token_id": first,
        "eos_token_id": weights.end_of_text,
        "dtype": dtype,
    }


def positions(chosen: Layout, model: config.Model) -> dict[str, Any]:
    """Returns the keys of config.json about rotary positions and, for who trains on, dropout."""
    if chosen in (LLAMA, QWEN3):
        base = model.positions.base
        # transformers before 5 reads the first
        return {"rope_theta": base, "rope_parameters": {"rope_type": "default", "rope_theta": base}}
    turned = {"rotary_dim": model.positions.dims or model.d_head} if chosen is GPTJ else {}
    return turned | dict.fromkeys(("embd_pdrop", "attn_pdrop", "resid_pdrop"), model.dropout)


def generation_config(weights: Weights, first: int | None) -> dict[str, Any]:
    """Returns generation_config.json; `first` is the id that a document begins after, or with."""
    return {"bos_token_id": first, "eos_token_id": weights.end_of_text, "do_sample": True}
