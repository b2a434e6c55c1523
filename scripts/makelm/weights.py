"""Trained weights on disk: one safetensors file that says by itself which model it is."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from pydantic import ValidationError
from safetensors import SafetensorError

from makelm import config, manifest, processes, tensor_file
from makelm.errors import UserError

FILE = "weights/model.safetensors"  # below a trained run's folder


@dataclass(frozen=True)
class Weights:
    """Parameters by name (NumPy) and what is needed to use them."""

    model: config.Model
    vocab_size: int
    end_of_text: int | None
    tokenizer: str  # digest
    parameters: Mapping[str, np.ndarray]


def save(weights: Weights, path: Path) -> None:
    """Writes a weights file, in float32; equal weights give equal bytes."""
    facts = {
        "model": weights.model.model_dump(),
        "vocab_size": weights.vocab_size,
        "end_of_text": weights.end_of_text,
        "tokenizer": weights.tokenizer,
    }
    planned = [
        tensor_file.Planned(name, tuple(array.shape), partial(processes.whole, array))
        for name, array in weights.parameters.items()
    ]
    tensor_file.write(path, planned, "float32", {"makelm": manifest.canonical(facts)})


def hand_over(weights: Weights) -> None:
    """Has this process's part in what another process saves: its own values of each tensor, in the order of names."""
    for name in sorted(weights.parameters):
        processes.whole(weights.parameters[name])


def load(path: Path) -> Weights:
    """Reads a weights file. Raises UserError where it is missing, damaged or of someone else."""
    found = open_file(path)
    return replace(found, parameters=dict(found.parameters))


def open_file(path: Path) -> Weights:
    """Returns weights of which each parameter is read when it is asked for. Raises UserError as `load` does."""
    try:
        stored = tensor_file.Stored(path)
        facts = json.loads(stored.metadata["makelm"])
    except FileNotFoundError:
        raise UserError(f"{path} is missing; run train_model") from None
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise UserError(f"{path} is damaged or was not written by train_model ({error})") from None
    try:
        model = config.Model.model_validate(facts["model"])
        return Weights(model, facts["vocab_size"], facts["end_of_text"], facts["tokenizer"], stored)
    except (ValidationError, KeyError):
        raise UserError(f"{path} is of another version of makelm; run train_model again") from None


def open_run(folder: Path, read_input: Callable[[str, Path], dict], read: Callable[[Path], Weights] = load) -> Weights:
    """Returns the weights of a trained run, checked against its manifest, which is recorded as the input `model`.

    `read_input(name, path)` returns the content of a manifest; `read` is load or open_file. Raises UserError where a
    byte is not as it was.
    """
    manifest.check_file(folder, read_input("model", folder / "manifest.json"), FILE)
    return read(folder / FILE)


def check_tokenizer(weights: Weights, digest: str, where: str) -> None:
    """Raises UserError where weights were trained with another tokenizer."""
    if weights.tokenizer != digest:
        raise UserError(
            f"the weights were trained with tokenizer {weights.tokenizer[:12]}, but {where} is {digest[:12]};"
            " run train_model again or use the tokenizer it was trained with"
        )
