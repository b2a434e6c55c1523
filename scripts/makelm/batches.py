"""The order of training: which windows of tokens the batch of a step holds.

The batch of step s is a function of (seed, s) and of nothing else: not of the mesh, the hosts or what ran
before. So to resume is to know a number.

B batch, T context length
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from makelm.errors import UserError


class Batches:
    """Windows of T + 1 tokens from token shards; each epoch shuffles them anew and holds each once.

    Window i of a shard begins at i * T: its targets are the tokens 1 to T after that, so that an epoch
    predicts each token of a shard but the first once (and drops a rest shorter than T at its end).
    """

    def __init__(self, shards: Sequence[np.ndarray], vocab_size: int, context_length: int, batch_size: int, seed: int):
        """Raises UserError where the shards hold less than one window."""
        self.shards, self.vocab_size, self.length = shards, vocab_size, context_length
        self.batch_size, self.seed = batch_size, seed
        counts = [max(0, (len(shard) - 1) // context_length) for shard in shards]
        self.ends = np.cumsum(counts)
        self.windows = int(self.ends[-1])
        if self.windows == 0:
            tokens = sum(len(shard) for shard in shards)
            raise UserError(
                f"model.context_length: {context_length} is longer than the training data ({tokens} tokens in"
                f" {len(shards)} shards); use a longer corpus, fewer shards or a shorter context"
            )

    def __call__(self, step: int) -> np.ndarray:
        """Returns the batch of a step, windows_BT of T + 1 tokens each, int32."""
        return self.rows(step, 0, self.batch_size)

    def rows(self, step: int, first: int, last: int) -> np.ndarray:
        """Returns some rows of the batch of a step, of which no other tokens are read.

        Raises UserError where a token is not of the vocabulary: its shard is no longer what it was.
        """
        begin = step * self.batch_size
        windows_BT = np.stack([self.window(begin + row) for row in range(first, last)])
        if (largest := windows_BT.max()) >= self.vocab_size:
            raise UserError(
                f"the batch of step {step + 1} has the token id {largest}, outside the vocabulary of {self.vocab_size};"
                " a token shard is damaged: run make verify"
            )
        return windows_BT

    def window(self, position: int) -> np.ndarray:
        """Returns the window at a position of the endless order of all epochs."""
        epoch, place = divmod(position, self.windows)
        number = self.order(epoch)[place]
        shard = int(np.searchsorted(self.ends, number, side="right"))
        start = (number - (self.ends[shard - 1] if shard else 0)) * self.length
        return self.shards[shard][start : start + self.length + 1].astype(np.int32)

    @lru_cache(maxsize=2)  # noqa: B019 one object a run
    def order(self, epoch: int) -> np.ndarray:
        """Returns the windows' numbers in the order of an epoch."""
        return np.random.default_rng([self.seed, epoch]).permutation(self.windows)
