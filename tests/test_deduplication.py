"""Exact deduplication: of equal texts one stays, whatever lies between them."""

import random

import pytest

from makelm import deduplication
from makelm.deduplication import IN_TRAIN, IN_VALID, KEPT, Ledger


def fates(folder, *pieces: tuple[str, str]) -> dict[str, list[int]]:
    ledger = Ledger(folder, True)
    for part, text in pieces:
        ledger.add(part, text)
    return {part: found.tolist() for part, found in ledger.fates().items()}


def test_the_first_of_equal_texts_stays(tmp_path):
    found = fates(tmp_path, ("train", "a"), ("train", "b"), ("train", "a"), ("valid", "c"), ("train", "a"))
    assert found == {"train": [KEPT, KEPT, IN_TRAIN, IN_TRAIN], "valid": [KEPT]}


def test_what_is_for_validation_does_not_stay_in_train_wherever_it_stands(tmp_path):
    found = fates(tmp_path, ("train", "a"), ("train", "b"), ("valid", "a"), ("train", "a"), ("valid", "a"))
    assert found == {"train": [IN_VALID, KEPT, IN_VALID], "valid": [KEPT, IN_VALID]}


def test_nearly_equal_texts_stay(tmp_path):
    texts = ["a", "a ", "A", "á", "a\u0301", ""]
    assert fates(tmp_path, *(("train", text) for text in texts)) == {"train": [KEPT] * 6, "valid": []}


@pytest.mark.parametrize("buckets", [1, 64])
def test_it_finds_what_a_dictionary_finds(tmp_path, monkeypatch, buckets):
    monkeypatch.setattr(deduplication, "BUCKETS", buckets)
    rng = random.Random(0)
    pieces = [(rng.choice(["train", "train", "valid"]), str(rng.randrange(400))) for _ in range(1000)]
    ordered = [piece for piece in pieces if piece[0] == "valid"] + [piece for piece in pieces if piece[0] == "train"]
    first, expected = {}, {"train": [], "valid": []}
    for part, text in ordered:
        expected[part].append({None: KEPT, "train": IN_TRAIN, "valid": IN_VALID}[first.get(text)])
        first.setdefault(text, part)
    assert fates(tmp_path, *pieces) == expected


def test_without_hashing_all_stay(tmp_path):
    ledger = Ledger(tmp_path, False)
    for _ in range(3):
        ledger.add("train", "a")
    assert {part: found.tolist() for part, found in ledger.fates().items()} == {"train": [KEPT] * 3, "valid": []}
