"""The second pass, as part of the stage: what it drops, how documents lie then, what the manifest says of it.

`make test-faults` runs these: they start the stage again and again.
"""

import io
import itertools
import json
import os
import random
from pathlib import Path

import numpy as np
import pytest
from test_cleaning import OFF
from test_data_stages import ENCODE, ENDS, content, corpus_keys, refuse, run

from makelm import configfile, contamination, documents, manifest, sifting, stages, tokenizer
from makelm.progress import Progress

if "MAKELM_FAULTS" not in os.environ:
    pytest.skip("starts the stage many times: make test-faults", allow_module_level=True)

WORDS = [f"word{number}" for number in range(2000)]
BYTES = {"tokenizer": {"kind": "byte", **ENDS}}


def text(rng: random.Random, length: int = 40) -> str:
    return " ".join(rng.choices(WORDS, k=length))


def write(path: Path, texts: list[str]) -> None:
    path.write_text("".join(f"{json.dumps({'text': one})}\n" for one in texts))


def is_valid(number: int) -> bool:
    """Returns whether line `number` of a.jsonl, counted from 1, is for validation when half of them are."""
    return documents.hash_fraction(f"a.jsonl:{number}") < 0.5


def keys(clean: dict | None, name: str = "a.jsonl", **change: object) -> dict:
    change = {"split": "hash", "valid_fraction": 0.5, "shards": 3} | change
    return corpus_keys(Path(name), clean=clean and OFF | clean, **change)


def read(folder: Path, part: str, shards: int = 3) -> list[documents.Document]:
    return list(documents.read_in_order(folder, part, shards))


@pytest.fixture(scope="module")
def copies(tmp_path_factory) -> tuple[Path, list[str]]:
    """Returns a folder with a.jsonl of 80 documents, a third of them copies, some with others in them; its texts."""
    rng, folder = random.Random(0), tmp_path_factory.mktemp("copies")
    texts = [text(rng) for _ in range(80)]
    for number in range(10, 80, 3):
        texts[number] = texts[rng.randrange(number)]
    for number in range(11, 80, 15):
        texts[number] = f"{texts[rng.randrange(10)]} {text(rng, number)}"
    write(folder / "a.jsonl", texts)
    return folder, texts


def expected(texts: list[str]) -> dict[str, list[str]]:
    """Returns part -> the ids of the documents that stay of each text, by a plain program."""
    numbered = [(not is_valid(number), number, one) for number, one in enumerate(texts, start=1)]
    first = {}
    for in_train, number, one in sorted(numbered):
        first.setdefault(one, (in_train, number))
    staying = sorted((number, in_train) for in_train, number in first.values())
    return {
        part: [f"a.jsonl:{number}" for number, in_train in staying if in_train == (part == "train")]
        for part in documents.PARTS
    }


def test_copies_go_and_what_stays_is_dealt_out_anew(copies, tmp_path):
    folder, texts = copies
    run("download_corpus", keys({"deduplicate": True}), folder, tmp_path / "out")
    facts, staying = content(tmp_path / "out")["facts"], expected(texts)
    for part in documents.PARTS:
        found = read(tmp_path / "out", part)
        assert [document.id for document in found] == staying[part]
        assert all(texts[int(document.id.split(":")[1]) - 1] == document.text for document in found)
        assert facts[part] == {"documents": len(found), "bytes": sum(len(document.text) for document in found)}
    (step,) = facts["cleaning"]
    assert (step["documents_in"], step["bytes_in"]) == (80, sum(map(len, texts)))
    assert step["documents_out"] == len(set(texts)) and step["bytes_out"] == sum(map(len, set(texts)))
    assert set(step["dropped"]) == {"train_copy_of_train", "train_copy_of_valid", "valid_copy_of_valid"}
    assert sum(one["documents"] for one in step["dropped"].values()) == 80 - len(set(texts))
    assert sum(one["bytes"] for one in step["dropped"].values()) == step["bytes_in"] - step["bytes_out"]
    assert {path.name for path in (tmp_path / "out").glob("[!.]*")} == {
        *("manifest.json", "train-00000.jsonl.zst", "train-00001.jsonl.zst", "train-00002.jsonl.zst"),
        *("valid-00000.jsonl.zst", "valid-00001.jsonl.zst", "valid-00002.jsonl.zst"),
    }


