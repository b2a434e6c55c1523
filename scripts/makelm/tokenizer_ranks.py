"""Tokenizers that tiktoken computes: a pattern that cuts a text into pieces, and merges of bytes by their rank."""

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import tiktoken

from makelm import borders
from makelm.errors import UserError
from makelm.tokenizer import Tokenizer


@dataclass(frozen=True)
class Ranks(Tokenizer):
    """A vocabulary and the pattern that cuts a text into the pieces no token crosses."""

    FILE: ClassVar[str] = "tokenizer.tiktoken"

    kind: str  # bpe, byte, char or tiktoken
    pattern: str
    ranks: dict[bytes, int]  # the bytes of each token -> its id, which is also its priority in merging
    special_tokens: dict[str, int]
    begin_of_text: int | None
    end_of_text: int | None

    @cached_property
    def vocab_size(self) -> int:
        return max([*self.ranks.values(), *self.special_tokens.values()]) + 1

    @property
    def settings(self) -> dict:
        return {"pattern": self.pattern}

    @cached_property
    def content(self) -> bytes:
        return rank_lines(self.ranks)

    @cached_property
    def border(self) -> re.Pattern[str] | None:
        return borders.border(self.pattern)

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
        tokens = [b""] * self.vocab_size
        for token, rank in self.ranks.items():
            tokens[rank] = token
        return tokens

    @cached_property
    def lengths(self) -> np.ndarray:
        """Returns the number of bytes of each token, by id."""
        return np.array([len(token) for token in self.tokens], dtype=np.int32)

    @cached_property
    def characters(self) -> frozenset[str]:
        """Returns the characters that a tokenizer of the kind char knows."""
        return frozenset(token.decode() for token in self.ranks)

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [self.checked(text, self.encode_text(text)) for text in texts]

    def encode_text(self, text: str) -> np.ndarray:
        """Returns a text's ids as an array of uint32. Raises UserError where tiktoken cannot cut it."""
        if self.kind == "char" and (unknown := set(text) - self.characters):
            first = min(unknown, key=text.index)
            raise UserError(
                f"the tokenizer has no character {first!r} (U+{ord(first):04X}), which is in {begin(text)}:"
                " its training documents have none; use kind: byte or bpe"
            )
        try:
            return self.encoding.encode_to_numpy(text, disallowed_special=())
        except UnicodeEncodeError:
            raise
        except ValueError as error:  # a run of half a million spaces is too deep for a pattern that looks ahead
            reason = f"it cannot cut {begin(text)}: {error}; break up its long runs"
            raise UserError(f"tokenizer.pattern: {reason}") from None

    def checked(self, text: str, ids: np.ndarray) -> np.ndarray:
        """Returns the ids. Raises UserError where they are not all of the text."""
        if self.lengths[ids].sum(dtype=np.int64) != len(
            text.encode()
        ):  # tiktoken leaves out what the pattern does not match
            reason = f"it does not match all of {begin(text)}; end it in '|[\\s\\S]'"
            raise UserError(f"tokenizer.pattern: {reason}")
        return ids


def begin(text: str) -> str:
    """Returns how a message calls a text."""
    return f"the text that begins with {text[:40]!r}"


def rank_lines(ranks: dict[bytes, int]) -> bytes:
    """Returns ranks in tiktoken's format: a line of base64 and a number for each token."""
    pairs = sorted(ranks.items(), key=lambda pair: pair[1])
    return b"".join(b"%s %d\n" % (base64.b64encode(token), rank) for token, rank in pairs)


def parse_ranks(lines: bytes) -> dict[bytes, int]:
    """Returns ranks of their lines. Raises ValueError where they are not that."""
    pairs = [line.split() for line in lines.splitlines()]
    ranks = {base64.b64decode(token, validate=True): int(rank) for token, rank in pairs}
    if not len(ranks) == len(set(ranks.values())) == len(pairs):
        raise ValueError("a token or a rank stands there twice")
    return ranks


def byte_level_signs() -> list[str]:
    """Returns the sign that GPT-2's byte level writes for each byte.

    Bytes that Latin-1 prints stand for themselves; the rest are the code points from 256 on.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(256, 512))
    return [chr(value) if value in printable else chr(next(others)) for value in range(256)]
