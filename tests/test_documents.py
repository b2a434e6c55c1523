"""Document shards: what is written is read, equal texts give equal bytes, and damage is noticed."""

import json
import random
import resource
from pathlib import Path

import pytest
import zstandard

from makelm import documents
from makelm.documents import Document
from makelm.errors import UserError

TEXTS = [
    Document("plain", "hello\nworld\r\n"),
    Document("empty", ""),
    Document("signs", 'quote " backslash \\ nul \0 line separator \u2028 \U0001f600 <|endoftext|>'),
    Document("long", "x" * (documents.CHUNK * 2 + 1)),
]
NOISE = "".join(random.Random(0).choices("ghijklmopqsvwxyz", k=300_000))  # half as long at best, compressed


def write(path: Path, texts: list[Document]) -> Path:
    with documents.Writer(path) as writer:
        for document in texts:
            writer.write(document)
    return path


def test_what_is_written_is_read(tmp_path):
    assert list(documents.read(write(tmp_path / "a", TEXTS))) == TEXTS


@pytest.mark.parametrize("text", [NOISE, "x" * 3 * documents.PART], ids=["of many blocks", "of one"])
def test_a_text_of_any_length_is_read_whole_and_in_parts(tmp_path, monkeypatch, text):
    path = write(tmp_path / "a", [Document("one", text), Document("two", "end")])
    assert [document.text for document in documents.read(path)] == [text, "end"]
    monkeypatch.setattr(documents, "PART", len(text) // 4)
    *parts, end = documents.read_parts(path)
    assert end == ("end", True) and len(parts) > 2
    assert ["".join(part.text for part in parts), [part.last for part in parts[-2:]]] == [text, [False, True]]


def test_a_shard_without_documents_is_whole(tmp_path):
    assert list(documents.read(write(tmp_path / "a", []))) == []


def test_equal_documents_give_equal_bytes(tmp_path):
    assert write(tmp_path / "a", TEXTS).read_bytes() == write(tmp_path / "b", TEXTS).read_bytes()


def test_a_shard_is_zstd_over_canonical_json_lines(tmp_path):
    raw = write(tmp_path / "a", [Document("naïve", "é\n")]).read_bytes()
    assert raw[:4] == bytes.fromhex("28b52ffd")
    line = zstandard.ZstdDecompressor().decompressobj().decompress(raw)
    assert line == '{"id":"naïve","text":"é\\n"}\n'.encode()
    assert json.loads(line) == {"id": "naïve", "text": "é\n"}


@pytest.mark.parametrize("keep", [0, 1, 4, 20, -5, -1])
def test_a_truncated_shard_is_an_error_that_names_it(tmp_path, keep):
    path = write(tmp_path / "train-00000.jsonl.zst", TEXTS)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"train-00000\.jsonl\.zst is damaged"):
        list(documents.read(path))


def test_a_flipped_bit_is_an_error_or_changes_nothing(tmp_path):
    whole = write(tmp_path / "a", TEXTS[:3]).read_bytes()
    noticed = 0
    for place in range(len(whole)):
        broken = bytearray(whole)
        broken[place] ^= 1
        (tmp_path / "b").write_bytes(broken)
        try:
            # one bit of the frame's header is the size of a window, of which a larger one does as well
            assert list(documents.read(tmp_path / "b")) == TEXTS[:3], place
        except UserError:
            noticed += 1
    assert noticed >= len(whole) - 1


def test_many_frames_are_read_as_one(tmp_path):
    with documents.Writer(tmp_path / "a", frame=30) as writer:
        for document in TEXTS:
            writer.write(document)
    assert (tmp_path / "a").read_bytes().count(bytes.fromhex("28b52ffd")) > 2
    assert list(documents.read(tmp_path / "a")) == TEXTS


def test_a_corpus_can_have_more_shards_than_a_process_open_files(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    texts = [Document(str(number), "text") for number in range(300)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))
    try:
        with documents.PartWriter(tmp_path, "train", 150) as part:
            for document in texts:
                part.write(document)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 100, "writing needs none of them"
        assert list(documents.read_in_order(tmp_path, "train", 150)) == texts
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_bytes_after_the_end_are_an_error(tmp_path):
    path = write(tmp_path / "a", TEXTS)
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(UserError, match="damaged"):
        list(documents.read(path))


def test_a_line_that_is_no_document_is_an_error(tmp_path):
    (tmp_path / "a").write_bytes(zstandard.ZstdCompressor().compress(b'{"id":"x"}\n'))
    with pytest.raises(UserError, match="damaged"):
        list(documents.read(tmp_path / "a"))


def test_a_writer_that_fails_leaves_no_whole_shard(tmp_path):
    with pytest.raises(RuntimeError), documents.Writer(tmp_path / "a") as writer:
        writer.write(TEXTS[0])
        raise RuntimeError
    with pytest.raises(UserError, match="damaged"):
        list(documents.read(tmp_path / "a"))


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7])
def test_documents_are_dealt_out_in_turn_and_read_back_in_order(tmp_path, count):
    texts = [Document(str(number), "é" * number) for number in range(count)]
    with documents.PartWriter(tmp_path, "valid", 3) as part:
        for document in texts:
            part.write(document)
    assert part.facts() == {"documents": count, "bytes": sum(2 * number for number in range(count))}
    assert list(documents.read(tmp_path / "valid-00001.jsonl.zst")) == texts[1::3]
    assert list(documents.read_in_order(tmp_path, "valid", 3)) == texts
