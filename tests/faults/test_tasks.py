"""A task in the workflow: what it makes, what a change of any of its parts reruns, and that it needs no network.

`make test-faults` runs these.
"""

import json
import os

import pytest
import yaml
from checkout import TINY
from questions import write_task

from makelm import manifest

if "MAKELM_FAULTS" not in os.environ:
    pytest.skip("takes a while: make test-faults", allow_module_level=True)

ENTRY = {"name": None, "file": "own/choice.yaml", "num_fewshot": None, "limit": None, "logprobs": True}
ASKED = ["evaluate_task run=tiny, task=mine", "write_report"]
BROUGHT = ["download_task task=mine", *ASKED]


def overlay(checkout, **changes):
    text = yaml.safe_dump({"task": {"mine": ENTRY | changes}, "run": {"tiny": {"tasks": ["mine"]}}})
    (checkout.folder / "tasks.yaml").write_text(text)


def make(checkout, *target: str):
    words = ["scripts/run_workflow.py", "--cores", "2", *target, "--configfile", TINY, "tasks.yaml"]
    return checkout.python(*words, timeout=600)


def planned(checkout) -> list[str]:
    return sorted(checkout.planned(more=("tasks.yaml",)))


def test_a_task_is_asked_and_asked_again_exactly_when_something_of_it_changes(scratch, monkeypatch):
    monkeypatch.chdir(scratch.folder)
    path = write_task(scratch.folder / "own", "choice")
    text = path.read_text().replace(str(scratch.folder) + "/", "")
    path.write_text(text + "doc_to_text: !function helpers.ask\n")
    helpers, data = path.with_name("helpers.py"), path.with_name("choice.jsonl")
    helpers.write_text("def ask(row):\n    return row['question']\n")
    overlay(scratch)
    assert planned(scratch) == BROUGHT, "and nothing of what is built"
    made = make(scratch)
    assert made.returncode == 0, made.stdout + made.stderr
    assert "\n    mine  acc 0." in made.stdout, "make says what came out"
    folder = scratch.results / "evaluate_task/tiny/mine"
    scores = json.loads((folder / "scores.json").read_text())
    assert scores["documents"] == 5 and set(scores["metrics"]) == {"acc", "acc_norm"}
    assert len((folder / "answers.jsonl").read_text().splitlines()) == 5
    content = manifest.read(folder / "manifest.json")["content"]
    assert set(content["inputs"]) == {"corpus/tiny", "model", "task", "tokenizer"}
    assert planned(scratch) == []
    verified = make(scratch, "verify")
    assert verified.returncode == 0, verified.stdout + verified.stderr

    for file in (path, helpers, data):
        before = file.read_bytes()
        file.write_bytes(before + b"\n")
        assert planned(scratch) == BROUGHT, file
        file.write_bytes(before)
    for changes in ({"limit": 2}, {"num_fewshot": 1}, {"logprobs": False}):
        overlay(scratch, **changes)
        assert planned(scratch) == ASKED, changes

    again = make(scratch)  # without the answers
    assert again.returncode == 0, again.stdout + again.stderr
    assert not (folder / "answers.jsonl").exists()
