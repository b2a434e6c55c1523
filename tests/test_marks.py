"""tiktoken's patterns without their lookahead: the same ids, whatever stands where."""

import itertools
import random
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from vocabularies import ADVERSARIAL, TEXTS, every_character, settings, train

from makelm import encodings, marks
from makelm.errors import UserError
from makelm.tokenizer_ranks import Ranks

SPACES = [" ", "\n", "\t", "\r", "\u3000", "\x85", "\x1c", "\u2028"]
SIGNS = [*SPACES, "a", "B", "é", "7", ".", "/", "'s", "'LL", "日", "\u0301"]


@pytest.fixture(params=["gpt2", "p50k_base", "cl100k_base", "o200k_base"])
def small(request) -> Ranks:
    """Returns an encoding with its pattern and few ranks, spaces in a row among them."""
    few = train(settings(), [*TEXTS, *ADVERSARIAL]).ranks
    for token in (b"  ", b"   ", b"\n\n", b" \n", b"\n ", b" a", b"\ta"):
        few.setdefault(token, len(few))
    return Ranks("tiktoken", encodings.definition(request.param, lambda *_: {})["pat_str"], few, {}, None, None)


def compare(tokenizer: Ranks, texts: list[str]) -> None:
    marked = marks.encoder(tokenizer)
    for text in texts:
        assert marked.encode_text(text).tolist() == tokenizer.encode_text(text).tolist(), text


def test_ids_are_the_same_for_all_short_texts_of_odd_signs(small):
    signs = [*SPACES, "a", "."]
    compare(small, ["".join(some) for length in range(5) for some in itertools.product(signs, repeat=length)])


def test_ids_are_the_same_for_long_texts_of_odd_signs(small):
    rng = random.Random(0)
    compare(small, ["".join(rng.choices(SIGNS, k=rng.randrange(5, 60))) for _ in range(3000)])


def test_ids_are_the_same_for_every_character_and_the_adversarial_texts(small):
    compare(small, [*TEXTS, *ADVERSARIAL, *every_character(), f"a{marks.MARK} \n  b{marks.MARK}", marks.MARK])


def test_ids_are_the_same_for_pythons_source(small):
    paths = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))[:40]
    compare(small, [path.read_text(encoding="utf-8") for path in paths])


def test_a_text_in_so_many_is_held_against_the_pattern_itself(small, monkeypatch):
    marked = marks.encoder(small)
    marked.encode_batch(["a  b"])
    marked.sample.count = itertools.count()
    monkeypatch.setattr(marked, "encode_text", lambda text: np.zeros(1, np.uint32))
    with pytest.raises(AssertionError, match="a  b"):
        marked.encode_batch(["a  b"])


def test_a_run_of_spaces_too_long_for_the_pattern_itself_is_no_trouble_even_in_the_sample(small):
    text = " " * 1_500_000 + "x"
    with pytest.raises(UserError, match="break up its long runs"):
        small.encode_text(text)
    (ids,) = marks.encoder(small).encode_batch([text])
    assert small.decode(ids) == text


def test_other_patterns_are_left_alone():
    assert marks.encoder(train(settings(), TEXTS)) is None
    assert marks.encoder(train(settings("byte"), TEXTS)) is None
