"""Validation while training goes on: the loss of some windows of each source, the same ones each time.

W windows, T position
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from makelm import training
from makelm.errors import UserError
from makelm.loss import NONE
from makelm.mixture import combined


class HeldOut:
    """The validation windows of a run's sources."""

    def __init__(
        self,
        sources: Mapping[str, Sequence[np.ndarray]],  # name -> the ids of each shard
        weights: Mapping[str, float],  # name -> share of the tokens that are trained on; together 1
        length: int,
        batch_size: int,
        wanted: int,  # windows of each
    ):
        """Raises UserError where a source has less than one window."""
        self.weights, self.batch_size = weights, batch_size
        self.windows = {name: windows(name, tokens, length, batch_size, wanted) for name, tokens in sources.items()}

    def begin(self, trainer: training.Trainer, state: training.State) -> Callable[[], dict[str, float]]:
        """Sets the devices to work on the windows; returns what reads the losses.

        Those are validation_loss, the mean of the sources' by their weights, and validation_loss_sem, its standard
        error; where there are several sources also validation_loss/<source> and validation_loss_sem/<source>.
        """
        begun = {
            name: training.begin_validation(trainer, state, windows_WT, self.batch_size)
            for name, windows_WT in self.windows.items()
        }

        def read() -> dict[str, float]:
            own = {name: each() for name, each in begun.items()}
            found = combined(own, self.weights)
            if len(own) > 1:
                found |= {f"{key}/{name}": value for name, losses in own.items() for key, value in losses.items()}
            return found

        return read


def windows(name: str, tokens: Sequence[np.ndarray], length: int, batch_size: int, wanted: int) -> np.ndarray:
    """Returns windows of validation shards, windows_WT of length + 1 tokens, W a whole number of batches.

    They lie evenly over all the tokens: the first ones may be of few documents, and unlike the others. A last batch is
    filled up with rows that predict nothing. Raises UserError where there is less than one window.
    """
    ends = np.cumsum([len(shard) for shard in tokens])
    have = (int(ends[-1]) - 1) // length if len(ends) else 0
    if have < 1:
        given = f"the validation data of {name} ({sum(map(len, tokens))} tokens)"
        raise UserError(
            f"model.context_length: {length} is longer than {given};"
            " use a longer corpus, a larger valid_fraction or a shorter context"
        )
    count = min(wanted, have)
    places = [number * have // count for number in range(count)]
    windows_WT = np.stack([stretch(tokens, ends, place * length, length + 1) for place in places])
    missing = -len(windows_WT) % batch_size
    return np.concatenate([windows_WT, np.full((missing, length + 1), NONE, np.int32)])


def stretch(shards: Sequence[np.ndarray], ends: np.ndarray, first: int, count: int) -> np.ndarray:
    """Returns so many ids from a place on, of shards that stand one after the other; `ends` says where each ends."""
    found, number = [], int(np.searchsorted(ends, first, side="right"))
    while count:
        begin = first - (int(ends[number]) - len(shards[number]))
        part = np.asarray(shards[number][begin : begin + count]).astype(np.int32)
        found.append(part)
        first, count, number = first + len(part), count - len(part), number + 1
    return np.concatenate(found)
