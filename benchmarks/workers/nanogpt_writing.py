"""nanoGPT writes: what its sample.py does on a CPU, without a cache; all rows in one call.

Of the new tokens every so manyth, the middle one: what a token takes grows evenly with what stands before it.
"""

import sys

from turn import serve, task

given = task()
sys.path.insert(0, given["checkout"])

import torch  # noqa: E402
from model import GPT, GPTConfig  # noqa: E402

torch.manual_seed(0)
shape = {"n_layer": given["layers"], "n_head": given["heads"], "n_embd": given["width"]}
model = GPT(GPTConfig(block_size=given["context"], vocab_size=given["vocabulary"], dropout=0.0, bias=False, **shape))
model.eval()


def work(times: int) -> None:
    for _ in range(times):
        with torch.no_grad():
            for written in range(given["every"] // 2, given["new"], given["every"]):
                texts = torch.ones((given["rows"], given["prompt"] + written), dtype=torch.long)
                model.generate(texts, 1, 0.8, given["top_k"])


work(1)
serve({"versions": {"torch": torch.__version__}}, work)
