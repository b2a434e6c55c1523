"""Trained weights on disk: one safetensors file that says by itself which model it is."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from makelm import config, manifest
from makelm.errors import UserError

FILE = "weights/model.safetensors"  # below a trained run's folder


@dataclass(frozen=True)
class Weights:
    """Parameters by name (NumPy) and what is needed to use them."""

    model: config.Model
    vocab_size: int
    end_of_text: int | None
    tokenizer: str  # digest
    parameters: dict[str, np.ndarray]


def save(weights: Weights, path: Path) -> None:
    """Writes a weights file; equal weights give equal bytes."""
    facts = {
        "model": weights.model.model_dump(),
        "vocab_size": weights.vocab_size,
        "end_of_text": weights.end_of_text,
        "tokenizer": weights.tokenizer,
    }
    arrays = {name: np.ascontiguousarray(array) for name, array in weights.parameters.items()}
    # one entry only: safetensors writes several in an order of its own
    save_file(arrays, path, metadata={"makelm": manifest.canonical(facts)})


def load(path: Path) -> Weights:
    """Reads a weights file. Raises UserError where it is missing, damaged or of someone else."""
    try:
        with safe_open(path, framework="numpy") as file:
            facts = json.loads((file.metadata() or {})["makelm"])
            parameters = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 not a dict
    except FileNotFoundError:
        raise UserError(f"{path} is missing; run train_model") from None
    except (SafetensorError, KeyError) as error:
        raise UserError(f"{path} is damaged or was not written by train_model ({error})") from None
    return Weights(
        model=config.Model.model_validate(facts["model"]),
        vocab_size=facts["vocab_size"],
        end_of_text=facts["end_of_text"],
        tokenizer=facts["tokenizer"],
        parameters=parameters,
    )


def open_run(folder: Path, read_input: Callable[[str, Path], dict]) -> Weights:
    """Returns the weights of a trained run, checked against its manifest, which is recorded as the input `model`.

    `read_input(name, path)` returns the content of a manifest. Raises UserError where a byte is not as it was.
    """
    manifest.check_file(folder, read_input("model", folder / "manifest.json"), FILE)
    return load(folder / FILE)


def check_tokenizer(weights: Weights, digest: str, where: str) -> None:
    """Raises UserError where weights were trained with another tokenizer."""
    if weights.tokenizer != digest:
        raise UserError(
            f"the weights were trained with tokenizer {weights.tokenizer[:12]}, but {where} is {digest[:12]};"
            " run train_model again or use the tokenizer it was trained with"
        )
