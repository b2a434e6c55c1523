"""How a tokenizer comes about: byte-pair encoding learned from text, the bytes or characters themselves, or by name."""

import hashlib
from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path
from typing import Any
from unittest import mock

import tokenizers
from tiktoken.load import read_file_cached
from tiktoken_ext import openai_public
from tokenizers import models, pre_tokenizers, trainers

from makelm import config
from makelm.errors import UserError
from makelm.tokenizer import END_OF_TEXT, Tokenizer, byte_level_signs, parse_ranks

ONE_CHARACTER = r"(?s)."
# Learning takes time that grows with the square of a piece's length: a megabyte of base64 would take hours.
LONGEST_PIECE = r"[\s\S]{1,1000}"


def train(settings: config.Tokenizer, texts: Iterable[str]) -> Tokenizer:
    """Returns a tokenizer learned from texts. Equal texts give an equal tokenizer."""
    if settings.kind == "bpe":
        ranks, pattern = bpe_ranks(settings, texts), settings.pattern
    elif settings.kind == "byte":
        ranks, pattern = {bytes([value]): value for value in range(256)}, ONE_CHARACTER
    else:
        ranks, pattern = character_ranks(texts), ONE_CHARACTER
    found = Tokenizer(settings.kind, pattern, ranks, {END_OF_TEXT: len(ranks)} if settings.end_of_text else {})
    found.encode("")  # finds out now where tiktoken cannot read a pattern that Oniguruma can
    return found


def character_ranks(texts: Iterable[str]) -> dict[bytes, int]:
    """Returns the characters of the texts, numbered in the order of their code points."""
    characters = set(chain.from_iterable(set(text) for text in texts))
    return {character.encode(): number for number, character in enumerate(sorted(characters))}


def bpe_ranks(settings: config.Tokenizer, texts: Iterable[str]) -> dict[bytes, int]:
    """Returns the bytes of each token of a byte-level BPE with its id, in the order they were learned."""
    wanted = settings.vocab_size - settings.end_of_text
    model = tokenizers.Tokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(regex(settings.pattern), behavior="isolated"),
            pre_tokenizers.Split(regex(LONGEST_PIECE), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=wanted, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    model.train_from_iterator(texts, trainer)
    vocabulary = model.get_vocab()
    if len(vocabulary) < wanted:
        raise UserError(
            f"tokenizer.vocab_size: the training documents support {len(vocabulary) + settings.end_of_text} tokens"
            f" at most, not {settings.vocab_size}; lower it or train on more text"
        )
    byte_of = {sign: value for value, sign in enumerate(byte_level_signs())}
    by_number = sorted(vocabulary.items(), key=lambda pair: pair[1])
    return {bytes(byte_of[sign] for sign in token): number for token, number in by_number}


def regex(pattern: str) -> tokenizers.Regex:
    """Returns a compiled pattern. Raises UserError where it is none."""
    try:
        return tokenizers.Regex(pattern)
    except Exception as error:  # the library raises nothing narrower
        raise UserError(f"tokenizer.pattern: {error}") from None


# ---- encodings that exist


def named(settings: config.Tokenizer) -> Tokenizer:
    """Returns one of tiktoken's encodings. Raises UserError where its ranks cannot be had."""

    def read(address: str, sha256: str) -> bytes:
        return read_file(Path(settings.file), sha256) if settings.file else fetch(address, sha256)

    known = definition(settings.encoding, lambda address, sha256: parse_ranks(read(address, sha256)))
    return Tokenizer(settings.kind, known["pat_str"], known["mergeable_ranks"], known["special_tokens"])


def definition(encoding: str, read: Callable[[str, str], dict[bytes, int]]) -> dict[str, Any]:
    """Returns what tiktoken says of an encoding, its ranks by `read`, which gets their address and sha256."""
    name = "r50k_base" if encoding == "gpt2" else encoding  # the same tokens, in one file instead of two

    def load(address: str, expected_hash: str) -> dict[bytes, int]:
        return read(address, expected_hash)

    # the patterns stand in functions that load the ranks first, each for itself
    with mock.patch.object(openai_public, "load_tiktoken_bpe", load):
        return openai_public.ENCODING_CONSTRUCTORS[name]()


def read_file(path: Path, sha256: str) -> bytes:
    """Returns the bytes of a ranks file. Raises UserError where it is not the one it should be."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"tokenizer.file: cannot read {path}: {error.strerror}") from None
    if hashlib.sha256(data).hexdigest() != sha256:
        raise UserError(f"tokenizer.file: {path} does not hold the ranks of tokenizer.encoding, sha256 {sha256}")
    return data


def fetch(address: str, sha256: str) -> bytes:
    """Returns the bytes of a ranks file of the network, of which tiktoken keeps a copy."""
    try:
        return read_file_cached(address, sha256)
    except (OSError, ValueError) as error:  # the network; another file than it should be
        raise UserError(
            f"tokenizer.encoding: cannot fetch {address}: {type(error).__name__};"
            " try again with the network, or name a copy of it as tokenizer.file"
        ) from None
