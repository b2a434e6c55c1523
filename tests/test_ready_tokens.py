"""Token files that others made: verified, linked and counted to the byte, with a header or without."""

import errno
import hashlib
import io
import os
from pathlib import Path

import hub
import numpy as np
import pytest
import web

from makelm import ready_tokens, shards, token_files, token_header, vocabulary
from makelm.config_corpus import TokensCorpus
from makelm.config_tokenizer import ByteTokenizer
from makelm.errors import UserError
from makelm.progress import Progress

IDS = np.array([97, 98, 256, 195, 169, 256], "<u2")  # "ab", "é"
BYTES, _ = vocabulary.existing(ByteTokenizer(kind="byte", begin_of_text=False, end_of_text=True))


def write(path: Path, ids: np.ndarray = IDS, header: bool = True) -> str:
    """Writes a token file and returns its path."""
    path.write_bytes((token_header.header(ids.dtype.name, len(ids)) if header else b"") + ids.tobytes())
    return str(path)


def settings(**change: object) -> TokensCorpus:
    part = {"source": "tokens", "repository": None, "revision": None, "dtype": None, "sha256": {}}
    return TokensCorpus(**part | change)


def gather(folder: Path, **change: object) -> tuple[dict, list[str]]:
    """Returns the facts and what was said."""
    said = io.StringIO()
    (folder / "out").mkdir()
    facts = token_files.gather(settings(**change), folder / "out", folder / "downloads", Progress("tokens", said, None))
    return facts, said.getvalue().splitlines()


def count(path: Path, headerless: str | None = None) -> dict:
    with Progress("count", io.StringIO(), None).track(0, "tokens") as bar:
        return ready_tokens.count(path, headerless, BYTES, bar)


# ---- download_corpus


def test_files_are_linked_and_a_part_with_fewer_is_empty_at_its_end(tmp_path):
    paths = [write(tmp_path / f"{name}.bin") for name in "abc"]
    facts, said = gather(tmp_path, train=paths[:2], valid=paths[2:])
    names = ("train-00000.bin", "train-00001.bin", "valid-00000.bin")
    assert all((tmp_path / "out" / name).samefile(path) for name, path in zip(names, paths, strict=True))
    assert len(shards.open_shard(tmp_path / "out" / "valid-00001.bin")) == 0
    assert facts == {
        **{"num_shards": 2, "headerless": None, "train": {"tokens": 12}, "valid": {"tokens": 6}},
        **{"source": {"train": ["a.bin", "b.bin"], "valid": ["c.bin"]}},
        **{"xz_bits_per_byte": None, "xz_after_train_bits_per_byte": None},
    }
    assert not said and str(tmp_path) not in str(facts)


