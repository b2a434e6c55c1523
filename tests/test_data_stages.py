"""The stages that make token shards out of text, as programs: what they write, how they end, what they leave."""

import fcntl
import gzip
import hashlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import web

from makelm import documents, inspection, manifest, shards, token_header, tokenizer

REPOSITORY = Path(__file__).resolve().parent.parent
SCRIPTS = REPOSITORY / "scripts"
ENDS = {"begin_of_text": False, "end_of_text": True}
BPE = {"kind": "bpe", "corpus": "mine", "vocab_size": 270, "sample_bytes": None, "pattern": r"\s+|\S+", **ENDS}
ENCODE = {"encoder": None}


def corpus_keys(*paths: Path, clean: dict | None = None, **change: object) -> dict:
    part = {"source": "local", "paths": [str(path) for path in paths], "text_key": "text"}
    part |= {"shards": 2, "split": "tail", "valid_fraction": 0.25, **change}
    part = {key: value for key, value in part.items() if value is not None}
    return {"corpus": part | {"max_documents": None, "clean": clean}, "python": None}


def start(stage: str, keys: dict, folder: Path, out: Path, *arguments: object) -> subprocess.Popen:
    """Starts a stage from a folder that is not the repository's."""
    command = [sys.executable, str(SCRIPTS / f"{stage}.py"), "--config", json.dumps({"locked": {}, **keys})]
    command += ["--out", str(out), *map(str, arguments)]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(*arguments: object) -> None:
    """Runs a stage that must end well."""
    process = start(*arguments)
    said, complaints = process.communicate()
    assert process.returncode == 0, complaints
    assert not complaints and "wrote " in said


def refuse(*arguments: object) -> str:
    """Runs a stage that must refuse its input, and returns the line that says so."""
    out = arguments[3]
    before = snapshot(out)
    process = start(*arguments)
    said, complaints = process.communicate()
    assert process.returncode == 2, complaints
    assert complaints.count("\n") == 1 and "Traceback" not in complaints + said
    assert snapshot(out) == before
    return complaints


def snapshot(folder: Path) -> dict[str, str]:
    """Returns the files that a folder shows and their sums; the lock is hidden."""
    paths = [path for path in folder.rglob("[!.]*") if path.is_file() and path.parent.name != ".download"]
    return {path.relative_to(folder).as_posix(): manifest.file_sha256(path) for path in paths}


