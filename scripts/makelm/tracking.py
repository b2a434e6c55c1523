"""Where people look at a training: TensorBoard's files always, W&B where `tracking.wandb` says so.

Each step is in both exactly once, whatever interrupted the training before: what they have stands in
metrics.jsonl, timings.jsonl and statistics.jsonl too, which are cut back to the checkpoint that training goes on from.
"""

import heapq
import json
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from makelm import config
from makelm.tracking_tensorboard import EventFile
from makelm.tracking_wandb import WandbRun

# a key of metrics.jsonl or timings.jsonl -> what it is called there; other numbers keep their name
TAGS = {
    "loss": "loss/train",
    "validation_loss": "loss/validation",
    "grad_norm": "norms/gradient",
    "parameter_norm": "norms/parameters",
    "update_norm": "norms/update",
    "tokens_per_second": "speed/tokens_per_second",
    "mfu": "speed/mfu",
    "waiting_for_data": "speed/waiting_for_data",
    "saving": "speed/saving",
}
NO_CURVE = {"step", "seconds"}


class Tracker:
    """Takes the numbers of one training; begun after its checkpoint is restored."""

    def __init__(
        self,
        folder: Path,
        tracking: config.Tracking,
        run: str,
        keys: dict,
        log_every: int,
        say: Callable[[str], None],
    ):
        """`folder` is checkpoints/<identity>; `keys` describe the run; `say` gets one line where W&B fails.

        Raises UserError where W&B is asked for and not installed.
        """
        self.folder, self.log_every = folder, log_every
        self.steps = sum(1 for _ in lines(folder / "metrics.jsonl"))
        self.wandb = WandbRun(folder, tracking, run, keys, self.rows, say) if tracking.wandb else None
        self.events = EventFile(folder / "tensorboard", self.steps)
        for step, values in self.rows(self.events.last_step):
            self.events.scalars(step, values)
        self.events.flush()

    def scalars(self, step: int, values: dict) -> None:
        """Takes a row of metrics.jsonl or timings.jsonl, or other numbers of a step; steps never go back."""
        if self.wanted(step, values):
            values = named(values)
            self.events.scalars(step, values)
            self.events.flush()
            if self.wandb:
                self.wandb.scalars(step, values)

    def wanted(self, step: int, values: dict) -> bool:
        """Returns whether numbers are shown: of a step's own row only every log_every-th, or one with a validation."""
        return "loss" not in values or "validation_loss" in values or step % self.log_every == 0

    def rows(self, after: int) -> Iterator[tuple[int, dict]]:
        """Yields (step, numbers) of what was done before this start, from the step `after` on, in order."""
        metrics = islice(lines(self.folder / "metrics.jsonl"), after, self.steps)  # line n is step n
        files = metrics, lines(self.folder / "timings.jsonl"), lines(self.folder / "statistics.jsonl")
        for row in heapq.merge(*(map(json.loads, file) for file in files), key=lambda row: row["step"]):
            if after < row["step"] <= self.steps and self.wanted(row["step"], row):
                yield row["step"], named(row)

    def close(self) -> None:
        """Waits, not for long, until all is where it belongs."""
        self.events.close()
        if self.wandb:
            self.wandb.close()


def lines(path: Path) -> Iterator[str]:
    """Yields the whole lines of a file, none where it is not there."""
    if path.exists():
        with path.open(encoding="utf-8") as file:
            yield from (line for line in file if line.endswith("\n"))


def named(values: dict) -> dict[str, float]:
    """Returns the numbers among the values under the names that people see."""
    numbers = {key: value for key, value in values.items() if isinstance(value, int | float) and key not in NO_CURVE}
    return {tag(key): float(value) for key, value in numbers.items()}


def tag(key: str) -> str:
    """Returns what a number is called; of one source of several it stands below that of all."""
    name, slash, source = key.partition("/")
    return TAGS.get(name, name) + slash + source
