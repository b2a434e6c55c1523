"""Which keys of the configuration each stage depends on, and which artifacts a configuration stands for.

A stage gets its result keys as one canonical JSON text, which Snakemake compares; Snakemake's own
comparison of several parameters ignores their names and misses two values that change places.
"""

import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import model_validator

from makelm import closure, config, manifest
from makelm.config import (
    Asking,
    Compute,
    Config,
    Corpus,
    Evaluate,
    Export,
    Hardware,
    Mesh,
    Mixed,
    Model,
    Name,
    Run,
    Sample,
    Section,
    Start,
    TaskSource,
    Tokenizer,
    Tracking,
    Train,
    Weights,
)
from makelm.errors import UserError


class Part(Section):
    """What one stage reads of the configuration, with the locked versions of the packages it imports."""

    locked: dict[str, str]

    def result_keys(self) -> dict:
        """Returns what decides this stage's result."""
        return config.split_keys(self)[0]

    def needs(self, package: str) -> bool:
        """Returns whether a package that the stage's code imports has a part in what comes out."""
        return True


class DownloadCorpus(Part):
    corpus: Corpus
    python: str | None  # the standard library is that of one interpreter

    def needs(self, package: str) -> bool:
        return package != "ftfy" or repairs(self.corpus)


def repairs(corpus: Corpus) -> bool:
    """Returns whether a corpus's documents go through ftfy."""
    return corpus.source != "tokens" and corpus.clean is not None and corpus.clean.ftfy is not None


class DownloadWeights(Part):
    weights: Weights


class TrainTokenizer(Part):
    tokenizer: Tokenizer


class EncodeShard(Part):
    encoder: Annotated[Literal["tiktoken", "gigatoken"] | None, config.EXECUTION]  # null: there is no choice


class Training(Part):
    """What a step of training is compiled from."""

    model: Model
    hardware: Hardware
    mesh: Mesh
    compute: Compute
    train: Train

    @model_validator(mode="after")
    def check(self) -> "Training":
        config.check_training(self.model, self.compute, self.train)
        return self


class PlanRun(Training):
    """A plan needs a whole Train to compile its step, but only these of its keys change what comes out."""

    def result_keys(self) -> dict:
        """Returns what decides a plan; mesh and compute too, which for training are a matter of execution."""
        return {"locked": self.locked} | planned_keys(self)


def planned_keys(run: Run | PlanRun) -> dict:
    """Returns the keys that a plan is about: what decides numbers of parameters, steps and bytes."""
    train = {"batch_size": True, "steps": True, "optimizer": {"kind"}, "ema": True}
    return run.model_dump(include={"model": True, "hardware": True, "mesh": True, "compute": True, "train": train})


class TrainModel(Training, Mixed):
    start: Start | None
    tracking: Tracking


class DownloadTask(Part):
    task: TaskSource


class SampleModel(Part, Mixed):
    mesh: Mesh
    sample: Sample


class EvaluateModel(Part, Mixed):
    mesh: Mesh
    evaluate: Evaluate


class EvaluateTask(Part, Mixed):
    mesh: Mesh
    task: Asking


class ExportModel(Part):
    export: Export


class WriteReport(Part):
    runs: list[Name]
    tasks: dict[Name, list[Name]]  # run -> its tasks


