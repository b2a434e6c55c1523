"""What is looked at while a run trains, and where it is written. Nothing here changes what comes out."""

from collections.abc import Callable
from typing import Any

from makelm import config
from makelm.checkpoints import Checkpoints
from makelm.progress import Bar


class Observer:
    """Takes each step's numbers and times and puts them where people look."""

    def __init__(self, train: config.Train, saved: Checkpoints, bar: Bar, say: Callable[[str], None]):
        self.train, self.saved, self.bar, self.say, self.note = train, saved, bar, say, ""

    def before(self, step: int, state: dict) -> None:
        """Is called before a step is begun."""

    def row(self, row: dict[str, Any]) -> None:
        """Takes the metrics of a step."""
        if row.get("skipped"):
            self.say(f"step {row['step']} was left out: loss {row['loss']}, norm of the gradient {row['grad_norm']}")

    def times(self, times: dict[str, float], loss: float) -> None:
        """Takes the times since the line before, and the mean loss of the last steps."""
        self.note = f"loss {loss:.3f}, {times['tokens_per_second']:,.0f} tokens/s"
        self.saved.time(times)

    def advance(self, step: int) -> None:
        """Shows that one more step was begun."""
        self.bar.advance(1, self.note)
