"""The files of this machine that a task is made of: inputs of its rule, found without lm-eval."""

import json
from copy import deepcopy
from pathlib import Path

import pytest
import yaml

from makelm import configfile, source_files
from makelm.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
DEFAULT = yaml.safe_load((ROOT / "config.yaml").read_text())


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A task that includes another, with functions beside both and data by pattern, path and address."""
    monkeypatch.chdir(tmp_path)
    for name in ("data/a.jsonl", "data/b.jsonl", "data/c.jsonl", "own/helpers.py", "own/sub/more.py", "base/count.py"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text("")
    files = {"test": ["data/a.jsonl"], "train": "data/[bx]*.jsonl", "validation": "https://a/b.jsonl"}
    whole = {"task": "mine", "dataset_path": "json", "dataset_kwargs": {"data_files": files}}
    functions = "doc_to_text: !function helpers.ask\nprocess_docs: !function sub.more.sift\n"
    functions += "metric_list:\n  - metric: !function sklearn.metrics.f1\n"  # of a package
    Path("own/mine.yaml").write_text(yaml.safe_dump(whole) + "include: ../base/base.yaml\n" + functions)
    Path("base/base.yaml").write_text("test_split: test\ndoc_to_target: !function count.answer\n")
    return tmp_path


def settings(tasks: list[str], file: str):
    raw = deepcopy(DEFAULT)
    raw["task"]["mine"] = {"base": "lambada", "name": None, "file": file}
    raw["run"]["stdlib"]["tasks"] = tasks
    return configfile.load(raw)


def test_yaml_functions_and_data_are_found_and_what_is_elsewhere_is_not(folder):
    found = {Path(name).resolve().relative_to(folder).as_posix() for name in sources("own/mine.yaml")}
    assert found == {
        "own/mine.yaml",
        "own/helpers.py",
        "own/sub/more.py",
        "base/base.yaml",
        "base/count.py",
        "data/a.jsonl",
        "data/b.jsonl",
    }


@pytest.mark.parametrize("pattern", ["{folder}/data/[ab].jsonl", "data/?.jsonl", "**/*.jsonl"])
def test_data_may_be_named_by_any_pattern_from_anywhere(folder, pattern):
    files = {"dataset_kwargs": {"data_files": pattern.format(folder=folder)}, "task": "mine"}
    Path("own/found.yaml").write_text(yaml.safe_dump(files))
    assert [Path(name).name for name in sources("own/found.yaml")][:3] == ["found.yaml", "a.jsonl", "b.jsonl"]


def sources(file: str) -> list[str]:
    return source_files.of_tasks(settings(["mine"], file))["mine"]


def test_a_folder_of_data_is_all_of_its_files(folder):
    Path("own/folder.yaml").write_text("task: mine\ndataset_path: data\n")
    assert sources("own/folder.yaml") == ["own/folder.yaml", "data/a.jsonl", "data/b.jsonl", "data/c.jsonl"]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (None, "config: task.mine.file: cannot read own/none.yaml: No such file or directory"),
        ("[1, 2", "config: task.mine.file: own/none.yaml is no YAML: while parsing"),
        ("task: caf\xe9", "config: task.mine.file: own/none.yaml is no YAML: 'utf-8' codec can't decode"),
        ("- 1", "config: task.mine.file: own/none.yaml is no task: a map of keys is expected"),
        (
            "dataset_kwargs: {data_files: gone.jsonl}",
            "config: task.mine.file: its data_files are not there: gone.jsonl",
        ),
    ],
)
def test_what_is_missing_is_one_line_where_a_run_needs_it_and_nothing_where_none_does(folder, text, line):
    if text:
        Path("own/none.yaml").write_text(text, encoding="latin-1")
    with pytest.raises(UserError) as caught:
        sources("own/none.yaml")
    assert str(caught.value).startswith(line)
    assert source_files.of_tasks(settings([], "own/none.yaml")) == {"mine": []}


def test_the_example_in_the_docs_is_the_one_that_runs():
    text, folder = (ROOT / "docs/tasks.md").read_text(), ROOT / "docs/tasks"
    assert (folder / "imports.yaml").read_text().strip() in text
    rows = [json.loads(line) for line in (folder / "imports.jsonl").read_text().splitlines()]
    assert all(len(set(row["choices"])) == 4 and 0 <= row["answer"] < 4 for row in rows)
    assert json.dumps(rows[1]) in text
    raw = configfile.merge(deepcopy(DEFAULT), yaml.safe_load((folder / "config.yaml").read_text()))
    assert configfile.load(raw).run["stdlib"].tasks == ["imports"]
