"""Stage train_tokenizer: training documents, or the name or file of a tokenizer that exists -> a vocabulary.

Reads train-<shard>.jsonl.zst of a corpus; it never sees validation documents. Kinds that are not learned read none.
Writes metadata.json, manifest.json and the vocabulary: tokenizer.tiktoken, tokenizer.json or tokenizer.model.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from makelm import cli, documents, manifest, vocabulary
from makelm.config_tokenizer import LEARNED, BpeTokenizer
from makelm.errors import UserError
from makelm.tokenizer import Tokenizer

BLOCK = 1 << 16  # characters; so a sample of one long document is taken from all of it


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--corpus", type=Path, help="a folder that download_corpus made; for kinds that are learned")


def train_tokenizer(job: cli.Job) -> None:
    """Writes the tokenizer that the configuration names, learned or found."""
    settings = job.config.tokenizer
    if isinstance(settings, LEARNED):
        if job.args.corpus is None:
            raise UserError(f"--corpus is missing: kind: {settings.kind} is learned from one")
        found, revision = learned(job), None
    else:
        found, revision = vocabulary.existing(settings)
    found.save(job.staging)
    longest = max(found.tokens, key=len).decode(errors="replace")
    job.say(f"{found.kind}: {found.vocab_size:,} tokens, the longest {longest[:40]!r}")
    job.publish({"kind": found.kind, "file": found.FILE, **found.facts(), "revision": revision})


def learned(job: cli.Job) -> Tokenizer:
    """Returns the tokenizer of a corpus's training documents."""
    corpus = job.read_input("corpus", job.args.corpus / "manifest.json")
    facts = corpus["facts"]
    for shard in range(facts["num_shards"]):
        manifest.check_file(job.args.corpus, corpus, documents.shard_name("train", shard))
    share = share_read(job.config.tokenizer, facts["train"]["bytes"])
    with job.progress.track(facts["train"]["bytes"], "B") as bar:

        def texts() -> Iterator[str]:
            for document in documents.read_in_order(job.args.corpus, "train", facts["num_shards"]):
                yield from sample(document, share)
                bar.advance(documents.byte_length(document.text))

        return vocabulary.train(job.config.tokenizer, texts())


def share_read(settings: vocabulary.Learned, size: int) -> float:
    """Returns the share of a text of so many bytes that a tokenizer is learned from; characters are of all of it."""
    most = settings.sample_bytes if isinstance(settings, BpeTokenizer) else None
    return 1.0 if most is None else min(1.0, most / max(size, 1))


def sample(document: documents.Document, share: float) -> Iterator[str]:
    """Yields the blocks of a document that are chosen by its name and their number."""
    if share == 1:
        yield document.text
        return
    for number, begin in enumerate(range(0, len(document.text), BLOCK)):
        if documents.hash_fraction(f"{document.id} {number}") < share:
            yield document.text[begin : begin + BLOCK]


if __name__ == "__main__":
    cli.run("train_tokenizer", __doc__, train_tokenizer, add_arguments)
