"""Seals of checkpoints: the sha256 of each of their files, beside them.

Orbax notices a checkpoint that is cut off, not one with another byte in it.
"""

import json
import threading
from contextlib import suppress
from pathlib import Path

from makelm import identities, manifest

END = ".sha256.json"  # after a checkpoint's step


class Seals:
    """The seals of the checkpoints in a folder, written while training goes on."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.writing: threading.Thread | None = None

    def path(self, step: int | str) -> Path:
        """Returns where a checkpoint's seal stands: beside it, since what is in it is Orbax's."""
        return self.folder / f"{step}{END}"

    def remove(self, step: int) -> None:
        """Removes the seal of a checkpoint that is gone, or about to be written anew."""
        self.path(step).unlink(missing_ok=True)

    def write(self) -> None:
        """Begins to seal what is finished; waits for what was begun before."""
        self.wait()
        self.writing = threading.Thread(target=self.write_all, daemon=True)
        self.writing.start()

    def wait(self) -> None:
        """Returns when what was begun is written."""
        if self.writing is not None:
            self.writing.join()

    def write_all(self) -> None:
        """Seals what has its final name and no seal, and removes seals of what is gone."""
        there = set(map(str, identities.steps(self.folder)))
        for path in self.folder.glob(f"*{END}"):
            if path.name.removesuffix(END) not in there:
                path.unlink(missing_ok=True)
        for name in there:
            path = self.path(name)
            # one that Orbax is removing, or a full disk: it stays without
            with suppress(OSError):
                if not path.exists():
                    manifest.replace_text(path, json.dumps(file_digests(self.folder / name), indent=1) + "\n")

    def broken(self, step: int) -> str | None:
        """Returns what is wrong with a sealed checkpoint, or None; one without a seal is taken as it is."""
        path = self.path(step)
        if not path.exists():
            return None
        try:
            expected, found = json.loads(path.read_text()), file_digests(self.folder / str(step))
        except (ValueError, OSError) as error:
            return f"cannot be compared with its seal ({error})"
        changed = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        return f"is damaged: {changed[0]} is not as it was written" if changed else None


def file_digests(folder: Path) -> dict[str, str]:
    """Returns the sha256 of each file below a folder, by its path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): manifest.file_sha256(path) for path in files}
