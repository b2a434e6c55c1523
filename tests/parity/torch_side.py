"""What Hugging Face's transformers makes of models; runs where torch is, not where JAX is.

    python torch_side.py FOLDER

Each folder in FOLDER is a case, with tokens.npy; without, it is a tokenizer alone, with text.txt. Where there is
wanted.json (a configuration), a model of random weights is made, saved to made/ by transformers and loaded again; else
the case itself is an exported model. Writes out.npz beside it: logits_BTV, the mean loss, the gradient of the input
embedding, the class, the names of tensors that were missing or that nobody asked for and, where there is text.txt, its
ids and greedy tokens.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer


def main(root: str) -> None:
    """Does all cases: importing torch takes longer than any of them."""
    for folder in sorted(Path(root).iterdir()):
        made, wanted, text = folder, folder / "wanted.json", folder / "text.txt"
        if not (folder / "tokens.npy").exists():
            np.savez(folder / "out.npz", ids=encoded(folder, text))
            continue
        if wanted.exists():
            made = folder / "made"
            make(json.loads(wanted.read_text()), made)
        tokens_BT = np.load(folder / "tokens.npy")
        found, model = compute(made, tokens_BT)
        if text.exists():
            found["greedy"] = greedy(model, tokens_BT, json.loads((folder / "greedy.json").read_text()))
            found["ids"] = encoded(made, text)
        np.savez(folder / "out.npz", **found)


def greedy(model: torch.nn.Module, tokens_BT: np.ndarray, how: dict) -> np.ndarray:
    """Returns the tokens of a greedy text, its prompt first; no token ends it, rows that are no token never come."""
    model.generation_config.eos_token_id = None
    prompt = torch.from_numpy(tokens_BT[:1, : how["prompt"]]).long()
    options = {"suppress_tokens": how["unknown"]} if how["unknown"] else {}
    return model.generate(prompt, do_sample=False, max_new_tokens=how["new"], pad_token_id=0, **options).numpy()


def encoded(folder: Path, text: Path) -> np.ndarray:
    """Returns the ids of a text, without those that would stand around it."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return np.array(tokenizer(text.read_bytes().decode(), add_special_tokens=False)["input_ids"])


def make(wanted: dict, folder: Path) -> None:
    """Saves a model of random weights none of which is 0 or 1, in the dtype and in shards of the size wanted."""
    dtype, shard = wanted.pop("saved_as"), wanted.pop("shard_size")
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**wanted))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            spread = 0.3 * torch.randn(parameter.shape, generator=generator)
            parameter.copy_(spread + 1 if "norm" in name or "ln_" in name else spread)
        if wanted.get("hidden_act") == "relu":  # the gated layer that is squared ReLU
            for layer in model.model.layers:
                layer.mlp.gate_proj.weight.copy_(layer.mlp.up_proj.weight)
    model.to(getattr(torch, dtype)).save_pretrained(folder, max_shard_size=shard)


def compute(folder: Path, tokens_BT: np.ndarray) -> tuple[dict, torch.nn.Module]:
    """Returns what a saved model computes in float32, and the model."""
    model, loading = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, dtype=torch.float32)
    tokens = torch.from_numpy(tokens_BT).long()
    result = model(tokens, labels=tokens)
    result.loss.backward()
    problems = [name for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") for name in loading[kind]]
    found = {
        "logits": result.logits.detach().numpy(),
        "loss": result.loss.item(),
        "gradient": model.get_input_embeddings().weight.grad.numpy(),
        "architecture": type(model).__name__,
        "problems": sorted(problems),
    }
    return found, model


if __name__ == "__main__":
    main(*sys.argv[1:])
