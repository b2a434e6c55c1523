"""Which keys of the configuration each stage depends on, and which artifacts a configuration stands for.

A stage gets its result keys as one canonical JSON text, which Snakemake compares; Snakemake's own
comparison of several parameters ignores their names and misses two values that change places.
"""

import platform
from dataclasses import dataclass
from functools import cache

from makelm import closure, config, manifest
from makelm.config import Config, Corpus, Count, Evaluate, Export, Mesh, Model, Name, Sample, Section, Tokenizer, Train


class Part(Section):
    """What one stage reads of the configuration, with the locked versions of the packages it imports."""

    locked: dict[str, str]

    def result_keys(self) -> dict:
        """Returns what decides this stage's result."""
        return config.split_keys(self)[0]


class DownloadCorpus(Part):
    corpus: Corpus
    python: str | None  # the standard library is that of one interpreter


class TrainTokenizer(Part):
    tokenizer: Tokenizer


class EncodeShard(Part):
    pass


class PlannedOptimizer(Section):
    kind: str


class PlannedTraining(Section):
    batch_size: Count
    steps: Count
    optimizer: PlannedOptimizer


class PlanRun(Part):
    model: Model
    mesh: Mesh
    train: PlannedTraining

    def result_keys(self) -> dict:
        """Returns all keys: a plan is about the mesh, which for training is a matter of execution."""
        return self.model_dump()


class TrainModel(Part):
    model: Model
    mesh: Mesh
    train: Train


class SampleModel(Part):
    sample: Sample


class EvaluateModel(Part):
    evaluate: Evaluate


class ExportModel(Part):
    export: Export


class WriteReport(Part):
    runs: list[Name]


PARTS: dict[str, type[Part]] = {
    "download_corpus": DownloadCorpus,
    "train_tokenizer": TrainTokenizer,
    "encode_shard": EncodeShard,
    "plan_run": PlanRun,
    "train_model": TrainModel,
    "sample_model": SampleModel,
    "evaluate_model": EvaluateModel,
    "export_model": ExportModel,
    "write_report": WriteReport,
}

# Which of a run's sections each stage of a run reads.
RUN_STAGES = {
    "train_model": ("model", "mesh", "train"),
    "sample_model": ("sample",),
    "evaluate_model": ("evaluate",),
    "export_model": ("export",),
}


@cache
def locked(lock: str) -> dict[str, str]:
    """Returns the versions in the lock file with this text (see closure.locked_versions)."""
    return closure.locked_versions(lock)


def keys(stage: str, settings: Config, name: str, lock: str) -> tuple[dict, dict]:
    """Returns (result keys, execution keys) of a stage for the entry `name`; `lock` is the lock file's text."""
    result, execution = {}, {}
    if stage == "download_corpus":
        corpus = settings.corpus[name]
        result = {"corpus": config.split_keys(corpus)[0], "python": None}
        if corpus.source == "stdlib":
            result["python"] = platform.python_version()
    elif stage == "train_tokenizer":
        result["tokenizer"] = config.split_keys(settings.tokenizer[name])[0]
    elif stage == "plan_run":
        run = settings.run[name]
        train = run.train
        result = {
            "model": run.model.model_dump(),
            "mesh": run.mesh.model_dump(),
            "train": {
                "batch_size": train.batch_size,
                "steps": train.steps,
                "optimizer": {"kind": train.optimizer.kind},
            },
        }
    elif stage == "write_report":
        result["runs"] = list(settings.runs)
    elif stage in RUN_STAGES:
        for section in RUN_STAGES[stage]:
            of_result, of_execution = config.split_keys(getattr(settings.run[name], section))
            result |= {section: of_result} if of_result else {}
            execution |= {section: of_execution} if of_execution else {}
    versions = locked(lock)
    result["locked"] = {package: versions[package] for package in closure.closure(stage).packages}
    return result, execution


@dataclass(frozen=True)
class Artifact:
    """One job's result: where its manifest stands below results/, and which keys it must have been made with."""

    stage: str
    name: str
    manifest: str
    keys: dict


def artifacts(settings: Config, lock: str) -> list[Artifact]:
    """Returns everything that a configuration stands for, in the order it is made."""
    runs = [settings.run[name] for name in settings.runs]
    tokenizers = dict.fromkeys(run.tokenizer for run in runs)
    encoded = dict.fromkeys((run.corpus, run.tokenizer) for run in runs)

    def artifact(stage: str, entry: str, folder: str, name: str = "manifest") -> Artifact:
        return Artifact(stage, entry, f"{stage}/{folder}{name}.json", keys(stage, settings, entry, lock)[0])

    found = [artifact("download_corpus", corpus, f"{corpus}/") for corpus in used_corpora(settings)]
    found += [artifact("train_tokenizer", tokenizer, f"{tokenizer}/") for tokenizer in tokenizers]
    for corpus, tokenizer in encoded:
        names = shard_names(settings, corpus)
        found += [artifact("encode_shard", tokenizer, f"{corpus}/{tokenizer}/", name) for name in names]
    for run in settings.runs:
        for stage in ("plan_run", *RUN_STAGES):
            found.append(artifact(stage, run, f"{run}/"))
    found.append(artifact("write_report", "", ""))
    return found


def used_corpora(settings: Config) -> list[str]:
    """Returns the corpora that the runs to be built, or their tokenizers, read."""
    runs = [settings.run[name] for name in settings.runs]
    return list(
        dict.fromkeys([*(run.corpus for run in runs), *(settings.tokenizer[run.tokenizer].corpus for run in runs)])
    )


def shard_names(settings: Config, corpus: str) -> list[str]:
    """Returns the names of a corpus's shards: 00000, 00001, ..."""
    return [f"{number:05d}" for number in range(settings.corpus[corpus].shards)]


def canonical(value: dict) -> str:
    """Returns the one text of a stage's keys."""
    return manifest.canonical(value)
