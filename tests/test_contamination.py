"""Contamination: the share of 13-grams of some texts that occur in others, exact where all are held, else estimated."""

import random

import numpy as np
import pytest
from test_words import plain_words

from makelm import contamination
from makelm.contamination import Seen, build, overlaps, shares
from makelm.deduplication import CONTAMINATED, KEPT
from makelm.documents import Document, PartWriter, shard_name

VOCABULARY = [f"word{number}" for number in range(3000)]


def text(rng: random.Random, length: int) -> str:
    return " ".join(rng.choices(VOCABULARY, k=length))


def documents(*texts: str) -> list[Document]:
    return [Document(str(number), one) for number, one in enumerate(texts)]


def plain_ngrams(one: str) -> list[tuple[str, ...]]:
    found = plain_words(one)
    return [tuple(found[start : start + 13]) for start in range(len(found) - 12)]


def measure(folder, valid: list[Document], train: list[Document]) -> tuple[list[float], dict]:
    """Returns (the overlap of each training document, the shares of the validation documents)."""
    index = build(folder, valid)
    seen, found = Seen(index.hashes.size), []
    for share, places in overlaps(index, train):
        found.append(share)
        seen.found[places] = seen.kept[places] = True
    return found, shares(index, seen, valid)


def mixed(rng: random.Random, count: int) -> tuple[list[Document], list[Document]]:
    """Returns validation and training documents, of which some have passages of the former in them."""
    valid = [text(rng, rng.randrange(5, 200)) for _ in range(count)]
    train = [text(rng, rng.randrange(5, 200)) for _ in range(count)]
    for number in range(0, count, 3):
        passage = rng.choice(valid).split()
        train[number] += " " + " ".join(passage[: rng.randrange(1, len(passage))]).upper() + ". " + text(rng, 9)
    return documents(*valid), documents(*train)


def test_shares_are_those_of_a_plain_program(tmp_path):
    valid, train = mixed(random.Random(0), 60)
    overlap, found = measure(tmp_path / "index", valid, train)
    there = {ngram for one in train for ngram in plain_ngrams(one.text)}
    wanted = {ngram for one in valid for ngram in plain_ngrams(one.text)}
    hits = [[ngram in there for ngram in plain_ngrams(one.text)] for one in valid]
    per_document = [sum(one) / len(one) for one in hits if one]
    assert found == {
        "documents": len(per_document),
        "short_documents": 60 - len(per_document),
        "ngrams": sum(map(len, hits)),
        "share": sum(map(sum, hits)) / sum(map(len, hits)),
        "mean_share": pytest.approx(sum(per_document) / len(per_document)),
        "documents_with_any": sum(share > 0 for share in per_document),
        "documents_over_half": sum(share > 0.5 for share in per_document),
        "share_before_removal": found["share"],
    }
    assert 0 < found["documents_over_half"] < found["documents_with_any"] < found["documents"] < 60
    for share, one in zip(overlap, train, strict=True):
        ngrams = plain_ngrams(one.text)
        assert share == (sum(ngram in wanted for ngram in ngrams) / len(ngrams) if ngrams else 0)


def test_case_and_signs_make_no_difference_and_a_word_does(tmp_path):
    valid = documents("One two three four five six seven eight nine ten eleven twelve thirteen")
    same = documents(
        "ONE: two, three\nfour — five (six) seven. Eight/nine_ten eleven's".replace("'s", "") + " twelve thirteen!"
    )
    assert measure(tmp_path / "same", valid, same)[1]["share"] == 1
    assert measure(tmp_path / "other", valid, documents(valid[0].text.replace("six", "sex")))[1]["share"] == 0


def test_texts_too_short_or_none_at_all_have_no_share(tmp_path):
    overlap, found = measure(tmp_path / "short", documents("a b c", ""), documents("a b c"))
    assert overlap == [0] and (found["documents"], found["short_documents"], found["share"]) == (0, 2, 0)
    overlap, found = measure(tmp_path / "none", [], documents(text(random.Random(0), 50), ""))
    assert overlap == [0, 0] and (found["documents"], found["mean_share"]) == (0, 0)


def test_more_than_fit_are_sampled_and_the_estimate_is_close(tmp_path, monkeypatch):
    valid, train = mixed(random.Random(1), 600)
    exact = measure(tmp_path / "all", valid, train)[1]
    monkeypatch.setattr(contamination, "MOST", 4000)
    index = build(tmp_path / "some", valid)
    shuffled = build(tmp_path / "shuffled", random.Random(2).sample(valid, len(valid)))
    assert index.halvings == shuffled.halvings == 4 and 2000 < index.hashes.size <= 4000
    assert index.hashes.tolist() == shuffled.hashes.tolist()
    estimate = measure(tmp_path / "again", valid, train)[1]
    assert estimate["ngrams"] == pytest.approx(exact["ngrams"] / 16, rel=0.1)
    assert estimate["share"] == pytest.approx(exact["share"], rel=0.1)
    assert estimate["short_documents"] == exact["short_documents"]


def test_what_was_seen_elsewhere_is_added():
    one, other = Seen(11), Seen(11)
    one.found[[0, 10]], other.found[3], other.kept[3] = True, True, True
    one.add(other.packed())
    assert np.flatnonzero(one.found).tolist() == [0, 3, 10] and np.flatnonzero(one.kept).tolist() == [3]
    Seen(0).add(Seen(0).packed())


def test_a_document_of_just_the_share_that_may_be_stays(tmp_path):
    valid = documents(" ".join(VOCABULARY[:14]))
    half = documents(" ".join([*VOCABULARY[:14], "a", "b"]))  # of its four 13-grams two are those of `valid`
    build(tmp_path / "index", valid)
    with PartWriter(tmp_path, "train", 1) as writer:
        writer.write(half[0])
    for most, fate in ((0.5, KEPT), (0.49, CONTAMINATED), (None, KEPT)):
        task = (tmp_path / shard_name("train", 0), np.full(1, KEPT, np.uint8))
        assert contamination.examine(tmp_path / "index", most, task).fates.tolist() == [fate]
