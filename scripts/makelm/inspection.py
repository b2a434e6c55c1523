"""What an artifact is and where it comes from, as facts that read well as text and as JSON."""

import json
import struct
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

from makelm import ancestry, documents, identities, manifest, places, pretrained, shards, tensor_header, tokenizer
from makelm.ancestry import Node
from makelm.errors import UserError

FIRST_TOKENS = 64
FIRST_DOCUMENTS = 5
FIRST_LINES = 3
NUMBERED = places.pattern("encode_shard")
UNFINISHED = ".orbax-checkpoint-tmp"  # how Orbax names a checkpoint that is being written


def inspect(path: Path) -> dict[str, Any]:
    """Returns what is known about a file or folder. Raises UserError where there is none."""
    if not path.exists():
        raise UserError(f"{path} is not there")
    path = path.resolve()
    owner = find_manifest(path)
    found = ancestry.index(results_folder(owner)) if owner else {}
    kind, look = reader(path)
    about = {"path": str(path), "kind": kind, "facts": look(path)}
    if path.name.endswith(".bin"):
        about["facts"] |= decoded(path, owner, found)
    if owner:
        about |= provenance(owner, found)
    return about


def reader(path: Path) -> tuple[str, Callable[[Path], dict]]:
    """Returns the kind of an artifact and the function that reads it."""
    if path.is_dir():
        if path.name == "checkpoints" or path.parent.name == "checkpoints":
            return "checkpoints", checkpoints
        if (path / pretrained.CONFIG).exists():
            return "model in the layout of Hugging Face", model_folder
        return ("tokenizer", tokenizer_folder) if (path / tokenizer.METADATA).exists() else ("folder", folder)
    if path.name in tokenizer.FILES and (path.parent / tokenizer.METADATA).exists():
        return "tokenizer", lambda path: tokenizer_folder(path.parent)
    endings = {".bin": ("token shard", token_shard), ".safetensors": ("weights", weights)}
    endings |= {".jsonl.zst": ("document shard", document_shard), ".jsonl": ("lines of JSON", json_lines)}
    for ending, found in endings.items():
        if path.name.endswith(ending):
            return found
    return "file", lambda path: {"bytes": path.stat().st_size}


# ---- kinds of artifacts


def token_shard(path: Path) -> dict:
    """Returns the header and the first tokens of a token shard."""
    headerless = headerless_type(path)
    tokens = shards.open_shard(path, headerless)
    header = {}
    if not headerless:
        with path.open("rb") as file:
            magic, version, _ = struct.unpack("<3i", file.read(12))
        header = {"magic": magic, "version": version}
    return {
        **header,
        "tokens": len(tokens),
        "type": f"uint{tokens.dtype.itemsize * 8}",
        "bytes": path.stat().st_size,
        "first_tokens": tokens[:FIRST_TOKENS].tolist(),
    }


def headerless_type(path: Path) -> str | None:
    """Returns the type of a shard's ids where its manifest says that they have no header before them."""
    owner = find_manifest(path)
    facts = read(owner)["content"]["facts"] if owner else {}
    return facts.get("headerless") or facts.get(path.name.split("-")[0], {}).get("headerless")


def decoded(path: Path, owner: Path | None, found: dict[str, Node]) -> dict:
    """Returns the text of a shard's first tokens, if its tokenizer is still there."""
    if owner is None:
        return {}
    made_with = found.get(manifest.read(owner)["content"]["inputs"].get("tokenizer", ""))
    if made_with is None:
        return {}
    known = tokenizer.load((results_folder(owner) / made_with.place).parent)
    return {"first_text": known.decode(shards.open_shard(path, headerless_type(path))[:FIRST_TOKENS].tolist())}


def document_shard(path: Path) -> dict:
    """Returns how much is in a document shard and how its first documents are called."""
    ids, count, size = [], 0, 0
    for document in documents.read(path):
        count += 1
        size += documents.byte_length(document.text)
        if len(ids) < FIRST_DOCUMENTS:
            ids.append(document.id)
    return {"documents": count, "text_bytes": size, "bytes": path.stat().st_size, "first_ids": ids}


def tokenizer_folder(path: Path) -> dict:
    """Returns what a tokenizer is."""
    known = tokenizer.load(path)
    tokens = known.tokens
    longest = sorted(range(len(tokens)), key=lambda number: -len(tokens[number]))[:FIRST_DOCUMENTS]
    return {
        **known.metadata,
        "digest": known.digest,
        "longest_tokens": [tokens[number].decode(errors="replace") for number in longest],
    }


