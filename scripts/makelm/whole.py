"""Manifests that say more than is there: what they list was removed, cut short, or they are damaged themselves.

Snakemake takes a manifest that exists for a job that is done. Only what costs no reading of files is looked at; whether
a byte is another one, `make verify` says.
"""

from collections.abc import Iterator
from pathlib import Path

from makelm import manifest, places

# in the environment of Snakemake, what becomes of such manifests. forget: it removes them, and so makes again what it
# needs of them; say: it names them
UNTRUE = "MAKELM_UNTRUE"


def untrue(results: str | Path) -> Iterator[tuple[str, str]]:
    """Yields the manifests below results/ that do not hold, and why."""
    for path in places.manifests(Path(results)):
        try:
            files = manifest.read(path)["content"]["files"]
            why = next((f"{path.parent / name} {lack}" for name, lack in lacking(path.parent, files)), None)
        except (OSError, ValueError):  # OSError: a folder of that name, too
            why = f"{path} is damaged"
        if why:
            yield str(path), why


def lacking(folder: Path, files: dict[str, dict | None]) -> Iterator[tuple[str, str]]:
    """Yields the files of an artifact that are missing or shorter than they were, and which."""
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            yield name, "is missing"
        elif expected is not None and path.stat().st_size < expected["bytes"]:
            yield name, "is cut short"
