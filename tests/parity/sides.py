"""The two sides that are compared: makelm here, Hugging Face's transformers in a Python of its own."""

import json
import os
import subprocess
from pathlib import Path

import jax
import numpy as np

from makelm import config, export, loss, tensor_file, tokenizer, tokenizer_export, weights
from makelm.model import Skeleton

PROMPT, NEW = 4, 200  # tokens of a greedy text


def write_export(made: weights.Weights, tokens_BT: np.ndarray, folder: Path) -> None:
    """Writes a model as stage export_model does, and what is to be computed with it."""
    folder.mkdir()
    tensor_file.write(folder / "model.safetensors", export.tensors(made), "float32", {"format": "pt"})
    write_json(folder / "config.json", export.model_config(made, "float32", made.end_of_text))
    write_json(folder / "generation_config.json", export.generation_config(made, made.end_of_text))
    np.save(folder / "tokens.npy", tokens_BT)
    rows = made.parameters["embedding_VD"].shape[0]
    write_json(folder / "greedy.json", {"prompt": PROMPT, "new": NEW, "unknown": [*range(made.vocab_size, rows)]})


def write_tokenizer(encoding: tokenizer.Tokenizer, text: str, folder: Path) -> None:
    """Writes a tokenizer, beside a model or alone, and a text to be encoded."""
    folder.mkdir(exist_ok=True)
    for name, content in tokenizer_export.hugging_face_files(encoding).items():
        (folder / name).write_bytes(content)
    (folder / "text.txt").write_text(text, encoding="utf-8")


def write_wanted(wanted: dict, tokens_BT: np.ndarray, folder: Path) -> None:
    """Writes which model transformers is to make, and what is to be computed with it."""
    folder.mkdir()
    write_json(folder / "wanted.json", wanted)
    np.save(folder / "tokens.npy", tokens_BT)


def write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def run_transformers(root: Path) -> None:
    """Lets transformers compute all the cases in a folder."""
    run_there("torch_side.py", root)


def run_there(program: str, root: Path) -> None:
    """Runs a program of this folder with the Python that has torch."""
    # what is set for JAX's Python is not for torch's
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    command = [os.environ["MAKELM_PARITY_PYTHON"], Path(__file__).with_name(program), root]
    done = subprocess.run(command, env=environment | {"HF_HUB_OFFLINE": "1"}, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr


def computed(model: config.Model, vocab_size: int, parameters: dict, tokens_BT: np.ndarray) -> dict:
    """Returns the logits, the mean loss and the gradient of the input embedding that makelm computes."""
    skeleton = Skeleton(model, vocab_size)

    def objective(embedding_VD, others):
        built = skeleton(others | {"embedding_VD": embedding_VD})
        return loss.losses(built, tokens_BT)[0] / loss.targets_in(tokens_BT), built(tokens_BT)

    others = {name: value for name, value in parameters.items() if name != "embedding_VD"}
    compute = jax.jit(jax.value_and_grad(objective, has_aux=True))
    (mean, logits_BTV), gradient_VD = compute(parameters["embedding_VD"], others)
    return {"logits": np.asarray(logits_BTV), "loss": float(mean), "gradient": np.asarray(gradient_VD)}


def differences(ours: dict, theirs: dict) -> dict[str, float]:
    """Returns the largest difference in each thing, as a share of the largest value where that is over 1."""
    result = {}
    for name in ("logits", "loss", "gradient"):
        largest = max(1.0, float(np.max(np.abs(theirs[name]))))
        result[name] = float(np.max(np.abs(ours[name] - theirs[name]))) / largest
    return result
