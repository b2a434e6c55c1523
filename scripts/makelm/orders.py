"""The orders that a source's windows can come in (`train.order`), each a function of the seed and the place.

A window is T + 1 tokens: T to predict, and before each the one that it is predicted from.

B windows asked for, T position
"""

from typing import Protocol

import numpy as np

from makelm.loss import NONE
from makelm.packing import Packed
from makelm.permutation import Permutation, secrets
from makelm.splitmix import mixed
from makelm.stream import Stream


class Order(Protocol):
    """An endless order of windows of one source."""

    epoch: float  # how many windows predict as many tokens as the source has
    filling: float  # share of the positions that predict nothing

    def windows(self, places_B: np.ndarray) -> np.ndarray:
        """Returns windows_BT, int32, at these places of the order; a target of NONE fills up."""


class Shuffled:
    """Each epoch predicts every token of the source exactly once, by windows in an order of its own.

    The stream is a ring, so that the first token has one before it too: the last, which ends a text where the
    tokenizer has a token for it. An epoch cuts the ring at a place of its own and from there on every T tokens; where
    T does not divide their number, its last window is filled up with targets of NONE.
    """

    def __init__(self, stream: Stream, length: int, seed: int):
        self.stream, self.length = stream, length
        self.count = -(-len(stream) // length)
        self.epoch, self.filling = float(self.count), 1 - len(stream) / (self.count * length)
        self.permutation = Permutation(self.count, seed, "shuffled")
        self.cut = secrets(seed, "cut", 1)

    def windows(self, places_B: np.ndarray) -> np.ndarray:
        epochs_B, numbers_B = self.permutation.endless(places_B)
        cuts_B = (mixed(self.cut + epochs_B.astype(np.uint64)) % np.uint64(len(self.stream))).astype(np.int64)
        windows_BT = self.stream.stretches(cuts_B + numbers_B * self.length - 1, self.length + 1)
        rest = len(self.stream) - (self.count - 1) * self.length
        windows_BT[numbers_B == self.count - 1, rest + 1 :] = NONE
        return windows_BT


class Random:
    """Windows that begin anywhere, drawn with replacement, as nanoGPT draws them; none crosses the stream's end."""

    def __init__(self, stream: Stream, length: int, seed: int):
        self.stream, self.length = stream, length
        self.epoch, self.filling = len(stream) / length, 0.0
        self.key = secrets(seed, "random", 1)

    def windows(self, places_B: np.ndarray) -> np.ndarray:
        hashes_B = mixed(mixed(places_B.astype(np.uint64)) ^ self.key)
        starts_B = hashes_B % np.uint64(len(self.stream) - self.length)
        return self.stream.stretches(starts_B.astype(np.int64), self.length + 1)


def make_order(kind: str, stream: Stream, length: int, seed: int, end_of_text: int | None) -> Order:
    """Returns the order of that name. Raises UserError where the tokenizer has not what it needs."""
    if kind == "packed":
        return Packed(stream, length, seed, end_of_text)
    return {"shuffled": Shuffled, "random": Random}[kind](stream, length, seed)
