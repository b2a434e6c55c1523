"""Token files that others made, as shards: their ids counted and checked against a tokenizer, the files linked to."""

import os
from pathlib import Path

import numpy as np

from makelm import cli, manifest, shards, token_header, tokenizer
from makelm.documents import PARTS
from makelm.errors import UserError
from makelm.progress import Bar
from makelm.tokenizer import Tokenizer

CHUNK = 1 << 22  # ids looked at at a time


def are_in(corpus: dict) -> bool:
    """Returns whether a corpus, of which this is the manifest's content, is of tokens and not of text."""
    return "headerless" in corpus["facts"]


def take_over(job: cli.Job, corpus: dict) -> None:
    """Does for ready tokens what encode_shard does for documents; the files are links."""
    number, facts = job.args.shard, corpus["facts"]
    paths = {part: job.args.corpus / token_header.shard_name(part, number) for part in PARTS}
    for path in paths.values():
        manifest.check_file(job.args.corpus, corpus, path.name)
    found = tokenizer.load(job.args.tokenizer)
    counts = {}
    with job.progress.track(sum(facts[part]["tokens"] for part in PARTS) // facts["num_shards"], "tokens") as bar:
        for part, path in paths.items():
            counts[part] = count(path, facts["headerless"], found, bar)
            link(path, job.staging / path.name)
    train = counts["train"]
    job.say(f"{train['tokens']:,} training tokens, {train['bytes'] / max(train['tokens'], 1):.2f} bytes each")
    known = {"vocab_size": found.vocab_size, "end_of_text": found.end_of_text, "tokenizer": found.digest}
    job.publish({"shard": number, "num_shards": facts["num_shards"], **known, **counts})
    for path in paths.values():
        relink(path, job.out, job.staging)


def count(path: Path, headerless: str | None, found: Tokenizer, bar: Bar) -> dict:
    """Returns what a shard's manifest says of a part: documents, bytes of text, tokens, the largest id.

    A document is what an end-of-text token stands after, or before. Raises UserError where an id is outside the
    vocabulary.
    """
    ids = shards.open_shard(path, headerless)
    counts = {"documents": 0, "bytes": 0, "tokens": len(ids), "largest_id": 0}
    for start in range(0, len(ids), CHUNK):
        chunk = np.asarray(ids[start : start + CHUNK])
        largest = int(chunk.max())
        if largest >= found.vocab_size:
            place = start + int(np.argmax(chunk >= found.vocab_size))
            raise UserError(
                f"{path}: token {place} has the id {chunk[place - start]}, outside the vocabulary of"
                f" {found.vocab_size:,}; name the tokenizer that the files were made with"
            )
        counts["largest_id"] = max(counts["largest_id"], largest)
        counts["bytes"] += int(found.lengths[chunk].sum())
        if found.end_of_text is not None:
            counts["documents"] += int((chunk == found.end_of_text).sum())
        bar.advance(len(chunk))
    return counts | ({"headerless": headerless} if headerless else {})


def link(path: Path, target: Path) -> None:
    """Makes a link that is right wherever it is put, until it is published."""
    target.symlink_to(path.resolve())


def relink(path: Path, out: Path, staging: Path) -> None:
    """Makes a published link one that stays right where the results are moved.

    Hard links would not do: Snakemake sets the time of what a stage made, and so that of the original.
    """
    staging.mkdir(exist_ok=True)
    new = staging / path.name
    new.symlink_to(os.path.relpath(path.resolve(), out.resolve()))
    new.replace(out / path.name)
