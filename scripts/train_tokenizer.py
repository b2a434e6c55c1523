"""Stage train_tokenizer: training documents, or the name of an encoding -> a vocabulary.

Reads train-<shard>.jsonl.zst of a corpus; it never sees validation documents. Of kind: tiktoken it reads none.
Writes tokenizer.tiktoken, metadata.json and manifest.json.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from makelm import cli, documents, manifest, vocabulary
from makelm.errors import UserError
from makelm.tokenizer import Tokenizer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--corpus", type=Path, help="a folder that download_corpus made; not for kind: tiktoken")


def work(job: cli.Job) -> None:
    settings = job.config.tokenizer
    if settings.kind != "tiktoken" and job.args.corpus is None:
        raise UserError(f"--corpus is missing: kind: {settings.kind} is learned from one")
    found = vocabulary.named(settings) if settings.kind == "tiktoken" else learned(job)
    found.save(job.staging)
    job.say(f"{found.kind}: {found.vocab_size:,} tokens, the longest {max(found.ranks, key=len)[:40]!r}")
    job.publish(
        {
            "kind": found.kind,
            "vocab_size": found.vocab_size,
            "end_of_text": found.end_of_text,
            "tokenizer": found.digest,
        }
    )


def learned(job: cli.Job) -> Tokenizer:
    """Returns the tokenizer of a corpus's training documents."""
    corpus = job.read_input("corpus", job.args.corpus / "manifest.json")
    facts = corpus["facts"]
    for shard in range(facts["num_shards"]):
        manifest.check_file(job.args.corpus, corpus, documents.shard_name("train", shard))
    with job.progress.track(facts["train"]["bytes"], "B") as bar:

        def texts() -> Iterator[str]:
            for document in documents.read_in_order(job.args.corpus, "train", facts["num_shards"]):
                yield document.text
                bar.advance(len(document.text.encode()))

        return vocabulary.train(job.config.tokenizer, texts())


if __name__ == "__main__":
    cli.run("train_tokenizer", __doc__, add_arguments, work)
