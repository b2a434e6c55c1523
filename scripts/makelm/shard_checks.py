"""Token shards against the sums in their manifests, before anything is made of them.

An altered shard would make another model, and nothing would show it once the shard is made again. To read terabytes
at each start would be too much: beside the shards stands a record of what was read, and what has not been written to
since is not read again.
"""

import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from makelm import cli, manifest
from makelm.errors import Interrupted, UserError
from makelm.progress import size
from makelm.shards import REDO, Folder
from makelm.token_header import shard_name

FILE = "checked.json"  # the record: name -> size, times, inode and sha256
MOMENT = 10**9  # bytes whose reading is worth a line: about a second, from a disk


def check(job: cli.Job, folders: Iterable[Folder], parts: Sequence[str]) -> None:
    """Raises UserError where a shard of these parts is not the one that its manifest describes."""
    for folder in folders:
        check_folder(job, folder, [shard_name(part, number) for part in parts for number in range(len(folder.facts))])


def check_folder(job: cli.Job, folder: Folder, names: list[str]) -> None:
    """Does so for the files of one folder, and remembers what it read."""
    known = read_record(folder.path)
    states = {name: state(folder.path / name) for name in names}
    new = [name for name in names if known.get(name) != [*states[name], folder.files[name]["sha256"]]]
    total = sum(states[name][0] for name in new)
    if total >= MOMENT:
        job.say(f"reads {size(total)} of token shards, to compare them with the sums in their manifests")
    pool = ThreadPoolExecutor(job.args.cores)  # sums are made without the interpreter's lock
    try:
        with job.progress.track(total, "B") as bar:
            for name, found in zip(new, pool.map(manifest.file_sha256, map(folder.path.joinpath, new)), strict=True):
                if found != folder.files[name]["sha256"]:
                    raise UserError(
                        f"{folder.path / name} is altered: its sha256 is not the one in its manifest; {REDO}"
                    )
                known[name] = [*states[name], found]
                bar.advance(states[name][0])
                if job.stopping.is_set():
                    raise Interrupted("stopped while it compared token shards; run it again to go on")
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        if new:
            write_record(folder.path, known)


def state(path: Path) -> list[int]:
    """Returns what changes with a file's content: its size, its times of writing and which file it is."""
    try:
        found = path.stat()
    except FileNotFoundError:
        raise UserError(f"{path} is missing; run encode_shard") from None
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def read_record(folder: Path) -> dict[str, list]:
    """Returns name -> state and sha256 of the files that were read before."""
    try:
        found = json.loads((folder / FILE).read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write_record(folder: Path, known: dict[str, list]) -> None:
    """Writes the record; of two at a time the last one stays, and what it lacks is read once more."""
    with suppress(OSError):  # a folder that cannot be written to: it is read each time
        manifest.replace_text(folder / FILE, json.dumps(known, indent=1) + "\n", several=True)
