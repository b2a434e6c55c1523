"""Exact deduplication of more documents than memory holds: their hashes lie on disk, cut into buckets.

Equal texts have equal hashes, so all of one text are in one bucket, and one bucket after the other is sorted.
"""

import hashlib
import struct
from pathlib import Path

import numpy as np

from makelm.documents import PARTS

BUCKETS = 64  # of a billion documents one is 375 MB
RECORD = np.dtype([("high", "<u8"), ("low", "<u8"), ("order", "<u8")])
TRAIN = 1 << 63  # added to the number of a training document: all of validation comes before it

# What becomes of a document, a byte each.
KEPT, IN_TRAIN, IN_VALID, CONTAMINATED = range(4)
REASONS = {IN_TRAIN: "train_copy_of_train", IN_VALID: "train_copy_of_valid", CONTAMINATED: "contaminated"}


class Ledger:
    """The hashes of all documents as files in a folder, in the order of the corpus; without `hashing`, their number."""

    def __init__(self, folder: Path, hashing: bool):
        self.folder = folder
        self.paths = [folder / f"hashes-{number:02d}" for number in range(BUCKETS if hashing else 0)]
        self.files = [path.open("wb", 1 << 16) for path in self.paths]
        self.counts = dict.fromkeys(PARTS, 0)

    def add(self, part: str, text: str) -> None:
        """Notes the next document of a part."""
        if self.files:
            hashed = hashlib.blake2b(text.encode(), digest_size=16).digest()
            order = self.counts[part] + (TRAIN if part == "train" else 0)
            self.files[hashed[0] % BUCKETS].write(hashed + struct.pack("<Q", order))
        self.counts[part] += 1

    def fates(self) -> dict[str, np.ndarray]:
        """Returns part -> a byte for each document, on disk: KEPT or what it is a copy of.

        Of equal documents the first one stays; where one is for validation, that is the first one.
        """
        for file in self.files:
            file.close()
        found = {part: fates_file(self.folder / f"{part}.fates", count) for part, count in self.counts.items()}
        for path in self.paths:
            copies, of_valid = later_ones(np.fromfile(path, RECORD))
            train = copies >= TRAIN
            found["train"][copies[train] - np.uint64(TRAIN)] = np.where(of_valid[train], IN_VALID, IN_TRAIN)
            found["valid"][copies[~train]] = IN_VALID
        return found


def fates_file(path: Path, count: int) -> np.ndarray:
    """Returns a new file of so many bytes as an array, all KEPT."""
    return np.memmap(path, np.uint8, "w+", shape=count) if count else np.zeros(0, np.uint8)


def later_ones(records: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (order of every record but the first of its hash, whether that first one is of validation)."""
    records = records[np.lexsort((records["order"], records["low"], records["high"]))]
    first = np.ones(records.size, bool)
    first[1:] = (records["high"][1:] != records["high"][:-1]) | (records["low"][1:] != records["low"][:-1])
    leader = np.maximum.accumulate(np.where(first, np.arange(records.size), 0))
    return records["order"][~first], records["order"][leader[~first]] < TRAIN
