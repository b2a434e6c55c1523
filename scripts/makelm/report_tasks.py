"""The report's table of tasks: the runs' own scores, and what others reported of their models."""

from collections.abc import Mapping, Sequence
from typing import Any

from makelm import published

Scores = Mapping[str, Mapping[str, Any]]  # a run's scores.json by task


def table(runs: Sequence[tuple[str, Scores]]) -> dict[str, Any] | None:
    """Returns columns (a metric of a task) and rows (runs by name, then other people's models), or None without tasks.

    Other people's models come only with a task that a run was asked whole and without examples, as they were.
    """
    columns = list(dict.fromkeys(column for _, scores in runs for column in columns_of(scores)))
    if not columns:
        return None
    known = published.load()
    standing = {(task, metric): lm_eval_name(runs, task, metric) for task, metric in columns}
    others = []
    for model in known.models:
        cells = [reported(model, standing[column]) for column in columns]
        if any(cells):
            others.append({"name": model.name, "by": model.by, "cells": cells})
    return {
        "columns": [{"task": task, "metric": metric} for task, metric in columns],
        "runs": [{"name": name, "cells": [own(scores, *column) for column in columns]} for name, scores in runs],
        "others": others,
        "source": known.source,
        "seen": any(has_ngrams(found) for _, scores in runs for found in scores.values()),
    }


def columns_of(scores: Scores) -> list[tuple[str, str]]:
    """Returns each task with each of its metrics."""
    return [(task, metric) for task, found in scores.items() for metric in found["metrics"]]


def lm_eval_name(runs: Sequence[tuple[str, Scores]], task: str, metric: str) -> published.Metric | None:
    """Returns lm-eval's names of a column, where a run was asked all of it and without examples."""
    for _, scores in runs:
        if task in scores and scores[task]["limit"] is None and not scores[task]["num_fewshot"]:
            return scores[task]["task"], metric
    return None


def reported(model: published.Model, column: published.Metric | None) -> dict[str, str] | None:
    """Returns the cell of other people's model."""
    value = model.values.get(column)
    return None if value is None else {"value": shown(value), "small": "", "hover": ""}


def own(scores: Scores, task: str, metric: str) -> dict[str, str] | None:
    """Returns the cell of a run: its score, the standard error, and how much of the task its training text has."""
    found = scores.get(task)
    if found is None or metric not in found["metrics"] or found["metrics"][metric]["value"] is None:
        return None
    value, stderr, common = (
        found["metrics"][metric]["value"],
        found["metrics"][metric]["stderr"],
        found["contamination"],
    )
    hover = (
        f"{found['task']} version {found['version']}, {found['documents']:,} documents, {found['num_fewshot']} examples"
    )
    small = [f"± {shown(stderr)}"] if stderr is not None else []
    if has_ngrams(found):
        small.append(f"{100 * common['share']:.1f}% seen")
        hover += f"; {common['documents_with_any']:,} have {common['ngram']} words in a row that occur in train"
    return {"value": shown(value), "small": ", ".join(small), "hover": hover}


def has_ngrams(found: Mapping[str, Any]) -> bool:
    """Returns whether a task has words enough in a row to be looked for in the training text."""
    return bool(found["contamination"] and found["contamination"]["ngrams"])


def shown(value: float) -> str:
    """Returns a score with the digits that a table has room for."""
    return f"{value:.{3 if abs(value) < 1 else 2}f}" if abs(value) < 1000 else f"{value:.3g}"
