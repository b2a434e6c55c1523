"""Which keys of the configuration each stage depends on, and which artifacts a configuration stands for.

A stage gets its result keys as one canonical JSON text, which Snakemake compares; Snakemake's own
comparison of several parameters ignores their names and misses two values that change places.
"""

import platform
from dataclasses import dataclass
from functools import cache

from makelm import closure, config, manifest
from makelm.config import Config, Corpus, Evaluate, Export, Mesh, Model, Name, Sample, Section, Tokenizer, Train
from makelm.errors import UserError


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


class PlanRun(Part):
    """A plan needs a whole Train to compile its step, but only these of its keys change what comes out."""

    model: Model
    mesh: Mesh
    train: Train

    def result_keys(self) -> dict:
        """Returns what decides a plan; the mesh too, which for training is a matter of execution."""
        return {"locked": self.locked} | planned_keys(self.model, self.mesh, self.train)


def planned_keys(model: Model, mesh: Mesh, train: Train) -> dict:
    """Returns the keys that a plan is about."""
    return {
        "model": model.model_dump(),
        "mesh": mesh.model_dump(),
        "train": train.model_dump(include={"batch_size": True, "steps": True, "optimizer": {"kind"}}),
    }


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
        result = planned_keys(run.model, run.mesh, run.train)
        execution = {"train": run.train.model_dump()}
    elif stage == "write_report":
        result["runs"] = list(settings.runs)
    elif stage in RUN_STAGES:
        for section in RUN_STAGES[stage]:
            of_result, of_execution = config.split_keys(getattr(settings.run[name], section))
            result |= {section: of_result} if of_result else {}
            execution |= {section: of_execution} if of_execution else {}
    result["locked"] = packages(stage, lock)
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


@dataclass(frozen=True)
class Artifact:
    """One job's result: where its manifest and those of its inputs stand below results/, and its result keys."""

    stage: str
    manifest: str
    keys: dict
    inputs: tuple[str, ...]


def artifacts(settings: Config, lock: str) -> list[Artifact]:
    """Returns everything that a configuration stands for, in the order it is made."""
    runs = [settings.run[name] for name in settings.runs]
    found = []

    def add(stage: str, entry: str, manifest: str, *inputs: str) -> None:
        found.append(Artifact(stage, manifest, keys(stage, settings, entry, lock)[0], inputs))

    for corpus in used_corpora(settings):
        add("download_corpus", corpus, corpus_manifest(corpus))
    for tokenizer in dict.fromkeys(run.tokenizer for run in runs):
        learned_from = corpus_manifest(settings.tokenizer[tokenizer].corpus)
        add("train_tokenizer", tokenizer, tokenizer_manifest(tokenizer), learned_from)
    for corpus, tokenizer in dict.fromkeys((run.corpus, run.tokenizer) for run in runs):
        for shard in shard_manifests(settings, corpus, tokenizer):
            add("encode_shard", tokenizer, shard, corpus_manifest(corpus), tokenizer_manifest(tokenizer))
    for name, run in zip(settings.runs, runs, strict=True):
        tokenizer = tokenizer_manifest(run.tokenizer)
        shards = shard_manifests(settings, run.corpus, run.tokenizer)
        trained = f"train_model/{name}/manifest.json"
        add("plan_run", name, f"plan_run/{name}/manifest.json", tokenizer)
        add("train_model", name, trained, *shards)
        add("sample_model", name, f"sample_model/{name}/manifest.json", trained, tokenizer)
        add(
            "evaluate_model",
            name,
            f"evaluate_model/{name}/manifest.json",
            trained,
            *shards,
            corpus_manifest(run.corpus),
        )
        add("export_model", name, f"export_model/{name}/manifest.json", trained, tokenizer)
    reported = [f"{stage}/{name}/manifest.json" for stage in ("plan_run", *RUN_STAGES) for name in settings.runs]
    add("write_report", "", "write_report/manifest.json", *reported)
    return found


def corpus_manifest(corpus: str) -> str:
    """Returns where a corpus's manifest stands below results/."""
    return f"download_corpus/{corpus}/manifest.json"


def tokenizer_manifest(tokenizer: str) -> str:
    """Returns where a tokenizer's manifest stands below results/."""
    return f"train_tokenizer/{tokenizer}/manifest.json"


def shard_manifests(settings: Config, corpus: str, tokenizer: str) -> list[str]:
    """Returns where the manifests of a corpus's token shards stand below results/."""
    return [f"encode_shard/{corpus}/{tokenizer}/{name}.json" for name in shard_names(settings, corpus)]


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
