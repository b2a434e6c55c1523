"""Tokenizers: text <-> token ids, by tiktoken, and the two files they are kept in (see docs/formats.md)."""

import base64
import binascii
import hashlib
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import tiktoken

from makelm.errors import UserError

END_OF_TEXT = "<|endoftext|>"
RANKS, METADATA = "tokenizer.tiktoken", "metadata.json"


@dataclass(frozen=True)
class Tokenizer:
    """A vocabulary and the pattern that cuts a text into the pieces no token crosses."""

    kind: str  # bpe, byte, char or tiktoken
    pattern: str
    ranks: dict[bytes, int]  # the bytes of each token -> its id, which is also its priority in merging
    special_tokens: dict[str, int]  # what no text becomes: <|endoftext|>, and what else a named encoding has

    @cached_property
    def vocab_size(self) -> int:
        """Returns one more than the largest id; a named encoding may leave some below it unused."""
        return max([*self.ranks.values(), *self.special_tokens.values()]) + 1

    @property
    def end_of_text(self) -> int | None:
        """Returns the id of the token that stands after each document, where there is one."""
        return self.special_tokens.get(END_OF_TEXT)

    @cached_property
    def digest(self) -> str:
        """Returns the sha256 of all that decides which ids a text becomes."""
        total = hashlib.sha256(rank_lines(self.ranks))
        rest = json.dumps(
            [self.pattern, self.special_tokens], separators=(",", ":"), ensure_ascii=False, sort_keys=True
        )
        total.update(rest.encode())
        return total.hexdigest()

    @cached_property
    def encoding(self) -> tiktoken.Encoding:
        try:
            return tiktoken.Encoding(
                self.kind, pat_str=self.pattern, mergeable_ranks=self.ranks, special_tokens=self.special_tokens
            )
        except ValueError as error:
            raise UserError(f"tokenizer.pattern: {' '.join(str(error).split())}") from None

    @cached_property
    def tokens(self) -> list[bytes]:
        """Returns the bytes of each token, by id; special tokens and unused ids stand for no text and have none."""
        tokens = [b""] * self.vocab_size
        for token, rank in self.ranks.items():
            tokens[rank] = token
        return tokens

    @cached_property
    def lengths(self) -> np.ndarray:
        """Returns the number of bytes of each token, by id."""
        return np.array([len(token) for token in self.tokens], dtype=np.int64)

    @cached_property
    def characters(self) -> frozenset[str]:
        """Returns the characters that a tokenizer of the kind char knows."""
        return frozenset(token.decode() for token in self.ranks)

    def token_bytes(self, token: int) -> bytes:
        """Returns the bytes that a token stands for, which need not be whole characters."""
        return self.tokens[token]

    def encode(self, text: str) -> list[int]:
        """Returns a text's ids. Nothing in a text becomes a special token. Raises UserError where there is no way."""
        return self.encode_array(text).tolist()

    def encode_array(self, text: str) -> np.ndarray:
        """Returns a text's ids as an array of uint32."""
        where = f"the text that begins with {text[:40]!r}"
        if self.kind == "char" and (unknown := set(text) - self.characters):
            first = min(unknown, key=text.index)
            raise UserError(
                f"the tokenizer has no character {first!r} (U+{ord(first):04X}), which is in {where}:"
                " its training documents have none; use kind: byte or bpe"
            )
        try:
            ids = self.encoding.encode_to_numpy(text, disallowed_special=())
        except ValueError as error:  # a run of half a million spaces is too deep for a pattern that looks ahead
            raise UserError(f"tokenizer.pattern: it cannot cut {where}: {error}; break up its long runs") from None
        if self.lengths[ids].sum() != len(text.encode()):  # tiktoken leaves out what the pattern does not match
            raise UserError(f"tokenizer.pattern: it does not match all of {where}; end it in '|[\\s\\S]'")
        return ids

    def encode_documents(self, texts: Iterable[str], cores: int) -> list[np.ndarray]:
        """Returns the ids of each text."""
        if cores == 1:
            return [self.encode_array(text) for text in texts]
        with ThreadPoolExecutor(cores) as pool:  # tiktoken works without the interpreter's lock
            return list(pool.map(self.encode_array, texts))

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text of ids; bytes that are no UTF-8 become U+FFFD, special tokens become nothing."""
        return b"".join(self.tokens[token] for token in ids).decode(errors="replace")

    def save(self, folder: Path) -> None:
        """Writes the two files of a tokenizer."""
        metadata = {
            "kind": self.kind,
            "pattern": self.pattern,
            "special_tokens": self.special_tokens,
            "vocab_size": self.vocab_size,
            "digest": self.digest,
        }
        (folder / RANKS).write_bytes(rank_lines(self.ranks))
        text = json.dumps(metadata, indent=1, ensure_ascii=False)
        (folder / METADATA).write_text(f"{text}\n", encoding="utf-8")


def rank_lines(ranks: dict[bytes, int]) -> bytes:
    """Returns ranks in tiktoken's format: a line of base64 and a number for each token."""
    pairs = sorted(ranks.items(), key=lambda pair: pair[1])
    return b"".join(b"%s %d\n" % (base64.b64encode(token), rank) for token, rank in pairs)


def read_ranks(path: Path) -> dict[bytes, int]:
    """Returns the ranks in a file. tiktoken's own reader keeps a copy of what it once read under this path."""
    return parse_ranks(path.read_bytes())


def parse_ranks(lines: bytes) -> dict[bytes, int]:
    """Returns ranks of their lines. Raises ValueError where they are not that."""
    pairs = [line.split() for line in lines.splitlines()]
    ranks = {base64.b64decode(token, validate=True): int(rank) for token, rank in pairs}
    if not len(ranks) == len(set(ranks.values())) == len(pairs):
        raise ValueError("a token or a rank stands there twice")
    return ranks


def load(folder: Path) -> Tokenizer:
    """Reads the tokenizer in a folder. Raises UserError where it is missing, damaged or not what its digest says."""
    try:
        metadata = json.loads((folder / METADATA).read_bytes())
        found = Tokenizer(
            metadata["kind"],
            metadata["pattern"],
            read_ranks(folder / RANKS),
            metadata["special_tokens"],
        )
        whole = found.digest == metadata["digest"] and found.vocab_size == metadata["vocab_size"]
    except FileNotFoundError as error:
        raise UserError(f"{error.filename} is missing; run train_tokenizer") from None
    except (ValueError, KeyError, TypeError, AttributeError, binascii.Error):
        whole = False
    if not whole:
        raise UserError(f"{folder} holds a damaged tokenizer; remove it and run train_tokenizer again")
    return found


def byte_level_signs() -> list[str]:
    """Returns the sign that GPT-2's byte level writes for each byte.

    Bytes that Latin-1 prints stand for themselves; the rest are the code points from 256 on.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(256, 512))
    return [chr(value) if value in printable else chr(next(others)) for value in range(256)]
