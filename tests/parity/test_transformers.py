"""Exports against Hugging Face's transformers itself: `make test-parity` installs it and runs this."""

import json
import os
import subprocess
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import forward, random_parameters, shape
from safetensors.numpy import save_file

from makelm import config, export, generate, loss, tokenizer_export, vocabulary, weights
from makelm.model import Skeleton

PYTHON = os.environ.get("MAKELM_PARITY_PYTHON")
if PYTHON is None:
    pytest.skip("needs torch and transformers: make test-parity", allow_module_level=True)

TEXT = "def f(x):\n    return x * 2  # two\n\n\nclass Größe:\n    pass\n" * 20
VOCAB = 280


@pytest.fixture(scope="module")
def encoding():
    settings = {"kind": "bpe", "corpus": "any", "vocab_size": VOCAB, "pattern": r"\s+|\S+", "end_of_text": True}
    return vocabulary.train(config.Tokenizer(**settings), [TEXT])


def exported(model: config.Model, encoding, folder: Path) -> weights.Weights:
    """Writes a folder as stage export_model does, of weights none of which is zero."""
    made = weights.Weights(model, VOCAB, encoding.end_of_text, encoding.digest, random_parameters(model, VOCAB))
    save_file(export.tensors(made), folder / "model.safetensors", metadata={"format": "pt"})
    files = {
        "config.json": export.model_config(made, "float32"),
        "generation_config.json": export.generation_config(made),
        **tokenizer_export.hugging_face_files(encoding),
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    return made


def other_side(folder: Path, tokens_BT: np.ndarray) -> dict:
    """Returns what transformers computes."""
    np.save(folder / "tokens.npy", tokens_BT)
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    names = [folder, folder / "tokens.npy", folder / "text.txt", folder / "out.npz"]
    # what is set for JAX's Python is not for torch's
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [PYTHON, Path(__file__).with_name("torch_side.py"), *names],
        env=environment | {"HF_HUB_OFFLINE": "1"},
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    return dict(np.load(folder / "out.npz"))


@pytest.mark.parametrize("activation", ["swiglu", "relu_squared"])
@pytest.mark.parametrize("qk_norm", [True, False])
@pytest.mark.parametrize("tied", [True, False])
def test_logits_loss_gradient_ids_and_greedy_text_agree(activation, qk_norm, tied, encoding, tmp_path):
    model = shape(activation=activation, qk_norm=qk_norm, tie_embeddings=tied)
    made = exported(model, encoding, tmp_path)
    tokens_BT = np.random.default_rng(0).integers(0, VOCAB - 1, (3, model.context_length)).astype(np.int32)
    found = other_side(tmp_path, tokens_BT)
    assert found["architecture"] == export.architecture(model)
    assert found["problems"].tolist() == []
    assert found["ids"].tolist() == encoding.encode(TEXT)
    np.testing.assert_allclose(forward(model, VOCAB, made.parameters, tokens_BT), found["logits"], rtol=1e-4, atol=1e-4)

    skeleton = Skeleton(model, VOCAB)
    value, gradients = jax.jit(jax.value_and_grad(lambda p: loss.mean_loss(skeleton(p), tokens_BT)))(made.parameters)
    np.testing.assert_allclose(value, found["loss"], rtol=1e-4)
    np.testing.assert_allclose(gradients["embedding_VD"], found["gradient"], rtol=1e-3, atol=1e-4)

    prompt = tokens_BT[0, :4].tolist()
    written = generate.generate(skeleton, made.parameters, [prompt], [0], 10, generate.Options(0, None, None))[0]
    assert [*prompt, *written][: found["greedy"].shape[1]] == found["greedy"][0].tolist()