def weights(path: Path) -> dict:
    """Returns the names, shapes and dtypes in a safetensors file; it reads the header only."""
    header = tensor_header.read(path)
    own = {"metadata": header.metadata}
    if "makelm" in header.metadata:
        try:
            own = {"model": json.loads(header.metadata["makelm"])}
        except (ValueError, RecursionError):
            raise UserError(f"{path} is damaged: what makelm says in it of the model is no JSON") from None
    return {"parameters": header.parameters, "bytes": header.bytes, "tensors": header.tensors, **own}


def model_folder(path: Path) -> dict:
    """Returns what a model in the layout of Hugging Face is, with the shapes of its tensors, and its files."""
    tensors = {}
    for name in tensor_header.weights_names(path):
        tensors |= tensor_header.read(path / name).tensors
    return {**pretrained.describe(path), "tensors": tensors, **folder(path)}


def checkpoints(path: Path) -> dict:
    """Returns the identities in a folder of checkpoints, or in one identity's, with their complete steps."""
    folders = sorted(path.iterdir()) if path.name == "checkpoints" else [path]
    return {"identities": {each.name: identity(each) for each in folders if each.is_dir()}}


def identity(path: Path) -> dict:
    """Returns the complete steps of one identity, what is unfinished, and how large it is."""
    names = [each.name for each in path.iterdir() if each.is_dir()]
    return {
        "steps": identities.steps(path),
        "unfinished": sorted(name for name in names if UNFINISHED in name),
        "bytes": sum(each.stat().st_size for each in path.rglob("*") if each.is_file()),
    }


def json_lines(path: Path) -> dict:
    """Returns how many lines a file has, and the first ones."""
    try:
        with path.open(encoding="utf-8") as file:
            first = [json.loads(line) for line in islice(file, FIRST_LINES)]
            rest = sum(1 for _ in file)
    except (ValueError, RecursionError):  # no UTF-8 is a ValueError too
        raise UserError(f"{path} is damaged or no lines of JSON") from None
    return {"lines": len(first) + rest, "bytes": path.stat().st_size, "first_lines": first}


def folder(path: Path) -> dict:
    """Returns the files of a folder and their sizes."""
    files = sorted(each for each in path.iterdir() if each.is_file() and not each.name.startswith("."))
    return {"files": {each.name: each.stat().st_size for each in files}}


# ---- where it comes from


def find_manifest(path: Path) -> Path | None:
    """Returns the manifest that lists a file, or that a folder or the nearest above it has; None where there is none.

    Of a folder of token shards, whose manifests bear their numbers, it is the first one's.
    """
    if path.is_dir():
        around = (parent / "manifest.json" for parent in path.parents)  # of weights and checkpoints, the run's
        return next(filter(Path.exists, [path / "manifest.json", *sorted(path.glob(NUMBERED)), *around]), None)
    for parent in path.parents:
        candidates = [parent / "manifest.json", *parent.glob(NUMBERED)]
        for candidate in filter(Path.exists, candidates):
            if candidate == path or path.relative_to(parent).as_posix() in read(candidate)["content"]["files"]:
                return candidate
    return None


def read(path: Path) -> dict:
    """Reads a manifest. Raises UserError where it is damaged."""
    try:
        return manifest.read(path)
    except ValueError:
        raise UserError(f"{path} is damaged; remove it and run make") from None


def results_folder(owner: Path) -> Path:
    """Returns the folder that an artifact's stage folder stands in."""
    stage = read(owner)["content"]["stage"]
    return next((parent.parent for parent in owner.parents if parent.name == stage), owner.parent)


def provenance(owner: Path, found: dict[str, Node]) -> dict:
    """Returns an artifact's manifest and what it was made from, back to the corpus."""
    results = results_folder(owner)
    own = read(owner)
    node = Node(owner.relative_to(results).as_posix(), own)
    nodes, gaps = ancestry.trace([node], found)
    before = [each for each in nodes if each.manifest["digest"] != own["digest"]]
    return {
        "manifest": own,
        "made_from": [{"stage": n.stage, "place": n.place, "digest": n.manifest["digest"]} for n in before],
        "no_longer_there": [{"input_of": gap.place, "name": gap.name, "digest": gap.digest} for gap in gaps],
    }
