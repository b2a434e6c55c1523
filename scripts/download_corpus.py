"""Stage download_corpus: a source of text -> document shards, divided into train and validation.

Reads what the corpus names: the standard library, files, URLs, a data set, or token files that others made.
Writes train-<shard>.jsonl.zst, valid-<shard>.jsonl.zst and manifest.json, with the baselines of xz.
Of token files it writes train-<shard>.bin and valid-<shard>.bin, which are links where they can be.
What it downloads stands in .download until all is there, so that the next run goes on.
"""

import itertools
import platform
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from makelm import baselines, cleaning, cli, corpus, deduplication, documents, fetching, sifting, token_files
from makelm.config_corpus import Split
from makelm.errors import UserError
from makelm.progress import Bar


def download_corpus(job: cli.Job) -> None:
    """Gathers the documents or the token files of a corpus."""
    facts = gather_tokens(job) if job.config.corpus.source == "tokens" else gather_text(job)
    job.publish(facts)
    shutil.rmtree(job.out / fetching.FOLDER, ignore_errors=True)


def gather_tokens(job: cli.Job) -> dict:
    """Brings ready token files into staging and returns what is known of them."""
    facts = token_files.gather(job.config.corpus, job.staging, job.out / fetching.FOLDER, job.progress)
    for part in documents.PARTS:
        job.say(f"{part}: {facts[part]['tokens']:,} tokens")
    return facts


def gather_text(job: cli.Job) -> dict:
    """Writes the document shards of a source of text into staging and returns what is known of them."""
    settings = job.config.corpus
    check_interpreter(job)
    source = corpus.open_source(settings, job.out / fetching.FOLDER, job.progress)
    scratch = job.staging / "scratch"
    scratch.mkdir()
    facts, train_tail, fates = write_shards(job, source, scratch)
    check_parts(settings, facts)
    train_tail = sift(job, facts, fates, scratch) or train_tail
    check_parts(settings, facts)
    shutil.rmtree(scratch)
    job.say("compressing with xz -9e, which is what the model has to beat")
    valid = baselines.beginning(documents.read_in_order(job.staging, "valid", settings.shards))
    facts |= baselines.xz_baselines(train_tail.texts(), valid, job.args.cores)
    job.say(
        f"xz: {facts['xz_bits_per_byte']:.3f} bits per byte of validation,"
        f" {facts['xz_after_train_bits_per_byte']:.3f} after reading train"
    )
    return facts


def check_interpreter(job: cli.Job) -> None:
    """Raises UserError where the standard library at hand is not the one that was asked for."""
    here, wanted = platform.python_version(), job.config.python
    if wanted not in (None, here):
        raise UserError(f"python: the corpus is the standard library of {wanted}, but this is Python {here}")


def write_shards(job: cli.Job, source: corpus.Source, scratch: Path) -> tuple[dict, baselines.Tail, dict]:
    """Writes all documents and returns (facts, the end of the training text, which documents are copies of others)."""
    settings = job.config.corpus
    tail = baselines.Tail()
    deduplicate = settings.clean is not None and settings.clean.deduplicate
    ledger = deduplication.Ledger(scratch, deduplicate)
    with (
        documents.PartWriter(job.staging, "train", settings.shards) as train,
        documents.PartWriter(job.staging, "valid", settings.shards) as valid,
        job.progress.track(source.bytes, "B") as bar,
    ):
        read = watched(itertools.islice(source.documents, settings.max_documents), bar)
        kept, steps = cleaning.clean_documents(read, settings.clean, job.args.cores)
        for document in kept:
            for part, piece in corpus.divide(document, settings):
                ledger.add(part, piece.text)
                if part == "train":
                    train.write(piece)
                    tail.add(piece.text)
                else:
                    valid.write(piece)
    facts = {
        "num_shards": settings.shards,
        "train": train.facts(),
        "valid": valid.facts(),
        "source": source.facts,
        "cleaning": [step.facts() for step in steps],
    }
    return facts, tail, ledger.fates()


def watched(read: Iterable[documents.Document], bar: Bar) -> Iterator[documents.Document]:
    """Yields documents as they are read, and shows how far that is."""
    for document in read:
        bar.advance(documents.byte_length(document.text))
        yield document


def sift(job: cli.Job, facts: dict, fates: dict, scratch: Path) -> baselines.Tail | None:
    """Takes out what only all documents together can tell, and puts into the facts what is left then.

    Returns the end of the training text where that is another one than before.
    """
    job.say("looking for what validation has in common with train")
    parts = {part: facts[part] for part in documents.PARTS}
    done = sifting.sift(job.staging, scratch, job.config.corpus, parts, fates, job.args.cores, job.progress)
    facts["cleaning"] += [step.facts() for step in done.steps]
    facts["contamination"] = done.contamination
    facts |= done.parts
    for step in facts["cleaning"]:
        job.say(sifting.sentence(step))
    for part in documents.PARTS:
        job.say(f"{part}: {facts[part]['documents']:,} documents, {facts[part]['bytes']:,} bytes")
    found = facts["contamination"]["validation"]
    job.say(f"{found['share']:.1%} of the 13-grams of validation occur in train")
    return done.tail


def check_parts(settings: Split, facts: dict) -> None:
    """Raises UserError where there is nothing to train on or nothing to validate with."""
    train, valid = facts["train"], facts["valid"]
    reasons = {}
    for step in facts["cleaning"]:
        reasons |= {reason: counts["documents"] for reason, counts in step["dropped"].items()}
    if reasons and not (train["bytes"] and valid["bytes"]):
        dropped = ", ".join(f"{reason} {count:,}" for reason, count in reasons.items())
        part = "validation" if train["bytes"] else "train"
        raise UserError(f"corpus.clean: no document is left for {part}; dropped were: {dropped}")
    if not train["bytes"] + valid["bytes"]:
        raise UserError("corpus: it is empty; name files that have text in them")
    for part, more_or_less in (("train", "lower"), ("valid", "raise")):
        if not facts[part]["bytes"]:
            raise UserError(
                f"corpus.split: of {train['documents'] + valid['documents']} documents none with text fell to {part};"
                f" add documents, {more_or_less} valid_fraction ({settings.valid_fraction}) or set split: tail"
            )


if __name__ == "__main__":
    cli.run("download_corpus", __doc__, download_corpus)
