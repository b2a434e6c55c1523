"""Documents packed into windows, so that none is cut but what is longer than a window.

What each window holds is found once, at the start, and written to a temporary file without a name that is mapped like
the shards: 20 bytes a window, 12 more for each further document in it.

B windows asked for, T position, D documents of a group
"""

import tempfile
from bisect import bisect_left, insort
from collections.abc import Iterator
from typing import IO

import numpy as np

from makelm.errors import UserError
from makelm.loss import NONE
from makelm.permutation import Permutation
from makelm.stream import Stream

GROUP = 4096  # documents one after the other that are packed together
CHUNK = 1 << 24  # tokens looked through at a time
PIECE = np.dtype([("start", "<i8"), ("count", "<i4")])  # where in its shard, how many tokens


class Packed:
    """Each epoch predicts every token of the source exactly once, by windows of whole documents in an order of its own.

    Of a document longer than a window the beginning is cut off, so long that the rest is windows without a gap. What
    stays empty at a window's end is filled up with targets of NONE. Every document is read after an end-of-text, every
    other piece after the token before it.
    """

    def __init__(self, stream: Stream, length: int, seed: int, end_of_text: int | None):
        """Raises UserError where the tokenizer has nothing to tell documents by."""
        if end_of_text is None:
            raise UserError("train.order: packed needs a tokenizer with end_of_text: true; take shuffled")
        self.stream, self.length, self.end_of_text = stream, length, end_of_text
        windows = []  # of each shard
        with tempfile.TemporaryFile() as pieces, tempfile.TemporaryFile() as counts:
            for ids in stream.shards:
                windows.append(sum(write(pieces, counts, *group, length) for group in documents(ids, end_of_text)))
            self.pieces = np.asarray(np.memmap(pieces, PIECE, mode="r"))
            # where the pieces of each window end
            self.ends = np.asarray(np.memmap(counts, np.int64, mode="r+"))
        np.cumsum(self.ends, out=self.ends)
        self.shards = np.cumsum(windows)
        self.count = int(self.shards[-1])
        self.epoch, self.filling = float(self.count), 1 - len(stream) / (self.count * length)
        self.permutation = Permutation(self.count, seed, "packed")

    def windows(self, places_B: np.ndarray) -> np.ndarray:
        _, numbers_B = self.permutation.endless(places_B)
        windows_BT = np.full((len(places_B), self.length + 1), NONE, np.int32)
        shards_B = np.searchsorted(self.shards, numbers_B, side="right")
        firsts_B = np.where(numbers_B > 0, self.ends[numbers_B - 1], 0)
        where = zip(shards_B.tolist(), firsts_B.tolist(), self.ends[numbers_B].tolist(), strict=True)
        for window, (shard, first, last) in zip(windows_BT, where, strict=True):
            ids, pieces = self.stream.shards[shard], self.pieces[first:last].tolist()
            begin = pieces[0][0]
            window[0] = ids[begin - 1] if begin else self.end_of_text
            place = 1
            for start, count in pieces:
                window[place : place + count] = ids[start : start + count]
                place += count
        return windows_BT


def documents(ids: np.ndarray, end_of_text: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields begins_D and lengths_D, end-of-text included, of a shard's documents, group by group."""
    found = [np.flatnonzero(ids[at : at + CHUNK] == end_of_text) + at + 1 for at in range(0, len(ids), CHUNK)]
    ends = np.unique(np.concatenate([np.zeros(0, np.int64), *found, [len(ids)]]))
    begins = np.concatenate([[0], ends[:-1]]) if len(ids) else ends[:0]
    for first in range(0, len(begins), GROUP):
        yield begins[first : first + GROUP], (ends - begins)[first : first + GROUP]


def write(pieces: IO[bytes], counts: IO[bytes], begins_D: np.ndarray, lengths_D: np.ndarray, length: int) -> int:
    """Writes what the windows of a group of documents hold, and in how many pieces each; returns how many they are."""
    heads_D = (lengths_D - 1) % length + 1
    full_D = (lengths_D - heads_D) // length  # windows that a long document has for itself
    within = np.arange(full_D.sum()) - np.repeat(np.cumsum(full_D) - full_D, full_D)
    whole = np.empty(len(within), PIECE)
    whole["start"], whole["count"] = np.repeat(begins_D + heads_D, full_D) + within * length, length
    packed = best_fit(heads_D, length)
    order = [document for window in packed for document in window]
    heads = np.empty(len(order), PIECE)
    heads["start"], heads["count"] = begins_D[order], heads_D[order]
    pieces.write(whole.tobytes() + heads.tobytes())
    counts.write(np.array([1] * len(whole) + [len(window) for window in packed], np.int64).tobytes())
    return len(whole) + len(packed)


def best_fit(lengths_D: np.ndarray, length: int) -> list[list[int]]:
    """Returns windows of documents: the longest first, each where the least room is left that is enough for it."""
    windows: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # (tokens that still fit, number of a window), the least first
    for document in np.argsort(-lengths_D, kind="stable").tolist():
        count = int(lengths_D[document])
        fits = bisect_left(rooms, (count, 0))
        if fits < len(rooms):
            room, number = rooms.pop(fits)
        else:
            room, number = length, len(windows)
            windows.append([])
        windows[number].append(document)
        if room > count:
            insort(rooms, (room - count, number))
    return windows
