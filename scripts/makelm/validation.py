"""Validation while training goes on: the loss of some windows of each source, the same ones each time.

W windows, T position
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from makelm import config, training
from makelm.errors import UserError
from makelm.loss import NONE
from makelm.mixture import combined
from makelm.progress import score
from makelm.sources import Sources
from makelm.stream import Stream


class HeldOut:
    """The validation windows of a run's sources."""

    def __init__(
        self,
        sources: Mapping[str, Sequence[np.ndarray]],  # name -> the ids of each shard
        weights: Mapping[str, float],  # name -> share of the tokens that are trained on; together 1
        length: int,
        batch_size: int,  # windows that are computed at a time
        wanted: int,  # windows of each
    ):
        """Raises UserError where a source has less than one window."""
        self.weights, self.batch_size = weights, batch_size
        self.windows = {name: windows(name, tokens, length, batch_size, wanted) for name, tokens in sources.items()}

    @classmethod
    def of_run(cls, data: Sources, shape: config.Model, train: config.Train, compute: config.Compute) -> "HeldOut":
        """Returns the windows of a run, of which as many are computed at a time as a part of a step has."""
        tokens = {name: folder.valid for name, folder in data.folders.items()}
        rows = train.batch_size // compute.accumulate  # all of a batch would take memory that no plan has
        return cls(tokens, data.weights, shape.context_length, rows, train.validate_windows)

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
    total = sum(map(len, tokens))
    have = (total - 1) // length
    if have < 1:
        raise UserError(
            f"model.context_length: {length} is longer than the validation data of {name} ({total} tokens);"
            " use a longer corpus, a larger valid_fraction or a shorter context"
        )
    count = min(wanted, have)
    places = np.arange(count) * have // count
    windows_WT = Stream(tokens).stretches(places * length, length + 1)
    missing = -len(windows_WT) % batch_size
    return np.concatenate([windows_WT, np.full((missing, length + 1), NONE, np.int32)])


def past_the_best(rows: Sequence[Mapping]) -> str:
    """Returns a line where the loss rose again by more than its error, as that of a small text gone through too often.

    `rows` are the metrics of all steps; the last one is always validated.
    """
    losses = {row["step"]: row["validation_loss"] for row in rows if row.get("validation_loss") is not None}
    last, error = rows[-1]["validation_loss"], rows[-1]["validation_loss_sem"]
    step = min(losses, key=losses.__getitem__, default=0)
    if last is None or last - losses[step] <= 2 * (error or 0):
        return ""
    return (
        f"the validation loss was least at step {step:,}, {score(losses[step])}, and rose from there on:"
        " fewer train.steps, more text or train.publish: best would do better"
    )
