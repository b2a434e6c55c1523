"""Words of texts as numbers: equal to a plain program that looks at one character after the other."""

import random
import unicodedata

import numpy as np
import pytest

from makelm import words

ODD = "aab ABÄäß  éê\n1२٣_-.,:;(){}中文かな本ÀİΣςﬁ́𝒳𐍈\U0010fffd\U000e0100𠀀"


def plain_words(text: str) -> list[str]:
    """Returns the words of a text as they are defined."""
    found, before = [], ""
    for character in text.lower():
        code = ord(character)
        letter = unicodedata.category(character)[0] in "LNM" and code < words.CODES
        alone = letter and any(first <= code < end for first, end in words.ALONE)
        if letter and before == "word" and not alone:
            found[-1] += character
        elif letter:
            found.append(character)
        before = "alone" if alone else "word" if letter else ""
    return found


def random_texts(seed: int, count: int, longest: int) -> list[str]:
    rng = random.Random(seed)
    return ["".join(rng.choices(ODD, k=rng.randrange(longest))) for _ in range(count)]


def names(numbers: np.ndarray, plain: list) -> None:
    """Asserts that numbers are equal exactly where the plain things are."""
    numbers = numbers.tolist()
    assert len(numbers) == len(plain)
    assert len(set(zip(numbers, plain, strict=True))) == len(set(numbers)) == len(set(plain))


@pytest.mark.parametrize("piece", [64, 1 << 17])
def test_words_are_those_of_a_plain_program(monkeypatch, piece):
    monkeypatch.setattr(words, "PIECE", piece)
    words.tables.cache_clear()
    texts = ["", "...", *random_texts(0, 300, 16), "The cat's hat: 3.14 snake_case naïve NAÏVE"]
    numbers, counts = words.words(texts)
    plain = [plain_words(text) for text in texts]
    assert counts.tolist() == [len(found) for found in plain]
    names(numbers, [word for found in plain for word in found])
    words.tables.cache_clear()


def test_a_word_has_the_same_number_wherever_it_stands():
    alone = words.words(["hat"])[0].tolist()
    assert words.words(["The HAT, the 帽 (hat)"])[0].tolist()[1::3] == [*alone, *alone]
    assert len(set(words.words(["ab ba aab aba baa a b"])[0].tolist())) == 7


def test_a_long_text_is_cut_where_words_are_parted(monkeypatch):
    text = " ".join(random.Random(1).choices(["cat", "hat", "naïve", "中文"], k=500))
    whole = words.words([text])[0].tolist()
    monkeypatch.setattr(words, "PIECE", 100)
    assert words.words([text])[0].tolist() == whole
    assert words.words(["x" * 1000])[1].tolist() == [40]  # a word longer than a piece is cut, always at the same places


@pytest.mark.parametrize("n", [1, 2, 5, 13])
def test_ngrams_are_those_of_a_plain_program(n):
    texts = random_texts(n, 60, 90)
    numbers, counts = words.ngrams(*words.words(texts), n)
    plain = [
        [tuple(found[start : start + n]) for start in range(len(found) - n + 1)] for found in map(plain_words, texts)
    ]
    assert counts.tolist() == [len(found) for found in plain]
    names(numbers, [ngram for found in plain for ngram in found])


def test_ngrams_do_not_reach_over_the_end_of_a_text():
    both, counts = words.ngrams(*words.words(["a b c", "", "d", "e f g h"]), 3)
    assert counts.tolist() == [1, 0, 0, 2]
    assert both.tolist() == [
        *words.ngrams(*words.words(["a b c"]), 3)[0],
        *words.ngrams(*words.words(["e f g h"]), 3)[0],
    ]
    assert [len(part) for part in words.ngrams(*words.words([]), 13)] == [0, 0]


def test_the_numbers_are_spread_evenly():
    texts = [" ".join(f"w{number}" for number in range(20_000))]
    found = words.ngrams(*words.words(texts), 13)[0]
    for shift in (0, 30, 61):  # the low, middle and high bits: filters and samples go by them
        counts = np.bincount(((found >> np.uint64(shift)) & np.uint64(7)).astype(int), minlength=8)
        assert abs(counts / found.size - 1 / 8).max() < 0.01
