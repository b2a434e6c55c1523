"""What a model is to write on: texts of the configuration, of files, and beginnings of validation documents.

A prompt stands at the beginning of a document: the token that stands before one comes first, else that which ends
the one before.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from makelm.errors import UserError
from makelm.shards import Folder
from makelm.tokenizer import Tokenizer


@dataclass(frozen=True)
class Prompt:
    """A text and its ids, what stands before a document among them."""

    text: str
    ids: list[int]


def gather(wanted: list[str | dict], encoding: Tokenizer, folders: Mapping[str, Folder]) -> list[Prompt]:
    """Returns all prompts in the order of the configuration; `folders` are the run's token shards by corpus.

    Raises UserError where a file cannot be read or a prompt has no token.
    """
    found = []
    for each in wanted:
        if isinstance(each, str):
            found.append(encoded(each, encoding))
        elif "file" in each:
            found += [encoded(text, encoding) for text in texts(Path(each["file"]))]
        else:
            for folder in folders.values():
                found += beginnings(folder, encoding, each["validation"], each["tokens"])
    return found


def encoded(text: str, encoding: Tokenizer, said: str = "sample.prompts") -> Prompt:
    """Returns a prompt of a text; `said` is where it was. Raises UserError where there is no token to start from."""
    ids = [*before(encoding), *encoding.encode(text)]
    if not ids:
        raise UserError(f"{said}: this tokenizer has no token to begin with, so a prompt cannot be empty")
    return Prompt(text, ids)


def before(encoding: Tokenizer) -> list[int]:
    """Returns the ids before a text that begins a document."""
    return [] if encoding.first is None else [encoding.first]


def texts(path: Path) -> list[str]:
    """Returns the prompts of a file: of .jsonl one a line, a string or {"prompt": ...}; else all of it is one."""
    try:
        content = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"sample.prompts: cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"sample.prompts: {path} is not UTF-8") from None
    if path.suffix != ".jsonl":
        return [re.sub(r"\r?\n\Z", "", content)]  # which editors put there
    lines = enumerate(map(str.strip, content.split("\n")), 1)
    found = [line_text(line, f"{path}, line {number}") for number, line in lines if line]
    if not found:
        raise UserError(f"sample.prompts: {path} has no prompt")
    return found


def line_text(line: str, where: str) -> str:
    """Returns the prompt of a line of .jsonl."""
    try:
        value = json.loads(line)
    except ValueError:
        value = None
    text = value.get("prompt") if isinstance(value, dict) else value
    if not isinstance(text, str):
        raise UserError(f'sample.prompts: {where} should be a string or {{"prompt": "..."}}, got {line[:80]}')
    return text


def beginnings(folder: Folder, encoding: Tokenizer, count: int, tokens: int) -> list[Prompt]:
    """Returns the first tokens of the first validation documents of a corpus."""
    found = []
    for document in islice((one for shard in folder.valid for one in documents(shard, folder)), count):
        ids = document[:tokens].tolist()
        found.append(Prompt(encoding.decode(ids), [*before(encoding), *ids]))
    if len(found) < count:
        raise UserError(
            f"sample.prompts: {folder.path} has {len(found)} validation documents, fewer than the {count} wanted"
        )
    return found


def documents(shard: np.ndarray, folder: Folder) -> Iterator[np.ndarray]:
    """Yields the ids of each document of a shard without the tokens around it; where none parts them, they are one."""
    around = [token for token in (folder.begin_of_text, folder.end_of_text) if token is not None]
    start = 0
    for end in [*np.flatnonzero(np.isin(shard, around)).tolist(), len(shard)]:
        if end > start:
            yield np.asarray(shard[start:end])
        start = end + 1
