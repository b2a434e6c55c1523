"""What in results/ no configured run uses: found, and deleted.

Used is what artifacts.artifacts lists, and of a run's checkpoints those of the identity it has now, of the one it was
published with and of the one it is to go on from. What is no artifact of makelm is nobody's to delete. Links are not
followed.
"""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from makelm import closure, fetching, locks, manifest, places, shard_checks, stages
from makelm.artifacts import Artifact, artifacts
from makelm.config import Config, Run
from makelm.identities import Identity
from makelm.progress import size

DELETING = ".deleting-"  # what is being deleted has this before its name: a kill meanwhile leaves nothing half there
DOWNLOAD = re.compile(rf"(?:\.deleting-)?{re.escape(fetching.FOLDER)}")
PARTIAL = re.compile(r"(?:\.deleting-)?\.partial-(.+)-[^-]+")
IDENTITY = re.compile(r"(?:\.deleting-)?[0-9a-f]{16}")
CHECKED = re.compile(rf"(?:\.deleting-)?{re.escape(shard_checks.FILE)}")
LOCK = re.compile(r"\..+\.lock(\..+)?")
LIST = manifest.list_path(Path("manifest.json")).name


@dataclass(frozen=True)
class Thing:
    """Something that could go: an artifact, the checkpoints of one identity, or what a dead writer left."""

    head: Path  # the manifest or the folder, which gets another name before anything is deleted
    files: tuple[Path, ...]  # what else there is of an artifact
    why: str
    lock: Path  # whoever holds it may be writing this

    def __str__(self) -> str:
        return str(self.head.parent if self.head.name == "manifest.json" else self.head)

    def size(self) -> int:
        """Returns its bytes."""
        return sum(map(tree_size, (self.head, *self.files)))


@dataclass
class Found:
    """What was found below results/."""

    things: list[Thing] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # lines on what was left alone
    known: set[Path] = field(default_factory=set)  # whatever has an explanation


def find(settings: Config, lock: str, results: Path) -> Found:
    """Returns what no configured run uses; `lock` is the lock file's text."""
    found = Found()
    used = {results / artifact.manifest: artifact for artifact in artifacts(settings, lock)}
    needed = {path for record in used for path in (record, *(artifact_files(record) or ()))}
    found.known |= needed
    for stage in stages.STAGES:
        for folder in folders(results / stage, places.depth(stage)):
            for path in sorted(folder.iterdir()):
                add(found, stage, path, needed)
            if stage == "train_model":
                add_checkpoints(found, settings, used.get(folder / "manifest.json"), folder, results)
    passed = {parent for path in found.known for parent in path.parents}
    for path, what in unknown(results, found.known, passed):
        found.notes.append(f"{path}: {size(tree_size(path))}, {what}, left alone")
    return found


def folders(top: Path, depth: int) -> Iterator[Path]:
    """Yields the folders so far below another; a link is none."""
    if top.is_symlink() or not top.is_dir():
        return
    if not depth:
        yield top
    else:
        for path in sorted(top.iterdir()):
            yield from folders(path, depth - 1)


def add(found: Found, stage: str, path: Path, needed: set[Path]) -> None:
    """Adds what one name in an artifact's folder stands for, if nobody needs it."""
    if path in needed:
        return
    name = path.name.removeprefix(DELETING)
    if partial := PARTIAL.fullmatch(path.name):
        thing = Thing(path, (), "left by a writer that died", locks.beside(path.with_name(f"{partial[1]}.json")))
    elif stage == "download_corpus" and DOWNLOAD.fullmatch(path.name):
        record = path.with_name("manifest.json")
        if record in needed and not record.exists() and path.name == fetching.FOLDER:  # the next run goes on from it
            found.known.add(path)
            return
        thing = Thing(path, (), "left of a download", locks.beside(record))
    elif stage == "encode_shard" and CHECKED.fullmatch(path.name):
        if path.name == shard_checks.FILE and any(record.parent == path.parent for record in needed):
            found.known.add(path)
            return
        thing = Thing(path, (), "on shards that no configured run uses", locks.beside(path.with_name("00000.json")))
    elif places.is_manifest(stage, name) and (files := artifact_files(path, stage)) is not None:
        record, begun = path.with_name(name), name != path.name
        why = "its deletion was interrupted" if begun else "no configured run uses it"
        made_again = begun and record.exists()
        files = () if made_again else (*files, manifest.list_path(record))
        thing = Thing(path, tuple(file for file in files if file not in needed), why, locks.beside(record))
    else:
        return
    found.things.append(thing)
    found.known |= {thing.head, *thing.files}


