"""Corpora of text: where documents come from, and which of them are for validation."""

import platform
import sysconfig
import tokenize
from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path
from typing import NamedTuple, assert_never

from makelm import data_sets, documents, fetching, files, reading
from makelm.config_corpus import Corpus, LocalCorpus, Split, TextKey, UrlCorpus
from makelm.documents import Document
from makelm.manifest import file_sha256
from makelm.progress import Progress

# Tests, generated tables and what is not the library's own: of 3.11.7, 550 files and 9.2 MB remain.
NOT_STDLIB = frozenset(
    {
        *("test", "tests", "idle_test", "idlelib", "pydoc_data", "encodings"),
        *("site-packages", "dist-packages", "__pycache__"),
    }
)


class Source(NamedTuple):
    """Documents in a fixed order, and what a manifest says of where they are from."""

    documents: Iterable[Document]
    facts: dict
    bytes: int  # about as many will be read; 0 where nobody knows


# ---- the split


def divide(document: Document, corpus: Split) -> Iterator[tuple[str, Document]]:
    """Yields (part, document): the whole document, or its head and tail."""
    if corpus.split == "hash":
        yield ("valid" if documents.hash_fraction(document.id) < corpus.valid_fraction else "train"), document
        return
    boundary = int(len(document.text) * (1 - corpus.valid_fraction))
    if boundary:
        yield "train", Document(document.id, document.text[:boundary])
    if boundary < len(document.text):
        yield "valid", Document(f"{document.id}#tail", document.text[boundary:])


# ---- the sources


def open_source(corpus: Corpus, downloads: Path, progress: Progress) -> Source:
    """Returns a corpus's documents. What is downloaded is kept in the folder `downloads`, for a next run to go on."""
    match corpus.source:
        case "stdlib":
            return stdlib(Path(sysconfig.get_path("stdlib")))
        case "local":
            return local(corpus)
        case "url":
            return url(corpus, downloads, progress)
        case "huggingface":
            return Source(*data_sets.open_rows(corpus))
        case _:
            assert_never(corpus.source)


def stdlib(root: Path) -> Source:
    """Returns the Python files of the standard library below root, decoded as the interpreter decodes them."""
    names = [
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        if not NOT_STDLIB.intersection(path.relative_to(root).parts[:-1])
    ]
    names.sort(key=files.folder_by_folder)
    facts = {"implementation": platform.python_implementation(), "python": platform.python_version()}
    texts = (Document(name, python_source(root / name)) for name in names)
    return Source(texts, facts, sum((root / name).stat().st_size for name in names))


def python_source(path: Path) -> str:
    """Returns a Python file's text in the encoding its first lines declare, line ends untouched."""
    raw = path.read_bytes()
    encoding, _ = tokenize.detect_encoding(BytesIO(raw).readline)
    return raw.decode(encoding)


def local(corpus: LocalCorpus) -> Source:
    """Returns the texts of files and folders of this machine."""
    paths = files.named_files(corpus.paths)
    sums = {name: file_sha256(path) for name, path in paths.items()}
    return of_files(paths, sums, corpus.text_key, {name: str(path) for name, path in paths.items()})


def url(corpus: UrlCorpus, downloads: Path, progress: Progress) -> Source:
    """Returns the documents of downloaded files, once each has the sha256 that the configuration says."""
    sums = dict(zip(fetching.names(corpus.url), corpus.sha256, strict=True))
    addresses = dict(zip(sums, corpus.url, strict=True))
    fetching.keep_only(downloads, corpus.sha256)
    paths = {name: fetching.fetch(addresses[name], sums[name], downloads, progress) for name in sums}
    return of_files(paths, sums, corpus.text_key, addresses)


def of_files(paths: dict[str, Path], sums: dict[str, str], keys: TextKey, origins: dict[str, str]) -> Source:
    """Returns the documents of files, each by its name: where it stands, its sha256 and where it is from."""

    def read() -> Iterator[Document]:
        for name, path in paths.items():
            yield from reading.documents(path, name, keys, origins[name])

    facts = {name: {"bytes": path.stat().st_size, "sha256": sums[name]} for name, path in paths.items()}
    plain = not any(files.kind(name).compression or files.kind(name).form == ".parquet" for name in paths)
    return Source(read(), {"files": facts}, sum(fact["bytes"] for fact in facts.values()) if plain else 0)
