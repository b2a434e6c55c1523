"""safetensors files, written and read one tensor at a time: a whole model need not be in memory."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from safetensors import safe_open

KINDS = {"float32": "F32", "bfloat16": "BF16"}  # dtype -> what the header calls it
ALIGNMENT = 8  # bytes; tensors begin at multiples of it


@dataclass(frozen=True)
class Planned:
    """A tensor to be written: what the header says of it, and the function that makes it when its turn comes."""

    name: str
    shape: tuple[int, ...]
    make: Callable[[], np.ndarray]


def write(path: Path, planned: Iterable[Planned], dtype: str, metadata: dict[str, str]) -> None:
    """Writes tensors in one dtype, in the order of their names; equal tensors give equal bytes."""
    kind, first = jnp.dtype(dtype), 0
    planned = sorted(planned, key=lambda each: each.name)
    header: dict[str, dict] = {"__metadata__": metadata}
    for each in planned:
        last = first + prod(each.shape) * kind.itemsize
        header[each.name] = {"dtype": KINDS[dtype], "shape": each.shape, "data_offsets": [first, last]}
        first = last
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for each in planned:
            array = np.ascontiguousarray(each.make(), kind)
            assert array.shape == each.shape, f"{each.name} is {array.shape}, planned was {each.shape}"
            file.write(array.reshape(-1).view(np.uint8))  # as bytes, since no buffer has the type bfloat16
            del array  # before the next is made


class Stored(Mapping[str, np.ndarray]):
    """The tensors of a file by name; each is read when it is asked for. Raises SafetensorError where it is damaged."""

    def __init__(self, path: Path):
        self.path = path
        with safe_open(path, framework="numpy") as file:
            self.names, self.metadata = frozenset(file.keys()), file.metadata() or {}

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.names:
            raise KeyError(name)
        with safe_open(self.path, framework="numpy") as file:
            return file.get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self.names))

    def __len__(self) -> int:
        return len(self.names)
