"""Which artifacts a configuration stands for, where they stand below results/, and which read which."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import NamedTuple

from makelm import used
from makelm.config import Config, Run
from makelm.stages import RUN_STAGES, keys


@dataclass(frozen=True)
class Artifact:
    """One job's result: where its manifest and those of its inputs stand below results/, and its result keys.

    Inputs are by the names that the job calls them.
    """

    stage: str
    manifest: str
    keys: dict
    inputs: dict[str, str]


class Planned(NamedTuple):
    """An artifact before its keys are looked up."""

    stage: str
    entry: str
    manifest: str
    inputs: dict[str, str]
    task: str | None = None


def artifacts(settings: Config, lock: str) -> list[Artifact]:
    """Returns everything that a configuration stands for, in the order it is made."""
    planned = [each for part in (downloads, encodings, trainings, products) for each in part(settings)]
    return [
        Artifact(each.stage, each.manifest, keys(each.stage, settings, each.entry, lock, each.task)[0], each.inputs)
        for each in planned
    ]


def downloads(settings: Config) -> Iterator[Planned]:
    """Yields what is brought here."""
    for corpus in used.corpora(settings):
        yield Planned("download_corpus", corpus, place("download_corpus", corpus), {})
    for weights in used.weights(settings):
        yield Planned("download_weights", weights, place("download_weights", weights), {})
    for task in used.tasks(settings):
        yield Planned("download_task", task, place("download_task", task), {})


def encodings(settings: Config) -> Iterator[Planned]:
    """Yields the tokenizers, and the token shards of all corpora that runs are trained or scored on."""
    runs = used.runs(settings)
    for tokenizer in dict.fromkeys(run.tokenizer for run in runs.values()):
        corpora = used.learning_corpora(settings, tokenizer)
        learned_from = {"corpus": place("download_corpus", corpora[0])} if corpora else {}
        yield Planned("train_tokenizer", tokenizer, place("train_tokenizer", tokenizer), learned_from)
    encoded = [(corpus, run.tokenizer) for run in runs.values() for corpus in run.corpora]
    built = [settings.run[name] for name in settings.runs]
    encoded += [(corpus, run.tokenizer) for run in built for corpus in used.other_sets(run)]
    for corpus, tokenizer in dict.fromkeys(encoded):
        read = {"corpus": place("download_corpus", corpus), "tokenizer": place("train_tokenizer", tokenizer)}
        for shard in shard_manifests(settings, corpus, tokenizer):
            yield Planned("encode_shard", tokenizer, shard, read)


def trainings(settings: Config) -> Iterator[Planned]:
    """Yields the plans of the runs that are built; the weights of these and of those that they start from."""
    runs = used.runs(settings)
    for name in settings.runs:
        tokenizer = {"tokenizer": place("train_tokenizer", runs[name].tokenizer)}
        yield Planned("plan_run", name, place("plan_run", name), tokenizer)
    for name, run in runs.items():
        begun = {"start": f"{start_folder(run)}/manifest.json"} if run.start else {}
        yield Planned("train_model", name, place("train_model", name), shards(settings, run, run.corpora) | begun)


def products(settings: Config) -> Iterator[Planned]:
    """Yields what is made of the weights of each run, and the report on all."""
    for name in settings.runs:
        run, trained = settings.run[name], {"model": place("train_model", name)}
        tokenizer = {"tokenizer": place("train_tokenizer", run.tokenizer)}
        scored = [*run.corpora, *used.other_sets(run)]
        asked = shards(settings, run, run.corpora) if asks_documents(run) else {}
        yield Planned("sample_model", name, place("sample_model", name), trained | tokenizer | asked)
        read = trained | shards(settings, run, scored) | documents(scored)
        yield Planned("evaluate_model", name, place("evaluate_model", name), read)
        for task in run.tasks:
            asked = trained | tokenizer | {"task": place("download_task", task)} | documents(run.corpora)
            yield Planned("evaluate_task", name, place("evaluate_task", name, task), asked, task)
        yield Planned("export_model", name, place("export_model", name), trained | tokenizer)
    reported = [path for name in settings.runs for path in reported_manifests(settings, name)]
    read = {path.removesuffix("/manifest.json"): path for path in reported}
    yield Planned("write_report", "", place("write_report"), read)


def shards(settings: Config, run: Run, corpora: Iterable[str]) -> dict[str, str]:
    """Returns the inputs that are token shards of these corpora by a run's tokenizer."""
    return {
        f"shards/{corpus}/{PurePosixPath(place).stem}": place
        for corpus in corpora
        for place in shard_manifests(settings, corpus, run.tokenizer)
    }


def documents(corpora: Iterable[str]) -> dict[str, str]:
    """Returns the inputs that are documents of these corpora."""
    return {f"corpus/{corpus}": place("download_corpus", corpus) for corpus in corpora}


def reported_manifests(settings: Config, run: str) -> list[str]:
    """Returns where the manifests of all stages of a run stand below results/."""
    tasks = [place("evaluate_task", run, task) for task in settings.run[run].tasks]
    return [place(stage, run) for stage in RUN_STAGES] + tasks


def place(stage: str, *names: str) -> str:
    """Returns where the manifest of what a stage made of the entries with these names stands below results/."""
    return "/".join((stage, *names, "manifest.json"))


def shard_manifests(settings: Config, corpus: str, tokenizer: str) -> list[str]:
    """Returns where the manifests of a corpus's token shards stand below results/."""
    return [f"encode_shard/{corpus}/{tokenizer}/{name}.json" for name in shard_names(settings, corpus)]


def shard_names(settings: Config, corpus: str) -> list[str]:
    """Returns the names of a corpus's shards: 00000, 00001, ..."""
    return [f"{number:05d}" for number in range(settings.corpus[corpus].shards)]


def start_folder(run: Run) -> str:
    """Returns where the weights that a run starts from stand below results/."""
    return f"download_weights/{run.start.weights}" if run.start.weights else f"train_model/{run.start.run}"


def asks_documents(run: Run) -> bool:
    """Returns whether a run is sampled from validation documents."""
    return any("validation" in prompt for prompt in run.sample.prompts if isinstance(prompt, dict))
