"""Other people's weights: a folder that Hugging Face's transformers wrote, read one parameter at a time.

Only safetensors files are opened; a pickle could run any program.
"""

import re
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from makelm import config, hugging_face_config, tensor_header
from makelm.errors import UserError
from makelm.hugging_face_layouts import Tensor, flat, sizes, spell
from makelm.model import vocab_rows

DTYPES = ("F32", "F16", "BF16", "F64")
COMPUTED = re.compile(r"\.attn\.(bias|masked_bias)$|\.rotary_emb\.inv_freq$")  # in files of old versions; not learned
NAMED = 3  # tensors that a complaint names


class Place(NamedTuple):
    """Where a parameter stands: a file, the tensor's name in it, what the tensor holds, and as which part."""

    path: Path
    name: str
    tensor: Tensor
    part: int


class Folder:
    """A model of transformers: its shape in our words, and its parameters."""

    def __init__(self, folder: Path):
        """Reads config.json and the headers. Raises UserError with one line where that is no model for makelm."""
        self.folder = folder
        said = hugging_face_config.read(folder)
        self.layout, self.shape = said.layout, said.shape
        self.context_length, self.vocab_rows = said.context_length, said.vocab_rows
        self.places = self.find_places()

    def find_places(self) -> dict[str, list[Place]]:
        """Returns parameter -> the places it stands in. Raises UserError where tensors are missing or unknown."""
        tied = self.shape["tie_embeddings"]
        listed = self.layout.tensors(self.shape["n_layers"], self.shape["activation"], tied)
        wanted = {each.name: each for each in listed}
        sized = sizes(self.shape | {"context_length": self.context_length}, self.vocab_rows)
        places, unknown = defaultdict(list), []
        for path, name, dims, dtype in headers(self.folder):
            full = name if name.startswith((self.layout.base, "lm_head.")) else f"{self.layout.base}{name}"
            tensor = wanted.pop(full, None)
            if tensor is None and tied and full == "lm_head.weight":  # a copy
                tensor = Tensor(full, "V D", ("embedding_VD",))
            if tensor is None:
                unknown += [] if COMPUTED.search(full) else [name]
                continue
            if dims != tensor.shape(sized) or dtype not in DTYPES:
                raise UserError(
                    f"{path}: {name} is {dtype} {list(dims)}; by config.json it is"
                    f" {list(tensor.shape(sized))} of {', '.join(DTYPES)}"
                )
            for part, parameter in enumerate(tensor.ours):
                places[parameter].append(Place(path, name, tensor, part))
        for names, problem in ((list(wanted), "lacks"), (unknown, "has what makelm does not know:")):
            if names:
                more = f" and {len(names) - NAMED} more tensors" if len(names) > NAMED else ""
                raise UserError(f"{self.folder} {problem} {', '.join(sorted(names)[:NAMED])}{more}")
        return dict(places)

    def check(self, model: config.Model, vocab_size: int) -> None:
        """Raises UserError with one line that says all in which a model and these weights differ.

        The model's context may be another one: of learned positions it takes the first.
        """
        own = flat(model.model_dump())
        differences = [
            f"model.{key} is {spell(own[key])}, the weights have {spell(value)}"
            for key, value in flat(self.shape).items()
            if own[key] != value
        ]
        if self.shape["positions"]["kind"] == "learned" and model.context_length > self.context_length:
            differences.append(
                f"model.context_length is {model.context_length}, the weights have {self.context_length} positions"
            )
        rows = vocab_rows(model, vocab_size)
        if rows != self.vocab_rows:
            differences.append(
                f"the vocabulary has {rows} rows ({vocab_size} tokens, model.vocab_multiple {model.vocab_multiple}),"
                f" the weights have {self.vocab_rows}"
            )
        if differences:
            raise UserError(f"{self.folder} does not fit: {'; '.join(differences)}")

    def parameter(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """Returns a parameter of our name and shape in float32. Raises UserError where the file is damaged."""
        first, *others = self.places[name]
        found = read(first, name, shape)
        for other in others:
            if not np.array_equal(found, read(other, name, shape)):
                raise UserError(
                    f"{self.folder}: {first.name} and {other.name} differ, but makelm has one parameter for both"
                )
        return found


def read(place: Place, parameter: str, shape: tuple[int, ...]) -> np.ndarray:
    """Returns one place's part as the parameter, of learned positions the first ones."""
    try:
        with safe_open(place.path, framework="numpy") as file:
            if len(place.tensor.ours) == 1 and parameter != "positions_TD":
                return place.tensor.part(file.get_tensor(place.name), parameter, shape)  # a slice is copied twice
            stored = file.get_slice(place.name)
            *rows, last = stored.get_shape()
            width = last // len(place.tensor.ours)
            columns = slice(place.part * width, (place.part + 1) * width)
            rows = [slice(0, shape[0] if parameter == "positions_TD" else each) for each in rows]
            return place.tensor.part(stored[(*rows, columns)], parameter, shape)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{place.path} cannot be read ({error})") from None


def headers(folder: Path) -> list[tuple[Path, str, tuple[int, ...], str]]:
    """Returns (file, name, shape, dtype) of each tensor in a folder."""
    found = []
    for path in tensor_files(folder):
        for name, tensor in tensor_header.read(path).tensors.items():
            found.append((path, name, tuple(tensor["shape"]), tensor["dtype"]))
    return found


def tensor_files(folder: Path) -> list[Path]:
    """Returns the safetensors files of a folder: one, or those that the index names."""
    names = tensor_header.weights_names(folder)
    if missing := [name for name in names if not (folder / name).exists()]:
        raise UserError(f"{folder} has no {missing[0]}; {tensor_header.NO_PICKLES}")
    return [folder / name for name in names]
