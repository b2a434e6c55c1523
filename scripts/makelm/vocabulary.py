"""How a tokenizer comes about: byte-pair encoding learned from text, or the bytes or characters themselves."""

from collections.abc import Iterable
from itertools import chain

import tokenizers
from tokenizers import models, pre_tokenizers, trainers

from makelm import config
from makelm.errors import UserError
from makelm.tokenizer import Tokenizer, byte_level_signs

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
    found = Tokenizer(settings.kind, pattern, ranks, len(ranks) if settings.end_of_text else None)
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
