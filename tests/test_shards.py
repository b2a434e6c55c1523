"""Token shards: the bytes of the format, and that nothing short, foreign or mixed is read."""

import argparse
import io
import json
import os
import struct
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from makelm import manifest, shard_checks, shards
from makelm.closure import SCRIPTS
from makelm.errors import Interrupted, UserError
from makelm.progress import Progress


def write(path: Path, ids: list[int], vocab_size: int = 300) -> Path:
    with shards.Writer(path, vocab_size) as writer:
        writer.write(ids)
    assert writer.count == len(ids)
    return path


def test_the_bytes_are_those_of_llm_c(tmp_path):
    raw = write(tmp_path / "a.bin", [1, 258, 65535], vocab_size=65536).read_bytes()
    assert raw == struct.pack("<256i", 20240520, 1, 3, *[0] * 253) + b"\x01\x00\x02\x01\xff\xff"
    assert raw[:12].hex() == "88d8340101000000" + "03000000"


def test_a_larger_vocabulary_takes_four_bytes_a_token(tmp_path):
    raw = write(tmp_path / "a.bin", [1, 65536], vocab_size=65537).read_bytes()
    assert raw == struct.pack("<256i", 20240801, 7, 2, *[0] * 253) + b"\x01\0\0\0\0\0\x01\0"


@pytest.mark.parametrize("vocab_size", [65536, 65537])
@pytest.mark.parametrize("ids", [[], [7], list(range(1000))])
def test_what_is_written_is_read(tmp_path, vocab_size, ids):
    found = shards.open_shard(write(tmp_path / "a.bin", ids, vocab_size))
    assert found.tolist() == ids and found.dtype == shards.token_type(vocab_size)


def test_tokens_are_mapped_not_loaded(tmp_path):
    assert isinstance(shards.open_shard(write(tmp_path / "a.bin", [1, 2])), np.memmap)


def test_pieces_are_joined(tmp_path):
    with shards.Writer(tmp_path / "a.bin", 300) as writer:
        for piece in ([1, 2], [], np.array([3], np.uint32)):
            writer.write(piece)
    assert shards.open_shard(tmp_path / "a.bin").tolist() == [1, 2, 3]


def test_a_writer_that_fails_leaves_no_whole_shard(tmp_path):
    with pytest.raises(RuntimeError), shards.Writer(tmp_path / "a.bin", 300) as writer:
        writer.write([1, 2, 3])
        raise RuntimeError
    with pytest.raises(UserError, match="damaged"):
        shards.open_shard(tmp_path / "a.bin")


def test_more_tokens_than_the_header_can_count_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "MAX_TOKENS", 2)
    with pytest.raises(UserError, match=r"more than 2 tokens; raise corpus\.shards"):
        write(tmp_path / "a.bin", [1, 2, 3])


@pytest.mark.parametrize("change", [-1, -2, 1, 2, 1000])
def test_another_length_than_the_header_says_is_an_error(tmp_path, change):
    path = write(tmp_path / "a.bin", [1, 2, 3])
    raw = path.read_bytes()
    path.write_bytes(raw[:change] if change < 0 else raw + bytes(change))
    with pytest.raises(UserError, match=r"a\.bin is damaged: \d+ bytes, but 3 tokens make 1030; .*encode_shard again"):
        shards.open_shard(path)


@pytest.mark.parametrize("raw", [b"", b"x" * 1023, bytes(1024), struct.pack("<256i", 20240520, 2, 0, *[0] * 253)])
def test_what_is_no_shard_is_an_error(tmp_path, raw):
    (tmp_path / "a.bin").write_bytes(raw)
    with pytest.raises(UserError, match=r"a\.bin is no token shard.*encode_shard again"):
        shards.open_shard(tmp_path / "a.bin")


def test_a_missing_shard_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"a\.bin is missing; run encode_shard"):
        shards.open_shard(tmp_path / "a.bin")


# ---- folders


