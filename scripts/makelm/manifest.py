"""Manifests: what each job leaves beside its artifacts, and how artifacts come to stand there whole.

A manifest has two parts. `content` is everything that decides the artifact and the artifact itself, by
digest; the next stage records the digest of this part. `made` is how it came about (host, time, command)
and is in no digest. docs/formats.md is the specification.
"""

import hashlib
import json
import os
import secrets
import shutil
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from makelm.errors import UserError

VERSION = 1


def canonical(value: Any) -> str:
    """Returns the one JSON text of a value: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value: Any) -> str:
    """Returns the sha256 of a value's canonical JSON."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """Returns the sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def describe_files(folder: Path, measured: frozenset[str]) -> dict[str, dict | None]:
    """Returns relative name -> size and sha256 of every file below a folder; None for the measured ones.

    Files that hold measured times differ between two equal runs: they are listed, without a digest.
    """
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    return {
        name: None
        if name in measured
        else {"bytes": (folder / name).stat().st_size, "sha256": file_sha256(folder / name)}
        for name in names
    }


def build(content: dict, made: dict) -> dict:
    """Returns a manifest of the two parts."""
    return {"version": VERSION, "digest": digest(content), "content": content, "made": made}


class Facts(dict):
    """The findings of another stage. Raises UserError for one that it does not have: other code made them."""

    def __init__(self, facts: dict, path: Path, stage: str):
        super().__init__(facts)
        self.path, self.stage = path, stage

    def __missing__(self, name: str) -> Any:
        raise UserError(
            f"{self.path} says nothing of {name}: another version of makelm made it; run {self.stage} again"
        )


def read(path: Path) -> dict:
    """Reads a manifest. Raises OSError, or ValueError where it is damaged."""
    try:
        found = json.loads(path.read_bytes())
        whole = found["version"] == VERSION and digest(found["content"]) == found["digest"]
    except (ValueError, KeyError, TypeError):  # no JSON, a key is missing, no map
        whole = False
    if not whole:
        raise ValueError(f"{path} is damaged or of another version of makelm")
    return found


def check_file(folder: Path, content: dict, name: str) -> None:
    """Raises UserError where a file is not the one that its manifest's content describes."""
    path, expected = folder / name, content["files"].get(name)
    if expected is None:
        raise UserError(f"{path} is not in its manifest; run {content['stage']} again")
    if not path.is_file():
        problem = "is missing"
    elif path.stat().st_size != expected["bytes"]:
        problem = f"is damaged: {path.stat().st_size} bytes instead of {expected['bytes']}"
    elif file_sha256(path) != expected["sha256"]:
        problem = "is damaged: its sha256 is not the one in its manifest"
    else:
        return
    raise UserError(f"{path} {problem}; remove the manifest beside it and run {content['stage']} again")


def sync(path: Path) -> None:
    """Forces a file or folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_text(path: Path, text: str, several: bool = False) -> None:
    """Gives a file another text at once: after a kill it has the old one or the new one.

    `several` may do so at the same time: each then writes to a name of its own, of those that gc knows.
    """
    own = f".partial-{path.stem}-{secrets.token_hex(4)}" if several else f"{path.name}.partial"
    unfinished = path.with_name(own)
    unfinished.write_text(text, encoding="utf-8")
    sync(unfinished)
    unfinished.replace(path)


def publish(staging: Path, out: Path, last: str) -> None:
    """Moves everything in staging to its final name in out; the file `last` (the manifest) at the end.

    Both folders are on one file system, so each move is a rename: a reader sees all of a file or none, and
    where the manifest stands, so does the rest. Of the artifact before it, which may have had other files, none stays.
    """
    for path in sorted(staging.rglob("*")):
        sync(path)
    new = {path.relative_to(staging).as_posix() for path in staging.rglob("*") if path.is_file()} - {last}
    before = listed(out, last)
    (out / last).unlink(missing_ok=True)
    write_list(out, last, before | new)  # a kill from here on leaves no manifest, but the names of all there is
    for name in sorted(before - new):
        remove(out, name)
    for name in sorted(path.name for path in staging.iterdir() if path.name != last):
        if (out / name).is_dir():
            shutil.rmtree(out / name)
        (out / name).unlink(missing_ok=True)  # where both are links to one file, a rename does nothing
        (staging / name).rename(out / name)
    (staging / last).rename(out / last)
    sync(out)
    write_list(out, last, new)
    staging.rmdir()


# ---- which files are an artifact's, where its manifest is gone: Snakemake removes it before it starts a job


def list_path(manifest: Path) -> Path:
    """Returns where the names of all files stand that an artifact has, or had before it."""
    return manifest.with_name(f".{manifest.stem}.files")


def listed(out: Path, last: str) -> set[str]:
    """Returns the names of the files that an artifact may have left in its folder."""
    found = set()
    with suppress(OSError, ValueError):  # there is none, or it is damaged
        found.update(read(out / last)["content"]["files"])
    with suppress(OSError, ValueError):
        found.update(json.loads(list_path(out / last).read_bytes()))
    return {name for name in found if not PurePosixPath(name).is_absolute() and ".." not in PurePosixPath(name).parts}


def write_list(out: Path, last: str, names: set[str]) -> None:
    """Writes down what files an artifact has. One that shares its folder, a token shard, always has the same."""
    path, text = list_path(out / last), json.dumps(sorted(names))
    if last != "manifest.json" or (path.exists() and path.read_text() == text):
        return
    replace_text(path, text)


def remove(out: Path, name: str) -> None:
    """Removes a file of an artifact, and the folders in it that become empty."""
    path = out / name
    if path.is_symlink() or path.is_file():  # a folder of its name is another artifact's
        path.unlink()
    for folder in path.relative_to(out).parents[:-1]:
        with suppress(OSError):  # it is not empty, or gone
            (out / folder).rmdir()
