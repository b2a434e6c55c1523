"""Stage encode_shard: one shard of documents -> the same as token ids.

Reads train-<shard>.jsonl.zst and valid-<shard>.jsonl.zst of a corpus, and a tokenizer.
Writes train-<shard>.bin, valid-<shard>.bin and <shard>.json, its manifest.
Of a corpus of ready tokens, the .bin files are checked, counted and linked to.
"""

import argparse
from pathlib import Path

from makelm import cli, documents, encoding, manifest, marks, ready_tokens, shards, tokenizer
from makelm.encoding import EncodeBatch
from makelm.errors import UserError
from makelm.fast_encoder import FastEncoder
from makelm.marks import MarkedEncoder
from makelm.progress import Bar
from makelm.tokenizer import Tokenizer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--corpus", type=Path, required=True, help="a folder that download_corpus made")
    parser.add_argument("--tokenizer", type=Path, required=True, help="a folder that train_tokenizer made")
    parser.add_argument("--shard", type=int, required=True, help="which shard of the corpus, from 0")


def manifest_name(args: argparse.Namespace) -> str:
    return f"{args.shard:05d}.json"


def encode_shard(job: cli.Job) -> None:
    """Writes the token ids of one shard."""
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
    encode_batch = encoder(found, job.config.encoder).encode_batch
    facts = {"shard": job.args.shard, "num_shards": num_shards, **found.facts()}
    share = sum(corpus["facts"][part]["bytes"] for part in documents.PARTS) // num_shards
    with job.progress.track(share, "B") as bar:
        facts |= {part: encode(job, found, encode_batch, part, bar) for part in documents.PARTS}
    train, valid = facts["train"], facts["valid"]
    if valid["lost_bytes"]:
        job.say(
            f"warning: of the validation text {valid['lost_bytes'] / valid['bytes']:.2%} does not come back from these"
            " tokens; bits per byte are those of the rest"
        )
    job.say(f"{train['tokens']:,} training tokens, {train['bytes'] / max(train['tokens'], 1):.2f} bytes each")
    job.publish(facts)


def encoder(found: Tokenizer, chosen: str | None) -> Tokenizer | FastEncoder | MarkedEncoder:
    """Returns what makes the tokenizer's ids fastest of what was chosen."""
    return FastEncoder(found) if chosen == "gigatoken" else marks.encoder(found) or found


def encode(job: cli.Job, found: Tokenizer, encode_batch: EncodeBatch, part: str, bar: Bar) -> dict[str, int]:
    """Writes one part's tokens and returns its counts."""
    # scores are by the bytes of validation; to decode all would take about as long as to encode it
    compare = part == "valid"
    counts = {"documents": 0, "bytes": 0} | ({"lost_bytes": 0} if compare else {})
    texts = documents.read_parts(job.args.corpus / documents.shard_name(part, job.args.shard))
    with shards.Writer(job.staging / shards.shard_name(part, job.args.shard), found.vocab_size) as writer:
        for done in encoding.encode(found, texts, job.args.cores, encode_batch, compare):
            writer.write(done.ids)
            counts["documents"] += done.documents
            counts["bytes"] += done.bytes
            if compare:
                counts["lost_bytes"] += done.lost
            bar.advance(done.bytes)
    return counts | {"tokens": writer.count, "largest_id": writer.largest}


if __name__ == "__main__":
    cli.run("encode_shard", __doc__, encode_shard, add_arguments, manifest_name)
