"""How a tokenizer comes about: learned from text, or one that exists, by its name or its file."""

import hashlib
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import assert_never

import tokenizers
from tiktoken.load import read_file_cached
from tokenizers import models, pre_tokenizers, trainers

from makelm import config, encodings, hub, tokenizer_hugging_face
from makelm.config_tokenizer import BpeTokenizer, ByteTokenizer, CharTokenizer, TiktokenTokenizer
from makelm.errors import UserError
from makelm.tokenizer import BEGIN_OF_TEXT, END_OF_TEXT, Tokenizer
from makelm.tokenizer_ranks import Ranks, byte_level_signs, parse_ranks

ONE_CHARACTER = r"(?s)."
# Learning takes time that grows with the square of a piece's length: a megabyte of base64 would take hours.
LONGEST_PIECE = r"[\s\S]{1,1000}"

Learned = BpeTokenizer | CharTokenizer


def train(settings: Learned, texts: Iterable[str]) -> Ranks:
    """Returns a tokenizer learned from texts. Equal texts give an equal tokenizer."""
    match settings.kind:
        case "bpe":
            found = with_ends(settings, settings.pattern, bpe_ranks(settings, texts))
        case "char":
            found = with_ends(settings, ONE_CHARACTER, character_ranks(texts))
        case _:
            assert_never(settings.kind)
    found.encode("")  # finds out now where tiktoken cannot read a pattern that Oniguruma can
    return found


def with_ends(settings: Learned | ByteTokenizer, pattern: str, ranks: dict[bytes, int]) -> Ranks:
    """Returns a tokenizer with the chosen tokens around documents, numbered after all others."""
    chosen = {BEGIN_OF_TEXT: settings.begin_of_text, END_OF_TEXT: settings.end_of_text}
    names = [name for name, wanted in chosen.items() if wanted]
    special = {name: len(ranks) + place for place, name in enumerate(names)}
    return Ranks(settings.kind, pattern, ranks, special, special.get(BEGIN_OF_TEXT), special.get(END_OF_TEXT))


def character_ranks(texts: Iterable[str]) -> dict[bytes, int]:
    """Returns the characters of the texts, numbered in the order of their code points."""
    characters = set(chain.from_iterable(set(text) for text in texts))
    return {character.encode(): number for number, character in enumerate(sorted(characters))}


def bpe_ranks(settings: BpeTokenizer, texts: Iterable[str]) -> dict[bytes, int]:
    """Returns the bytes of each token of a byte-level BPE with its id, in the order they were learned."""
    beside = settings.begin_of_text + settings.end_of_text
    wanted = settings.vocab_size - beside
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
            f"tokenizer.vocab_size: the training documents support {len(vocabulary) + beside} tokens"
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


# ---- tokenizers that exist


def existing(settings: config.Tokenizer) -> tuple[Tokenizer, str | None]:
    """Returns a tokenizer that is not learned and, for one of the hub, the commit it is of.

    Raises UserError where it cannot be had.
    """
    ends = settings.begin_of_text, settings.end_of_text
    match settings.kind:
        case "byte":
            return with_ends(settings, ONE_CHARACTER, {bytes([value]): value for value in range(256)}), None
        case "tiktoken":
            return named(settings), None
        case "sentencepiece":
            from makelm import tokenizer_sentencepiece  # a library that no other kind needs

            return tokenizer_sentencepiece.make(read(settings.file), *ends, settings.file), None
        case "huggingface" if settings.file:
            return tokenizer_hugging_face.make(read(settings.file), *ends, settings.file), None
        case "huggingface":
            path, commit = hub.fetch("tokenizer", settings.repository, settings.revision, "tokenizer.json")
            return tokenizer_hugging_face.make(path.read_bytes(), *ends, settings.repository), commit
        case _:
            assert_never(settings.kind)


def read(file: str) -> bytes:
    """Returns the content of tokenizer.file. Raises UserError where it cannot be read."""
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise UserError(f"tokenizer.file: cannot read {file}: {error.strerror}") from None


def named(settings: TiktokenTokenizer) -> Ranks:
    """Returns one of tiktoken's encodings. Raises UserError where its ranks cannot be had."""

    def load(address: str, sha256: str) -> dict[bytes, int]:
        return parse_ranks(read_file(settings.file, sha256) if settings.file else fetch(address, sha256))

    known = encodings.definition(settings.encoding, load)
    special = known["special_tokens"]
    ends = (special[END_OF_TEXT] if chosen else None for chosen in (settings.begin_of_text, settings.end_of_text))
    return Ranks(settings.kind, known["pat_str"], known["mergeable_ranks"], special, *ends)


def read_file(file: str, sha256: str) -> bytes:
    """Returns the bytes of a ranks file. Raises UserError where it is not the one it should be."""
    data = read(file)
    if hashlib.sha256(data).hexdigest() != sha256:
        raise UserError(f"tokenizer.file: {file} does not hold the ranks of tokenizer.encoding, sha256 {sha256}")
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
