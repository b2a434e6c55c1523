"""Documents packed into windows, so that none is cut but what is longer than a window.

A shard is looked at in stretches of some windows' length; the documents that begin in one are packed together, by
themselves and always alike, so that a window is found again from its number alone. Kept is how many windows there
are up to each stretch.

B windows asked for, T position, D documents of a stretch
"""

from bisect import bisect_left, insort
from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from makelm.errors import UserError
from makelm.loss import NONE
from makelm.permutation import Permutation
from makelm.stream import Stream

STRETCH = 64  # windows
AHEAD = 4096  # tokens in which the end of a document is looked for at a time, and then twice as many
KEPT = 1024  # stretches whose packing is remembered

Pieces = list[tuple[int, int]]  # (where it begins in its shard, tokens) of what one window holds


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
        self.stream, self.length, self.end_of_text, self.size = stream, length, end_of_text, STRETCH * length
        self.stretches = [
            (shard, begin) for shard, ids in enumerate(stream.shards) for begin in range(0, len(ids), self.size)
        ]
        # not by the function that remembers: these are all there are
        self.ends = np.cumsum([sum(1 for _ in self.pack(*stretch)) for stretch in self.stretches])
        self.count = int(self.ends[-1])
        self.epoch, self.filling = float(self.count), 1 - len(stream) / (self.count * length)
        self.permutation = Permutation(self.count, seed, "packed")

    def windows(self, places_B: np.ndarray) -> np.ndarray:
        numbers_B = self.permutation(*np.divmod(places_B, self.count))
        windows_BT = np.full((len(places_B), self.length + 1), NONE, np.int32)
        for window, number in zip(windows_BT, numbers_B.tolist(), strict=True):
            stretch = int(np.searchsorted(self.ends, number, side="right"))
            ids = self.stream.shards[self.stretches[stretch][0]]
            pieces = self.packed(stretch)[number - (int(self.ends[stretch - 1]) if stretch else 0)]
            window[0] = ids[pieces[0][0] - 1] if pieces[0][0] else self.end_of_text
            place = 1
            for start, count in pieces:
                window[place : place + count] = ids[start : start + count]
                place += count
        return windows_BT

    @lru_cache(maxsize=KEPT)  # noqa: B019 one object a source
    def packed(self, stretch: int) -> list[Pieces]:
        """Returns what each window of a stretch holds."""
        return list(self.pack(*self.stretches[stretch]))

    def pack(self, shard: int, first: int) -> Iterator[Pieces]:
        """Yields what the windows of the documents hold that begin in a stretch of a shard: best fit, longest first."""
        begins_D, lengths_D = self.documents(self.stream.shards[shard], first)
        heads_D = (lengths_D - 1) % self.length + 1
        for begin, count, head in zip(begins_D.tolist(), lengths_D.tolist(), heads_D.tolist(), strict=True):
            for start in range(begin + head, begin + count, self.length):
                yield [(start, self.length)]
        windows: list[Pieces] = []
        spaces: list[tuple[int, int]] = []  # (tokens that still fit, number of a window), the least first
        for document in np.argsort(-heads_D, kind="stable").tolist():
            piece = int(begins_D[document]), int(heads_D[document])
            fits = bisect_left(spaces, (piece[1], 0))
            space, number = spaces.pop(fits) if fits < len(spaces) else (self.length, len(windows))
            if number == len(windows):
                windows.append([])
            windows[number].append(piece)
            insort(spaces, (space - piece[1], number))
        yield from windows

    def documents(self, ids: np.ndarray, first: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns begins_D and lengths_D, end-of-text included, of the documents that begin in a stretch."""
        last = min(first + self.size, len(ids))
        begins = np.flatnonzero(ids[max(first - 1, 0) : last - 1] == self.end_of_text) + max(first, 1)
        if first == 0:
            begins = np.concatenate([[0], begins])
        if not len(begins):
            return begins, begins
        ends = np.append(begins[1:], self.end_after(ids, max(last - 1, int(begins[-1]))))
        return begins, ends - begins

    def end_after(self, ids: np.ndarray, place: int) -> int:
        """Returns where the document ends that has the token at a place; a shard's end is one."""
        ahead = AHEAD
        while place < len(ids):
            if len(found := np.flatnonzero(ids[place : place + ahead] == self.end_of_text)):
                return place + int(found[0]) + 1
            place, ahead = place + ahead, 2 * ahead
        return len(ids)
