"""A task in the workflow: what it makes, what a change of any of its parts reruns, and that it needs no network.

`make test-faults` runs these.
"""

import json
import os
import subprocess
import sys

import hub
import pytest
import yaml
from checkout import TINY
from conftest import shape
from questions import made, scorer_of, weights_of, write_task

from makelm import manifest, task_scores, tasks
from makelm.closure import SCRIPTS
from makelm.config_asking import Asking
from makelm.task_model import TaskModel

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
    done = make(scratch)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\n    mine  acc 0." in done.stdout, "make says what came out"
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


# ---- those of GPT-J's table, from a hub on this machine

LAMBADA = {"text": "the parser reads the file and then it closes the file"}
WINOGRANDE = {"sentence": "The file is in the box because _ is small.", "option1": "the file", "option2": "the box"}
HELLASWAG = {"activity_label": "Parsing", "ctx_a": "He opens it.", "ctx_b": "then he", "label": "1"}
PIQA = {"goal": "read a file", "sol1": "open it", "sol2": "close it", "label": 0}
ROWS = {
    "lambada": ("EleutherAI/lambada_openai", "default", ("test",), LAMBADA),
    "winogrande": ("allenai/winogrande", "winogrande_xl", ("train", "validation"), WINOGRANDE | {"answer": "2"}),
    "hellaswag": (
        "Rowan/hellaswag",
        "default",
        ("train", "validation"),
        HELLASWAG | {"endings": ["reads", "a", "b", "c"]},
    ),
    "piqa": ("baber/piqa", "default", ("train", "validation"), PIQA),
}
METRICS = {
    "lambada": {"perplexity", "acc"},
    "winogrande": {"acc"},
    "hellaswag": {"acc", "acc_norm"},
    "piqa": {"acc", "acc_norm"},
}


def data_set(subset: str, splits: tuple[str, ...], row: dict) -> dict[str, bytes]:
    """Returns the files of a data set of three rows a split, as the hub has them."""
    files = [{"split": split, "path": f"{split}.jsonl"} for split in splits]
    head = yaml.safe_dump({"configs": [{"config_name": subset, "data_files": files}]})
    lines = "".join(json.dumps(row) + "\n" for _ in range(3)).encode()
    return {f"{split}.jsonl": lines for split in splits} | {"README.md": f"---\n{head}---\n".encode()}


def test_the_tasks_of_gptjs_table_come_from_the_hub_once_and_are_asked_without_it(tmp_path):
    keys = yaml.safe_load((SCRIPTS.parent / "config.yaml").read_text())["task"]
    environment = os.environ | {"HF_HOME": str(tmp_path / "home"), "no_proxy": "*"}
    with hub.serve() as server:
        server.data_sets = {name: data_set(*rest) for name, *rest in ROWS.values()}
        for task in ROWS:
            source = {"task": {"name": (keys["lambada"] | keys[task])["name"], "file": None}, "locked": {}}
            words = [str(SCRIPTS / "download_task.py"), "--config", json.dumps(source), "--out", str(tmp_path / task)]
            run = subprocess.run(
                [sys.executable, *words], env=environment | {"HF_ENDPOINT": server.address}, check=False
            )
            assert run.returncode == 0, task
    encoding = made()
    model = TaskModel(scorer_of(weights_of(shape(context_length=32), encoding)), encoding)
    asking = Asking(num_fewshot=None, limit=None, logprobs=False)
    for task, (_, _, splits, _) in ROWS.items():
        facts = manifest.read(tmp_path / task / "manifest.json")["content"]["facts"]
        assert facts["splits"] == dict.fromkeys(splits, 3)
        asked = tasks.open_brought(tmp_path / task, facts, tmp_path / "scratch" / task)
        scores, _ = task_scores.ask(asked, model, asking)
        assert scores["documents"] == 3 and set(scores["metrics"]) == METRICS[task]
        assert all(metric["value"] is not None for metric in scores["metrics"].values())