PARTS: dict[str, type[Part]] = {
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

# Which of a run's sections each stage of a run reads.
RUN_STAGES = {
    "train_model": ("corpus", "model", "hardware", "mesh", "compute", "start", "train", "tracking"),
    "sample_model": ("corpus", "mesh", "sample"),
    "evaluate_model": ("corpus", "mesh", "evaluate"),
    "evaluate_task": ("corpus", "mesh"),
    "export_model": ("export",),
}


@cache
def locked(lock: str) -> dict[str, str]:
    """Returns the versions in the lock file with this text (see closure.locked_versions)."""
    return closure.locked_versions(lock)


def keys(stage: str, settings: Config, name: str, lock: str, task: str | None = None) -> tuple[dict, dict]:
    """Returns (result keys, execution keys) of a stage for the entry `name`; `lock` is the lock file's text.

    A run is asked a `task`.
    """
    result, execution = {}, {}
    if stage == "download_corpus":
        corpus = settings.corpus[name]
        result["corpus"], execution["corpus"] = config.split_keys(corpus)
        result["python"] = None
        if corpus.source == "stdlib":
            result["python"] = platform.python_version()
    elif stage == "download_weights":
        result["weights"] = config.split_keys(settings.weights[name])[0]
    elif stage == "download_task":
        result["task"] = settings.task[name].model_dump(include=set(TaskSource.model_fields))
    elif stage == "train_tokenizer":
        result["tokenizer"], execution["tokenizer"] = config.split_keys(settings.tokenizer[name])
    elif stage == "encode_shard":
        tokenizer = settings.tokenizer[name]
        execution["encoder"] = tokenizer.encoder if tokenizer.kind == "tiktoken" else None
    elif stage == "plan_run":
        result = planned_keys(settings.run[name])
        execution = {"train": settings.run[name].train.model_dump()}
    elif stage == "write_report":
        result["runs"] = list(settings.runs)
        result["tasks"] = {run: list(settings.run[run].tasks) for run in settings.runs}
    elif stage in RUN_STAGES:
        of_result, of_execution = config.split_keys(settings.run[name])
        result = {section: of_result[section] for section in RUN_STAGES[stage] if section in of_result}
        execution = {section: of_execution[section] for section in RUN_STAGES[stage] if section in of_execution}
        if task is not None:
            result["task"] = settings.task[task].model_dump(include=set(Asking.model_fields))
    result["locked"] = packages(stage, lock)
    if stage == "download_corpus" and not repairs(corpus):
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


@dataclass(frozen=True)
class Artifact:
    """One job's result: where its manifest and those of its inputs stand below results/, and its result keys."""

    stage: str
    manifest: str
    keys: dict
    inputs: tuple[str, ...]


def artifacts(settings: Config, lock: str) -> list[Artifact]:
    """Returns everything that a configuration stands for, in the order it is made."""
    runs = trained_runs(settings)
    found = []

    def add(stage: str, entry: str, manifest: str, *inputs: str, task: str | None = None) -> None:
        found.append(Artifact(stage, manifest, keys(stage, settings, entry, lock, task)[0], inputs))

    for corpus in used_corpora(settings):
        add("download_corpus", corpus, corpus_manifest(corpus))
    for weights in used_weights(settings):
        add("download_weights", weights, f"{weights_folder(weights)}/manifest.json")
    for task in used_tasks(settings):
        add("download_task", task, task_manifest(task))
    for tokenizer in dict.fromkeys(run.tokenizer for run in runs.values()):
        learned_from = map(corpus_manifest, learning_corpora(settings, tokenizer))
        add("train_tokenizer", tokenizer, tokenizer_manifest(tokenizer), *learned_from)
    encoded = [(corpus, run.tokenizer) for run in runs.values() for corpus in run.corpora]
    encoded += [(corpus, run.tokenizer) for run in map(settings.run.get, settings.runs) for corpus in other_sets(run)]
    for corpus, tokenizer in dict.fromkeys(encoded):
        for shard in shard_manifests(settings, corpus, tokenizer):
            add("encode_shard", tokenizer, shard, corpus_manifest(corpus), tokenizer_manifest(tokenizer))
    for name in settings.runs:
        add("plan_run", name, f"plan_run/{name}/manifest.json", tokenizer_manifest(runs[name].tokenizer))
    for name, run in runs.items():
        begun = [f"{start_folder(run)}/manifest.json"] if run.start else []
        add("train_model", name, model_manifest(name), *run_shards(settings, run), *begun)
    for name in settings.runs:
        run, trained = runs[name], model_manifest(name)
        tokenizer = tokenizer_manifest(run.tokenizer)
        read = [*run.corpora, *other_sets(run)]
        shards = [place for corpus in read for place in shard_manifests(settings, corpus, run.tokenizer)]
        scored = (trained, *shards, *map(corpus_manifest, read))
        asked = run_shards(settings, run) if asks_documents(run) else ()
        add("sample_model", name, f"sample_model/{name}/manifest.json", trained, tokenizer, *asked)
        add("evaluate_model", name, f"evaluate_model/{name}/manifest.json", *scored)
        for task in run.tasks:
            asked = (trained, tokenizer, task_manifest(task), *map(corpus_manifest, run.corpora))
            add("evaluate_task", name, f"evaluate_task/{name}/{task}/manifest.json", *asked, task=task)
        add("export_model", name, f"export_model/{name}/manifest.json", trained, tokenizer)
    reported = [place for name in settings.runs for place in reported_manifests(settings, name)]
    add("write_report", "", "write_report/manifest.json", *reported)
    return found


def reported_manifests(settings: Config, run: str) -> list[str]:
    """Returns where the manifests of all stages of a run stand below results/."""
    stages = [stage for stage in ("plan_run", *RUN_STAGES) if stage != "evaluate_task"]
    tasks = [f"evaluate_task/{run}/{task}" for task in settings.run[run].tasks]
    return [f"{folder}/manifest.json" for folder in (*(f"{stage}/{run}" for stage in stages), *tasks)]


def corpus_manifest(corpus: str) -> str:
    """Returns where a corpus's manifest stands below results/."""
    return f"download_corpus/{corpus}/manifest.json"


def task_manifest(task: str) -> str:
    """Returns where a task's manifest stands below results/."""
    return f"download_task/{task}/manifest.json"


def tokenizer_manifest(tokenizer: str) -> str:
    """Returns where a tokenizer's manifest stands below results/."""
    return f"train_tokenizer/{tokenizer}/manifest.json"


def shard_manifests(settings: Config, corpus: str, tokenizer: str) -> list[str]:
    """Returns where the manifests of a corpus's token shards stand below results/."""
    return [f"encode_shard/{corpus}/{tokenizer}/{name}.json" for name in shard_names(settings, corpus)]


def run_shards(settings: Config, run: Run) -> list[str]:
    """Returns where the manifests of all token shards of a run stand below results/."""
    return [place for corpus in run.corpora for place in shard_manifests(settings, corpus, run.tokenizer)]


def asks_documents(run: Run) -> bool:
    """Returns whether a run is sampled from validation documents."""
    return any("validation" in prompt for prompt in run.sample.prompts if isinstance(prompt, dict))


def prompt_files(settings: Config) -> dict[str, list[str]]:
    """Returns run -> the files its prompts are in. Raises UserError where one is missing of a run that is built."""
    found = {}
    for name, run in settings.run.items():
        paths = [prompt["file"] for prompt in run.sample.prompts if isinstance(prompt, dict) and "file" in prompt]
        missing = [path for path in paths if not Path(path).is_file()]
        if missing and name in settings.runs:
            raise UserError(f"config: run.{name}.sample.prompts: no such file: {missing[0]}")
        found[name] = [path for path in paths if path not in missing]
    return found


def model_manifest(run: str) -> str:
    """Returns where the manifest of a trained run stands below results/."""
    return f"train_model/{run}/manifest.json"


def weights_folder(weights: str) -> str:
    """Returns where the files of an entry of `weights:` stand below results/."""
    return f"download_weights/{weights}"


def start_folder(run: Run) -> str:
    """Returns where the weights that a run starts from stand below results/."""
    return weights_folder(run.start.weights) if run.start.weights else f"train_model/{run.start.run}"


def trained_runs(settings: Config) -> dict[str, Run]:
    """Returns the runs to be built and those that they start from, each after the one it starts from."""
    found = {}
    for name in settings.runs:
        chain = [name]
        while (start := settings.run[chain[-1]].start) and start.run:
            chain.append(start.run)
        found |= {link: settings.run[link] for link in reversed(chain) if link not in found}
    return found


def used_corpora(settings: Config) -> list[str]:
    """Returns the corpora that the runs to be trained, their tokenizers or the runs' evaluations read."""
    runs = trained_runs(settings).values()
    learned_from = [corpus for run in runs for corpus in learning_corpora(settings, run.tokenizer)]
    scored = [corpus for name in settings.runs for corpus in other_sets(settings.run[name])]
    return list(dict.fromkeys([*(corpus for run in runs for corpus in run.corpora), *learned_from, *scored]))


def other_sets(run: Run) -> list[str]:
    """Returns the corpora beside its own whose validation documents a run is scored on."""
    return [corpus for corpus in dict.fromkeys(run.evaluate.sets) if corpus not in run.corpora]


def used_tasks(settings: Config) -> list[str]:
    """Returns the tasks that the runs to be built are asked."""
    return list(dict.fromkeys(task for name in settings.runs for task in settings.run[name].tasks))


def named_tokenizers(settings: Config) -> list[str]:
    """Returns the tokenizers of the runs to be trained that are learned from no corpus."""
    used = dict.fromkeys(run.tokenizer for run in trained_runs(settings).values())
    return [tokenizer for tokenizer in used if not learning_corpora(settings, tokenizer)]


def tokenizer_files(settings: Config) -> dict[str, list[str]]:
    """Returns tokenizer -> the files it is made of. Raises UserError where one is missing that a run needs."""
    found = {}
    for name, entry in settings.tokenizer.items():
        if entry.kind not in ("huggingface", "sentencepiece") or entry.file is None:
            continue
        there = Path(entry.file).is_file()
        if not there and name in named_tokenizers(settings):
            raise UserError(f"config: tokenizer.{name}.file: no such file: {entry.file}")
        found[name] = [entry.file] if there else []
    return found


def learning_corpora(settings: Config, tokenizer: str) -> list[str]:
    """Returns the corpus that a tokenizer is learned from, if it is learned."""
    found = settings.tokenizer[tokenizer]
    return [found.corpus] if isinstance(found, config.LEARNED) else []


def used_weights(settings: Config) -> list[str]:
    """Returns the entries of `weights:` that the runs to be trained start from."""
    starts = [run.start for run in trained_runs(settings).values()]
    return list(dict.fromkeys(start.weights for start in starts if start and start.weights))


def shard_names(settings: Config, corpus: str) -> list[str]:
    """Returns the names of a corpus's shards: 00000, 00001, ..."""
    return [f"{number:05d}" for number in range(settings.corpus[corpus].shards)]


def canonical(value: dict) -> str:
    """Returns the one text of a stage's keys."""
    return manifest.canonical(value)
