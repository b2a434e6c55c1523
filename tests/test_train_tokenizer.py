"""What a tokenizer is learned from where a corpus has more text than it is to read."""

import train_tokenizer
from train_tokenizer import BLOCK, sample, share_read

from makelm.config_tokenizer import BpeTokenizer, CharTokenizer
from makelm.documents import Document

ENDS = {"begin_of_text": False, "end_of_text": True}


def settings(sample_bytes):
    return BpeTokenizer(kind="bpe", corpus="any", sample_bytes=sample_bytes, vocab_size=300, pattern=".", **ENDS)


def test_the_share_is_what_was_asked_for_and_never_more_than_all():
    assert share_read(settings(250), 1000) == 0.25
    assert share_read(settings(2000), 1000) == share_read(settings(None), 1000) == share_read(settings(1), 0) == 1
    assert share_read(CharTokenizer(kind="char", corpus="any", **ENDS), 1000) == 1, "a character may be rare"


def test_a_sample_is_of_all_parts_of_all_documents_and_the_same_each_time(monkeypatch):
    monkeypatch.setattr(train_tokenizer, "BLOCK", 10)
    texts = [Document(str(n), "".join(f"{n:03}-{block:04}-x" for block in range(100))) for n in range(20)]
    taken = [list(sample(document, 0.3)) for document in texts]
    assert taken == [list(sample(document, 0.3)) for document in texts]
    for document, blocks in zip(texts, taken, strict=True):
        starts = [document.text.index(block) for block in blocks]
        assert all(start % 10 == 0 for start in starts) and starts == sorted(starts)
        assert min(starts) < 300 and max(starts) >= 600 and 10 < len(starts) < 55
    assert 0.25 < sum(map(len, taken)) / 2000 < 0.35
    assert len({tuple(block[4:] for block in blocks) for blocks in taken}) == 20, "other documents, other places"


def test_all_of_a_text_is_read_in_one_piece():
    document = Document("a", "b" * (BLOCK + 1))
    assert list(sample(document, 1.0)) == [document.text]