def test_contamination_is_reported_always_and_removed_by_choice(copies, tmp_path):
    folder, _ = copies
    run("download_corpus", keys(None), folder, tmp_path / "all")
    run("download_corpus", keys({"max_contamination": 0}), folder, tmp_path / "none")
    run("download_corpus", keys({"max_contamination": 0.9}), folder, tmp_path / "some")
    found = {name: content(tmp_path / name)["facts"] for name in ("all", "none", "some")}
    shares = {name: facts["contamination"]["validation"] for name, facts in found.items()}
    assert 0 == shares["none"]["share"] < shares["some"]["share"] < shares["all"]["share"] < 1
    assert {one["share_before_removal"] for one in shares.values()} == {shares["all"]["share"]}
    assert found["all"]["cleaning"] == [] and found["all"]["contamination"]["sampled"] == 1
    whole = {document.text for document in read(tmp_path / "all", "valid")}
    ngrams = {ngram for one in whole for ngram in zip(*(one.split()[at:] for at in range(13)), strict=False)}
    clean = [
        document
        for document in read(tmp_path / "all", "train")
        if not ngrams & set(zip(*(document.text.split()[at:] for at in range(13)), strict=False))
    ]
    assert read(tmp_path / "none", "train") == clean
    (step,) = found["none"]["cleaning"]
    assert step["step"] == "decontaminate" and step["documents_out"] == len(clean)
    assert step["dropped"]["contaminated"]["documents"] == found["all"]["train"]["documents"] - len(clean)
    assert [document for document in read(tmp_path / "some", "train") if document.text in whole] == []


def test_nothing_dropped_means_nothing_is_written_anew(copies, tmp_path, monkeypatch):
    folder, _ = copies
    run("download_corpus", keys(None), folder, tmp_path / "out")
    settings = configfile.parse(stages.DownloadCorpus, keys({"max_contamination": 1}) | {"locked": {}}, "test").corpus
    facts = content(tmp_path / "out")["facts"]
    fates = {part: np.zeros(facts[part]["documents"], np.uint8) for part in documents.PARTS}
    monkeypatch.setattr(sifting, "write_again", None)  # to call it would be an error
    quiet = Progress("test", io.StringIO(), None)
    done = sifting.sift(tmp_path / "out", tmp_path, settings, facts, fates, 1, quiet)
    assert (done.parts, done.tail, done.contamination) == ({}, None, facts["contamination"])


def test_evaluation_texts_are_compared_too(tmp_path):
    rng = random.Random(1)
    texts, questions = [text(rng) for _ in range(20)], [text(rng, 20), "short question"]
    number = next(number for number in range(1, 21) if not is_valid(number))
    texts[number - 1] += f" {questions[0].upper()} {text(rng)}"
    write(tmp_path / "a.jsonl", texts)
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "quiz.jsonl").write_text("".join(f'{{"question": "{one}"}}\n' for one in questions))
    (tmp_path / "tasks" / "other.txt").write_text(text(rng))
    clean = {"evaluation_texts": {"paths": ["tasks"], "text_key": "question"}}
    for most in (None, 0):
        run("download_corpus", keys(clean | {"max_contamination": most}), tmp_path, tmp_path / "out")
        facts = content(tmp_path / "out")["facts"]
        found = facts["contamination"]["evaluation_texts"]
        assert set(found) == {"tasks/other.txt", "tasks/quiz.jsonl"}
        quiz = found["tasks/quiz.jsonl"]
        assert (quiz["documents"], quiz["short_documents"], quiz["share_before_removal"]) == (1, 1, 1)
        assert quiz["sha256"] == manifest.file_sha256(tmp_path / "tasks" / "quiz.jsonl")
        assert quiz["share"] == (1 if most is None else 0) and found["tasks/other.txt"]["share"] == 0
        ids = [document.id for document in read(tmp_path / "out", "train")]
        assert (f"a.jsonl:{number}" in ids) == (most is None)
    clean["evaluation_texts"]["paths"] = ["nothing"]
    line = refuse("download_corpus", keys(clean), tmp_path, tmp_path / "out")
    assert "corpus.clean.evaluation_texts.paths: no such file: nothing" in line


