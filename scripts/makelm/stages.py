"""Which keys of the configuration each stage depends on.

A stage gets its result keys as one canonical JSON text, which Snakemake compares; Snakemake's own
comparison of several parameters ignores their names and misses two values that change places.
"""

import platform
from functools import cache
from typing import Annotated, Literal

from pydantic import model_validator

from makelm import closure
from makelm.config import Config, Run, check_training
from makelm.config_asking import Asking, Evaluate, Sample, TaskSource
from makelm.config_corpus import Corpus
from makelm.config_devices import Compute, Hardware, Mesh
from makelm.config_mixture import Mixed
from makelm.config_model import Model
from makelm.config_tokenizer import Tokenizer
from makelm.config_training import Tracking, Train
from makelm.config_types import EXECUTION, Name, Section, split_keys
from makelm.config_weights import Export, Start, Weights
from makelm.errors import UserError


class StageConfig(Section):
    """What one stage reads of the configuration, with the locked versions of the packages it imports."""

    locked: dict[str, str]

    @classmethod
    def keys_of(cls, settings: Config, name: str) -> tuple[dict, dict]:
        """Returns (result keys, execution keys) for an entry: here of a run, whose sections have the fields' names."""
        whole = split_keys(settings.run[name])
        result, execution = ({key: keys[key] for key in cls.model_fields if key in keys} for keys in whole)
        return result, execution

    def result_keys(self) -> dict:
        """Returns what decides this stage's result."""
        return split_keys(self)[0]

    def needs(self, package: str) -> bool:
        """Returns whether a package that the stage's code imports has a part in what comes out."""
        return True


class DownloadCorpus(StageConfig):
    corpus: Corpus
    python: str | None  # the standard library is that of one interpreter

    @classmethod
    def keys_of(cls, settings: Config, name: str) -> tuple[dict, dict]:
        corpus = settings.corpus[name]
        result, execution = split_keys(corpus)
        python = platform.python_version() if corpus.source == "stdlib" else None
        return {"corpus": result, "python": python}, {"corpus": execution}

    def needs(self, package: str) -> bool:
        return package != "ftfy" or repairs(self.corpus)


def repairs(corpus: Corpus) -> bool:
    """Returns whether a corpus's documents go through ftfy."""
    return corpus.source != "tokens" and corpus.clean is not None and corpus.clean.ftfy is not None


class DownloadWeights(StageConfig):
    weights: Weights

    @classmethod
    def keys_of(cls, settings: Config, name: str) -> tuple[dict, dict]:
        return {"weights": split_keys(settings.weights[name])[0]}, {}


class TrainTokenizer(StageConfig):
    tokenizer: Tokenizer

    @classmethod
    def keys_of(cls, settings: Config, name: str) -> tuple[dict, dict]:
        result, execution = split_keys(settings.tokenizer[name])
        return {"tokenizer": result}, {"tokenizer": execution}


class EncodeShard(StageConfig):
    encoder: Annotated[Literal["tiktoken", "gigatoken"] | None, EXECUTION]  # null: there is no choice

    @classmethod
    def keys_of(cls, settings: Config, name: str) -> tuple[dict, dict]:
        tokenizer = settings.tokenizer[name]
        return {}, {"encoder": tokenizer.encoder if tokenizer.kind == "tiktoken" else None}


class Training(StageConfig):
    """What a step of training is compiled from."""

    model: Model
    hardware: Hardware
    mesh: Mesh
    compute: Compute
    train: Train

    @model_validator(mode="after")
    def check(self) -> "Training":
        check_training(self.model, self.compute, self.train)
        return self


class PlanRun(Training):
    """A plan needs a whole Train to compile its step, but only these of its keys change what comes out."""

    @classmethod
    def keys_of(cls, settings: Config, name: str) -> tuple[dict, dict]:
        run = settings.run[name]
        return planned_keys(run), {"train": run.train.model_dump()}

    def result_keys(self) -> dict:
        """Returns what decides a plan; mesh and compute too, which for training are a matter of execution."""
        return {"locked": self.locked} | planned_keys(self)


def planned_keys(run: Run | PlanRun) -> dict:
    """Returns the keys that a plan is about: what decides numbers of parameters, steps and bytes."""
    whole = run.model_dump(include={"model", "hardware", "mesh", "compute"})
    train = run.train.model_dump(include={"batch_size", "steps", "optimizer", "ema", "publish", "bad_steps"})
    del train["optimizer"]["learning_rates"]  # numbers in the step, as many whatever they are
    return whole | {"train": train}


class TrainModel(Training, Mixed):
    start: Start | None
    tracking: Tracking


class DownloadTask(StageConfig):
    task: TaskSource

    @classmethod
    def keys_of(cls, settings: Config, name: str) -> tuple[dict, dict]:
        return {"task": settings.task[name].model_dump(include=set(TaskSource.model_fields))}, {}


class SampleModel(StageConfig, Mixed):
    mesh: Mesh
    sample: Sample


class EvaluateModel(StageConfig, Mixed):
    mesh: Mesh
    evaluate: Evaluate


class EvaluateTask(StageConfig, Mixed):
    mesh: Mesh
    task: Asking


class ExportModel(StageConfig):
    export: Export


class WriteReport(StageConfig):
    runs: list[Name]
    tasks: dict[Name, list[Name]]  # run -> its tasks

    @classmethod
    def keys_of(cls, settings: Config, name: str) -> tuple[dict, dict]:
        tasks = {run: list(settings.run[run].tasks) for run in settings.runs}
        return {"runs": list(settings.runs), "tasks": tasks}, {}


STAGES: dict[str, type[StageConfig]] = {
    "download_corpus": DownloadCorpus,
    "download_weights": DownloadWeights,
    "download_task": DownloadTask,
    "train_tokenizer": TrainTokenizer,
    "encode_shard": EncodeShard,
    "plan_run": PlanRun,
    "train_model": TrainModel,
    "sample_model": SampleModel,
    "evaluate_model": EvaluateModel,
    "evaluate_task": EvaluateTask,
    "export_model": ExportModel,
    "write_report": WriteReport,
}

# Those that each run has, in its order; the report is of them, and of evaluate_task for each of its tasks.
RUN_STAGES = ("plan_run", "train_model", "sample_model", "evaluate_model", "export_model")


@cache
def locked(lock: str) -> dict[str, str]:
    """Returns the versions in the lock file with this text (see closure.locked_versions)."""
    return closure.locked_versions(lock)


def keys(stage: str, settings: Config, name: str, lock: str, task: str | None = None) -> tuple[dict, dict]:
    """Returns (result keys, execution keys) of a stage for the entry `name`; `lock` is the lock file's text.

    A run is asked a `task`.
    """
    result, execution = STAGES[stage].keys_of(settings, name)
    if task is not None:
        result["task"] = settings.task[task].model_dump(include=set(Asking.model_fields))
    result["locked"] = packages(stage, lock)
    if stage == "download_corpus" and not repairs(settings.corpus[name]):
        del result["locked"]["ftfy"]
    return result, execution


def packages(stage: str, lock: str) -> dict[str, str]:
    """Returns the locked version of each package that a stage's code imports."""
    versions = locked(lock)
    needed = closure.closure(stage).packages
    for package in needed:
        if package not in versions:
            raise UserError(
                f"the code of {stage} imports {package}, which uv.lock does not have;"
                " add it to pyproject.toml and run make lock"
            )
    return {package: versions[package] for package in needed}
