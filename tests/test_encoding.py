"""Documents as ids: in order on any number of cores, with the chosen tokens around each, however long it is."""

import json
import random
import re
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from makelm import encoding, tokenizer_hugging_face, vocabulary
from makelm.config_tokenizer import ByteTokenizer, CharTokenizer
from makelm.documents import TextPart
from makelm.errors import UserError

TEXTS = [
    "one line\nand more\n",
    "",
    "naïve 日本語",
    "x" * 1000,
    *(f"document {number}\nhas lines\n" * 40 for number in range(200)),
]


def made(**ends: bool):
    ends = {"begin_of_text": False, "end_of_text": True} | ends
    return vocabulary.existing(ByteTokenizer(kind="byte", **ends))[0]


def parts(texts: list[str], size: int) -> list[TextPart]:
    """Returns texts in parts of so many characters."""
    found = []
    for text in texts:
        starts = range(0, max(len(text), 1), size)
        found += [TextPart(text[start : start + size], start == starts[-1]) for start in starts]
    return found


@pytest.mark.parametrize("ends", [(False, True), (True, False), (True, True), (False, False)])
@pytest.mark.parametrize(("cores", "size"), [(1, 10**6), (3, 10**6), (2, 50)])
def test_ids_are_those_of_each_document_in_order_with_its_ends(ends, cores, size, monkeypatch):
    monkeypatch.setattr(encoding, "TASK", 300)
    found = made(begin_of_text=ends[0], end_of_text=ends[1])
    before, after = ([] if each is None else [each] for each in (found.begin_of_text, found.end_of_text))
    done = list(encoding.encode(found, parts(TEXTS, size), cores, found.encode_batch))
    expected = [token for text in TEXTS for token in [*before, *text.encode(), *after]]
    assert np.concatenate([each.ids for each in done]).tolist() == expected
    assert sum(each.documents for each in done) == len(TEXTS)
    assert sum(each.bytes for each in done) == sum(len(text.encode()) for text in TEXTS)
    assert {each.ids.dtype for each in done} == {np.dtype("<u2")}


def test_a_long_document_is_encoded_piece_by_piece(monkeypatch):
    found, longest = made(), []

    def encode_batch(texts):
        longest.append(max(map(len, texts)))
        return found.encode_batch(texts)

    text = "a line of a long document\n" * 10_000
    done = encoding.encode(found, parts([text], 5000), 2, encode_batch)
    assert np.concatenate([each.ids for each in done]).tolist() == [*text.encode(), found.end_of_text]
    assert max(longest) < 3 * 5000


class Counting:
    """The border after a line, and how many characters were looked at for it."""

    def __init__(self):
        self.looked, self.pattern = 0, re.compile(r"\n(?=[a-z])")

    def search(self, text, start):
        self.looked += len(text)
        return self.pattern.search(text, start)


def test_a_long_document_without_a_border_is_looked_through_once():
    border, text = Counting(), "x" * 100_000 + "\n"
    (whole,) = encoding.spans(parts([text], 100), SimpleNamespace(border=border))
    assert whole == (text, "", True, True)
    assert border.looked < 1.1 * len(text)


@pytest.mark.parametrize("size", [1, 2, 7, 50])
def test_a_document_is_cut_at_the_first_border_of_its_second_half_so_far(size):
    generator, border = random.Random(size), re.compile(r"\n(?=[a-z])")
    for _ in range(50):
        text = "".join(generator.choices(["a", "\n", "-", "-" * 30], [1, 1, 2, 1], k=200))
        expected, held = [], ""
        for part in parts([text], size):
            held += part.text
            found = None if part.last else border.search(held, len(held) // 2)
            if found or part.last:
                cut = found.end() if found else len(held)
                expected.append((held[:cut], held[cut : cut + 1], not expected, part.last))
                held = held[cut:]
        assert list(encoding.spans(parts([text], size), SimpleNamespace(border=border))) == expected


def test_no_more_is_read_than_a_few_tasks_ahead(monkeypatch):
    monkeypatch.setattr(encoding, "TASK", 100)
    found, read, go_on = made(), [], threading.Event()

    def encode_batch(texts):
        assert go_on.wait(20)
        return found.encode_batch(texts)

    def stream():
        for number in range(1000):
            read.append(number)
            if len(read) > 20:
                go_on.set()
            yield TextPart("x" * 100, True)

    running = encoding.encode(found, stream(), 2, encode_batch)
    threading.Timer(0.3, go_on.set).start()
    next(running)
    assert len(read) <= encoding.AHEAD * 2 + 1
    running.close()


def test_what_goes_wrong_in_a_thread_is_raised_here():
    found = vocabulary.train(CharTokenizer(kind="char", corpus="a", begin_of_text=False, end_of_text=False), ["ab"])
    with pytest.raises(UserError, match="no character 'z'"):
        list(encoding.encode(found, parts(["ab", "az", "b"], 100), 2, found.encode_batch))


WORDS = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [],
    "normalizer": {"type": "Lowercase"},
    "pre_tokenizer": {"type": "WhitespaceSplit"},
    "post_processor": None,
    "decoder": None,
    "model": {"type": "WordLevel", "vocab": {"<unk>": 0, "one": 1, "two": 2}, "unk_token": "<unk>"},
}


@pytest.mark.parametrize(
    ("texts", "lost"), [(["one two"], 0), (["One two", "one\ntwo"], 2), (["one three two"], 6), (["one  two"], 1)]
)
def test_what_decoding_does_not_give_back_is_counted(texts, lost):
    found = tokenizer_hugging_face.make(json.dumps(WORDS).encode(), None, None, "test")
    found.special_tokens["<unk>"] = 0  # which decodes to nothing
    (done,) = encoding.encode(found, parts(texts, 100), 1, found.encode_batch, compare=True)
    assert done.lost == lost
    (done,) = encoding.encode(found, parts(texts, 100), 1, found.encode_batch)
    assert done.lost == 0


def test_what_comes_back_whole_is_not_lost(monkeypatch):
    monkeypatch.setattr(encoding, "TASK", 300)
    found = made()
    assert sum(each.lost for each in encoding.encode(found, parts(TEXTS, 50), 2, found.encode_batch, compare=True)) == 0
    assert encoding.lost_bytes("naïve\n", " naive") == 3
