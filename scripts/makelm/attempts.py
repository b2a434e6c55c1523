"""What a stage that ended with 2 leaves for later attempts: Snakemake retries whatever failed, and cannot know better.

An attempt after the first one, on the same inputs, says the same line at once. A new start of Snakemake begins with
a first attempt, which always tries.
"""

import hashlib
from argparse import Namespace
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from makelm import closure, manifest
from makelm.errors import USER, left


def inputs(stage: str, args: Namespace) -> str:
    """Returns the digest of what an attempt is about: keys, code, and the manifests of the folders it reads."""
    digest = hashlib.sha256(closure.closure(stage).digest().encode())
    digest.update(manifest.canonical([args.config, args.execution, args.set]).encode())
    for path in (path for folder in folders(args) for path in sorted(folder.glob("*.json"))):
        with suppress(OSError):  # what cannot be read may be what an attempt ended for: it must not end this
            digest.update(path.read_bytes())
    return digest.hexdigest()


def folders(args: Namespace) -> Iterator[Path]:
    """Yields what the command line names of what is read: FOLDER, or several as FOLDER or NAME=FOLDER."""
    for key, value in sorted(vars(args).items()):
        if isinstance(value, Path) and key != "out":
            yield value
        elif isinstance(value, list) and key != "set":
            # both NAME and FOLDER may have = in them
            for parts in (word.split("=") for word in value):
                yield from (Path("=".join(parts[first:])) for first in range(len(parts)))


def verdict(log: Path, stage: str, args: Namespace) -> str | None:
    """Returns the line that an attempt before this one ended with, where this one cannot but end so too."""
    found = left(log) if args.attempt > 1 else None
    same = found and found["exit_code"] == USER and found["inputs"] == inputs(stage, args)
    return found["line"] if same else None
