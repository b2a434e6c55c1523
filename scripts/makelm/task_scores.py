"""A model's scores on a task: lm-eval makes the requests and counts, makelm answers."""

import hashlib
import json
import math
import os
import random
import traceback
from pathlib import Path
from typing import Any

import numpy as np

from makelm.config_asking import Asking
from makelm.errors import UserError
from makelm.tasks import explained

SEED = 1234  # of the examples before questions, as in lm-eval
BOOTSTRAPS = 1000  # for the standard error of what is no mean: it is known to 2 %


def ask(task: Any, model: Any, asking: Asking) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Returns a model's scores on a task, and its answer to each question with their log-probabilities."""
    from lm_eval.evaluator import evaluate

    if asking.num_fewshot is not None or task.config.num_fewshot is None:
        task.set_config("num_fewshot", asking.num_fewshot or 0)
    check_examples(task)
    task.set_fewshot_seed(SEED)
    random.seed(0)  # what a task's own functions may draw from
    np.random.seed(SEED)
    os.environ["DISABLE_MULTIPROC"] = "1"  # a copy of a process in which JAX has threads may wait for ever
    name = task.config.task
    try:
        found = evaluate(
            model,
            {"tasks": {name: task}, "groups": {}},
            limit=asking.limit,
            bootstrap_iters=BOOTSTRAPS,
            confirm_run_unsafe_code=False,
        )
    except UserError:
        raise
    except Exception as error:
        if is_ours(error):
            raise
        raise UserError(f"{name}: cannot ask the task: {explained(error, [])}") from error
    scores = {
        "task": name,
        "version": found["versions"].get(name),
        "documents": found["n-samples"][name]["effective"],
        "num_fewshot": task.config.num_fewshot,
        "limit": asking.limit,
        "prompts": digest([instance.args for instance in task.instances]),
        "metrics": metrics(found["results"][name], found["higher_is_better"].get(name, {})),
    }
    if not scores["metrics"]:
        asked = ", ".join(map(str, task.aggregation()))
        raise UserError(f"{name}: no score came out; of {task.OUTPUT_TYPE} lm-eval counts none of its metrics: {asked}")
    return scores, [answer(sample) for sample in found["samples"][name]]


def is_ours(error: Exception) -> bool:
    """Returns whether makelm's own code, which lm-eval calls, had a part in what went wrong."""
    places = [Path(frame.filename).parent for frame in traceback.extract_tb(error.__traceback__)]
    return Path(__file__).parent in places[1:]


def check_examples(task: Any) -> None:
    """Raises UserError where a task has fewer examples than are to stand before each question."""
    wanted = task.config.num_fewshot
    if not wanted:
        return
    own = task.fewshot_cfg.split == task.config.test_split  # then no question is an example for itself
    there = len(task.sampler.df) - own
    if wanted > there:
        raise UserError(f"task.num_fewshot: {wanted}, but {task.config.task} has {there} to draw from for a question")


def metrics(results: dict[str, Any], higher_is_better: dict[str, bool]) -> dict[str, dict[str, Any]]:
    """Returns lm-eval's 'acc,none': 0.5, 'acc_stderr,none': 0.1 as acc: {value, stderr, higher_is_better}."""
    found = {}
    for key, value in results.items():
        metric, comma, filtered = key.partition(",")
        if not comma or metric.endswith("_stderr"):
            continue
        stderr = number(results.get(f"{metric}_stderr,{filtered}"))
        shown = metric if filtered == "none" else f"{metric} ({filtered})"
        better = higher_is_better.get(metric)
        found[shown] = {"value": number(value), "stderr": stderr, "higher_is_better": better}
    return found


def number(value: Any) -> float | None:
    """Returns a number; None for what is none, such as lm-eval's N/A."""
    whole = isinstance(value, int | float | np.number) and math.isfinite(value)
    return float(value) if whole else None


def answer(sample: dict[str, Any]) -> dict[str, Any]:
    """Returns a line of answers.jsonl: what was asked and what came, log-probabilities or a text, and the metrics."""
    return {
        "document": sample["doc_id"],
        "filter": sample["filter"],
        "requests": sample["arguments"],
        "responses": [response[0] for response in sample["resps"]],
        "target": sample["target"],
        "metrics": {name: plain(sample[name]) for name in sample["metrics"]},
    }


def plain(value: Any) -> Any:
    """Returns a value as JSON has it."""
    return json.loads(json.dumps(value, default=lambda other: other.item() if hasattr(other, "item") else str(other)))


def digest(requests: list[Any]) -> str:
    """Returns the sha256 of everything that a model is asked, in order."""
    text = json.dumps(requests, ensure_ascii=False, sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def questions(task: Any, limit: int | None) -> list[dict[str, Any]]:
    """Returns the rows of a task's data that are asked."""
    rows = task.eval_docs
    return [rows[number] for number in range(min(len(rows), limit or len(rows)))]
