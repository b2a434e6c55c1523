"""Documents packed into windows, so that none is cut but what is longer than a window.

What each window holds is found once, at the start, and written to a temporary file without a name that is mapped like
the shards: 20 bytes a window, 12 more for each further document in it.

B windows asked for, T position, D documents of a group, W windows
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

    Of a document longer than a window the beginning or the end is cut off, so long that the rest is windows without a
    gap. A window holds one end at most, as its first piece, and one beginning, as its last: so every document is read
    after an end-of-text, and every other piece after the token before it. What stays empty at a window's end is filled
    up with targets of NONE.
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


def documents(ids: np.ndarray, end_of_text: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yields begins_D, lengths_D, end-of-text included, and whether there is one, of a shard's documents by groups."""
    found = [np.flatnonzero(ids[at : at + CHUNK] == end_of_text) + at + 1 for at in range(0, len(ids), CHUNK)]
    ends = np.unique(np.concatenate([np.zeros(0, np.int64), *found, [len(ids)]]))
    begins = np.concatenate([[0], ends[:-1]]) if len(ids) else ends[:0]
    for first in range(0, len(begins), GROUP):
        begins_D, ends_D = begins[first : first + GROUP], ends[first : first + GROUP]
        yield begins_D, ends_D - begins_D, ids[ends_D - 1] == end_of_text


def write(
    pieces: IO[bytes], counts: IO[bytes], begins_D: np.ndarray, lengths_D: np.ndarray, ended_D: np.ndarray, length: int
) -> int:
    """Writes what the windows of a group of documents hold, and in how many pieces each; returns how many they are."""
    parts_D = (lengths_D - 1) % length + 1
    full_D = (lengths_D - parts_D) // length  # windows that a long document has for itself
    packed = best_fit(parts_D, (full_D > 0) | ~ended_D, length)
    order = [document for window in packed for document in window]
    counts_W = np.array([len(window) for window in packed], np.int64)
    ends_D = np.zeros(len(parts_D), bool)  # of those the end is cut off, not the beginning
    firsts = [window[0] for window in packed if len(window) > 1]
    ends_D[firsts] = full_D[firsts] > 0
    starts_D = begins_D + np.where(ends_D, 0, parts_D)
    within = np.arange(full_D.sum()) - np.repeat(np.cumsum(full_D) - full_D, full_D)
    whole = np.empty(len(within), PIECE)
    whole["start"], whole["count"] = np.repeat(starts_D, full_D) + within * length, length
    parts = np.empty(len(order), PIECE)
    parts["start"], parts["count"] = (begins_D + np.where(ends_D, full_D * length, 0))[order], parts_D[order]
    pieces.write(whole.tobytes() + parts.tobytes())
    counts.write(np.concatenate([np.ones(len(whole), np.int64), counts_W]).tobytes())
    return len(whole) + len(packed)


def best_fit(lengths_D: np.ndarray, cut_D: np.ndarray, length: int) -> list[list[int]]:
    """Returns windows of documents: the longest first, each where the least room is left that is enough for it.

    A window has at most two that are cut, one of which is its last and another its first.
    """
    windows: list[list[int]] = []
    # of windows with none that is cut, with one, with two: (tokens that still fit, number of a window), the least first
    rooms: list[list[tuple[int, int]]] = [[], [], []]
    cut = cut_D.tolist()
    for document in np.argsort(-lengths_D, kind="stable").tolist():
        count, own = int(lengths_D[document]), int(cut[document])
        fits = []
        for held, those in enumerate(rooms[: len(rooms) - own]):
            at = bisect_left(those, (count, 0))
            if at < len(those):
                fits.append((*those[at], at, held))
        if fits:
            room, number, at, held = min(fits)
            rooms[held].pop(at)
        else:
            room, number, held = length, len(windows), 0
            windows.append([])
        windows[number].append(document)
        if room > count:
            insort(rooms[held + own], (room - count, number))
    return [in_order(window, cut) for window in windows]


def in_order(window: list[int], cut: list[bool]) -> list[int]:
    """Returns the documents of a window with those that are cut at its borders, a shard's last one as the last."""
    borders = sorted(document for document in window if cut[document])
    return [*borders[:-1], *(document for document in window if not cut[document]), *borders[-1:]]
