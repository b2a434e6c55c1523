"""nanoGPT's training step: its model and its optimizer, the loop of its train.py without its logging."""

import sys
import time

from turn import serve, task

started = time.monotonic()
given = task()
sys.path.insert(0, given["checkout"])

import numpy as np  # noqa: E402
import torch  # noqa: E402
from model import GPT, GPTConfig  # noqa: E402

torch.manual_seed(0)
T, B = given["context"], given["batch"]
shape = {"n_layer": given["layers"], "n_head": given["heads"], "n_embd": given["width"]}
model = GPT(GPTConfig(block_size=T, vocab_size=given["vocabulary"], dropout=0.0, bias=False, **shape))
device = given["device"]
model.to(device)
optimizer = model.configure_optimizers(0.1, 1e-3, (0.9, 0.99), device)
tokens = np.memmap(given["tokens"], dtype=np.uint16, mode="r")
compiled = torch.compile(model) if given["compile"] else model
autocast = torch.autocast(device, dtype=torch.bfloat16, enabled=given["dtype"] == "bfloat16")
losses = []


def batch() -> tuple:
    places = torch.randint(len(tokens) - T, (B,))
    both = [
        torch.stack([torch.from_numpy(tokens[i + ahead : i + ahead + T].astype(np.int64)) for i in places])
        for ahead in (0, 1)
    ]
    if device == "cuda":
        return tuple(each.pin_memory().to(device, non_blocking=True) for each in both)
    return tuple(both)


def work(steps: int) -> None:
    inputs, targets = batch()
    for _ in range(steps):
        with autocast:
            loss = compiled(inputs, targets)[1]
        inputs, targets = batch()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    losses.append(loss.item())


built = time.monotonic()
work(1)
facts = {"compile_seconds": time.monotonic() - built, "parameters": sum(p.numel() for p in model.parameters())}
versions = {"torch": torch.__version__}
serve(facts | {"versions": versions, "first_loss": losses[0], "import_seconds": built - started}, work)
