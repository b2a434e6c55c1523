"""Corpora: where documents come from, and which of them are for validation.

This module is also imported when Snakemake reads the workflow, so it imports little.
"""

import hashlib
import http.client
import json
import platform
import sysconfig
import time
import tokenize
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

from makelm import stages
from makelm.config import Config, Corpus, DatasetsCorpus, LocalCorpus, Split, UrlCorpus
from makelm.documents import Document
from makelm.errors import UserError
from makelm.progress import Progress

# Tests, generated tables and what is not the library's own: of 3.11.7, 550 files and 9.2 MB remain.
NOT_STDLIB = frozenset(
    {
        *("test", "tests", "idle_test", "idlelib", "pydoc_data", "encodings"),
        *("site-packages", "dist-packages", "__pycache__"),
    }
)
FOLDER_KINDS = frozenset({".txt", ".md", ".jsonl"})  # what is taken out of a folder
CHUNK = 1 << 20  # bytes
RETRY_SECONDS = (1.0, 2.0, 4.0, 8.0)  # waits between the five attempts of a download
TIMEOUT = 60.0  # seconds without a byte
TRY_AGAIN = frozenset({408, 425, 429})  # and every 5xx: HTTP's ways to say "later"


class Source(NamedTuple):
    """Documents in a fixed order, and what a manifest says of where they are from."""

    documents: Iterable[Document]
    facts: dict
    bytes: int  # about as many will be read; 0 where nobody knows


# ---- the split


def divide(document: Document, corpus: Split) -> Iterator[tuple[str, Document]]:
    """Yields (part, document): the whole document, or its head and tail."""
    if corpus.split == "hash":
        yield ("valid" if hash_fraction(document.id) < corpus.valid_fraction else "train"), document
        return
    boundary = int(len(document.text) * (1 - corpus.valid_fraction))
    if boundary:
        yield "train", Document(document.id, document.text[:boundary])
    if boundary < len(document.text):
        yield "valid", Document(f"{document.id}#tail", document.text[boundary:])


def hash_fraction(name: str) -> float:
    """Returns a number in [0, 1) that depends on a document's name alone, so a growing corpus keeps its split."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64


# ---- the sources


def open_source(corpus: Corpus, scratch: Path, progress: Progress) -> Source:
    """Returns a corpus's documents. `scratch` is a file that a download may use and leave behind."""
    if corpus.source == "stdlib":
        return stdlib(Path(sysconfig.get_path("stdlib")))
    if corpus.source == "local":
        return local(corpus)
    if corpus.source == "url":
        return url(corpus, scratch, progress)
    return huggingface(corpus)


def stdlib(root: Path) -> Source:
    """Returns the Python files of the standard library below root, decoded as the interpreter decodes them."""
    names = [
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        if not NOT_STDLIB.intersection(path.relative_to(root).parts[:-1])
    ]
    names.sort(key=folder_by_folder)
    facts = {"implementation": platform.python_implementation(), "python": platform.python_version()}
    texts = (Document(name, python_source(root / name)) for name in names)
    return Source(texts, facts, sum((root / name).stat().st_size for name in names))


def folder_by_folder(name: str) -> tuple[list[str], str]:
    """Sorts file names so that a folder's files come together, before those of its folders."""
    return name.split("/")[:-1], name


def python_source(path: Path) -> str:
    """Returns a Python file's text in the encoding its first lines declare, line ends untouched."""
    raw = path.read_bytes()
    encoding, _ = tokenize.detect_encoding(BytesIO(raw).readline)
    return raw.decode(encoding)


def local(corpus: LocalCorpus) -> Source:
    """Returns the texts of files and folders of this machine."""
    files = named_files(corpus.paths)

    def read() -> Iterator[Document]:
        for name, path in files.items():
            yield from file_documents(path, name, corpus.text_key, str(path))

    facts = {name: {"bytes": path.stat().st_size, "sha256": file_sha256(path)} for name, path in files.items()}
    return Source(read(), {"files": facts}, sum(fact["bytes"] for fact in facts.values()))


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def url(corpus: UrlCorpus, scratch: Path, progress: Progress) -> Source:
    """Returns the documents of one downloaded file, once its sha256 is what the configuration says."""
    found = fetch(corpus.url, scratch, progress)
    if found != corpus.sha256:
        raise UserError(
            f"corpus.sha256: the file at {corpus.url} has {found}, not {corpus.sha256};"
            " it has changed or was altered on the way: put the new sum there if you trust it"
        )
    name = corpus.url.split("?")[0].rstrip("/").rpartition("/")[2]
    texts = file_documents(scratch, name, corpus.text_key, corpus.url)
    return Source(texts, {"sha256": found}, scratch.stat().st_size)


def huggingface(corpus: DatasetsCorpus) -> Source:
    """Returns the rows of a data set, read as a stream. `datasets` runs no code of a data set any more."""
    import datasets  # a second; only this source needs it

    with explained(corpus):
        builder = datasets.load_dataset_builder(corpus.dataset, corpus.subset, revision=corpus.revision)
        rows = builder.as_streaming_dataset(split=corpus.dataset_split)

    def read() -> Iterator[Document]:
        with explained(corpus):
            for number, row in enumerate(rows):
                where = f"{corpus.dataset}, row {number} of {corpus.dataset_split}"
                yield Document(f"{corpus.dataset_split}:{number}", text_of(row, corpus.text_key, where))

    # of a data set of the hub this is the commit; of a local folder it depends on file times
    facts = {} if Path(corpus.dataset).is_dir() else {"commit": builder.hash}
    return Source(read(), facts, builder.info.dataset_size or 0)