def make_folder(folder: Path, changes: dict[int, dict] | None = None) -> Path:
    """Writes two shards as encode_shard would: train ids n and n + 1, one validation id."""
    for number in range(2):
        counts = {"documents": 1, "bytes": 10 + number}
        facts = {"shard": number, "num_shards": 2, "vocab_size": 300, "tokenizer": "abc"}
        facts |= {"begin_of_text": None, "end_of_text": 299}
        facts |= {"train": {**counts, "tokens": 2}, "valid": {**counts, "tokens": 1}}
        facts |= (changes or {}).get(number, {})
        write(folder / f"train-{number:05d}.bin", [number, number + 1])
        write(folder / f"valid-{number:05d}.bin", [number])
        files = manifest.describe_files(folder, frozenset())
        files = {name: files[name] for name in (f"train-{number:05d}.bin", f"valid-{number:05d}.bin")}
        content = manifest.build({"facts": facts, "files": files}, {})
        (folder / f"{number:05d}.json").write_text(manifest.canonical(content))
    return folder


def read_input(name: str, path: Path) -> dict:
    assert name == path.stem
    return manifest.read(path)["content"]


def test_a_folder_is_all_its_shards(tmp_path):
    found = shards.open_folder(make_folder(tmp_path), read_input)
    assert [ids.tolist() for ids in found.train] == [[0, 1], [1, 2]]
    assert [ids.tolist() for ids in found.valid] == [[0], [1]]
    assert (found.vocab_size, found.end_of_text, found.tokenizer) == (300, 299, "abc")
    assert (found.total("train", "tokens"), found.valid_tokens, found.valid_bytes) == (4, 2, 21)


@pytest.mark.parametrize(("hard", "said"), [(512, ""), (32, ".bin: more files would be open than this machine allows")])
def test_more_shards_than_files_may_be_open_are_opened_or_refused_in_one_line(tmp_path, hard, said):
    facts = {"tokenizer": "abc", "vocab_size": 300, "end_of_text": 299, "num_shards": 100, "train": {"tokens": 1}}
    for number in range(100):
        write(tmp_path / f"train-{number:05d}.bin", [number])
    program = (
        "import resource, pathlib\nfrom makelm import cli, shards\n"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, (32, {hard}))\n"
        f"folder = shards.Folder(pathlib.Path({str(tmp_path)!r}), [{facts!r}] * 100, {{}})\n"
        "try:\n    assert len(folder.train) == 100\nexcept OSError as error:\n    print(cli.explain(error))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=SCRIPTS, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert said in done.stdout and bool(done.stdout) == bool(said)


def test_validation_is_read_without_training_shards(tmp_path):
    make_folder(tmp_path)
    (tmp_path / "train-00000.bin").unlink()
    assert len(shards.open_folder(tmp_path, read_input).valid) == 2


@pytest.mark.parametrize("key", ["tokenizer", "vocab_size", "begin_of_text", "end_of_text", "num_shards"])
def test_shards_that_do_not_belong_together_are_an_error_with_both_sides(tmp_path, key):
    make_folder(tmp_path, {1: {key: 77}})
    with pytest.raises(UserError, match=rf"shard 00001 has {key} 77, but shard 00000 has (abc|300|299|None|2);"):
        shards.open_folder(tmp_path, read_input)


def test_a_shard_of_another_count_than_its_manifest_says_is_an_error(tmp_path):
    make_folder(tmp_path)
    write(tmp_path / "train-00001.bin", [1, 2, 3])
    with pytest.raises(UserError, match=r"train-00001\.bin has 3 tokens, its manifest says 2"):
        _ = shards.open_folder(tmp_path, read_input).train


def test_an_id_outside_the_vocabulary_is_an_error_that_names_the_shard(tmp_path):
    make_folder(tmp_path)
    shards.check_ids(shards.open_folder(tmp_path, read_input))
    write(tmp_path / "valid-00001.bin", [300])
    with pytest.raises(UserError, match=r"valid-00001\.bin has the token id 300, outside the vocabulary of 300;"):
        shards.check_ids(shards.open_folder(tmp_path, read_input))


