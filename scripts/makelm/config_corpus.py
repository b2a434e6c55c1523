"""The keys of corpora: where text or tokens come from, how documents are cleaned and divided."""

import re
from collections import Counter
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from makelm.config_types import EXECUTION, Count, Float, Fraction, Repository, Section, Text, did_you_mean

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class TextKey(Section):
    """The columns of a row that are its text, and what stands between them; what parts a text into documents."""

    columns: Annotated[list[Text], Field(min_length=1)]
    separator: str
    split_at: Text | None


def text_key(value: Any) -> Any:
    """Reads a column's name, the columns and their separator, or what parts the texts of the column `text`."""
    if isinstance(value, TextKey):
        return value
    if isinstance(value, dict):
        short = {"columns": ["text"], "separator": ""} if value.keys() == {"split_at"} else {"split_at": None}
        return short | value
    if not isinstance(value, str):
        raise PydanticCustomError("text_key", "input should be a column's name, or {columns: [...], separator: ...}")
    return {"columns": [value], "separator": "", "split_at": None}


AnyTextKey = Annotated[TextKey, BeforeValidator(text_key)]


class EvaluationTexts(Section):
    """Files and folders of this machine that training documents are compared with, as validation documents are."""

    paths: Annotated[list[Text], Field(min_length=1)]
    text_key: AnyTextKey


class Clean(Section):
    """What is done to documents, in this order; null or false: nothing."""

    ftfy: Literal["repair", "all"] | None
    normalize: Literal["NFC", "NFKC"] | None
    min_bytes: Count | None
    max_bytes: Count | None
    min_unique_words: Count | None
    max_repeated_lines: Fraction | None
    max_repeated_5grams: Fraction | None
    max_top_2gram: Fraction | None
    deduplicate: bool
    max_contamination: Fraction | None
    evaluation_texts: EvaluationTexts | None


class Split(Section):
    """How many documents are taken, how they are cleaned, and how they are divided into train and validation."""

    max_documents: Count | None
    clean: Clean | None
    shards: Count
    split: Literal["hash", "tail"]
    valid_fraction: Annotated[Float, Field(gt=0, lt=1)]


class StdlibCorpus(Split):
    """The source text of the Python standard library of the interpreter that runs the stage."""

    source: Literal["stdlib"]


def as_list(value: Any) -> Any:
    """Reads one value as a list of it."""
    return [value] if isinstance(value, str) else value


class LocalCorpus(Split):
    """Files and folders on this machine: one document per .txt or .md file or other text, one per row of .jsonl and
    .parquet; each compressed or not, and in archives of tar.
    """

    source: Literal["local"]
    paths: Annotated[list[Text], Field(min_length=1)]
    text_key: AnyTextKey


Address = Annotated[str, Field(pattern=r"^(https?|file)://")]


class UrlCorpus(Split):
    """Files from the network, of the same kinds, each known by its sha256; one, or as many sums as addresses."""

    source: Literal["url"]
    url: Annotated[list[Address], Field(min_length=1), BeforeValidator(as_list)]
    sha256: Annotated[list[Sha256], BeforeValidator(as_list)]
    text_key: AnyTextKey

    @model_validator(mode="after")
    def check(self) -> "UrlCorpus":
        if len(self.url) != len(self.sha256):
            raise PydanticCustomError(
                "sums",
                "sha256 needs one sum for each address of url, got {s} for {n}",
                {"s": len(self.sha256), "n": len(self.url)},
            )
        return self


class DatasetsCorpus(Split):
    """A data set of the Hugging Face hub, or a local folder that `datasets` can load."""

    source: Literal["huggingface"]
    dataset: Text
    subset: Text | None
    revision: Text | None
    dataset_split: Text
    streaming: Annotated[bool, EXECUTION]  # the rows are the same
    text_key: AnyTextKey


NUMBERS = re.compile(r"\{(\d+)\.\.(\d+)\}")


def numbered(names: Any) -> Any:
    """Reads a_{08..10}.bin as a_08.bin, a_09.bin, a_10.bin."""
    if not isinstance(names, list):
        return names
    found = []
    for name in names:
        if isinstance(name, str) and (numbers := NUMBERS.search(name)):
            first, last = numbers.groups()
            if int(first) > int(last):  # it would stand for no file at all
                raise PydanticCustomError("numbers", "{range} counts down", {"range": numbers[0]})
            each = (f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1))
            found += [NUMBERS.sub(number, name, count=1) for number in each]
        else:
            found.append(name)
    return found


TokenFiles = Annotated[list[Text], BeforeValidator(numbered), Field(min_length=1)]


class TokensCorpus(Section):
    """Token ids that others made: paths and URLs, or files of a data set of the hub. Each is a shard."""

    source: Literal["tokens"]
    repository: Repository | None
    revision: Text | None
    train: TokenFiles
    valid: TokenFiles
    dtype: Literal["uint16", "uint32"] | None
    sha256: dict[Text, Sha256]

    @property
    def files(self) -> list[str]:
        """Returns all files, as they are named here."""
        return [*self.train, *self.valid]

    @property
    def shards(self) -> int:
        """Returns how many shards there are; a part that has fewer files is empty in the last ones."""
        return max(len(self.train), len(self.valid))

    @model_validator(mode="after")
    def check(self) -> "TokensCorpus":
        files = Counter(self.files)
        twice = next((name for name, times in files.items() if times > 1), None)
        if twice:
            raise PydanticCustomError("twice", "{name} is named twice in train and valid", {"name": twice})
        unknown = next((name for name in self.sha256 if name not in files), None)
        if unknown:
            hint = did_you_mean(unknown, files)
            raise PydanticCustomError(
                "sha256", "sha256: neither train nor valid has {name}{hint}", {"name": repr(unknown), "hint": hint}
            )
        if self.revision and not self.repository:
            raise PydanticCustomError("revision", "revision is that of a repository, and null without one")
        unsafe = next((name for name in files if is_address(name) and name not in self.sha256), None)
        if unsafe and not self.repository:
            raise PydanticCustomError(
                "sum", "sha256 must have the sum of {name}, which nothing else checks", {"name": unsafe}
            )
        return self


def is_address(name: str) -> bool:
    """Returns whether a name is a URL and no path."""
    return name.startswith(("http://", "https://", "file://"))


CORPORA = {
    "stdlib": StdlibCorpus,
    "local": LocalCorpus,
    "url": UrlCorpus,
    "huggingface": DatasetsCorpus,
    "tokens": TokensCorpus,
}


def corpus_source(data: Any) -> Any:
    """Returns the source of a corpus, which decides what keys it has."""
    return data.get("source") if isinstance(data, dict) else getattr(data, "source", None)


Corpus = Annotated[
    Annotated[StdlibCorpus, Tag("stdlib")]
    | Annotated[LocalCorpus, Tag("local")]
    | Annotated[UrlCorpus, Tag("url")]
    | Annotated[DatasetsCorpus, Tag("huggingface")]
    | Annotated[TokensCorpus, Tag("tokens")],
    Discriminator(corpus_source),
]
