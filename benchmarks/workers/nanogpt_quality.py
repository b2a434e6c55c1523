"""Prints the loss of nanoGPT's last checkpoint on its whole validation split, in windows of its context."""

import sys
from pathlib import Path

folder = Path(sys.argv[1])
sys.path.insert(0, str(folder))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from model import GPT, GPTConfig  # noqa: E402

saved = torch.load(folder / "out-shakespeare-char/ckpt.pt", map_location="cpu", weights_only=False)
T = saved["model_args"]["block_size"]
model = GPT(GPTConfig(**saved["model_args"])).eval()
model.load_state_dict(saved["model"])
tokens = torch.from_numpy(np.fromfile(folder / "data/shakespeare_char/val.bin", dtype=np.uint16).astype(np.int64))
rows = (len(tokens) - 1) // T
inputs, targets = tokens[: rows * T].view(rows, T), tokens[1 : rows * T + 1].view(rows, T)
with torch.no_grad():
    losses = [model(x, y)[1].item() * len(x) for x, y in zip(inputs.split(64), targets.split(64), strict=True)]
# its model prints how many parameters it has
print(f"\n{sum(losses) / rows}")
