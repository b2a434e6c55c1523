"""A shuffle without a table: the number at any place of a permutation of 0 ... n - 1 is computed from the place.

It is a Feistel network: a number is a row and a column, and in turns the one is moved by a hash of the other, which
can be undone and so is one to one. Places a little past the end, where rows times columns are more than n, are sent
through again until they come out within (cycle walking: the way leads back to where it began, so it ends).

R round, B the places asked for
"""

from functools import lru_cache
from math import isqrt

import numpy as np

from makelm.splitmix import GOLDEN, mixed

ROUNDS = 8
BLOCK = 1024  # places


def secrets(seed: int, name: str, count: int) -> np.ndarray:
    """Returns so many uint64 that follow from a seed and what they are for."""
    return np.random.SeedSequence([seed, *name.encode()]).generate_state(count, np.uint64)


class Permutation:
    """Many permutations of 0 ... size - 1, one for each epoch."""

    def __init__(self, size: int, seed: int, name: str):
        """The same seed and name give the same permutations; `size` is 1 or more and less than 2^62."""
        self.size, self.keys = np.uint64(size), secrets(seed, name, ROUNDS)
        self.rows = np.uint64(isqrt(size - 1) + 1)
        self.columns = np.uint64(-(-size // int(self.rows)))
        self.block = lru_cache(maxsize=2)(self.numbers)  # of its own: sources are asked in turns

    def __call__(self, epochs_B: np.ndarray, places_B: np.ndarray) -> np.ndarray:
        """Returns numbers_B, int64: what stands at each place in the order of its epoch."""
        keys_RB = mixed(self.keys[:, None] ^ (epochs_B.astype(np.uint64) * GOLDEN)[None, :])
        numbers_B = self.once(keys_RB, places_B.astype(np.uint64))
        while len(outside := np.flatnonzero(numbers_B >= self.size)):
            numbers_B[outside] = self.once(keys_RB[:, outside], numbers_B[outside])
        return numbers_B.astype(np.int64)

    def endless(self, places_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns epochs_B and numbers_B at places of the order of all epochs, one after the other."""
        blocks_B, within_B = np.divmod(places_B, BLOCK)
        numbers_B = np.empty(len(places_B), np.int64)
        for block in np.unique(blocks_B).tolist():
            rows = blocks_B == block
            numbers_B[rows] = self.block(block)[within_B[rows]]
        return places_B // int(self.size), numbers_B

    def numbers(self, block: int) -> np.ndarray:
        """Returns the numbers at some places in a row: to find many takes hardly longer than a few."""
        return self(*np.divmod(np.arange(block * BLOCK, (block + 1) * BLOCK), int(self.size)))

    def once(self, keys_RB: np.ndarray, numbers_B: np.ndarray) -> np.ndarray:
        """Returns numbers_B after one pass through the network."""
        rows_B, columns_B = np.divmod(numbers_B, self.columns)
        for number in range(0, ROUNDS, 2):
            rows_B = (rows_B + mixed(keys_RB[number] ^ columns_B) % self.rows) % self.rows
            columns_B = (columns_B + mixed(keys_RB[number + 1] ^ rows_B) % self.columns) % self.columns
        return rows_B * self.columns + columns_B
