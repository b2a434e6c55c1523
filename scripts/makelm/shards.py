"""Token shards: files of token ids behind the header of llm.c and modded-nanogpt. docs/formats.md has the bytes."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType

import numpy as np

from makelm import open_files, token_header
from makelm.errors import UserError
from makelm.token_header import shard_name

MAX_TOKENS = 2**31 - 1  # what the header's int32 can count
REDO = "remove it and run encode_shard again"


def token_type(vocab_size: int) -> np.dtype:
    """Returns the type that holds every id of a vocabulary."""
    return np.dtype("<u2") if vocab_size <= 2**16 else np.dtype("<u4")


class Writer:
    """Writes token ids to one shard and counts them."""

    def __init__(self, path: Path, vocab_size: int):
        self.path, self.count, self.dtype, self.largest = path, 0, token_type(vocab_size), 0
        self.file = path.open("wb")
        self.file.write(token_header.header(self.dtype.name, 0))

    def write(self, ids: Iterable[int] | np.ndarray) -> None:
        array = np.asarray(ids).astype(self.dtype)
        self.count += len(array)
        self.largest = max(self.largest, int(array.max(initial=0)))
        if self.count > MAX_TOKENS:
            raise UserError(f"{self.path.name} has more than {MAX_TOKENS:,} tokens; raise corpus.shards")
        self.file.write(array.tobytes())

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self.file.seek(0)
            self.file.write(token_header.header(self.dtype.name, self.count))
        self.file.close()


def open_shard(path: Path, headerless: str | None = None) -> np.ndarray:
    """Returns a shard's token ids, mapped into memory.

    `headerless` is the type of the ids where a manifest says that the file holds nothing else. Raises UserError where
    it is not whole, OSError with its name where it cannot be opened.
    """
    try:
        found = token_header.layout(path, headerless)
        # of a shard without tokens there is nothing to map behind its header, so it is mapped whole
        content = np.memmap(path, np.uint8, "r") if path.stat().st_size else np.empty(0, np.uint8)
    except FileNotFoundError:
        raise UserError(f"{path} is missing; run encode_shard") from None
    except token_header.NotTokens as error:
        raise UserError(f"{path} {error}; {REDO}") from None
    except OSError as error:
        error.filename = error.filename or str(path)  # a mapped shard is an open file; one too many has no name
        raise
    return content[found.offset :].view(np.dtype(found.dtype).newbyteorder("<"))


@dataclass(frozen=True)
class Folder:
    """The token shards of one corpus and one tokenizer; their ids are mapped when they are asked for."""

    path: Path
    facts: list[dict]  # what encode_shard found out about each shard
    files: dict[str, dict]  # name -> bytes and sha256, of all shards

    @property
    def vocab_size(self) -> int:
        return self.facts[0]["vocab_size"]

    @property
    def begin_of_text(self) -> int | None:
        return self.facts[0]["begin_of_text"]

    @property
    def end_of_text(self) -> int | None:
        return self.facts[0]["end_of_text"]

    @property
    def tokenizer(self) -> str:
        """Returns the digest of the tokenizer that made the ids."""
        return self.facts[0]["tokenizer"]

    @cached_property
    def train(self) -> list[np.ndarray]:
        return self.open_part("train")

    @cached_property
    def valid(self) -> list[np.ndarray]:
        return self.open_part("valid")

    @property
    def valid_tokens(self) -> int:
        return self.total("valid", "tokens")

    @property
    def valid_bytes(self) -> int:
        """Returns the length of the validation text in UTF-8; an end-of-text token has none."""
        return self.total("valid", "bytes")

    @property
    def lost_share(self) -> float | None:
        """Returns the share of the validation text that its tokens do not give back; None: of ready tokens."""
        if any("lost_bytes" not in facts["valid"] for facts in self.facts):
            return None
        return self.total("valid", "lost_bytes") / max(self.valid_bytes, 1)

    def total(self, part: str, key: str) -> int:
        """Returns the sum over the shards of documents, bytes or tokens of a part."""
        return sum(facts[part][key] for facts in self.facts)

    def open_part(self, part: str) -> list[np.ndarray]:
        """Returns the ids of each shard of a part, checked against their manifests."""
        open_files.allow()
        found = []
        for number, facts in enumerate(self.facts):
            path, expected = self.path / shard_name(part, number), facts[part]["tokens"]
            found.append(open_shard(path, facts[part].get("headerless")))
            if len(found[-1]) != expected:
                raise UserError(f"{path} has {len(found[-1])} tokens, its manifest says {expected}; {REDO}")
        return found


def check_ids(folder: Folder) -> None:
    """Raises UserError where a shard holds an id outside the vocabulary; reads those that do not say it themselves."""
    for part in ("train", "valid"):
        for number, facts in enumerate(folder.facts):
            largest = facts[part].get("largest_id")
            if largest is None:
                largest = int(getattr(folder, part)[number].max(initial=0))
            if largest >= folder.vocab_size:
                raise UserError(
                    f"{folder.path / shard_name(part, number)} has the token id {largest}, outside the vocabulary of"
                    f" {folder.vocab_size}; {REDO}"
                )


def open_folder(folder: Path, read_input: Callable[[str, Path], dict]) -> Folder:
    """Returns a folder of shards, as many as the manifest of the first one says.

    `read_input(name, path)` returns the content of a manifest; a stage's own records it as an input.
    Raises UserError where the shards do not belong together.
    """

    def content(number: int) -> dict:
        return read_input(f"{number:05d}", folder / f"{number:05d}.json")

    contents = [content(0)]
    first = contents[0]["facts"]
    contents += map(content, range(1, first["num_shards"]))
    every = [each["facts"] for each in contents]
    for number, other in enumerate(every):
        for key in ("tokenizer", "vocab_size", "begin_of_text", "end_of_text", "num_shards"):
            if other[key] != first[key]:
                raise UserError(
                    f"{folder}: shard {number:05d} has {key} {other[key]}, but shard 00000 has {first[key]};"
                    " run encode_shard again for all shards"
                )
    return Folder(folder, every, {name: file for each in contents for name, file in each["files"].items()})