def test_all_of_it_is_the_same_to_the_byte_with_other_cores(copies, tmp_path):
    folder, _ = copies
    clean = {"ftfy": "repair", "normalize": "NFC", "min_bytes": 1, "min_unique_words": 5, "max_repeated_lines": 0.9}
    clean |= {"max_top_2gram": 0.9, "deduplicate": True, "max_contamination": 0.2}
    for cores in (1, 2):
        run("download_corpus", keys(clean), folder, tmp_path / str(cores), "--cores", cores)
    one, two = (manifest.read(tmp_path / name / "manifest.json") for name in "12")
    assert one["digest"] == two["digest"]
    steps = one["content"]["facts"]["cleaning"]
    assert [step["step"] for step in steps] == ["ftfy", "normalize", "filter", "deduplicate", "decontaminate"]
    for before, after in itertools.pairwise(steps[:4]):
        assert all(before[f"{what}_out"] == after[f"{what}_in"] for what in ("documents", "bytes"))


def test_shards_are_examined_alike_in_several_processes(copies, tmp_path):
    folder, _ = copies
    run("download_corpus", keys(None), folder, tmp_path / "out")
    index = contamination.build(tmp_path / "index", read(tmp_path / "out", "valid"))
    train = read(tmp_path / "out", "train")
    results = []
    for cores in (1, 2):
        fates = np.zeros(len(train), np.uint8)
        with Progress("test", io.StringIO(), None).track(0, "B") as bar:
            counts, seen = contamination.examine_train(tmp_path / "out", 3, fates, tmp_path / "index", 0.1, cores, bar)
        results.append((counts.tolist(), fates.tolist(), seen.packed().tolist()))
    assert results[0] == results[1] and index.hashes.size and any(results[0][1])


def test_a_corpus_of_which_nothing_is_left_is_refused_in_one_line(tmp_path):
    rng = random.Random(2)
    write(tmp_path / "a.jsonl", [text(rng) for _ in range(20)])
    write(tmp_path / "same.jsonl", [text(rng)] * 20)
    out = tmp_path / "out"
    line = refuse("download_corpus", keys({"min_bytes": 10_000}), tmp_path, out)
    assert "corpus.clean: no document is left for train; dropped were: min_bytes 20" in line
    line = refuse("download_corpus", keys({"deduplicate": True}, "same.jsonl"), tmp_path, out)
    assert "corpus.clean: no document is left for train; dropped were: train_copy_of_valid" in line


def test_no_text_becomes_the_end_of_a_text(tmp_path):
    texts = [
        "one <|endoftext|> two",
        "<|endoftext|>",
        "＜|endoftext|＞",
        "<|endo\x00ftext|>",
        "three &lt;|endoftext|&gt;",
    ]
    write(tmp_path / "a.jsonl", texts * 4)
    run("download_corpus", keys({"ftfy": "all", "normalize": "NFKC"}, shards=1), tmp_path, tmp_path / "corpus")
    run("train_tokenizer", BYTES, tmp_path, tmp_path / "tokenizer")
    arguments = ("--corpus", "corpus", "--tokenizer", "tokenizer", "--shard", 0)
    run("encode_shard", ENCODE, tmp_path, tmp_path / "tokens", *arguments)
    found = tokenizer.load(tmp_path / "tokenizer")
    facts = content(tmp_path / "tokens", "00000.json")["facts"]
    for part in documents.PARTS:
        there = read(tmp_path / "corpus", part, 1)
        assert sum("<|endoftext|>" in document.text for document in there) == len(there) > 3
        ids = np.fromfile(tmp_path / "tokens" / f"{part}-00000.bin", "<u2", offset=1024)
        assert (ids == facts["end_of_text"]).sum() == len(there)
        texts = bytes(ids[ids != facts["end_of_text"]].astype(np.uint8)).decode()
        assert texts == "".join(document.text for document in there) and found.encode("<|endoftext|>")
