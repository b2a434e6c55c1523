"""Stage encode_shard: one shard of documents -> the same as token ids.

Reads train-<shard>.jsonl.zst and valid-<shard>.jsonl.zst of a corpus, and a tokenizer.
Writes train-<shard>.bin, valid-<shard>.bin and <shard>.json, its manifest.
Of a corpus of ready tokens, the .bin files are checked, counted and linked to.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from makelm import cli, documents, manifest, ready_tokens, shards, tokenizer
from makelm.documents import Document
from makelm.errors import UserError
from makelm.progress import Bar
from makelm.tokenizer import Tokenizer

BATCH_BYTES = 8 << 20  # of text encoded at a time


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--corpus", type=Path, required=True, help="a folder that download_corpus made")
    parser.add_argument("--tokenizer", type=Path, required=True, help="a folder that train_tokenizer made")
    parser.add_argument("--shard", type=int, required=True, help="which shard of the corpus, from 0")


def manifest_name(args: argparse.Namespace) -> str:
    return f"{args.shard:05d}.json"


def work(job: cli.Job) -> None:
    corpus = job.read_input("corpus", job.args.corpus / "manifest.json")
    job.read_input("tokenizer", job.args.tokenizer / "manifest.json")
    num_shards = corpus["facts"]["num_shards"]
    if not 0 <= job.args.shard < num_shards:
        raise UserError(f"--shard: the corpus has shards 0 to {num_shards - 1}, not {job.args.shard}")
    if ready_tokens.are_in(corpus):
        ready_tokens.take_over(job, corpus)
        return
    for part in documents.PARTS:
        manifest.check_file(job.args.corpus, corpus, documents.shard_name(part, job.args.shard))
    found = tokenizer.load(job.args.tokenizer)
    facts = {
        "shard": job.args.shard,
        "num_shards": num_shards,
        "vocab_size": found.vocab_size,
        "end_of_text": found.end_of_text,
        "tokenizer": found.digest,
    }
    share = sum(corpus["facts"][part]["bytes"] for part in documents.PARTS) // num_shards
    with job.progress.track(share, "B") as bar:
        facts |= {part: encode(job, found, part, bar) for part in documents.PARTS}
    train = facts["train"]
    job.say(f"{train['tokens']:,} training tokens, {train['bytes'] / max(train['tokens'], 1):.2f} bytes each")
    job.publish(facts)


def encode(job: cli.Job, found: Tokenizer, part: str, bar: Bar) -> dict[str, int]:
    """Writes one part's tokens and returns its counts."""
    end = [] if found.end_of_text is None else [found.end_of_text]
    counts = {"documents": 0, "bytes": 0, "tokens": 0}
    path = job.args.corpus / documents.shard_name(part, job.args.shard)
    with shards.Writer(job.staging / f"{part}-{job.args.shard:05d}.bin", found.vocab_size) as writer:
        for batch in batches(documents.read(path)):
            encoded = found.encode_documents([document.text for document in batch], job.args.cores)
            for document, ids in zip(batch, encoded, strict=True):
                writer.write(np.concatenate([ids, np.array(end, dtype=ids.dtype)]))
                length = len(document.text.encode())
                counts["documents"] += 1
                counts["bytes"] += length
                bar.advance(length)
        counts |= {"tokens": writer.count, "largest_id": writer.largest}
    return counts


def batches(stream: Iterator[Document]) -> Iterator[list[Document]]:
    """Yields documents in lists of about BATCH_BYTES."""
    batch, length = [], 0
    for document in stream:
        batch.append(document)
        length += len(document.text)
        if length >= BATCH_BYTES:
            yield batch
            batch, length = [], 0
    if batch:
        yield batch


if __name__ == "__main__":
    cli.run("encode_shard", __doc__, add_arguments, work, manifest_name)
