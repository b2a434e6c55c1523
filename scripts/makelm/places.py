"""Where manifests stand below a folder of results: in each stage's own, below the names of what it worked on."""

from fnmatch import fnmatchcase
from pathlib import Path

# folders below the stage's own, such as encode_shard/<corpus>/<tokenizer>/; of the other stages 1
DEPTHS = {"write_report": 0, "encode_shard": 2, "evaluate_task": 2}


def depth(stage: str) -> int:
    """Returns how many folders below the stage's own its artifacts stand."""
    return DEPTHS.get(stage, 1)


def pattern(stage: str) -> str:
    """Returns the pattern of the names of a stage's manifests; token shards, which share a folder, have a number."""
    return f"{'[0-9]' * 5}.json" if stage == "encode_shard" else "manifest.json"


def is_manifest(stage: str, name: str) -> bool:
    """Returns whether a manifest of a stage can have this name."""
    return fnmatchcase(name, pattern(stage))


def manifests(results: Path) -> list[Path]:
    """Returns the paths of all manifests, sorted; checkpoints, weights and what a writer has begun are not searched."""
    found = []
    for folder in results.glob("*"):
        found += folder.glob("*/" * depth(folder.name) + pattern(folder.name))
    return sorted(found)
