"""Stage train_tokenizer: training documents -> a vocabulary.

Reads train-<shard>.jsonl.zst of a corpus; it never sees validation documents.
Writes tokenizer.tiktoken, metadata.json and manifest.json.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from makelm import cli, documents, manifest, vocabulary


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--corpus", type=Path, required=True, help="a folder that download_corpus made")


def work(job: cli.Job) -> None:
    corpus = job.read_input("corpus", job.args.corpus / "manifest.json")
    facts = corpus["facts"]
    for shard in range(facts["num_shards"]):
        manifest.check_file(job.args.corpus, corpus, documents.shard_name("train", shard))
    with job.progress.track(facts["train"]["bytes"], "B") as bar:

        def texts() -> Iterator[str]:
            for document in documents.read_in_order(job.args.corpus, "train", facts["num_shards"]):
                yield document.text
                bar.advance(len(document.text.encode()))

        found = vocabulary.train(job.config.tokenizer, texts())
    found.save(job.staging)
    job.say(f"{found.kind}: {found.vocab_size:,} tokens, the longest {max(found.ranks, key=len)!r}")
    job.publish(
        {
            "kind": found.kind,
            "vocab_size": found.vocab_size,
            "end_of_text": found.end_of_text,
            "tokenizer": found.digest,
        }
    )


if __name__ == "__main__":
    cli.run("train_tokenizer", __doc__, add_arguments, work)
