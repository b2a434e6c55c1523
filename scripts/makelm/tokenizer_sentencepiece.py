"""Tokenizers that SentencePiece trained: a model file, computed by the library `sentencepiece`."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import sentencepiece

from makelm.errors import UserError
from makelm.tokenizer import FromFile

SPACE = "\u2581"  # how a piece spells a space


@dataclass(frozen=True)
class SentencePiece(FromFile):
    """The content of a model file.

    Most models normalize a text (NFKC, single spaces, none at the ends, a space before the first word), so decoding
    need not give the text back.
    """

    FILE: ClassVar[str] = "tokenizer.model"
    kind: ClassVar[str] = "sentencepiece"

    @cached_property
    def library(self) -> sentencepiece.SentencePieceProcessor:
        return sentencepiece.SentencePieceProcessor(model_proto=self.data)

    @cached_property
    def vocab_size(self) -> int:
        return self.library.get_piece_size()

    @cached_property
    def tokens(self) -> list[bytes]:
        return [self.spelled(number) for number in range(self.vocab_size)]

    def spelled(self, number: int) -> bytes:
        """Returns the bytes that a piece stands for."""
        piece = self.library.id_to_piece(number)
        if self.library.is_control(number) or self.library.is_unused(number):
            return b""
        if self.library.is_byte(number):
            return bytes.fromhex(piece[3:5])  # <0x0A>
        return piece.replace(SPACE, " ").encode()

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [np.array(ids, np.uint32) for ids in self.library.encode(list(texts), out_type=int, num_threads=1)]

    def decode(self, ids: Iterable[int]) -> str:
        return self.library.decode([int(token) for token in ids if not self.library.is_control(int(token))])


def make(content: bytes, begin_of_text: bool, end_of_text: bool, where: str) -> SentencePiece:
    """Returns the tokenizer of a model file. Raises UserError where it is none or lacks a token that is chosen."""
    try:
        library = sentencepiece.SentencePieceProcessor(model_proto=content)
        special = {library.id_to_piece(n): n for n in range(library.get_piece_size()) if library.is_control(n)}
    except (RuntimeError, OSError, IndexError):
        raise UserError(f"{where} is no SentencePiece model") from None
    ends = []
    for key, chosen, number in (
        ("begin_of_text", begin_of_text, library.bos_id()),
        ("end_of_text", end_of_text, library.eos_id()),
    ):
        if chosen and number < 0:
            raise UserError(f"tokenizer.{key}: {where} has no such token; set it to false")
        ends.append(number if chosen else None)
    return SentencePiece(content, special, *ends)
