"""The model computes what transformers' classes compute: files that `make golden` makes, read without torch."""

from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import shape
from layouts import GOLDEN

from makelm import loss
from makelm.model import Skeleton

FOLDER = Path(__file__).parent / "golden"
VOCAB = 40


@pytest.mark.parametrize("name", GOLDEN)
def test_logits_loss_and_gradient_are_those_of_transformers(name):
    golden = dict(np.load(FOLDER / f"{name}.npz"))
    parameters = {key.removeprefix("parameters/"): value for key, value in golden.items() if "/" in key}
    parameters = {key: value.astype(np.float32) for key, value in parameters.items()}
    tokens_BT, skeleton = golden["tokens"], Skeleton(shape(**GOLDEN[name]), VOCAB)

    def objective(embedding_VD):
        model = skeleton(parameters | {"embedding_VD": embedding_VD})
        return loss.losses(model, tokens_BT)[0] / loss.targets_in(tokens_BT), model(tokens_BT)

    compute = jax.jit(jax.value_and_grad(objective, has_aux=True))
    (mean, logits_BTV), gradient_VD = compute(parameters["embedding_VD"])
    positions, rows = golden["logits"].shape[1], golden["gradient"].shape[0]
    np.testing.assert_allclose(logits_BTV[:, -positions:], golden["logits"], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(mean, golden["loss"], rtol=1e-4)
    np.testing.assert_allclose(gradient_VD[:rows], golden["gradient"], rtol=1e-4, atol=1e-4)
