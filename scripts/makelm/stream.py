"""The tokens of a source as one endless ring: its shards one after the other, and after the last the first again.

B stretches asked for, T position in a stretch
"""

from collections.abc import Sequence

import numpy as np


class Stream:
    """Token shards, mapped into memory and read where a stretch lies; it may cross from one into the next."""

    def __init__(self, shards: Sequence[np.ndarray]):
        self.shards = [np.asarray(shard) for shard in shards]  # to slice a memmap takes four times as long
        self.ends = np.cumsum([len(shard) for shard in shards])
        self.begins = self.ends - [len(shard) for shard in shards]

    def __len__(self) -> int:
        """Returns the number of tokens."""
        return int(self.ends[-1])

    def stretches(self, starts_B: np.ndarray, length: int) -> np.ndarray:
        """Returns tokens_BT, int32, that begin at these places of the ring."""
        starts_B = starts_B % len(self)
        tokens_BT = np.empty((len(starts_B), length), np.int32)
        shards_B = np.searchsorted(self.ends, starts_B, side="right")
        places = zip(shards_B.tolist(), (starts_B - self.begins[shards_B]).tolist(), strict=True)
        for tokens, (shard, start) in zip(tokens_BT, places, strict=True):
            part = self.shards[shard][start : start + length]
            tokens[: len(part)] = part
            if len(part) < length:
                self.fill(tokens[len(part) :], shard + 1)
        return tokens_BT

    def fill(self, tokens: np.ndarray, shard: int) -> None:
        """Fills what is left of a stretch from the beginning of a shard on."""
        done = 0
        while done < len(tokens):
            part = self.shards[shard % len(self.shards)][: len(tokens) - done]
            tokens[done : done + len(part)] = part
            done, shard = done + len(part), shard + 1
