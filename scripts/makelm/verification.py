"""Whether results/ is what a configuration stands for: all of it there, unaltered, and made from what is there now."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from makelm import closure, manifest, nested, source_sums
from makelm.artifacts import Artifact, artifacts, reported_manifests
from makelm.config import Config


@dataclass
class Counts:
    """What was looked at."""

    artifacts: int = 0
    files: int = 0
    bytes: int = 0


def verify(settings: Config, lock: str, results: Path, counts: Counts) -> Iterator[str]:
    """Yields one line for each thing that is wrong below results, and counts what it reads."""
    digests: dict[str, str] = {}  # of the manifests that are there
    made_by_make = {"write_report/manifest.json"}.union(*(reported_manifests(settings, run) for run in settings.runs))
    for artifact in artifacts(settings, lock):
        path = results / artifact.manifest
        # data that all runs have used already is made again only where it is named
        again = (
            "make"
            if artifact.manifest in made_by_make
            else f"make ARGS={path}, followed by the same ARGS if there were any"
        )
        try:
            found = manifest.read(path)
        except FileNotFoundError:
            yield f"{path}: missing; run {again}"
            continue
        except ValueError:
            yield f"{path}: damaged; run {again}"
            continue
        digests[artifact.manifest] = found["digest"]
        counts.artifacts += 1
        yield from wrong_files(path.parent, found["content"]["files"], again, counts)
        reasons = [*stale(artifact, found["content"], digests)]
        reasons += source_sums.changes(settings, artifact, found["content"])
        if reasons:
            yield f"{path}: stale: {'; '.join(reasons)}; run make"


def wrong_files(folder: Path, files: dict[str, dict | None], again: str, counts: Counts) -> Iterator[str]:
    """Yields a line for each file of an artifact that is missing, truncated or altered; `again` makes it anew."""
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            yield f"{path}: missing; run {again}"
            continue
        size = path.stat().st_size
        counts.files += 1
        counts.bytes += size
        if expected is None:  # a file of measured times has no digest
            continue
        if size != expected["bytes"]:
            kind = "truncated" if size < expected["bytes"] else "altered"
            yield f"{path}: {kind}: {size:,} bytes, not {expected['bytes']:,}; remove it and run {again}"
        elif manifest.file_sha256(path) != expected["sha256"]:
            yield f"{path}: altered: its sha256 is not the recorded one; remove it and run {again}"


def stale(artifact: Artifact, content: dict, digests: dict[str, str]) -> Iterator[str]:
    """Yields why an artifact is not what would be made now; `digests` are those of the manifests that are there."""
    expected, made_with = dict(artifact.keys), dict(content["config"])
    locked = expected.pop("locked")
    made_with.pop("locked", None)
    changed = [key for key, *_ in nested.differences(expected, made_with)]
    if changed:
        yield f"the configuration changed ({', '.join(changed)})"
    packages = [
        f"{name} {content['packages'].get(name, 'none')}, locked {version}"
        for name, version in locked.items()
        if content["packages"].get(name) != version
    ]
    if packages:
        yield f"made with other packages ({', '.join(packages)})"
    if closure.closure(artifact.stage).digest() != content["code"]:
        yield "the code changed"
    for name, place in artifact.inputs.items():
        if place in digests and digests[place] != content["inputs"].get(name):
            yield f"its input {place} is another one now"
