"""Weights of other people: folders in the layout of Hugging Face, of this machine or of the hub.

Safetensors and what describes them, nothing else: a pickle file can run code when it is read, and so can a
model's own Python files. This module is also imported when Snakemake reads the workflow, so it imports little.
"""

from pathlib import Path
from typing import Any, NamedTuple

from makelm import hub, tensor_header
from makelm.config_weights import HubWeights, LocalWeights, Weights
from makelm.errors import UserError
from makelm.progress import Progress
from makelm.tensor_header import INDEX, NO_PICKLES, SINGLE, json_object, weights_names

CONFIG = "config.json"
# the small files that belong to a model: what it is, how to generate with it, a tokenizer in one of its many forms
SMALL = (
    *(CONFIG, INDEX, "generation_config.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "vocab.txt", "tokenizer.model", "spiece.model", "chat_template.jinja"),
)


class Source(NamedTuple):
    """A model's folder, the files of it that are taken by name, and the commit of the hub they are of."""

    folder: Path
    files: dict[str, Path]
    revision: str | None


# ---- the sources


def open_source(entry: Weights, progress: Progress) -> Source:
    """Returns the files of an entry of `weights:`, downloaded if need be."""
    if entry.source == "local":
        files = local_files(entry)
        check(Path(entry.path))
        return Source(Path(entry.path), files, None)
    return from_hub(entry, progress)


def local_files(entry: LocalWeights) -> dict[str, Path]:
    """Returns name -> file of a folder of this machine. Raises UserError where it holds no model."""
    folder = Path(entry.path)
    if not folder.is_dir():
        raise UserError(f"weights.path: no such folder: {folder}")
    if not (folder / CONFIG).is_file():
        raise UserError(f"weights.path: {folder} has no {CONFIG}")
    names = weights_names(folder)
    for name in names:
        if not (folder / name).is_file():
            raise UserError(f"weights.path: {folder} has no {name}; {NO_PICKLES}")
    return taken(folder, names)


def taken(folder: Path, weights: list[str]) -> dict[str, Path]:
    """Returns name -> file of what is taken of a folder: these weights and what else belongs to a model."""
    return {name: folder / name for name in (*SMALL, *weights) if (folder / name).is_file()}


# ---- the hub


def from_hub(entry: HubWeights, progress: Progress) -> Source:
    """Returns the files of a model of the hub, where they stand in the hub's cache (HF_HOME)."""
    # half a second; only this source needs it
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()  # the stage has its own
    lacks = f"has neither {SINGLE} nor {INDEX}; {NO_PICKLES}"
    with hub.explained("weights", entry.repository, entry.revision, entry.repository, lacks):
        # they say which weights there are
        small = list(SMALL)
        folder = Path(
            snapshot_download(entry.repository, revision=entry.revision, allow_patterns=small, ignore_patterns="*/*")
        )
        commit = folder.name
        if not (folder / CONFIG).is_file():
            raise UserError(f"weights.repository: {entry.repository} has no {CONFIG}")
        check(folder)
        names = weights_names(folder)
        progress.say(f"{entry.repository} at commit {commit[:12]}, files of weights: {len(names)}")
        with progress.track(len(names), "files") as bar:
            for name in names:
                # one by one, here: the hub's own threads would finish what they are at after a Ctrl-C
                hf_hub_download(entry.repository, name, revision=commit)
                bar.advance(1)
    return Source(folder, taken(folder, names), commit)


# ---- what came


def check(folder: Path) -> None:
    """Raises UserError where makelm does not compute such a model: before its weights, many GB, are downloaded."""
    from makelm import hugging_face_config  # not where Snakemake reads the workflow

    hugging_face_config.read(folder)


def describe(folder: Path) -> dict[str, Any]:
    """Returns what a folder in the layout of Hugging Face is: architecture, size, dtypes. Reads the headers only."""
    settings = json_object(folder / CONFIG)
    headers = [tensor_header.read(folder / name) for name in weights_names(folder)]
    architectures = settings.get("architectures") or [None]
    return {
        "architecture": architectures[0],
        "model_type": settings.get("model_type"),
        "parameters": sum(header.parameters for header in headers),
        "dtypes": sorted({tensor["dtype"] for header in headers for tensor in header.tensors.values()}),
        "bytes": sum(header.bytes for header in headers),
    }
