"""Tasks against lm-eval's own Hugging Face backend, on exports: `make test-parity` installs it and runs this."""

import json
import os

import numpy as np
import pytest
from conftest import shape
from layouts import CASES
from questions import ROWS, TASKS, made, scorer_of, weights_of, write_task

if "MAKELM_PARITY_PYTHON" not in os.environ:
    pytest.skip("needs torch, transformers and lm-eval: make test-parity", allow_module_level=True)

from sides import run_there, write_export, write_tokenizer

from makelm import task_scores, tasks
from makelm.config_asking import Asking, TaskSource
from makelm.task_model import TaskModel

BOUND = 1e-4
CONTEXT = 16
ASKING = Asking(num_fewshot=None, limit=None, logprobs=True)
# the tokens around documents; lm-eval puts two beginnings before a whole text, where a tokenizer has one
ENDS = {"end": (False, True), "both": (True, True)}
MODELS = ("gpt2", "llama", "qwen3")


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """Models by case, and the folder in which lm-eval has asked them all."""
    root, found = tmp_path_factory.mktemp("cases"), {}
    for ends, stands in ENDS.items():
        encoding = made(*stands)
        for name in MODELS:
            # random rows that fill up the vocabulary would win in transformers; makelm does not write them
            model = shape(**CASES[name][1] | {"context_length": CONTEXT, "vocab_multiple": 1})
            trained = weights_of(model, encoding)
            folder = root / f"{name}-{ends}"
            write_export(trained, np.zeros((1, 1), np.int32), folder)
            write_tokenizer(encoding, "", folder)
            for task in TASKS:
                write_task(folder / "tasks", task)
            write_task(folder / "tasks", "choice", num_fewshot=2).rename(folder / "tasks" / "shots.yaml")
            text = (folder / "tasks" / "shots.yaml").read_text().replace("task: choice", "task: shots")
            (folder / "tasks" / "shots.yaml").write_text(text)
            write_task(folder / "tasks", "choice")
            found[f"{name}-{ends}"] = TaskModel(scorer_of(trained), encoding)
    run_there("lm_eval_side.py", root)
    return found, root


@pytest.mark.parametrize("task", [*TASKS, "shots"])
@pytest.mark.parametrize("case", [f"{name}-{ends}" for name in MODELS for ends in ENDS])
def test_each_answer_is_lm_evals_own(case, task, cases, tmp_path):
    if task == "rolling" and case.endswith("both"):
        pytest.skip("lm-eval puts two beginnings before a whole text")
    models, root = cases
    theirs = json.loads((root / case / "answers.json").read_text())[task]
    folder = tmp_path / "brought"
    folder.mkdir()
    source = TaskSource(name=None, file=str(root / case / "tasks" / f"{task}.yaml"))
    facts = tasks.bring(source, folder, tmp_path / "scratch")
    _, ours = task_scores.ask(tasks.open_brought(folder, facts, tmp_path / "other"), models[case], ASKING)
    assert len(ours) == len(theirs) == len(ROWS)
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(*map(numbers, (mine["responses"], other["responses"])), rtol=BOUND, atol=BOUND)
        assert texts(mine["responses"]) == texts(other["responses"])
        np.testing.assert_allclose(*map(flat, (mine["metrics"], other["metrics"])), rtol=BOUND, atol=BOUND)


def numbers(responses: list) -> list[float]:
    """Returns the log-probabilities among responses."""
    return [each[0] if isinstance(each, list | tuple) else each for each in responses if not isinstance(each, str)]


def texts(responses: list) -> list:
    """Returns what was written, and which continuations were the likeliest."""
    return [each if isinstance(each, str) else each[1] for each in responses if not isinstance(each, float)]


def flat(metrics: dict) -> list[float]:
    """Returns the metrics of one question as numbers; some are a number and what it is divided by."""
    return [float(number) for value in metrics.values() for number in np.ravel(value)]
