"""Corpora: every source gives its documents in one order, the split is a function of names."""

import hashlib
import io
import lzma
import platform
import sysconfig
from pathlib import Path
from types import SimpleNamespace

import pytest

from makelm import baselines, corpus, documents, files
from makelm.config_corpus import LocalCorpus, Split, UrlCorpus
from makelm.documents import Document
from makelm.errors import UserError
from makelm.progress import Progress

KNOWN_INTERPRETER = pytest.mark.skipif(
    (platform.python_implementation(), platform.python_version()) != ("CPython", "3.11.7"),
    reason="the figures are those of the standard library of CPython 3.11.7",
)


def split(kind: str = "hash", fraction: float = 0.5) -> Split:
    return Split(max_documents=None, clean=None, shards=1, split=kind, valid_fraction=fraction)


# ---- the split


def test_the_hash_split_is_the_one_that_is_written_down():
    value = int(hashlib.sha256(b"email/parser.py").hexdigest()[:16], 16) / 2**64
    assert documents.hash_fraction("email/parser.py") == value


def test_the_hash_split_keeps_documents_whole_and_near_its_fraction():
    texts = [Document(f"{number}.txt", "text") for number in range(2000)]
    parts = [piece for text in texts for piece in corpus.divide(text, split(fraction=0.2))]
    assert [document for _, document in parts] == texts
    assert 0.17 < sum(part == "valid" for part, _ in parts) / 2000 < 0.23


def test_the_tail_split_cuts_every_document():
    parts = list(corpus.divide(Document("a.txt", "äbcdefghij"), split("tail", 0.3)))
    assert parts == [("train", Document("a.txt", "äbcdefg")), ("valid", Document("a.txt#tail", "hij"))]


def test_the_tail_split_leaves_no_empty_documents():
    assert list(corpus.divide(Document("a", "x"), split("tail"))) == [("valid", Document("a#tail", "x"))]
    assert list(corpus.divide(Document("a", ""), split("tail"))) == []


def test_the_tail_split_of_tiny_shakespeare_is_nanogpts(shakespeare):
    text = shakespeare.read_text(encoding="utf-8")
    parts = dict(corpus.divide(Document("input.txt", text), split("tail", 0.1)))
    assert (len(parts["train"].text), len(parts["valid"].text)) == (1_003_854, 111_540)
    assert parts["train"].text + parts["valid"].text == text


# ---- the standard library


@KNOWN_INTERPRETER
def test_the_standard_library_is_divided_as_documented():
    source = corpus.stdlib(Path(sysconfig.get_path("stdlib")))
    found = list(source.documents)
    valid = [piece for text in found for part, piece in corpus.divide(text, split(fraction=0.05)) if part == "valid"]
    assert (len(found), sum(len(text.text.encode()) for text in found)) == (550, 9_182_422)
    assert (len(valid), sum(len(text.text.encode()) for text in valid)) == (29, 307_393)
    assert [text.id for text in found[:2] + found[-2:]] == [
        *("__future__.py", "__hello__.py"),
        *("zoneinfo/_tzpath.py", "zoneinfo/_zoneinfo.py"),
    ]
    assert source.facts == {"implementation": "CPython", "python": "3.11.7"}
    xz = baselines.xz_bytes([text.text.encode() for text in sorted(valid)])
    assert round(xz * 8 / 307_393, 3) == 1.869


def test_tests_and_generated_tables_are_no_part_of_the_standard_library(tmp_path):
    wanted = ["abc.py", "test_support.py", "json/tool.py", "unittest/case.py"]
    others = ["test/a.py", "json/tests/a.py", "idlelib/a.py", "encodings/a.py", "site-packages/a/b.py", "data.txt"]
    for name in [*wanted, *others]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    assert [document.id for document in corpus.stdlib(tmp_path).documents] == wanted


def test_a_python_file_is_decoded_as_it_declares_and_keeps_its_line_ends(tmp_path):
    (tmp_path / "old.py").write_bytes("# coding: latin-1\r\nx = 'é'\r\n".encode("latin-1"))
    assert next(iter(corpus.stdlib(tmp_path).documents)).text == "# coding: latin-1\r\nx = 'é'\r\n"


# ---- files


