"""The second pass over a corpus: what only all documents together can tell, and whole documents that go for it.

Document shards are read as they stand on disk, and written anew only where a document goes.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from makelm import contamination, documents, files, reading
from makelm.baselines import Tail
from makelm.cleaning import Step
from makelm.config_corpus import Clean, Split
from makelm.deduplication import CONTAMINATED, IN_TRAIN, IN_VALID, KEPT, REASONS
from makelm.manifest import file_sha256
from makelm.progress import Progress


class Sifted(NamedTuple):
    """What the second pass came to."""

    steps: list[Step]
    contamination: dict  # as a manifest holds it
    parts: dict[str, dict]  # the counts of the parts that were written anew
    tail: Tail | None  # of the training documents, where those are among them


def sift(
    folder: Path, scratch: Path, settings: Split, parts: dict, fates: dict, cores: int, progress: Progress
) -> Sifted:
    """Drops copies and, by choice, contaminated documents from the shards in `folder`, and measures contamination.

    `parts` has the counts of both parts, `fates` a byte for each of their documents, which says what is a copy.
    """
    new, tail, shards = {}, None, settings.shards
    if fates["valid"].any():
        new["valid"], _ = write_again(folder, "valid", shards, fates["valid"], progress)
    texts = files.evaluation_files(settings.clean)
    compared = (evaluation_text(settings.clean, path, name) for name, path in texts.items())
    everything = itertools.chain(read_part(folder, "valid", shards), itertools.chain.from_iterable(compared))
    index = contamination.build(scratch / "index", everything)
    most = settings.clean.max_contamination if settings.clean else None
    cores = cores if parts["train"]["bytes"] > contamination.SMALL else 1
    with progress.track(parts["train"]["bytes"], "B") as bar:
        counts, seen = contamination.examine_train(folder, shards, fates["train"], scratch / "index", most, cores, bar)
    if fates["train"].any():
        new["train"], tail = write_again(folder, "train", shards, fates["train"], progress)
    facts = measured(folder, settings, texts, index, seen)
    return Sifted(counted(settings.clean, counts, parts["valid"], new.get("valid")), facts, new, tail)


def measured(
    folder: Path, settings: Split, texts: dict[str, Path], index: contamination.Index, seen: contamination.Seen
) -> dict:
    """Returns how much of validation and of other texts was seen in training documents, as a manifest holds it."""
    others = {}
    for name, path in texts.items():
        found = contamination.shares(index, seen, evaluation_text(settings.clean, path, name))
        others[name] = {"sha256": file_sha256(path)} | found
    return {
        "ngram": contamination.NGRAM,
        "sampled": 0.5**index.halvings,
        "validation": contamination.shares(index, seen, read_part(folder, "valid", settings.shards)),
        "evaluation_texts": others,
    }


def evaluation_text(clean: Clean, path: Path, name: str) -> Iterator[documents.Document]:
    """Yields the documents of one file of the evaluation texts."""
    yield from reading.documents(path, name, clean.evaluation_texts.text_key, str(path))


def sentence(step: dict) -> str:
    """Returns a step's facts as a line to read."""
    dropped = [f"{reason} {counts['documents']:,}" for reason, counts in step["dropped"].items()]
    more = [f"{step['changed']:,} changed"] if step["changed"] else []
    more += [f"dropped {', '.join(dropped)}"] if dropped else []
    return f"{step['step']}: {step['documents_in']:,} documents in, {step['documents_out']:,} out" + "".join(
        f"; {one}" for one in more
    )


def counted(clean: Clean | None, train: np.ndarray, valid: dict, valid_after: dict | None) -> list[Step]:
    """Returns the chosen steps, from the training documents and bytes by fate and the counts of validation."""
    steps = []
    if clean and clean.deduplicate:
        step = Step("deduplicate")
        for fate in (IN_TRAIN, IN_VALID):
            step.drop(REASONS[fate], *train[fate].tolist())
        step.keep(*(train[KEPT] + train[CONTAMINATED]).tolist())
        staying = valid_after or valid
        gone = {key: valid[key] - staying[key] for key in valid}
        step.drop("valid_copy_of_valid", gone["documents"], gone["bytes"])
        step.keep(staying["documents"], staying["bytes"])
        steps.append(step)
    if clean and clean.max_contamination is not None:
        step = Step("decontaminate")
        step.keep(*train[KEPT].tolist())
        step.drop(REASONS[CONTAMINATED], *train[CONTAMINATED].tolist())
        steps.append(step)
    return steps


def write_again(folder: Path, part: str, num_shards: int, fates: np.ndarray, progress: Progress) -> tuple[dict, Tail]:
    """Deals out anew the documents of a part that stay, so that document i again stands in shard i mod N.

    Returns (their counts as a manifest holds them, the end of their text).
    """
    tail, new = Tail(), folder / f"again-{part}"
    new.mkdir()
    with documents.PartWriter(new, part, num_shards) as writer, progress.track(len(fates), "documents") as bar:
        for document, fate in zip(documents.read_in_order(folder, part, num_shards), fates, strict=True):
            bar.advance(1)
            if fate == KEPT:
                writer.write(document)
                tail.add(document.text)
    for path in new.iterdir():
        path.rename(folder / path.name)
    new.rmdir()
    return writer.facts(), tail


def read_part(folder: Path, part: str, num_shards: int) -> Iterator[documents.Document]:
    """Yields a part's documents shard by shard."""
    for shard in range(num_shards):
        yield from documents.read(folder / documents.shard_name(part, shard))
