"""What Hugging Face's transformers makes of an exported folder; runs where torch is, not where JAX is.

    python torch_side.py FOLDER TOKENS.npy TEXT.txt OUT.npz

Writes logits_BTV, the mean loss, the gradient of the input embedding, the ids of the text and, as text, the
class and the names of tensors that were missing or that nobody asked for.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def main(folder: str, tokens: str, text: str, out: str) -> None:
    """Loads, computes and writes."""
    model, loading = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, dtype=torch.float32)
    tokens_BT = torch.from_numpy(np.load(tokens)).long()
    result = model(tokens_BT, labels=tokens_BT)
    result.loss.backward()
    ids = AutoTokenizer.from_pretrained(folder)(Path(text).read_text(encoding="utf-8"), add_special_tokens=False)
    problems = [name for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") for name in loading[kind]]
    np.savez(
        out,
        logits=result.logits.detach().numpy(),
        loss=result.loss.item(),
        gradient=model.get_input_embeddings().weight.grad.numpy(),
        ids=np.array(ids["input_ids"]),
        greedy=model.generate(tokens_BT[:1, :4], do_sample=False, max_new_tokens=10, pad_token_id=0).numpy(),
        architecture=type(model).__name__,
        problems=sorted(problems),
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
