"""Contamination: how many of the 13-grams of validation documents, and of other texts, occur in training documents.

A 13-gram is 13 words in a row (Brown et al. 2020), known by its hash. The hashes of all validation documents are
held in memory, up to MOST; where there are more, those that are below a bound, which is as good as a random sample.
Training documents are read shard by shard, one in each process.
"""

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from makelm import pool, words
from makelm.deduplication import CONTAMINATED, KEPT, REASONS
from makelm.documents import BATCH, Document, batches, byte_length, read, shard_name
from makelm.progress import Bar

NGRAM = 13
MOST = 1 << 23  # hashes: 64 MiB, of about 60 MB of English
SMALL = 1 << 25  # bytes of text that one process has examined when others would just have started


def ngrams(documents: list[Document], halvings: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns (the hashes of all sampled 13-grams_N, how many of them each document has, how many unsampled)."""
    found_N, counts = words.ngrams(*words.words([document.text for document in documents]), NGRAM)
    if not halvings:
        return found_N, counts, counts
    chosen = found_N <= largest(halvings)
    return found_N[chosen], by_document(chosen, counts), counts


def largest(halvings: int) -> np.uint64:
    """Returns the largest hash that is looked at, where so many times half of them are left out."""
    return np.uint64((1 << (64 - halvings)) - 1)


def by_document(marked_N: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Returns how many of each document's 13-grams are marked."""
    sums = np.concatenate([[0], np.cumsum(marked_N)])
    ends = np.cumsum(counts)
    return sums[ends] - sums[ends - counts]


class Index:
    """The hashes of the 13-grams to look for, in a folder, from which every process maps them."""

    def __init__(self, folder: Path):
        self.hashes = np.load(folder / "hashes.npy", mmap_mode="r")
        self.bits = np.load(folder / "bits.npy", mmap_mode="r")
        self.halvings = int(np.load(folder / "halvings.npy"))

    def find(self, found_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns (which of the hashes are in the index, at which places of it these are)."""
        known = np.zeros(found_N.size, bool)
        if not self.hashes.size:
            return known, np.zeros(0, np.int64)
        # nearly all are not there, and a bit that is not set says so without a search
        slots = found_N & np.uint64(self.bits.size * 8 - 1)
        likely = np.flatnonzero(self.bits[slots >> np.uint64(3)] >> (slots & np.uint64(7)).astype(np.uint8) & 1)
        places = np.searchsorted(self.hashes, found_N[likely])
        places[places == self.hashes.size] = 0
        true = self.hashes[places] == found_N[likely]
        known[likely[true]] = True
        return known, places[true]


def build(folder: Path, documents: Iterable[Document]) -> Index:
    """Writes the index of all documents to a new folder."""
    folder.mkdir()
    hashes, halvings, new = np.zeros(0, np.uint64), 0, []
    for batch in batches(documents, BATCH):
        new.append(np.unique(ngrams(batch, halvings)[0]))
        if sum(map(len, new)) >= MOST // 4:
            hashes, halvings = joined([hashes, *new], halvings)
            new = []
    hashes, halvings = joined([hashes, *new], halvings)
    size = 1 << max(10, (8 * hashes.size).bit_length())  # so that one slot in eight is taken, or fewer
    taken = np.zeros(size, bool)
    taken[hashes & np.uint64(size - 1)] = True
    np.save(folder / "hashes.npy", hashes)
    np.save(folder / "bits.npy", np.packbits(taken, bitorder="little"))
    np.save(folder / "halvings.npy", halvings)
    return Index(folder)


def joined(parts: list[np.ndarray], halvings: int) -> tuple[np.ndarray, int]:
    """Returns (all hashes, sorted, each once, at most MOST of them; how many times half of them were left out)."""
    hashes = np.unique(np.concatenate(parts))
    while hashes.size > MOST:
        halvings += 1
        hashes = hashes[: np.searchsorted(hashes, largest(halvings), "right")]
    return hashes, halvings


class Seen:
    """Which hashes of an index occur in training documents: in any, and in those that stay."""

    def __init__(self, size: int):
        self.found, self.kept = np.zeros((2, size), bool)

    def packed(self) -> np.ndarray:
        """Returns both as bits, for the way from one process to another."""
        return np.packbits([self.found, self.kept], axis=1)

    def add(self, packed: np.ndarray) -> None:
        """Adds what was seen elsewhere."""
        found, kept = np.unpackbits(packed, axis=1, count=self.found.size).view(bool)
        self.found |= found
        self.kept |= kept


def overlaps(index: Index, documents: list[Document]) -> Iterator[tuple[float, np.ndarray]]:
    """Yields for each document the share of its 13-grams that are in the index, and their places in it."""
    found_N, counts, _ = ngrams(documents, index.halvings)
    known, places = index.find(found_N)
    amounts = by_document(known, counts)
    for count, amount, end in zip(counts, amounts, np.cumsum(amounts), strict=True):
        yield (float(amount / count) if amount else 0.0), places[end - amount : end]


class Examined(NamedTuple):
    """What a process found in one training shard."""

    fates: np.ndarray  # a byte for each document
    counts: np.ndarray  # fate -> (documents, bytes)
    seen: np.ndarray  # Seen.packed()


def examine(index_folder: Path, most: float | None, task: tuple[Path, np.ndarray]) -> Examined:
    """Returns the fates of a shard's documents: copies as the task says, and what overlaps the index by over `most`."""
    path, fates = task
    index = Index(index_folder)
    seen = Seen(index.hashes.size)
    counts = np.zeros((len(REASONS) + 1, 2), np.int64)
    number = 0
    for batch in batches(read(path), BATCH):
        sizes = [byte_length(document.text) for document in batch]
        for size, (share, places) in zip(sizes, overlaps(index, batch), strict=True):
            if fates[number] == KEPT:
                seen.found[places] = True
                if most is not None and share > most:
                    fates[number] = CONTAMINATED
                else:
                    seen.kept[places] = True
            counts[fates[number]] += 1, size
            number += 1
    return Examined(fates, counts, seen.packed())


def examine_train(
    folder: Path, num_shards: int, fates: np.ndarray, index_folder: Path, most: float | None, cores: int, bar: Bar
) -> tuple[np.ndarray, Seen]:
    """Returns (documents and bytes by fate, what was seen of the index), and marks the contaminated ones in `fates`."""
    paths = [folder / shard_name("train", shard) for shard in range(num_shards)]
    tasks = ((path, np.array(fates[shard::num_shards])) for shard, path in enumerate(paths))
    seen = Seen(Index(index_folder).hashes.size)
    counts = 0
    found = pool.in_order(partial(examine, index_folder, most), tasks, min(cores, num_shards))
    for shard, one in enumerate(found):
        fates[shard::num_shards] = one.fates
        counts = counts + one.counts
        seen.add(one.seen)
        bar.advance(int(one.counts[:, 1].sum()))
    return counts, seen


def shares(index: Index, seen: Seen, documents: Iterable[Document]) -> dict:
    """Returns how much of the indexed documents was seen in training documents, as a manifest holds it."""
    short, everything, found = 0, [], 0
    for batch in batches(documents, BATCH):
        found_N, counts, unsampled = ngrams(batch, index.halvings)
        _, places = index.find(found_N)
        kept = by_document(seen.kept[places], counts)
        found += int(seen.found[places].sum())
        short += int((unsampled == 0).sum())
        everything.append(np.stack([counts, kept])[:, counts > 0])
    counts, kept = np.concatenate(everything, axis=1) if everything else np.zeros((2, 0), np.int64)
    per_document, total = kept / counts, int(counts.sum())
    return {
        "documents": counts.size,
        "short_documents": short,
        "ngrams": total,
        "share": int(kept.sum()) / total if total else 0.0,
        "mean_share": float(per_document.mean()) if counts.size else 0.0,
        "documents_with_any": int((kept > 0).sum()),
        "documents_over_half": int((per_document > 0.5).sum()),
        "share_before_removal": found / total if total else 0.0,
    }
