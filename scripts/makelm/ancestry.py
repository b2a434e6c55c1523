"""Where an artifact comes from: manifests, found by the digests that the manifests after them record."""

from dataclasses import dataclass
from pathlib import Path

from makelm import manifest, places


@dataclass(frozen=True)
class Node:
    """One manifest and where it stands below the results folder."""

    place: str  # encode_shard/stdlib/stdlib_bpe/00000.json
    manifest: dict

    @property
    def stage(self) -> str:
        return self.manifest["content"]["stage"]

    @property
    def entry(self) -> str:
        """What the stage worked on: a run, a corpus, a tokenizer."""
        return "/".join(self.place.split("/")[1:-1])


@dataclass(frozen=True)
class Gap:
    """An input that no manifest of the results folder has the digest of any more."""

    place: str  # whose input
    name: str
    digest: str


def index(results: Path) -> dict[str, Node]:
    """Returns content digest -> node of every sound manifest below a results folder."""
    found = {}
    for path in places.manifests(results):
        try:
            read = manifest.read(path)
        except ValueError:
            continue  # of no use to anybody: what was made from it shows a gap
        found.setdefault(read["digest"], Node(path.relative_to(results).as_posix(), read))
    return found


def trace(start: list[Node], found: dict[str, Node]) -> tuple[list[Node], list[Gap]]:
    """Returns everything the start nodes were made from, and themselves, inputs first; and the gaps."""
    order: dict[str, Node] = {}
    gaps: dict[tuple[str, str], Gap] = {}

    def visit(node: Node) -> None:
        digest = node.manifest["digest"]
        if digest in order:
            return
        for name, needed in node.manifest["content"]["inputs"].items():
            if needed in found:
                visit(found[needed])
            else:
                gaps[node.place, name] = Gap(node.place, name, needed)
        order[digest] = node

    for node in start:
        visit(node)
    return list(order.values()), list(gaps.values())
