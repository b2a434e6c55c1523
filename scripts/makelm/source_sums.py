"""Whether the files of this machine that artifacts were made of are still the same, by the sums in their manifests."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from makelm import files, pretrained, task_files
from makelm.artifacts import Artifact
from makelm.config import Config
from makelm.config_corpus import Corpus, is_address
from makelm.config_tokenizer import own_file
from makelm.errors import UserError
from makelm.manifest import file_sha256
from makelm.token_header import shard_name


class Sources(NamedTuple):
    """Files that an artifact is made of now, and the sha256 of those that it was made of, by the same names."""

    now: Mapping[str, Path]
    then: Mapping[str, str]


def changes(settings: Config, artifact: Artifact, content: dict) -> Iterator[str]:
    """Yields what is different about the files that an artifact, whose manifest's content is given, is made of."""
    try:
        now, then = sources(settings, artifact, content)
    except UserError as error:
        yield str(error)
        return
    for name, path in now.items():
        if not path.is_file():
            yield f"{path} is missing"
        elif file_sha256(path) != then.get(name):
            yield f"{path} is another one now" if name in then else f"{path} is new"
    yield from (f"{name} is gone" for name in then if name not in now)


def sources(settings: Config, artifact: Artifact, content: dict) -> Sources:
    """Returns the files of this machine that an artifact is made of. Raises UserError where they cannot be listed."""
    entry, facts = artifact.manifest.split("/")[1], content["facts"]
    if artifact.stage == "download_corpus":
        return of_corpus(settings.corpus[entry], content)
    if artifact.stage == "download_weights" and settings.weights[entry].source == "local":
        return Sources(pretrained.local_files(settings.weights[entry]), sums(content["files"]))
    if artifact.stage == "download_task" and (file := settings.task[entry].file):
        return by_place(task_files.all_files(Path(file)), facts.get("sources", []))
    if artifact.stage == "train_tokenizer":
        file = own_file(settings.tokenizer[entry])
        copies = sums({name: each for name, each in content["files"].items() if name != "metadata.json"})
        return by_place([Path(file)], list(copies.values())) if file else Sources({}, {})
    if artifact.stage == "sample_model":
        prompts = settings.run[entry].sample.prompts
        named = [Path(prompt["file"]) for prompt in prompts if isinstance(prompt, dict) and "file" in prompt]
        return by_place(named, facts.get("prompt_files", []))
    return Sources({}, {})


def of_corpus(corpus: Corpus, content: dict) -> Sources:
    """Returns the files of this machine that a corpus reads and those that it is compared with."""
    facts = content["facts"]
    if corpus.source == "tokens":  # each is a shard as it is
        parts = {"train": corpus.train, "valid": corpus.valid} if not corpus.repository else {}
        named = {shard_name(part, n): name for part, names in parts.items() for n, name in enumerate(names)}
        own = {shard: Path(name) for shard, name in named.items() if not is_address(name)}
        return Sources(own, {shard: sha256 for shard, sha256 in sums(content["files"]).items() if shard in own})
    own, compared = files.source_files(corpus), files.evaluation_files(corpus.clean)
    then = facts["source"].get("files", {}) if own or corpus.source == "local" else {}
    texts = facts["contamination"]["evaluation_texts"] if compared else {}
    return Sources(own | of_evaluation(compared), sums(then) | of_evaluation(sums(texts)))


def of_evaluation(named: Mapping) -> dict:
    """Returns the same with other names: a file of a corpus may have the name of one that it is compared with."""
    return {f"evaluation_texts/{name}": value for name, value in named.items()}


def by_place(paths: list[Path], sha256s: list[str]) -> Sources:
    """Returns files whose sums stand in a manifest in their order."""
    return Sources({str(path): path for path in paths}, dict(zip(map(str, paths), sha256s, strict=False)))


def sums(described: Mapping[str, dict]) -> dict[str, str]:
    """Returns the sha256 of files that a manifest describes."""
    return {name: each["sha256"] for name, each in described.items() if each}
