"""Files of this machine that corpora are made of: which they are, what they are called, of what kind they are.

This module is also imported when Snakemake reads the workflow, so it imports little.
"""

from pathlib import Path, PurePosixPath
from typing import NamedTuple, assert_never

from makelm.config_corpus import Clean, Corpus, TokensCorpus, is_address
from makelm.errors import UserError
from makelm.manifest import file_sha256

FORMS = (".txt", ".md", ".jsonl", ".parquet", ".tar")
COMPRESSIONS = (".gz", ".xz", ".zst")
SHORT = {".tgz": ".tar.gz", ".txz": ".tar.xz"}
KINDS = f"{', '.join(FORMS)} (or these with {', '.join(COMPRESSIONS)})"


class Kind(NamedTuple):
    """What a file's name says of its content."""

    form: str  # of FORMS, or nothing: the name does not say
    compression: str  # of COMPRESSIONS, or nothing


def kind(name: str) -> Kind:
    """Returns what a file's name says of its content."""
    name = name.lower()
    for short, long in SHORT.items():
        if name.endswith(short):
            name = name.removesuffix(short) + long
    compression = next((ending for ending in COMPRESSIONS if name.endswith(ending)), "")
    name = name.removesuffix(compression)
    return Kind(next((ending for ending in FORMS if name.endswith(ending)), ""), compression)


def is_hidden(name: PurePosixPath) -> bool:
    """Returns whether a file, or a folder that it is in, has a name that begins with a dot."""
    return any(part.startswith(".") for part in name.parts)


def check_name(name: str, where: str) -> None:
    """Raises UserError where a name, which becomes that of documents, is no text."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raise UserError(f"{where}: the file name {name!a} is not UTF-8; rename it") from None


def corpus_files(corpus: Corpus) -> list[Path]:
    """Returns the files of this machine that a corpus reads, those among them that it is compared with."""
    if corpus.source == "tokens":
        return token_files(corpus)
    return list(source_files(corpus).values()) + list(evaluation_files(corpus.clean).values())


def source_files(corpus: Corpus) -> dict[str, Path]:
    """Returns name -> file of this machine that a corpus's documents are in, as its manifest names them."""
    match corpus.source:
        case "local":
            return named_files(corpus.paths)
        case "huggingface":
            return data_set_files(Path(corpus.dataset))
        case "stdlib" | "url":
            return {}
        case _:  # else a change of its files would go unseen
            assert_never(corpus.source)


def data_set_files(folder: Path) -> dict[str, Path]:
    """Returns name -> file of a folder that `datasets` can load, which passes over hidden ones; none of the hub's."""
    every = folder.rglob("*") if folder.is_dir() else ()
    found = {path.relative_to(folder).as_posix(): path for path in every if path.is_file()}
    names = sorted(name for name in found if not is_hidden(PurePosixPath(name)))
    for name in names:
        check_name(name, "corpus.dataset")
    return {name: found[name] for name in names}


def described(paths: dict[str, Path]) -> dict[str, dict]:
    """Returns name -> size and sha256 of files, as a manifest has them."""
    return {name: {"bytes": path.stat().st_size, "sha256": file_sha256(path)} for name, path in paths.items()}


def evaluation_files(clean: Clean | None) -> dict[str, Path]:
    """Returns name -> file of the texts that training documents are compared with."""
    texts = clean.evaluation_texts if clean else None
    return named_files(texts.paths, "corpus.clean.evaluation_texts.paths") if texts else {}


def token_files(corpus: TokensCorpus) -> list[Path]:
    """Returns those of a corpus's token files that are on this machine."""
    if corpus.repository:
        return []
    paths = [Path(name) for name in corpus.files if not is_address(name)]
    for path in paths:
        if not path.is_file():
            key = "train" if str(path) in map(str, map(Path, corpus.train)) else "valid"
            raise UserError(f"corpus.{key}: no such file: {path}")
    return paths


def named_files(paths: list[str], key: str = "corpus.paths") -> dict[str, Path]:
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
            raise UserError(f"{key}: no such file: {given}")
        if not new:
            raise UserError(f"{key}: no file of these kinds in {given}: {KINDS}")
        for name in sorted(new.keys() & found.keys()):
            raise UserError(f"{key}: {new[name]} and {found[name]} have the same name; rename one")
        found |= new
    for name in found:
        check_name(name, key)
    return {name: found[name] for name in sorted(found, key=folder_by_folder)}


def text_files(folder: Path) -> list[Path]:
    """Returns the files of a folder and its folders that hold text; hidden ones are left out."""
    return [
        path
        for path in folder.rglob("*")
        if kind(path.name).form and path.is_file() and not is_hidden(PurePosixPath(path.relative_to(folder)))
    ]


def folder_by_folder(name: str) -> tuple[list[str], str]:
    """Sorts file names so that a folder's files come together, before those of its folders."""
    return name.split("/")[:-1], name
