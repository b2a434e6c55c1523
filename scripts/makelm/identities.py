"""Identities of a training: what its keys, its data and its code come to. The same identity resumes."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from makelm import manifest, nested

FILE = "identity.json"  # beside the checkpoints


@dataclass(frozen=True)
class Identity:
    """What decides the weights that come out."""

    config: dict  # the stage's result keys
    inputs: dict[str, str]  # name -> digest of a manifest
    code: str  # digest

    @property
    def name(self) -> str:
        """Returns the name of its folder of checkpoints."""
        return manifest.digest(asdict(self))[:16]


def write(folder: Path, identity: Identity) -> None:
    """Leaves beside the checkpoints what they are of."""
    manifest.replace_text(folder / FILE, json.dumps(asdict(identity), indent=1) + "\n")


def read(folder: Path) -> Identity | None:
    """Returns what the checkpoints in a folder are of, or None where nobody wrote it down."""
    try:
        return Identity(**json.loads((folder / FILE).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def steps(folder: Path) -> list[int]:
    """Returns the steps of which a folder has a checkpoint, in order: what is being written has another name."""
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal() and path.is_dir())


def differences(own: Identity, other: Identity) -> list[str]:
    """Returns in words where two identities differ."""
    changed_keys = nested.differences(own.config, other.config)
    parts = [f"{key} is {value}, there {theirs}" for key, value, theirs in changed_keys]
    changed = sorted(n for n in own.inputs.keys() | other.inputs.keys() if own.inputs.get(n) != other.inputs.get(n))
    parts += [f"another {name}" for name in changed]
    return [*parts, "other code"] if own.code != other.code else parts


def kind_of(identity: Identity) -> str:
    """Returns which optimizer an identity trains with."""
    return identity.config["train"]["optimizer"]["kind"]
