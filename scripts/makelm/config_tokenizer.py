"""The keys of tokenizers, of each kind."""

import re
from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator, model_validator
from pydantic_core import PydanticCustomError

from makelm.config_types import EXECUTION, Count, Int, Name, Repository, Section, Text


class OwnTokenizer(Section):
    """A vocabulary of its own, in which chosen tokens stand before and after each document."""

    begin_of_text: bool
    end_of_text: bool


class BpeTokenizer(OwnTokenizer):
    """Byte-pair encoding learned from a corpus's training documents."""

    kind: Literal["bpe"]
    corpus: Name
    sample_bytes: Count | None
    vocab_size: Annotated[Int, Field(ge=257, le=2**31 - 1)]
    pattern: Text

    @model_validator(mode="after")
    def check(self) -> "BpeTokenizer":
        if self.vocab_size < 256 + self.begin_of_text + self.end_of_text:
            raise PydanticCustomError("vocab", "vocab_size must have room for 256 bytes and the tokens chosen beside")
        try:
            if "\\p" not in self.pattern:  # which Python's own library does not know
                re.compile(self.pattern)
        except re.error as error:
            raise PydanticCustomError("pattern", "pattern is no regular expression: {e}", {"e": str(error)}) from error
        return self


class ByteTokenizer(OwnTokenizer):
    """The bytes of a text are its ids."""

    kind: Literal["byte"]


class CharTokenizer(OwnTokenizer):
    """The characters of a corpus's training documents, numbered."""

    kind: Literal["char"]
    corpus: Name


class TiktokenTokenizer(Section):
    """One of tiktoken's encodings. Its one token for both ends stands before or after each document, or not at all."""

    kind: Literal["tiktoken"]
    encoding: Literal["gpt2", "p50k_base", "cl100k_base", "o200k_base"]
    file: Annotated[Text | None, EXECUTION]  # must be the encoding's own ranks, so it decides no more than where from
    encoder: Annotated[Literal["tiktoken", "gigatoken"], EXECUTION]  # both make the same ids
    begin_of_text: bool
    end_of_text: bool

    @model_validator(mode="after")
    def check(self) -> "TiktokenTokenizer":
        if self.begin_of_text and self.end_of_text:
            raise PydanticCustomError(
                "ends", "begin_of_text and end_of_text are one token here, <|endoftext|>: set one of them to false"
            )
        if self.encoder == "gigatoken" and self.encoding == "p50k_base":
            raise PydanticCustomError("encoder", "encoder: gigatoken does not know p50k_base; set it to tiktoken")
        return self


def token(value: Any) -> Any:
    """Reads which token stands at an end of documents: other kinds take true and false there."""
    if value is not None and (not isinstance(value, str) or not value):
        raise PydanticCustomError(
            "token", "should be the text of one of its tokens, or null for none, got {value}", {"value": repr(value)}
        )
    return value


Token = Annotated[str | None, PlainValidator(token)]


class HuggingFaceTokenizer(Section):
    """A tokenizer.json: a file of this machine or that of a model on the hub."""

    kind: Literal["huggingface"]
    file: Text | None
    repository: Repository | None
    revision: Text | None
    begin_of_text: Token
    end_of_text: Token

    @model_validator(mode="after")
    def check(self) -> "HuggingFaceTokenizer":
        if (self.file is None) == (self.repository is None):
            raise PydanticCustomError("where", "kind: huggingface needs one of file and repository, the other null")
        if self.revision and self.file:
            raise PydanticCustomError("where", "revision is for a repository; set it to null")
        return self


class SentencePieceTokenizer(Section):
    """A SentencePiece model, a file of this machine."""

    kind: Literal["sentencepiece"]
    file: Text
    begin_of_text: bool
    end_of_text: bool


TOKENIZERS = {
    "bpe": BpeTokenizer,
    "byte": ByteTokenizer,
    "char": CharTokenizer,
    "tiktoken": TiktokenTokenizer,
    "huggingface": HuggingFaceTokenizer,
    "sentencepiece": SentencePieceTokenizer,
}

LEARNED = (BpeTokenizer, CharTokenizer)  # from a corpus

Tokenizer = Annotated[
    BpeTokenizer | ByteTokenizer | CharTokenizer | TiktokenTokenizer | HuggingFaceTokenizer | SentencePieceTokenizer,
    Field(discriminator="kind"),
]


def own_file(tokenizer: Tokenizer) -> str | None:
    """Returns the file of this machine that a tokenizer is made of; a file of tiktoken's ranks decides nothing."""
    return None if tokenizer.kind == "tiktoken" else getattr(tokenizer, "file", None)
