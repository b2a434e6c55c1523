"""Tasks of lm-eval: what one is made of, brought into a folder, and opened from there.

lm-eval needs seconds to import, and is an extra, so only who has to do with a task imports it.
"""

import logging
import os
import re
import shutil
import traceback
from importlib import util
from pathlib import Path
from typing import Any

from makelm import extras, task_files
from makelm.config_asking import TaskSource
from makelm.config_types import did_you_mean
from makelm.errors import UserError, first_line
from makelm.manifest import file_sha256

NAME = re.compile(r"""^task:[ \t]+["']?([^\s"'#\[]+)""", re.MULTILINE)
CODE, DATA = "task", "data"  # folders of a task that was brought here


def check_installed() -> None:
    """Raises UserError where lm-eval is not there."""
    if util.find_spec("lm_eval") is None:
        raise UserError(f"tasks need lm-eval, which is not installed: {extras.command('eval')}")


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


# ---- from where it was brought to


def open_brought(folder: Path, facts: dict[str, Any], scratch: Path) -> Any:
    """Returns lm-eval's task of a folder that `bring` filled."""
    import datasets

    datasets.disable_progress_bars()
    files = {split: str(folder / DATA / f"{split}.parquet") for split in facts["splits"]}
    data = {"dataset_path": "parquet", "dataset_name": None, "custom_dataset": None}
    given = {"data_files": files, "cache_dir": str(scratch)}
    return open_task(folder / CODE / facts["file"], data | {"dataset_kwargs": given})
