"""Hugging Face's transformers write: GPT-2's class with its cache."""

from turn import serve, task

given = task()

import torch  # noqa: E402
import transformers  # noqa: E402

torch.manual_seed(0)
sizes = {"n_layer": given["layers"], "n_head": given["heads"], "n_embd": given["width"]}
lengths = {"n_positions": given["context"], "vocab_size": given["vocabulary"]}
ends = {"bos_token_id": 0, "eos_token_id": None, "pad_token_id": 0}
model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, **lengths, **ends)).eval()
how = {"do_sample": True, "temperature": 0.8, "top_k": given["top_k"], "top_p": 1.0, "use_cache": True}


def work(times: int) -> None:
    for _ in range(times):
        prompts = torch.ones((given["rows"], given["prompt"]), dtype=torch.long)
        with torch.no_grad():
            written = model.generate(
                prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=given["new"], **how
            )
        assert written.shape[1] == given["prompt"] + given["new"], written.shape


work(1)
serve({"versions": {"torch": torch.__version__, "transformers": transformers.__version__}}, work)