def artifact_files(record: Path, stage: str | None = None) -> list[Path] | None:
    """Returns the files that a manifest lists, or None where it is none, or is one of another stage than this.

    Of a file behind a link it is the link.
    """
    try:
        content = manifest.read(record)["content"]
        names = [PurePosixPath(name) for name in content["files"]]
    except (OSError, ValueError):
        return None
    foreign = any(name.is_absolute() or ".." in name.parts for name in names)
    if foreign or record.is_symlink() or stage not in (None, content["stage"]):
        return None
    return list(dict.fromkeys(outermost_link(record.parent, name) for name in names))


def outermost_link(folder: Path, name: PurePosixPath) -> Path:
    """Returns the path of a file below a folder, or the first link on the way to it."""
    path = folder
    for part in name.parts:
        path = path / part
        if path.is_symlink():
            break
    return path


def unknown(folder: Path, known: set[Path], passed: set[Path]) -> Iterator[tuple[Path, str]]:
    """Yields what below a folder has no explanation, with a word on it; `passed` are the folders above known things.

    Of a folder of nothing else it is the folder.
    """
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path in known or LOCK.fullmatch(path.name) or path.name.startswith(LIST):
            continue
        if path.is_symlink():
            yield path, "a link"
        elif path.is_dir() and path in passed:
            yield from unknown(path, known, passed)
        elif not path.is_dir() or any(any(files) for _, _, files in os.walk(path)):
            yield path, "unknown"


# ---- checkpoints


def add_checkpoints(found: Found, settings: Config, artifact: Artifact | None, folder: Path, results: Path) -> None:
    """Adds the checkpoints of a run that are of no use; `artifact` is None where the run is not configured."""
    top = folder / "checkpoints"
    names = [path for inner in folders(top, 0) for path in sorted(inner.iterdir()) if IDENTITY.fullmatch(path.name)]
    identities = [path for path in names if path.is_dir() and not path.is_symlink()]
    found.known |= set(identities)
    kept, why = set(), "checkpoints of a run that is not configured"
    if artifact and identities:
        why = "checkpoints of an identity that the run no longer has"
        try:
            kept = kept_identities(artifact, settings.run[folder.name], results)
        except FileNotFoundError as error:
            found.notes.append(f"{top}: all kept, since {error.filename} is missing")
            return
        except ValueError:
            found.notes.append(f"{top}: all kept, since a manifest is damaged; make verify says which")
            return
    lock = locks.beside(folder / "manifest.json")
    found.things += [Thing(path, (), why, lock) for path in identities if path.name not in kept]


def kept_identities(artifact: Artifact, run: Run, results: Path) -> set[str]:
    """Returns the identities whose checkpoints a configured run needs. Raises what manifest.read does."""
    digests = {name: manifest.read(results / place)["digest"] for name, place in artifact.inputs.items()}
    kept = {Identity(artifact.keys, digests, closure.closure("train_model").digest()).name}
    if (results / artifact.manifest).exists():
        kept.add(manifest.read(results / artifact.manifest)["content"]["facts"]["identity"])
    return kept | {run.train.resume_from}


# ---- weighing and deleting


def tree_size(path: Path) -> int:
    """Returns the bytes of a file, or of all files below a folder; a link counts itself."""
    if path.is_symlink() or not path.is_dir():
        return path.lstat().st_size if os.path.lexists(path) else 0
    return sum((Path(parent) / name).lstat().st_size for parent, _, names in os.walk(path) for name in names)


def collect(things: list[Thing], results: Path, delete: bool, say: Callable[[str], None]) -> tuple[int, int]:
    """Says of each thing what it is, and deletes it if wanted; returns (things, bytes), without what is in use."""
    count = total = 0
    by_lock: dict[Path, list[Thing]] = {}
    for thing in things:
        by_lock.setdefault(thing.lock, []).append(thing)
    for path, under in by_lock.items():
        lock = locks.Lock(path, say, say)
        if (holder := lock.holder()) or (delete and not lock.take()):
            say(f"{path.parent}: being written by {holder or 'another process'}; left alone")
            continue
        for thing in under:
            amount = thing.size()
            if delete and not remove(thing, lock):
                break
            say(f"{thing}: {size(amount)}, {thing.why}")
            count, total = count + 1, total + amount
        if delete:
            for left in path.parent.glob(f"{path.name}.*"):  # by who was killed in the middle of taking it over
                left.unlink()
            lock.release()
            remove_empty(path.parent, results)
    return count, total


def remove(thing: Thing, lock: locks.Lock) -> bool:
    """Deletes a thing under its lock; returns whether the lock was held to the end."""
    head = thing.head
    if not head.name.startswith(DELETING):
        head = head.rename(head.with_name(DELETING + head.name))
    for path in (*thing.files, head):
        if lock.lost():
            return False
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        if path.parent != lock.path.parent:
            remove_empty(path.parent, lock.path.parent)
    return True


def remove_empty(folder: Path, top: Path) -> None:
    """Removes a folder that is empty, and those above it that become so, up to `top`, which stays."""
    while folder != top:
        try:
            folder.rmdir()
        except OSError:
            return
        folder = folder.parent
