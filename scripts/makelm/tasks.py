"""Tasks of lm-eval: what one is made of, brought into a folder, and a model's score on it from there.

lm-eval is asked for single pieces: it loads a task, makes its requests and counts. It needs seconds to import, and is
an extra, so only who asks a task imports it.
"""

import hashlib
import json
import logging
import math
import os
import random
import re
import shutil
import traceback
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np

from makelm import task_files
from makelm.config_asking import Asking, TaskSource
from makelm.config_types import did_you_mean
from makelm.errors import UserError, first_line
from makelm.manifest import file_sha256

SEED = 1234  # of the examples before questions, as in lm-eval
BOOTSTRAPS = 1000  # for the standard error of what is no mean: it is known to 2 %
NAME = re.compile(r"""^task:[ \t]+["']?([^\s"'#\[]+)""", re.MULTILINE)
CODE, DATA = "task", "data"  # folders of a task that was brought here


def check_installed() -> None:
    """Raises UserError where lm-eval is not there."""
    if util.find_spec("lm_eval") is None:
        raise UserError("tasks need lm-eval, which is not installed: .venv/bin/uv sync --locked --inexact --extra eval")


def open_task(path: Path, changes: dict[str, Any]) -> Any:
    """Returns lm-eval's task of a YAML file, some of whose keys are changed. Raises UserError where it is none."""
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks._yaml_loader import load_yaml

    kept = task_files.read(path)
    if "task" not in kept or "class" in kept or "group" in kept or isinstance(kept["task"], list):
        raise UserError(f"{path} is no single task that a YAML file says all of; name one of its parts")
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    try:
        settings = load_yaml(path) | changes
        if not isinstance(settings.get("metadata"), dict | None):
            settings["metadata"] = {"version": settings["metadata"]}
        task = ConfigurableTask(config=settings)
    except UserError:
        raise
    except Exception as error:  # of data sets, templates and the task's own functions
        files = task_files.texts(((kept | changes).get("dataset_kwargs") or {}).get("data_files"))
        raise UserError(f"{path.name}: cannot load the task: {explained(error, list(files))}") from error
    check_metrics(task, path)
    return task


def explained(error: Exception, files: list[str]) -> str:
    """Returns in one line what went wrong in a task, with the files of its data or the line of its own Python."""
    from datasets.exceptions import DatasetGenerationError

    data = f"in {', '.join(files) or 'its data'}"
    if isinstance(error, StopIteration):  # of `datasets`, which looks for the first row
        return f"there is nothing {data}"
    if isinstance(error, DatasetGenerationError) and error.__cause__:
        return f"{type(error.__cause__).__name__}: {' '.join(str(error.__cause__).split())[:300]} {data}"
    place = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        if "/" in frame.f_globals.get("__name__", ""):  # lm-eval calls a module beside a YAML by its path
            place = f" ({Path(frame.f_code.co_filename).name}, line {line})"
    return f"{type(error).__name__}: {first_line(error)}{place}"


def check_metrics(task: Any, path: Path) -> None:
    """Raises UserError where lm-eval knows a metric of a task by no such name: it would leave its score away."""
    from lm_eval.api.registry import metric_registry

    if task.config.process_results is not None:  # a function of the task's own, which may call them as it likes
        return
    for name, function in task._metric_fn_list.items():
        if function is None:
            hint = did_you_mean(str(name), metric_registry)
            raise UserError(
                f"{path.name}: lm-eval has no metric {name!r}, which task {task.config.task} asks for{hint}"
            )


# ---- bringing


def find(source: TaskSource) -> Path:
    """Returns the YAML of a task. Raises UserError where lm-eval has none of that name."""
    if source.file is not None:
        return Path(source.file)
    known = named()
    if source.name not in known:
        hint = did_you_mean(source.name, known) or "; of a group, name the tasks one by one"
        raise UserError(f"task.name: lm-eval has no single task {source.name!r}{hint}")
    return known[source.name]


def named() -> dict[str, Path]:
    """Returns the YAML files that come with lm-eval, by the task in them; its own index takes 20 seconds."""
    found: dict[str, Path] = {}
    for path in sorted((Path(util.find_spec("lm_eval").origin).parent / "tasks").rglob("*.yaml")):
        if name := NAME.search(path.read_text(encoding="utf-8")):
            found.setdefault(name[1], path)
    return found


def bring(source: TaskSource, folder: Path, scratch: Path) -> dict[str, Any]:
    """Writes a task's own files and the parts of its data that it uses, and returns what a manifest says of it."""
    import datasets

    datasets.disable_progress_bars()
    path = find(source)
    code = task_files.code_files(path)
    top = Path(os.path.commonpath([each.resolve().parent for each in code]))
    for each in code:
        target = folder / CODE / each.resolve().relative_to(top)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(each, target)
    written = task_files.read(path)
    given = dict(written.get("dataset_kwargs") or {})
    if written.get("dataset_path") in task_files.FORMATS:  # the cache of `datasets` may know other bytes by this name
        given["cache_dir"] = str(scratch)
    task = open_task(path, {"dataset_kwargs": given})
    (folder / DATA).mkdir()
    splits = {}
    for split in used_splits(task):
        task.dataset[split].to_parquet(folder / DATA / f"{split}.parquet")
        splits[split] = len(task.dataset[split])
    own = {"sources": list(map(file_sha256, task_files.all_files(path)))} if source.file else {}
    return {"name": task.config.task, "file": path.resolve().relative_to(top).as_posix(), "splits": splits} | own


def used_splits(task: Any) -> list[str]:
    """Returns the parts of a task's data that it names."""
    settings = task.config
    named = (settings.training_split, settings.validation_split, settings.test_split, task.fewshot_cfg.split)
    return [split for split in dict.fromkeys(named) if split is not None]


# ---- asking


def open_brought(folder: Path, facts: dict[str, Any], scratch: Path) -> Any:
    """Returns lm-eval's task of a folder that `bring` filled."""
    import datasets

    datasets.disable_progress_bars()
    files = {split: str(folder / DATA / f"{split}.parquet") for split in facts["splits"]}
    data = {"dataset_path": "parquet", "dataset_name": None, "custom_dataset": None}
    given = {"data_files": files, "cache_dir": str(scratch)}
    return open_task(folder / CODE / facts["file"], data | {"dataset_kwargs": given})


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
