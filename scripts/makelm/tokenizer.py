"""Tokenizers: text <-> token ids. What every kind can do, and the two files that one is kept in (docs/formats.md).

The kinds are tokenizer_ranks.py (bpe, byte, char, tiktoken), tokenizer_hugging_face.py and tokenizer_sentencepiece.py.
"""

import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, assert_never

import numpy as np

from makelm.errors import UserError

END_OF_TEXT, BEGIN_OF_TEXT = "<|endoftext|>", "<|beginoftext|>"
METADATA = "metadata.json"
FILES = ("tokenizer.tiktoken", "tokenizer.json", "tokenizer.model")  # a vocabulary, in the format of its kind


class Tokenizer(ABC):
    """A vocabulary, how a text is cut into its tokens, and which of them stand around a document."""

    FILE: ClassVar[str]  # one of FILES
    kind: str
    special_tokens: dict[str, int]  # what no text becomes
    begin_of_text: int | None  # the id that stands before each document, where there is one
    end_of_text: int | None  # the id that stands after each document, where there is one

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """Returns one more than the largest id; some below it may be unused."""

    @property
    @abstractmethod
    def content(self) -> bytes:
        """Returns the vocabulary as its file has it."""

    @property
    @abstractmethod
    def tokens(self) -> Sequence[bytes]:
        """Returns the bytes that each token stands for, by id, which need not be whole characters.

        Special tokens and unused ids stand for no text and have none.
        """

    @abstractmethod
    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Returns the ids of each text as an array of uint32. Several threads may call this at a time.

        Nothing in a text becomes a special token. Raises UserError where there is no way.
        """

    @cached_property
    def lengths(self) -> np.ndarray:
        """Returns the number of bytes of each token, by id."""
        return np.array([len(token) for token in self.tokens], dtype=np.int32)

    @property
    def settings(self) -> dict:
        """Returns what metadata.json has of this kind only."""
        return {}

    @property
    def border(self) -> re.Pattern[str] | None:
        """Returns what matches before a place where a long text can be cut, see borders.py; None: nowhere for sure."""
        return None

    def facts(self) -> dict[str, int | str | None]:
        """Returns what the manifest of token ids says of their tokenizer."""
        return {
            "vocab_size": self.vocab_size,
            "begin_of_text": self.begin_of_text,
            "end_of_text": self.end_of_text,
            "tokenizer": self.digest,
        }

    def encode(self, text: str) -> list[int]:
        """Returns a text's ids. Nothing in a text becomes a special token. Raises UserError where there is no way."""
        try:
            return self.encode_batch([text])[0].tolist()
        except UnicodeEncodeError as error:
            raise UserError(f"character {error.start} of {text[:40]!r} is half of a surrogate pair") from None

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text of ids; bytes that are no UTF-8 become U+FFFD, special tokens become nothing."""
        return b"".join(self.tokens[token] for token in ids).decode(errors="replace")

    @property
    def first(self) -> int | None:
        """Returns the id that stands before a text that begins a document, where there is one."""
        return self.end_of_text if self.begin_of_text is None else self.begin_of_text

    @property
    def metadata(self) -> dict:
        """Returns what metadata.json has but the digest."""
        return {
            "kind": self.kind,
            "file": self.FILE,
            **self.settings,
            "special_tokens": self.special_tokens,
            "begin_of_text": self.begin_of_text,
            "end_of_text": self.end_of_text,
            "vocab_size": self.vocab_size,
        }

    @cached_property
    def digest(self) -> str:
        """Returns the sha256 of all that decides which ids a document becomes."""
        rest = json.dumps(self.metadata, separators=(",", ":"), ensure_ascii=False, sort_keys=True)
        return hashlib.sha256(self.content + rest.encode()).hexdigest()

    def save(self, folder: Path) -> None:
        """Writes the two files of a tokenizer."""
        (folder / self.FILE).write_bytes(self.content)
        text = json.dumps(self.metadata | {"digest": self.digest}, indent=1, ensure_ascii=False)
        (folder / METADATA).write_text(f"{text}\n", encoding="utf-8")


@dataclass(frozen=True)
class FromFile(Tokenizer):
    """The content of a file that a library reads, and which of its tokens stand around a document."""

    data: bytes  # of the file
    special_tokens: dict[str, int]
    begin_of_text: int | None
    end_of_text: int | None

    @property
    def content(self) -> bytes:
        return self.data


def load(folder: Path) -> Tokenizer:
    """Reads the tokenizer in a folder. Raises UserError where it is missing, damaged or not what its digest says."""
    try:
        metadata = json.loads((folder / METADATA).read_bytes())
        content = (folder / metadata["file"]).read_bytes() if metadata["file"] in FILES else b""
        found = rebuild(metadata, content)
        whole = found.digest == metadata["digest"]
    except FileNotFoundError as error:
        raise UserError(f"{error.filename} is missing; run train_tokenizer") from None
    except (ValueError, KeyError, TypeError, AttributeError, UserError):
        whole = False
    if not whole:
        raise UserError(f"{folder} holds a damaged tokenizer; remove it and run train_tokenizer again")
    return found


def rebuild(metadata: dict, content: bytes) -> Tokenizer:
    """Returns the tokenizer of two files. Raises ValueError, KeyError, TypeError or UserError where they are none."""
    kept = metadata["special_tokens"], metadata["begin_of_text"], metadata["end_of_text"]
    # each brings a library of its own
    match metadata["kind"]:
        case "huggingface":
            from makelm.tokenizer_hugging_face import HuggingFace

            return HuggingFace(content, *kept)
        case "sentencepiece":
            from makelm.tokenizer_sentencepiece import SentencePiece

            return SentencePiece(content, *kept)
        case "bpe" | "byte" | "char" | "tiktoken":
            from makelm.tokenizer_ranks import Ranks, parse_ranks

            return Ranks(metadata["kind"], metadata["pattern"], parse_ranks(content), *kept)
        case _:
            assert_never(metadata["kind"])
