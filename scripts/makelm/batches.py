"""The batches of training: which windows of which sources the batch of a step holds.

The batch of step s is a function of (seed, s) and of nothing else: not of the mesh, the hosts or what ran
before. So to resume is to know a number. Nothing is kept but the mapped shards.

B batch, T context length
"""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from makelm.errors import UserError
from makelm.mixture import Mixture
from makelm.orders import make_order
from makelm.stream import Stream


class Batches:
    """Windows of T + 1 tokens from the token shards of one source or several, in an endless order."""

    def __init__(
        self,
        sources: Mapping[str, Sequence[np.ndarray]],  # name -> the ids of each shard
        weights: Mapping[str, float],  # name -> share of the sequences; together 1
        vocab_size: int,
        end_of_text: int | None,
        context_length: int,
        batch_size: int,
        order: str,
        seed: int,
    ):
        """Raises UserError where the shards of a source hold less than one window."""
        self.names, self.vocab_size, self.batch_size = list(weights), vocab_size, batch_size
        self.length = context_length
        self.mixture = Mixture([weights[name] for name in self.names])
        streams = {name: Stream(sources[name]) for name in self.names}
        for name, stream in streams.items():
            check_length(name, stream, context_length)
        # a source's own order depends on its name, not on what it is mixed with
        self.orders = [
            make_order(order, stream, context_length, own_seed(seed, name), end_of_text)
            for name, stream in streams.items()
        ]

    def __call__(self, step: int) -> np.ndarray:
        """Returns the batch of a step, windows_BT of T + 1 tokens each, int32."""
        return self.rows(step, 0, self.batch_size)

    def rows(self, step: int, first: int, last: int) -> np.ndarray:
        """Returns some rows of the batch of a step, of which no other tokens are read; a target of NONE fills up.

        Raises UserError where a token is not of the vocabulary: its shard is no longer what it was.
        """
        windows_BT = self.windows(step * self.batch_size + np.arange(first, last))
        if (largest := windows_BT.max()) >= self.vocab_size:
            raise UserError(
                f"the batch of step {step + 1} has the token id {largest}, outside the vocabulary of {self.vocab_size};"
                " a token shard is damaged: run make verify"
            )
        return windows_BT

    def windows(self, places_B: np.ndarray) -> np.ndarray:
        """Returns windows_BT at these places of the order of all sequences."""
        sources_B, own_B = self.mixture(places_B)
        windows_BT = np.empty((len(places_B), self.length + 1), np.int32)
        for source, order in enumerate(self.orders):
            rows = np.flatnonzero(sources_B == source)
            if len(rows):
                windows_BT[rows] = order.windows(own_B[rows])
        return windows_BT

    def epochs(self, tokens: int) -> dict[str, float]:
        """Returns how often each source's tokens are gone through by so many tokens of whole sequences."""
        counts = self.mixture.counts(tokens // self.length)
        return {name: count / order.epoch for name, count, order in zip(self.names, counts, self.orders, strict=True)}

    def filling(self) -> float:
        """Returns which share of the positions predicts nothing."""
        return sum(self.mixture.parts / self.mixture.period * [order.filling for order in self.orders])


def own_seed(seed: int, name: str) -> int:
    """Returns the seed of one source's order."""
    return int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:8], "little")


def check_length(name: str, stream: Stream, context_length: int) -> None:
    """Raises UserError where a source has less than one window."""
    if len(stream) <= context_length:
        raise UserError(
            f"model.context_length: {context_length} is longer than the training data of {name} ({len(stream)} tokens"
            f" in {len(stream.shards)} shards); use a longer corpus or a shorter context"
        )
