"""Data sets: of a folder and of a hub on this machine, streamed or not, from the cache without a network."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import hub
import pytest
import yaml

from makelm import configfile, data_sets, stages
from makelm.config_corpus import DatasetsCorpus
from makelm.documents import Document
from makelm.errors import UserError

SCRIPTS = Path(data_sets.__file__).parents[1]
SPLIT = {"max_documents": None, "shards": 1, "split": "tail", "valid_fraction": 0.5}
ROWS = b'{"title": "t", "text": "eins"}\n{"title": "u", "text": "zwei\\n"}\n'


def settings(**change: object) -> DatasetsCorpus:
    part = {
        "source": "huggingface",
        "dataset": "org/stories",
        "subset": None,
        "revision": None,
        "streaming": True,
        "clean": None,
    }
    return DatasetsCorpus(**part | {"dataset_split": "train", "text_key": "text", **SPLIT} | change)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> None:
    """Keeps what is prepared out of the user's cache."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def data_set(folder: Path, **change: object) -> tuple[list[Document], dict]:
    documents, facts, _ = data_sets.open_rows(settings(dataset=str(folder), **change))
    return list(documents), facts


@pytest.mark.parametrize("streaming", [True, False])
def test_a_local_data_set_gives_its_rows_and_runs_no_code(tmp_path, streaming):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "train.jsonl").write_bytes(ROWS)
    (folder / "loader.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    expected = [Document("train:0", "eins"), Document("train:1", "zwei\n")]
    found, facts = data_set(folder, streaming=streaming)
    assert found == expected
    assert facts["files"]["train.jsonl"] == {"bytes": len(ROWS), "sha256": hashlib.sha256(ROWS).hexdigest()}
    keys = {"columns": ["title", "text"], "separator": ": "}
    assert data_set(folder, streaming=streaming, text_key=keys)[0][0] == Document("train:0", "t: eins")
    assert not (tmp_path / "ran").exists()


def test_a_data_set_that_is_a_program_is_refused_and_not_run(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(
        UserError, match=r"cannot read .*: Dataset scripts are no longer supported, but found mine\.py$"
    ):
        data_set(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("streaming", [True, False])
def test_a_bad_data_set_is_explained_in_one_line(tmp_path, streaming):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "train.jsonl").write_text('{"body": "x"}\n')
    with pytest.raises(UserError, match="row 0 of train has no 'text'; it has: body"):
        data_set(folder, streaming=streaming)
    with pytest.raises(UserError, match=r"corpus\.dataset: cannot read .*nosplit"):
        data_set(folder, streaming=streaming, dataset_split="nosplit")
    with pytest.raises(UserError, match=r"corpus\.dataset: cannot read"):
        data_set(tmp_path / "nothing", streaming=streaming)


def test_another_commit_than_the_one_asked_for_is_refused():
    other = "f" * 40
    with pytest.raises(
        UserError, match=rf"corpus\.revision: of org/stories only the commit {hub.COMMIT} is there, not f"
    ):
        data_sets.check_commit(settings(revision=other), hub.COMMIT)
    for fine in (hub.COMMIT, "main", None):
        data_sets.check_commit(settings(revision=fine), hub.COMMIT)


def test_whether_it_is_streamed_decides_no_result():
    raw = yaml.safe_load((SCRIPTS.parent / "config.yaml").read_text())
    found = []
    for streaming in (True, False):
        raw["corpus"]["mine"] = settings(streaming=streaming).model_dump()
        lock = (SCRIPTS.parent / "uv.lock").read_text()
        found.append(stages.keys("download_corpus", configfile.load(raw), "mine", lock))
    assert found[0][0] == found[1][0] and "streaming" not in found[0][0]["corpus"]
    assert [execution for _, execution in found] == [{"corpus": {"streaming": each}} for each in (True, False)]


# ---- the hub; in programs of their own, since its address and cache are read when `datasets` is imported

PROGRAM = """
import json, sys
from makelm import configfile, data_sets, errors, stages
from makelm.config_corpus import DatasetsCorpus
for keys in json.loads(sys.argv[1]):
    try:
        documents, facts, _ = data_sets.open_rows(DatasetsCorpus(**keys))
        print(json.dumps([[document.text for document in documents], facts]))
    except errors.UserError as error:
        print(json.dumps(str(error)))
"""


def rows_of(home: Path, *wanted: DatasetsCorpus, **environment: str) -> list:
    """Returns of each data set its texts and facts, or what is wrong."""
    command = [sys.executable, "-c", PROGRAM, json.dumps([each.model_dump() for each in wanted])]
    environment |= {"HF_HOME": str(home), "no_proxy": "*"}
    done = subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, check=True, cwd=SCRIPTS
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_what_was_not_streamed_is_there_without_a_network(tmp_path):
    expected = [["eins", "zwei\n"], {"commit": hub.COMMIT}]
    with hub.serve() as server:
        server.data_sets = {name: {"train.jsonl": ROWS, "README.md": b"# A\n"} for name in ("org/stories", "org/other")}
        streamed = settings(dataset="org/other")
        assert rows_of(tmp_path, streamed, settings(streaming=False), HF_ENDPOINT=server.address) == [expected] * 2
    found = rows_of(tmp_path, settings(), settings(streaming=False), streamed, HF_HUB_OFFLINE="1")
    assert found[:2] == [expected] * 2
    assert found[2].endswith(
        "with HF_HUB_OFFLINE=1 there is what streaming: false left in its cache (HF_HOME), and local folders"
    )