def of_url(downloads: Path, *files: Path, sums: list[str] | None = None) -> corpus.Source:
    sums = sums or [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
    part = {"source": "url", "url": [path.as_uri() for path in files], "sha256": sums, "text_key": "text"}
    settings = UrlCorpus(**part, **split().model_dump())
    return corpus.url(settings, downloads, Progress("url", io.StringIO(), None))


def test_the_manifest_gets_the_sum_of_every_file_and_no_path(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    sum_ = "982d9e3eb996f559e633f4d194def3761d909f5a3b647d1a851fead67c32c9d1"
    facts = {"files": {"a.txt": {"bytes": 4, "sha256": sum_}}}
    part = {"source": "local", "paths": [str(tmp_path / "a.txt")], "text_key": "text"}
    assert corpus.local(LocalCorpus(**part, **split().model_dump())).facts == facts
    assert of_url(tmp_path / "downloads", tmp_path / "a.txt").facts == facts


def test_urls_give_documents_by_their_names_in_their_order(tmp_path):
    for name in ("b", "a"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.jsonl").write_text(f'{{"text": "eins {name}"}}\n{{"text": "zwei"}}\n')
    one = of_url(tmp_path / "downloads", tmp_path / "a" / "x.jsonl")
    assert list(one.documents) == [Document("x.jsonl:1", "eins a"), Document("x.jsonl:2", "zwei")]
    two = of_url(tmp_path / "downloads", tmp_path / "b" / "x.jsonl", tmp_path / "a" / "x.jsonl")
    assert [document.id for document in two.documents] == [
        f"{folder}/x.jsonl:{line}" for folder in "ba" for line in "12"
    ]


def test_other_bytes_than_expected_are_an_error_with_both_sums(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(UserError, match=r"corpus\.sha256: .*has 982d9e3eb996.*, not 0000"):
        of_url(tmp_path / "downloads", tmp_path / "a.txt", sums=["0" * 64])
    with pytest.raises(UserError, match=r"cannot download file:.*nothing\.txt"):
        of_url(tmp_path / "downloads", tmp_path / "nothing.txt", sums=["0" * 64])


# ---- baselines


def test_the_baselines_are_those_of_the_xz_format():
    train, valid = b"the quick brown fox " * 200, [Document("b", "the quick brown fox "), Document("a", "jumps")]
    found = baselines.xz_baselines([train], valid, 2)
    texts = {"alone": b"jumpsthe quick brown fox ", "train": train, "both": train + b"the quick brown fox jumps"}
    size = {name: len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)) for name, text in texts.items()}
    assert found["xz_bits_per_byte"] == size["alone"] * 8 / 25
    assert found["xz_after_train_bits_per_byte"] == (size["both"] - size["train"]) * 8 / 25


def test_the_tail_holds_what_the_compressor_can_look_back_at(monkeypatch):
    monkeypatch.setattr(baselines, "DICTIONARY", 5)
    monkeypatch.setattr(baselines, "PIECE", 2)
    tail = baselines.Tail()
    for text in ("abc", "def", "", "gh"):
        tail.add(text)
    assert b"".join(tail.texts()) == b"defgh" and len(tail.pieces) <= 3
    tail.add("i")
    assert b"".join(tail.texts()) == b"efghi"
    assert b"".join(baselines.Tail().texts()) == b""


def test_what_is_compressed_of_much_validation_text_is_its_beginning(monkeypatch):
    monkeypatch.setattr(baselines, "DICTIONARY", 5)
    texts = iter([Document("a", "ab"), Document("b", "cdé"), Document("c", "x")])
    assert baselines.beginning(texts) == [Document("a", "ab"), Document("b", "cd")]
    assert next(texts).id == "c"  # and no more is read
    assert baselines.beginning([Document("a", "abcde"), Document("b", "f")]) == [Document("a", "abcde")]
    assert baselines.beginning([Document("a", "é"), Document("b", "")]) == [Document("a", "é"), Document("b", "")]


@pytest.mark.parametrize("read", [lambda new: corpus.open_source(new, None, None), files.source_files])
def test_a_source_that_only_the_configuration_knows_is_an_error(read):
    """It must be said which of its files, if any, are of this machine: a change of these makes the corpus again."""
    with pytest.raises(AssertionError, match="new"):
        read(SimpleNamespace(source="new"))