@contextmanager
def explained(corpus: DatasetsCorpus) -> Iterator[None]:
    """Turns what `datasets` raises over a data set it cannot read into one line."""
    from datasets.exceptions import DatasetsError

    try:
        yield
    except UserError:
        raise
    except (DatasetsError, OSError, ValueError, RuntimeError) as error:
        raise UserError(f"corpus.dataset: cannot read {corpus.dataset!r}: {first_line(error)}") from None


def first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__


# ---- files of this machine


def source_files(settings: Config) -> dict[str, list[str]]:
    """Returns local corpus -> the files it reads. Raises UserError where one is missing that a run needs."""
    used = stages.used_corpora(settings)
    found = {}
    for name, corpus in settings.corpus.items():
        if corpus.source != "local":
            continue
        try:
            found[name] = [str(path) for path in named_files(corpus.paths).values()]
        except UserError as error:
            if name in used:
                raise UserError(f"config: {str(error).replace('corpus.', f'corpus.{name}.', 1)}") from None
            found[name] = []
    return found


def named_files(paths: list[str]) -> dict[str, Path]:
    """Returns name -> file, in the order of the corpus: what the paths name, and what is in the folders among them.

    A name has no part of where the corpus stands, so that moving it changes no document and no split.
    """
    found: dict[str, Path] = {}
    for given in map(Path, paths):
        if given.is_dir():
            top = given.resolve().name
            new = {f"{top}/{path.relative_to(given).as_posix()}": path for path in text_files(given)}
        elif given.exists():
            new = {given.name: given}
        else:
            raise UserError(f"corpus.paths: no such file: {given}")
        if not new:
            raise UserError(f"corpus.paths: no .txt, .md or .jsonl file in {given}")
        for name in sorted(new.keys() & found.keys()):
            raise UserError(f"corpus.paths: {new[name]} and {found[name]} have the same name; rename one")
        found |= new
    return {name: found[name] for name in sorted(found, key=folder_by_folder)}


def text_files(folder: Path) -> list[Path]:
    """Returns the files of a folder and its folders that hold text; hidden ones are left out."""
    return [
        path
        for path in folder.rglob("*")
        if path.suffix in FOLDER_KINDS
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]


def file_documents(path: Path, name: str, text_key: str, where: str) -> Iterator[Document]:
    """Yields the documents of one file: a line each of .jsonl, else the whole. `where` names it in errors."""
    if not name.endswith(".jsonl"):
        yield Document(name, utf8(path.read_bytes(), where, 0))
        return
    offset = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if text := utf8(line, where, offset).strip():
                yield Document(f"{name}:{number}", json_text(text, text_key, f"{where}, line {number}"))
            offset += len(line)


def utf8(raw: bytes, where: str, offset: int) -> str:
    """Returns bytes as text. Raises UserError with the place in the file, `offset` being where they start."""
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{where} is not UTF-8 at byte {offset + error.start}; convert it, e.g. with iconv") from None


def json_text(line: str, text_key: str, where: str) -> str:
    """Returns the text in one line of JSON."""
    try:
        row = json.loads(line)
    except ValueError:
        raise UserError(f"{where} is not JSON: {line[:60]!r}") from None
    if not isinstance(row, dict):
        raise UserError(f"{where} is no JSON object: {line[:60]!r}")
    return text_of(row, text_key, where)


def text_of(row: dict, text_key: str, where: str) -> str:
    """Returns the text of one row. Raises UserError where there is none."""
    if text_key not in row:
        raise UserError(f"corpus.text_key: {where} has no {text_key!r}; it has: {', '.join(map(str, row))}")
    text = row[text_key]
    if not isinstance(text, str):
        raise UserError(f"corpus.text_key: {where}: {text_key!r} is no text but {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError as error:  # JSON can spell half of a surrogate pair
        raise UserError(f"{where}: character {error.start} of {text_key!r} is half of a surrogate pair") from None
    return text


# ---- the network


def fetch(address: str, path: Path, progress: Progress, waits: tuple[float, ...] = RETRY_SECONDS) -> str:
    """Downloads a file, trying again where that may help, and returns its sha256."""
    for wait in (*waits, None):
        try:
            return fetch_once(address, path, progress)
        except urllib.error.HTTPError as error:
            reason = f"HTTP {error.code} {error.reason}"
            final = error.code < 500 and error.code not in TRY_AGAIN
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
            reason = first_line(error)
            final = isinstance(getattr(error, "reason", None), FileNotFoundError)
        if final or wait is None:
            raise UserError(f"corpus.url: cannot download {address}: {reason}")
        progress.say(f"{address}: {reason}; trying again in {wait:.0f} s")
        time.sleep(wait)
    raise AssertionError


def fetch_once(address: str, path: Path, progress: Progress) -> str:
    """Downloads a file and returns its sha256."""
    total = hashlib.sha256()
    request = urllib.request.Request(address, headers={"User-Agent": "makelm"})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response, path.open("wb") as file:
        expected = int(response.headers.get("Content-Length", 0))  # 0: the server does not say
        with progress.track(expected, "B") as bar:
            while chunk := response.read(CHUNK):
                file.write(chunk)
                total.update(chunk)
                bar.advance(len(chunk))
        if expected and expected != file.tell():  # read() does not tell of a connection cut short
            raise ConnectionError(f"cut off after {file.tell()} of {expected} bytes")
    return total.hexdigest()