def content(folder: Path, name: str = "manifest.json") -> dict:
    return manifest.read(folder / name)["content"]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Returns a folder with a corpus of 8 documents, a tokenizer and both token shards, made by the stages."""
    top = tmp_path_factory.mktemp("made")
    (top / "books").mkdir()
    for number in range(8):
        (top / "books" / f"{number}.txt").write_text(f"book {number}: the cat and the hat, naïve <|endoftext|>\n" * 9)
    run("download_corpus", corpus_keys(Path("books")), top, top / "corpus")
    run("train_tokenizer", {"tokenizer": BPE}, top, top / "tokenizer", "--corpus", "corpus")
    for number in ("00000", "00001"):
        encode(top, top / "tokens", number)
    return top


def encode(top: Path, out: Path, number: str) -> None:
    run("encode_shard", ENCODE, top, out, "--corpus", "corpus", "--tokenizer", "tokenizer", "--shard", number)


# ---- what they write


def test_the_corpus_is_all_of_the_text(made):
    facts = content(made / "corpus")["facts"]
    train, valid = (
        list(documents.read_in_order(made / "corpus", part, facts["num_shards"])) for part in ("train", "valid")
    )
    for number, (head, tail) in enumerate(zip(train, valid, strict=True)):
        assert (head.id, tail.id) == (f"books/{number}.txt", f"books/{number}.txt#tail")
        assert head.text + tail.text == (made / "books" / f"{number}.txt").read_text()
    assert facts["train"] == {"documents": 8, "bytes": sum(len(text.text.encode()) for text in train)}
    assert facts["valid"] == {"documents": 8, "bytes": sum(len(text.text.encode()) for text in valid)}
    assert 0 < facts["xz_after_train_bits_per_byte"] < facts["xz_bits_per_byte"]
    assert facts["source"]["files"]["books/3.txt"]["sha256"] == manifest.file_sha256(made / "books" / "3.txt")


def test_the_tokens_are_the_documents_each_with_its_end(made):
    found = tokenizer.load(made / "tokenizer")
    folder = shards.open_folder(made / "tokens", lambda _, path: content(path.parent, path.name))
    assert (folder.tokenizer, folder.vocab_size, folder.end_of_text) == (found.digest, 270, 269)
    for part in documents.PARTS:
        for number, ids in enumerate(getattr(folder, part)):
            texts = list(documents.read(made / "corpus" / documents.shard_name(part, number)))
            assert ids.tolist() == [id for text in texts for id in [*found.encode(text.text), 269]]
            counts = content(made / "tokens", f"{number:05d}.json")["facts"][part]
            length = sum(len(text.text.encode()) for text in texts)
            expected = {"documents": len(texts), "bytes": length, "tokens": len(ids), "largest_id": max(ids)}
            assert counts == expected | ({"lost_bytes": 0} if part == "valid" else {})
    assert folder.lost_share == 0


def test_manifests_chain_and_name_no_absolute_path(made):
    corpus, trained, encoded = (
        manifest.read(made / name) for name in ("corpus/manifest.json", "tokenizer/manifest.json", "tokens/00001.json")
    )
    assert trained["content"]["inputs"] == {"corpus": corpus["digest"]}
    assert encoded["content"]["inputs"] == {"corpus": corpus["digest"], "tokenizer": trained["digest"]}
    assert trained["content"]["facts"]["tokenizer"] == encoded["content"]["facts"]["tokenizer"]
    for one in (corpus, trained, encoded):
        assert str(made) not in json.dumps(one) and sys.prefix not in json.dumps(one)


def test_the_tokenizer_never_sees_validation_documents(tmp_path):
    (tmp_path / "a.txt").write_text("a" * 300 + "z" * 100)
    run("download_corpus", corpus_keys(tmp_path / "a.txt"), tmp_path, tmp_path / "corpus")
    keys = {"tokenizer": {"kind": "char", "corpus": "mine", **ENDS}}
    run("train_tokenizer", keys, tmp_path, tmp_path / "tokenizer", "--corpus", "corpus")
    assert tokenizer.load(tmp_path / "tokenizer").ranks == {b"a": 0}
    arguments = ("--corpus", "corpus", "--tokenizer", "tokenizer", "--shard", 0)
    assert "has no character 'z'" in refuse("encode_shard", ENCODE, tmp_path, tmp_path / "tokens", *arguments)


def test_the_same_again_is_the_same_to_the_byte(made, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "books").symlink_to(made / "books")
    run("download_corpus", corpus_keys(Path("books")), tmp_path / "elsewhere", tmp_path / "corpus", "--cores", 1)
    run("train_tokenizer", {"tokenizer": BPE}, tmp_path, tmp_path / "tokenizer", "--corpus", "corpus", "--cores", 1)
    encode(tmp_path, tmp_path / "tokens", "00001")
    for name in ("corpus/manifest.json", "tokenizer/manifest.json", "tokens/00001.json"):
        assert manifest.read(tmp_path / name)["digest"] == manifest.read(made / name)["digest"]


def test_fewer_shards_leave_none_of_the_old_ones(made, tmp_path):
    for count in (3, 1):
        run("download_corpus", corpus_keys(made / "books", shards=count), tmp_path, tmp_path / "corpus")
    names = {path.name for path in (tmp_path / "corpus").iterdir() if not path.name.startswith(".")}
    assert names == {"manifest.json", "train-00000.jsonl.zst", "valid-00000.jsonl.zst"}


def test_urls_make_a_corpus_and_leave_nothing_of_the_download(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    bodies = [f"some text, some text {number}".encode() for number in range(2)]
    sums = [hashlib.sha256(body).hexdigest() for body in bodies]
    with web.serve() as server:
        addresses = [server.address(f"{number}.txt.gz") for number in range(2)]
        packed = [gzip.compress(body, mtime=0) for body in bodies]
        sums = [hashlib.sha256(body).hexdigest() for body in packed]
        server.answers = [web.content(packed[0]), web.status(404)]
        keys = corpus_keys(source="url", paths=None, url=addresses, sha256=sums)
        assert "corpus: cannot download" in refuse("download_corpus", keys, tmp_path, tmp_path / "corpus")
        assert [path.name for path in (tmp_path / "corpus/.download").iterdir()] == sums[:1]
        server.answers = [web.content(packed[1])]
        run("download_corpus", keys, tmp_path, tmp_path / "corpus")
    assert list(snapshot(tmp_path / "corpus")) and not (tmp_path / "corpus/.download").exists()
    names = content(tmp_path / "corpus")["facts"]["source"]["files"]
    assert {name: facts["sha256"] for name, facts in names.items()} == dict(
        zip(("0.txt.gz", "1.txt.gz"), sums, strict=True)
    )
    texts = [text.text for part in documents.PARTS for text in documents.read_in_order(tmp_path / "corpus", part, 2)]
    assert "".join(texts[0::2] + texts[1::2]) == "".join(body.decode() for body in bodies)


@pytest.mark.parametrize("dtype", [None, "uint16"])
def test_ready_tokens_are_what_their_text_would_have_become(made, tmp_path, dtype):
    files = {}
    for part in documents.PARTS:
        for number in range(2):
            name = token_header.shard_name(part, number)
            content_ = (made / "tokens" / name).read_bytes()
            (tmp_path / name).write_bytes(content_[token_header.HEADER_BYTES if dtype else 0 :])
            files.setdefault(part, []).append(name)
    tokens = {"source": "tokens", "repository": None, "revision": None, "dtype": dtype, "sha256": {}, **files}
    top = tmp_path / "results"
    run("download_corpus", {"corpus": tokens, "python": None}, tmp_path, top / "corpus")
    (tmp_path / "tokenizer").symlink_to(made / "tokenizer")
    for number in ("00000", "00001"):
        arguments = ("--corpus", "results/corpus", "--tokenizer", "tokenizer", "--shard", number)
        run("encode_shard", ENCODE, tmp_path, top / "tokens", *arguments)
    assert (top / "tokens/train-00001.bin").samefile(tmp_path / "train-00001.bin")
    top = top.rename(tmp_path / "moved")
    folder = shards.open_folder(top / "tokens", lambda _, path: content(path.parent, path.name))
    shards.check_ids(folder)
    for part in documents.PARTS:
        for number, ids in enumerate(getattr(folder, part)):
            name = f"{number:05d}.json"
            facts = content(top / "tokens", name)["facts"][part]
            expected = content(made / "tokens", name)["facts"][part] | ({"headerless": dtype} if dtype else {})
            expected.pop("lost_bytes", None)  # nobody knows their text
            assert facts == expected
            assert ids.tolist() == shards.open_shard(made / "tokens" / token_header.shard_name(part, number)).tolist()
    shown = inspection.inspect(top / "tokens" / "valid-00001.bin")["facts"]
    assert shown["tokens"] == len(folder.valid[1]) and shown["first_tokens"] == folder.valid[1][:64].tolist()


# ---- how they refuse


def test_bad_sources_are_refused_in_one_line(tmp_path):
    out = tmp_path / "out"
    (tmp_path / "empty.txt").touch()
    (tmp_path / "latin.txt").write_bytes("é".encode("latin-1"))
    (tmp_path / "one.txt").write_text("one document")
    lines = {
        "nothing.txt": "corpus.paths: no such file: nothing.txt",
        "empty.txt": "corpus: it is empty",
        "latin.txt": "latin.txt is not UTF-8 at byte 0",
    }
    for name, expected in lines.items():
        assert expected in refuse("download_corpus", corpus_keys(Path(name)), tmp_path, out)
    keys = corpus_keys(Path("one.txt"), split="hash")
    assert "set split: tail" in refuse("download_corpus", keys, tmp_path, out)
    python = {
        "corpus": {
            "source": "stdlib",
            "shards": 1,
            "max_documents": None,
            "clean": None,
            "split": "hash",
            "valid_fraction": 0.1,
        },
        "python": "2.7.18",
    }
    assert f"2.7.18, but this is Python {platform.python_version()}" in refuse("download_corpus", python, tmp_path, out)


def test_a_damaged_document_shard_is_noticed_before_it_is_read(made, tmp_path):
    (tmp_path / "corpus").mkdir()
    for path in (made / "corpus").glob("[!.]*"):
        (tmp_path / "corpus" / path.name).write_bytes(path.read_bytes())
    victim = tmp_path / "corpus" / "train-00001.jsonl.zst"
    whole = victim.read_bytes()
    tokens = ("encode_shard", ENCODE, tmp_path, tmp_path / "tokens", "--corpus", "corpus")
    tokens += ("--tokenizer", made / "tokenizer", "--shard", 1)
    train = ("train_tokenizer", {"tokenizer": BPE}, tmp_path, tmp_path / "tokenizer", "--corpus", "corpus")
    victim.write_bytes(whole[:-7])
    for stage in (tokens, train):
        assert f"train-00001.jsonl.zst is damaged: {len(whole) - 7} bytes instead of {len(whole)}" in refuse(*stage)
    victim.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert "train-00001.jsonl.zst is damaged: its sha256" in refuse(*tokens)
    victim.unlink()
    assert "train-00001.jsonl.zst is missing" in refuse(*tokens)


def test_bad_arguments_are_refused_in_one_line(made, tmp_path):
    out = tmp_path / "out"
    inputs = ("--corpus", made / "corpus", "--tokenizer", made / "tokenizer")
    assert "shards 0 to 1, not 2" in refuse("encode_shard", ENCODE, tmp_path, out, *inputs, "--shard", 2)
    keys = {"tokenizer": BPE | {"vocab_size": 9999}}
    assert "tokenizer.vocab_size: the training documents support" in refuse(
        "train_tokenizer", keys, tmp_path, out, *inputs[:2]
    )
    assert "manifest.json is missing; run" in refuse(
        "train_tokenizer", {"tokenizer": BPE}, tmp_path, out, "--corpus", tmp_path
    )


def test_what_another_version_made_is_told_in_one_line(made, tmp_path):
    shutil.copytree(made / "corpus", tmp_path / "corpus")
    path = tmp_path / "corpus/manifest.json"
    old = manifest.read(path)
    del old["content"]["facts"]["train"]
    path.write_text(json.dumps(manifest.build(old["content"], old["made"])))
    inputs = ("--corpus", tmp_path / "corpus")
    said = refuse("train_tokenizer", {"tokenizer": BPE}, tmp_path, tmp_path / "out", *inputs)
    assert "manifest.json says nothing of train: another version of makelm made it; run download_corpus again" in said


# ---- how they are killed


def wait_for(condition) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_download_leaves_nothing_and_runs_again(tmp_path, signum):
    pipe = tmp_path / "slow.txt"
    os.mkfifo(pipe)  # reading it never ends, so the stage is surely in the middle
    keys, out = corpus_keys(Path("fast.txt"), Path("slow.txt")), tmp_path / "corpus"
    (tmp_path / "fast.txt").write_text("text and text")
    process = start("download_corpus", keys, tmp_path, out)
    wait_for(lambda: list(out.glob(".partial-*")))
    time.sleep(0.2)
    process.send_signal(signum)
    complaints = process.communicate()[1]
    assert process.returncode == (75 if signum == signal.SIGTERM else -signal.SIGKILL)
    assert "Traceback" not in complaints
    assert not list(out.glob("[!.]*"))
    pipe.unlink()
    pipe.write_text("more text")
    run("download_corpus", keys, tmp_path, out)
    assert not list(out.glob(".partial-*")) and content(out)["facts"]["train"]["documents"] == 2


def test_a_killed_encoding_leaves_the_old_shard_whole(made, tmp_path):
    """The lock of the artifact is held here, so the stage waits; killed then, it must have touched nothing."""
    out = tmp_path / "tokens"
    for number in ("00000", "00001"):
        if not (tmp_path / "corpus").exists():
            (tmp_path / "corpus").symlink_to(made / "corpus")
            (tmp_path / "tokenizer").symlink_to(made / "tokenizer")
        encode(tmp_path, out, number)
    before = snapshot(out)
    with (out / ".00001.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        arguments = ("--corpus", "corpus", "--tokenizer", "tokenizer", "--shard", 1)
        process = start("encode_shard", ENCODE, tmp_path, out, *arguments)
        assert "waiting for" in process.stdout.readline()
        process.kill()
        process.communicate()
    assert snapshot(out) == before
    encode(tmp_path, out, "00001")
    assert snapshot(out).keys() == before.keys()
    assert manifest.read(out / "00001.json")["digest"] == manifest.read(made / "tokens" / "00001.json")["digest"]