def test_where_there_are_no_links_files_are_copied_with_a_line(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    _, said = gather(tmp_path, train=[write(tmp_path / "a.bin")], valid=[write(tmp_path / "b.bin")])
    assert (tmp_path / "out" / "train-00000.bin").read_bytes() == (tmp_path / "a.bin").read_bytes()
    assert said[0].endswith("a.bin: copied, since it cannot be linked to from here")


def test_files_without_a_header_are_read_where_the_configuration_says_so(tmp_path):
    paths = [write(tmp_path / f"{name}.bin", header=False) for name in "ab"]
    facts, _ = gather(tmp_path, train=paths[:1], valid=paths[1:], dtype="uint16")
    assert (facts["headerless"], facts["train"]) == ("uint16", {"tokens": 6})
    assert shards.open_shard(tmp_path / "out" / "train-00000.bin", "uint16").tolist() == IDS.tolist()


@pytest.mark.parametrize(
    ("content", "dtype", "message"),
    [
        (b"\0" * 2000, None, r"is no token shard: magic 0, version 0; for ids without a header, .* set dtype: uint16"),
        (b"", None, "0 bytes are less than a header"),
        (token_header.header("uint16", 4) + b"\0" * 6, None, "is damaged: 1030 bytes, but 4 tokens make 1032"),
        (b"\0" * 7, "uint16", "is damaged: 7 bytes are no whole number of uint16"),
        (token_header.header("uint32", 1) + b"\0" * 4, "uint16", r"dtype: .* has a header, which says the type; set d"),
        (token_header.header("uint16", 0), None, "there are no tokens in these files"),
    ],
)
def test_what_is_no_token_file_is_refused(tmp_path, content, dtype, message):
    (tmp_path / "a.bin").write_bytes(content)
    good = write(tmp_path / "b.bin", header=dtype is None)
    with pytest.raises(UserError, match=rf"^corpus.*{message}"):
        gather(tmp_path, train=[str(tmp_path / "a.bin")], valid=[good], dtype=dtype)


def test_a_stated_sum_is_held(tmp_path):
    train, valid = write(tmp_path / "a.bin"), write(tmp_path / "b.bin")
    with pytest.raises(UserError, match=rf"^corpus\.sha256: {valid} has \w{{64}}, not 0000"):
        gather(tmp_path, train=[train], valid=[valid], sha256={valid: "0" * 64})


def test_files_of_the_network_are_those_with_the_sum(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    body = Path(write(tmp_path / "a.bin")).read_bytes()
    with web.serve() as server:
        server.answers = [web.content(body)]
        address = server.address("train.bin")
        sums = {address: hashlib.sha256(body).hexdigest()}
        facts, _ = gather(tmp_path, train=[address], valid=[str(tmp_path / "a.bin")], sha256=sums)
    assert facts["train"] == {"tokens": 6} and facts["source"]["train"] == ["train.bin"]


def test_files_of_the_hub_are_all_of_one_commit(tmp_path, monkeypatch):
    import huggingface_hub.constants as constants

    body = Path(write(tmp_path / "a.bin")).read_bytes()
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with hub.serve() as server:
        server.data_sets["org/tokens"] = {"x/train_1.bin": body, "x/train_2.bin": body, "valid.bin": body}
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.partition("{")
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{server.address}/{{{template[2]}")
        of_hub = {"repository": "org/tokens", "train": ["x/train_{1..2}.bin"], "valid": ["valid.bin"]}
        facts, _ = gather(tmp_path, **of_hub)
        (tmp_path / "other").mkdir()
        with pytest.raises(UserError, match=r"corpus\.repository: org/tokens has no x/none\.bin"):
            gather(tmp_path / "other", **of_hub | {"train": ["x/none.bin"]})
    commit = {"commit": hub.COMMIT}
    assert facts["source"] == {"train": ["train_1.bin", "train_2.bin"], "valid": ["valid.bin"]} | commit
    assert facts["train"] == {"tokens": 12}
    assert not (tmp_path / "out" / "train-00000.bin").is_symlink()


# ---- encode_shard


def test_tokens_documents_and_bytes_are_counted_across_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(ready_tokens, "CHUNK", 4)
    expected = {"documents": 2, "bytes": len("abé".encode()), "tokens": 6, "largest_id": 256}
    assert count(Path(write(tmp_path / "a.bin"))) == expected
    headerless = Path(write(tmp_path / "b.bin", IDS.astype("<u4"), header=False))
    assert count(headerless, "uint32") == expected | {"headerless": "uint32"}
    assert count(Path(write(tmp_path / "c.bin", IDS[:0]))) == dict.fromkeys(expected, 0)


def test_an_id_outside_the_vocabulary_is_named_with_its_place(tmp_path, monkeypatch):
    monkeypatch.setattr(ready_tokens, "CHUNK", 4)
    path = write(tmp_path / "a.bin", np.array([1, 2, 3, 4, 5, 257, 9], "<u2"))
    with pytest.raises(UserError, match=r"a\.bin: token 5 has the id 257, outside the vocabulary of 257; name the tok"):
        count(Path(path))
