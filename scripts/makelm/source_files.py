"""The files of this machine that entries of a configuration are made of: inputs of the rules that read them.

It is used where Snakemake reads the workflow. What is missing is an error only where a run that is built needs it.
"""

import re
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

from makelm import files, pretrained, task_files, used
from makelm.config import Config
from makelm.config_asking import TaskSource
from makelm.config_tokenizer import Tokenizer, own_file
from makelm.config_weights import Weights
from makelm.errors import UserError


def of_corpora(settings: Config) -> dict[str, list[str]]:
    """Returns corpus -> the files it reads. Raises UserError where one is missing that a run needs."""
    return found("corpus", settings.corpus, used.corpora(settings), files.corpus_files)


def of_weights(settings: Config) -> dict[str, list[str]]:
    """Returns local entry -> the files it is made of. Raises UserError where one is missing that a run needs."""

    def files_of(entry: Weights) -> list[Path]:
        return list(pretrained.local_files(entry).values()) if entry.source == "local" else []

    return found("weights", settings.weights, used.weights(settings), files_of)


def of_tokenizers(settings: Config) -> dict[str, list[str]]:
    """Returns tokenizer -> the files it is made of. Raises UserError where one is missing that a run needs."""

    def files_of(entry: Tokenizer) -> list[str]:
        file = own_file(entry)
        if file is not None and not Path(file).is_file():
            raise UserError(f"tokenizer.file: no such file: {file}")
        return [] if file is None else [file]

    return found("tokenizer", settings.tokenizer, used.named_tokenizers(settings), files_of)


def of_tasks(settings: Config) -> dict[str, list[str]]:
    """Returns task -> the files it is made of. Raises UserError where one is missing that a run needs."""

    def files_of(task: TaskSource) -> list[Path]:
        try:
            return task_files.all_files(Path(task.file)) if task.file else []
        except UserError as error:
            raise UserError(f"task.file: {error}") from None

    return found("task", settings.task, used.tasks(settings), files_of)


def found(
    section: str, entries: dict[str, Any], needed: Collection[str], files_of: Callable[[Any], Iterable[str | Path]]
) -> dict[str, list[str]]:
    """Returns entry -> its files, of entries that have any; none of an entry that misses one and that nothing needs.

    Raises UserError where a needed one misses a file: the line of `files_of`, which begins with the section, with the
    entry's name put in.
    """
    paths = {}
    for name, entry in entries.items():
        try:
            if own := files_of(entry):
                paths[name] = [str(path) for path in own]
        except UserError as error:
            if name in needed:
                line = re.sub(rf"^{section}\.", f"{section}.{name}.", str(error))
                raise UserError(f"config: {line}") from None
            paths[name] = []
    return paths


def of_prompts(settings: Config) -> dict[str, list[str]]:
    """Returns run -> the files its prompts are in. Raises UserError where one is missing of a run that is built."""
    found = {}
    for name, run in settings.run.items():
        paths = [prompt["file"] for prompt in run.sample.prompts if isinstance(prompt, dict) and "file" in prompt]
        missing = [path for path in paths if not Path(path).is_file()]
        if missing and name in settings.runs:
            raise UserError(f"config: run.{name}.sample.prompts: no such file: {missing[0]}")
        found[name] = [path for path in paths if path not in missing]
    return found
