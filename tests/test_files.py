"""Files that a corpus names: found in one order whatever their place, known by their names, bad ones named."""

from pathlib import Path

import pytest
import yaml

from makelm import configfile, files, source_files
from makelm.errors import UserError

REPOSITORY = Path(__file__).resolve().parent.parent
SPLIT = {"shards": 1, "max_documents": None, "clean": None, "split": "hash", "valid_fraction": 0.1}


@pytest.mark.parametrize(
    ("name", "expected"),
    {
        "a.txt": (".txt", ""),
        "A.MD": (".md", ""),
        "a.jsonl.zst": (".jsonl", ".zst"),
        "a.parquet.gz": (".parquet", ".gz"),
        "a.tar.xz": (".tar", ".xz"),
        "a.tgz": (".tar", ".gz"),
        "a.zip": ("", ""),
        "a.gz": ("", ".gz"),
        "txt": ("", ""),
    }.items(),
)
def test_a_name_says_what_is_in_a_file(name, expected):
    assert files.kind(name) == expected


def test_folders_are_listed_in_order_whatever_their_place(tmp_path):
    for place in ("here", "there"):
        folder = tmp_path / place / "books"
        for name in ("b/one.md", "a.txt", "c.jsonl.gz", ".hidden.txt", ".git/x.txt", "picture.png", "b.tar"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()
    here, there = (list(files.named_files([str(tmp_path / place / "books")])) for place in ("here", "there"))
    assert here == there == ["books/a.txt", "books/b.tar", "books/c.jsonl.gz", "books/b/one.md"]


def test_bad_paths_are_named(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"corpus\.paths: no such file: .*/nothing"):
        files.named_files([str(tmp_path / "nothing")])
    with pytest.raises(UserError, match=r"corpus\.paths: no file of these kinds in .*/empty: \.txt, .*\.zst"):
        files.named_files([str(tmp_path / "empty")])
    with pytest.raises(UserError, match="have the same name"):
        files.named_files([str(tmp_path / "a.txt")] * 2)


def test_a_file_name_that_is_no_text_is_refused(tmp_path):
    try:
        (tmp_path / "b\udcff.txt").touch()
    except OSError:
        pytest.skip("the file system takes no such name")
    with pytest.raises(UserError, match=r"corpus\.paths: the file name '.*b\\udcff\.txt' is not UTF-8"):
        files.named_files([str(tmp_path)])


def test_the_files_of_a_data_set_in_a_folder_are_inputs(tmp_path):
    raw = yaml.safe_load((REPOSITORY / "config.yaml").read_text())
    rows = {"source": "huggingface", "subset": None, "revision": None, "dataset_split": "train", "streaming": True}
    rows |= {"text_key": "text", **SPLIT}
    raw["corpus"]["mine"] = rows | {"dataset": str(tmp_path / "mine")}
    raw["corpus"]["theirs"] = rows | {"dataset": "org/stories"}
    for name in ("data/b.parquet", "README.md", ".git/HEAD"):
        (tmp_path / "mine" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mine" / name).write_text("x")
    expected = [str(tmp_path / "mine" / name) for name in ("README.md", "data/b.parquet")]
    assert source_files.of_corpora(configfile.load(raw)) == {"mine": expected}


def test_only_the_corpora_of_the_runs_must_exist(tmp_path):
    raw = yaml.safe_load((REPOSITORY / "config.yaml").read_text())
    raw["corpus"]["mine"] = {"source": "local", "paths": [str(tmp_path / "mine")], "text_key": "text", **SPLIT}
    ready = {"train": [str(tmp_path / "a.bin"), "https://a/b.bin"], "valid": [str(tmp_path / "b.bin")]}
    ready |= {"repository": None, "revision": None, "dtype": None, "sha256": {"https://a/b.bin": "0" * 64}}
    raw["corpus"]["ready"] = {"source": "tokens", **ready}
    assert source_files.of_corpora(configfile.load(raw)) == {"mine": [], "ready": []}
    raw["run"]["stdlib"]["corpus"] = "mine"
    with pytest.raises(UserError, match=r"^config: corpus\.mine\.paths: no such file: "):
        source_files.of_corpora(configfile.load(raw))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.txt").write_text("x")
    (tmp_path / "a.bin").touch()
    (tmp_path / "b.bin").touch()
    assert source_files.of_corpora(configfile.load(raw)) == {
        "mine": [str(tmp_path / "mine" / "a.txt")],
        "ready": [str(tmp_path / "a.bin"), str(tmp_path / "b.bin")],
    }
    raw["run"]["stdlib"]["corpus"] = "ready"
    (tmp_path / "b.bin").unlink()
    with pytest.raises(UserError, match=r"^config: corpus\.ready\.valid: no such file: "):
        source_files.of_corpora(configfile.load(raw))