def test_shards_that_say_their_largest_id_are_not_read_to_find_it(tmp_path):
    counts = {"documents": 1, "bytes": 10, "tokens": 2}
    parts = {"train": counts | {"largest_id": 300}, "valid": counts | {"largest_id": 1}}
    with pytest.raises(UserError, match=r"train-00001\.bin has the token id 300, outside the vocabulary of 300;"):
        shards.check_ids(
            shards.open_folder(
                make_folder(tmp_path, {1: parts, 0: parts | {"train": counts | {"largest_id": 1}}}), read_input
            )
        )


# ---- sums


class Job:
    """What checks ask of a stage's job: what was said, how many bytes were read, and whether it is to stop."""

    def __init__(self):
        self.said, self.args, self.stopping = io.StringIO(), argparse.Namespace(cores=2), threading.Event()
        self.progress = Progress("test", self.said, None)
        self.say = self.progress.say


@pytest.fixture
def read(monkeypatch) -> list[str]:
    """The names of the files whose sums were made."""
    names, sha256 = [], manifest.file_sha256
    monkeypatch.setattr(manifest, "file_sha256", lambda path: names.append(path.name) or sha256(path))
    return names


def check(folder: Path, parts: tuple[str, ...] = ("train", "valid")) -> Job:
    job = Job()
    shard_checks.check(job, [shards.open_folder(folder, read_input)], parts)
    return job


def test_an_altered_shard_of_the_same_length_is_an_error_until_it_is_as_it_was(tmp_path, read):
    path = make_folder(tmp_path) / "train-00001.bin"
    check(tmp_path)
    raw = path.read_bytes()
    path.write_bytes(raw[:-2] + b"\7\0")
    with pytest.raises(UserError, match=r"train-00001\.bin is altered: .*; remove it and run encode_shard again"):
        check(tmp_path)
    check(tmp_path, ("valid",))
    path.write_bytes(raw)
    check(tmp_path)


def test_a_shard_is_read_again_only_after_something_changed_it(tmp_path, read):
    make_folder(tmp_path)
    read.clear()
    check(tmp_path, ("valid",))
    assert sorted(read) == ["valid-00000.bin", "valid-00001.bin"]
    check(tmp_path)
    assert sorted(read[2:]) == ["train-00000.bin", "train-00001.bin"]
    os.utime(tmp_path / "train-00000.bin")
    check(tmp_path)
    assert read[4:] == ["train-00000.bin"]
    (tmp_path / "checked.json").write_text("{")
    check(tmp_path)
    assert len(read) == 9


def test_shards_that_were_made_anew_are_compared_with_their_own_manifest(tmp_path):
    """Content of before, under a manifest of after."""
    check(make_folder(tmp_path))
    old = manifest.read(tmp_path / "00001.json")["content"]
    files = old["files"] | {"train-00001.bin": old["files"]["valid-00001.bin"]}
    (tmp_path / "00001.json").write_text(manifest.canonical(manifest.build(old | {"files": files}, {})))
    with pytest.raises(UserError, match="train-00001"):
        check(tmp_path)


def test_a_folder_that_cannot_be_written_to_is_read_each_time(tmp_path, read, monkeypatch):
    make_folder(tmp_path)
    read.clear()

    def refuse(*names: object) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "replace", refuse)
    check(tmp_path), check(tmp_path)
    assert len(read) == 8


def test_what_takes_a_moment_is_said_and_can_be_stopped(tmp_path, monkeypatch):
    make_folder(tmp_path)
    monkeypatch.setattr(shard_checks, "MOMENT", 4000)
    assert check(tmp_path).said.getvalue().startswith("[test] reads 4.1 kB of token shards, to compare them")
    assert check(tmp_path).said.getvalue() == ""
    (tmp_path / "checked.json").unlink()
    job = Job()
    job.stopping.set()
    with pytest.raises(Interrupted):
        shard_checks.check(job, [shards.open_folder(tmp_path, read_input)], ("train", "valid"))
    assert len(json.loads((tmp_path / "checked.json").read_text())) == 1, "what was read is not read again"
