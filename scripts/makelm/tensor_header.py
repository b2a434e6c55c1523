"""What safetensors files say of their tensors, from their headers alone: of 20 GB, a few kB are read."""

import json
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from makelm.errors import UserError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"  # which of several files has which tensor
# of safetensors 0.8; F4 and the F6 stand without padding
BITS = {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "F8_E5M2FNUZ": 8, "F8_E4M3FNUZ": 8}
BITS |= dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0"), 8)
BITS |= dict.fromkeys(("I16", "U16", "F16", "BF16"), 16)
BITS |= dict.fromkeys(("I32", "U32", "F32"), 32)
BITS |= dict.fromkeys(("I64", "U64", "F64", "C64"), 64)
NO_PICKLES = "pickle files (.bin, .pt) are never loaded: convert them to safetensors"


@dataclass(frozen=True)
class Header:
    """The tensors of a file by name, each with `shape`, `dtype` and `bytes`, and the file's own words."""

    tensors: dict[str, dict]
    metadata: dict[str, str]
    bytes: int  # of the whole file

    @property
    def parameters(self) -> int:
        """Returns the number of elements of all tensors."""
        return sum(prod(tensor["shape"]) for tensor in self.tensors.values())


def read(path: Path) -> Header:
    """Reads a header. Raises UserError where the file is no safetensors file, or shorter or longer than it says."""
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length)) if length < size else None
        metadata = header.pop("__metadata__", {})
        tensors = {name: tensor(entry) for name, entry in header.items()}
        if not isinstance(metadata, dict) or not all_text(metadata):
            raise ValueError("its own words are none")
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(f"{path} is damaged or no safetensors file") from None
    expected = 8 + length + sum(tensor["bytes"] for tensor in tensors.values())
    if size != expected:
        raise UserError(f"{path} is damaged: {size} bytes, but its header says {expected}")
    return Header(tensors, metadata, size)


def tensor(entry: dict) -> dict:
    """Returns what an entry of a header says. Raises ValueError where it contradicts itself."""
    shape, dtype, (start, end) = entry["shape"], entry["dtype"], entry["data_offsets"]
    if not all(type(length) is int and length >= 0 for length in [*shape, start, end]):
        raise ValueError("no shape, or no place in the file")
    if 8 * (end - start) != prod(shape) * BITS[dtype]:
        raise ValueError("other bytes than its shape has")
    return {"shape": shape, "dtype": dtype, "bytes": end - start}


def weights_names(folder: Path) -> list[str]:
    """Returns the names of a folder's weights files: those in its index, or the one name where there is no index."""
    path = folder / INDEX
    if not path.is_file():
        return [SINGLE]
    named = json_object(path).get("weight_map")
    names = sorted(set(named.values())) if isinstance(named, dict) and all_text(named) else []
    # a name of another form could lead out of the folder
    if not names or not all(Path(name).name == name and name.endswith(".safetensors") for name in names):
        raise UserError(f"{path} is no index of safetensors files; {NO_PICKLES}")
    return names


def all_text(map_: dict) -> bool:
    return all(isinstance(value, str) for value in map_.values())


def json_object(path: Path) -> dict[str, Any]:
    """Reads a JSON object. Raises UserError where it is none."""
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path} is missing") from None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise UserError(f"{path} is damaged or no JSON object")
    return found
