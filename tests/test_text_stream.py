"""Text of tokens as they come: whole characters, stop strings over token borders, and the same however it is taken."""

import pytest

from makelm.text_stream import TextStream, TokenTexts

TOKENS = [
    b"a",
    b"b",
    b"ab",
    b"c",
    b"",
    "é".encode()[:1],
    "é".encode()[1:],
    b"\xff",
    "😀".encode()[:3],
    "😀".encode()[3:],
    b"a" + "é".encode()[:1],
]


def taken(ids: list[int], stop: tuple[str, ...], every: int) -> tuple[list[str], list[int], list[str]]:
    """Returns the pieces of a text taken after every so many tokens, the ids that are its own, and their texts."""
    stream, pieces, own, texts, each = TextStream(TOKENS, stop), [], 0, [], TokenTexts(TOKENS)
    for number, token in enumerate(ids):
        if stream.feed(token):
            break
        if number % every == every - 1:
            text, count = stream.take()
            texts += each.take(ids[own : own + count], text)
            pieces.append(text)
            assert "".join(pieces).startswith("".join(texts))
            own += count
    text, count = stream.take(last=True)
    texts += each.take(ids[own : own + count], text, last=True)
    return [*pieces, text], ids[: own + count], texts


@pytest.mark.parametrize(
    ("ids", "stop", "text", "own"),
    [
        ([0, 1, 3], (), "abc", [0, 1, 3]),
        ([0, 1, 3], ("bc",), "a", [0]),  # over the border of tokens
        ([3, 2, 0], ("b",), "ca", [3, 2]),  # within a token, of which a part stays
        ([0, 0, 1, 0], ("ab",), "a", [0]),  # what looked like a beginning was none
        ([0, 1, 0, 1], ("abc", "aba"), "", []),
        ([2, 3], ("bc", "abc"), "", []),  # both end at once: the longer
        ([3, 2], ("cab", "a"), "c", [3]),  # both within a token: the one that ends first, though it begins later
        ([2, 0, 1], ("abb", "aba"), "", []),
        ([2, 2], ("abb",), "abab", [2, 2]),  # only a beginning at the end
        ([5, 6, 4, 0], (), "éa", [5, 6, 4, 0]),
        ([0, 5], (), "a\ufffd", [0, 5]),  # half a character at the end
        ([7, 0, 5, 0], (), "\ufffda\ufffda", [7, 0, 5, 0]),
        ([0, 8, 9, 1], ("😀",), "a", [0]),
        ([8, 9, 4], (), "😀", [8, 9, 4]),
        ([10, 6], (), "aé", [10, 6]),
        ([0, 10], (), "aa\ufffd", [0, 10]),
        ([10, 6, 1], ("éb",), "a", [10]),
    ],
)
def test_a_text_is_cut_before_the_stop_string(ids, stop, text, own):
    for every in (1, 2, 9):
        pieces, kept, texts = taken(ids, stop, every)
        assert ("".join(pieces), kept) == (text, own)
        assert "".join(texts) == text and len(texts) == len(own)


def test_pieces_hold_no_half_character_and_no_beginning_of_a_stop_string():
    assert taken([0, 5, 6, 1], (), 1)[0] == ["a", "", "é", "b", ""]
    assert taken([0, 1, 0, 3, 0], ("abc",), 1)[0] == ["", "", "ab", "ac", "", "a"]


def test_a_token_of_whole_characters_is_given_at_once():
    assert TokenTexts(TOKENS).take([2, 3], "abc") == ["ab", "c"]


def test_a_character_of_several_tokens_is_the_last_ones_however_they_come():
    for every in (1, 2, 9):
        assert taken([0, 5, 6, 8, 9, 2, 5], (), every)[2] == ["a", "", "é", "", "😀", "ab", "\ufffd"]
        assert taken([2, 0, 1, 2], ("bab",), every)[2] == ["a"]
