"""Words of many texts at once as 64-bit numbers, and numbers for so many words in a row.

A word is a run of letters, digits and marks in lower case; a Chinese character or kana is one by itself, since those
scripts have no spaces. Letters and their dims: W words of all texts together, N n-grams of all texts together.
"""

import unicodedata
from collections.abc import Iterator
from functools import cache

import numpy as np

from makelm.splitmix import mixed

PIECE = 1 << 17  # characters looked at together: the arrays of so many stay in a CPU's cache
CODES = 0x34000  # code points; beyond them Unicode 17 has no letters, and this one stands for all of them
BASE = 0x9E3779B97F4A7C17  # both odd, so that they have an inverse
STEP = 0xD6E8FEB86659FD93
ALONE = ((0x3040, 0x3100), (0x3400, 0x4DC0), (0x4E00, 0xA000), (0xF900, 0xFB00), (0x20000, CODES))


@cache
def tables() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns (number of each code point, 0 for what parts words; which are words by themselves; powers; inverses)."""
    letters = np.array([unicodedata.category(chr(code))[0] in "LNM" for code in range(CODES)])
    assert not letters[-1], "this Python knows letters beyond"
    values = np.where(letters, mixed(np.arange(1, CODES + 1, dtype=np.uint64)), np.uint64(0))
    alone = np.zeros(CODES, bool)
    for first, end in ALONE:
        alone[first:end] = letters[first:end]
    powers, inverses = np.ones((2, PIECE), np.uint64)
    np.multiply.accumulate(np.full(PIECE - 1, BASE, np.uint64), out=powers[1:])
    np.multiply.accumulate(np.full(PIECE - 1, pow(BASE, -1, 1 << 64), np.uint64), out=inverses[1:])
    return values, alone, powers, inverses


def words(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Returns (words_W, how many each text has): equal words have equal numbers."""
    counts = np.zeros(len(texts), np.int64)
    found = []
    for numbers, pieces in groups(texts):
        words_W, ends = piece_words(pieces)
        np.add.at(counts, numbers, np.diff(ends, prepend=0))
        found.append(words_W)
    return np.concatenate(found) if found else np.zeros(0, np.uint64), counts


def groups(texts: list[str]) -> Iterator[tuple[list[int], list[str]]]:
    """Yields (numbers of texts, their pieces in lower case) of less than PIECE characters together."""
    numbers, pieces, length = [], [], 0
    for number, text in enumerate(texts):
        for cut in cuts(text):
            piece = cut.lower()
            if length + len(piece) >= PIECE:
                yield numbers, pieces
                numbers, pieces, length = [], [], 0
            numbers.append(number)
            pieces.append(piece)
            length += len(piece) + 1  # what joins it to the next one
    if pieces:
        yield numbers, pieces


def cuts(text: str) -> Iterator[str]:
    """Yields a long text in parts, cut where words are parted if there is such a place."""
    most = PIECE // 4  # in lower case a character can become three
    start = 0
    while len(text) - start > most:
        end = max(text.rfind(" ", start, start + most), text.rfind("\n", start, start + most))
        end = end if end > start else start + most
        yield text[start:end]
        start = end
    yield text[start:]


def piece_words(pieces: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Returns (words_W, at which word each piece ends)."""
    values, alone, powers, inverses = tables()  # of which the last one stands for all code points beyond
    codes = np.frombuffer("\n".join(pieces).encode("utf-32-le"), np.uint32)
    numbers = values.take(codes, mode="clip")
    letters = numbers != 0
    begins = letters.copy()
    begins[1:] &= ~letters[:-1]
    if codes.size and codes.max() >= ALONE[0][0]:
        single = alone.take(codes, mode="clip")
        begins |= single
        begins[1:] |= letters[1:] & single[:-1]
    starts = np.flatnonzero(begins)
    ends = np.searchsorted(starts, np.cumsum([len(piece) + 1 for piece in pieces]))
    if not starts.size:
        return np.zeros(0, np.uint64), ends
    # a polynomial in BASE over each word; what parts words counts 0
    sums = np.add.reduceat(numbers * powers[: codes.size], starts)
    return mixed(sums * inverses[starts]), ends


def ngrams(words_W: np.ndarray, counts: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns (ngrams_N, how many each text has) of the words that `words` gives; none reaches over a text's end."""
    possible = words_W.size - n + 1
    amounts = np.maximum(counts - n + 1, 0)
    if possible <= 0:
        return np.zeros(0, np.uint64), amounts
    total = words_W[:possible].copy()
    for place in range(1, n):
        total *= np.uint64(STEP)
        total += words_W[place : place + possible]
    ends = np.repeat(np.cumsum(counts), counts)[:possible]
    return mixed(total[np.arange(n, n + possible) <= ends]), amounts
