"""The sources of a run's text: the token shards of each of its corpora, with its weight."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from makelm import shards
from makelm.errors import UserError
from makelm.shards import Folder

HELP = "with several corpora one for each, as NAME=FOLDER"


@dataclass(frozen=True)
class Sources:
    """Folders of token shards that one tokenizer made."""

    folders: dict[str, Folder]
    weights: Mapping[str, float]  # share of the tokens that are trained on; together 1

    @property
    def first(self) -> Folder:
        return next(iter(self.folders.values()))

    @property
    def vocab_size(self) -> int:
        return self.first.vocab_size

    @property
    def end_of_text(self) -> int | None:
        return self.first.end_of_text

    @property
    def tokenizer(self) -> str:
        """Returns the digest of the tokenizer that made the ids."""
        return self.first.tokenizer


def paths(words: Iterable[str], corpora: Iterable[str], option: str) -> dict[str, Path]:
    """Returns the folder of each corpus, as command-line words give them. Raises UserError where one is not given."""
    words, corpora = list(words), list(corpora)
    if len(corpora) == 1 and len(words) == 1:
        return {corpora[0]: Path(words[0].removeprefix(f"{corpora[0]}="))}
    found = {name: [] for name in corpora}
    for word in words:
        # names may have = in them: of those that fit, the longest is meant
        if fitting := [name for name in corpora if word.startswith(f"{name}=")]:
            found[max(fitting, key=len)].append(word)
    for name, own in found.items():
        if len(own) != 1 or len(words) != len(corpora):
            raise UserError(f"{option} needs one {name}=FOLDER, and one for each other corpus of {', '.join(corpora)}")
    return {name: Path(own[0].removeprefix(f"{name}=")) for name, own in found.items()}


def open_sources(
    words: Iterable[str],
    weights: Mapping[str, float],
    read_input: Callable[[str, Path], dict],
    option: str = "--shards",
) -> Sources:
    """Returns the sources whose folders are given. Raises UserError where they are of different tokenizers."""
    folders = {
        name: shards.open_folder(path, lambda shard, at, name=name: read_input(f"shards/{name}/{shard}", at))
        for name, path in paths(words, weights, option).items()
    }
    found = Sources(folders, weights)
    for name, folder in folders.items():
        if folder.tokenizer != found.tokenizer:
            raise UserError(
                f"{folder.path} was made with tokenizer {folder.tokenizer}, {found.first.path} with"
                f" {found.tokenizer}; run encode_shard for {name} with the same one"
            )
    return found
