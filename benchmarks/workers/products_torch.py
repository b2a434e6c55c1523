"""The products of matrices of a training step, by PyTorch: of each (rows, in, out) forward and both gradients."""

import torch
from turn import serve, task

torch.manual_seed(0)
given = [(torch.randn(r, i), torch.randn(i, o), torch.randn(r, o)) for r, i, o in task()["products"]]


def work(steps: int) -> None:
    for _ in range(steps):
        for x, w, g in given:
            x @ w, g @ w.T, x.T @ g


work(1)
serve({"torch": torch.__version__}, work)
