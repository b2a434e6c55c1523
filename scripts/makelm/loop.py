"""The steps of a training, one after the other: what is done between them, and that nothing waits for it.

A step's numbers are read when the next one is at work, its batch is laid out before it is needed, and
validations and checkpoints are begun and not waited for.

B batch, T position
"""

import math
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import takewhile
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh

from makelm import config, processes, training
from makelm.checkpoints import Checkpoints
from makelm.errors import Interrupted, UserError
from makelm.observer import Observer
from makelm.validation import HeldOut

BAD_IN_A_ROW = 20  # steps that may be left out one after the other
SMOOTH = 50  # steps that a noisy number is averaged over


class Feed:
    """Batches, each laid out over the devices by a thread of its own while the step before is at work."""

    def __init__(self, place: Callable[[int], Any], first: int, last: int):
        """`place` makes the batch of a step; they are asked for in order from first, and last is none any more."""
        self.place, self.last, self.waited = place, last, 0.0
        self.thread = ThreadPoolExecutor(1)
        self.next: Future | None = self.thread.submit(place, first) if first < last else None

    def __call__(self, step: int) -> Any:
        """Returns the batch of a step; `waited` sums up the seconds that it was not there yet."""
        started = time.monotonic()
        batch = self.next.result()
        self.waited += time.monotonic() - started
        self.next = self.thread.submit(self.place, step + 1) if step + 1 < self.last else None
        return batch


class Stops:
    """When to end before the last step: told to, or late. Several processes decide it together."""

    def __init__(self, told: Callable[[], bool], limit: float | None, started: float, mesh: Mesh):
        """`limit` are minutes since `started`, which is in seconds since the epoch."""
        self.told, self.limit, self.deadline = told, limit, started + 60 * (limit or math.inf)
        self.vote = processes.make_vote(mesh)

    def ask(self, long_ago: bool) -> tuple[str | None, bool]:
        """Returns (why to end after this step, whether to save now); long_ago: the last save is."""
        late, told, long_ago = self.vote([time.time() > self.deadline, self.told(), long_ago])
        if late:
            return f"train.time_limit of {self.limit:g} minutes reached", True
        return ("interrupted", True) if told else (None, long_ago)


class Line:
    """The times between two lines of timings.jsonl."""

    def __init__(self, step: int, waited: float):
        """`waited` are the seconds that training waited for data so far."""
        self.step, self.start, self.saving, self.waited = step, time.monotonic(), 0.0, waited

    def end(self, step: int, waited: float, tokens: int) -> dict[str, float]:
        """Returns the times since the line before, and begins the next."""
        now = time.monotonic()
        seconds = now - self.start
        times = {
            "step": step,
            "seconds": round(seconds, 4),
            "tokens_per_second": round((step - self.step) * tokens / seconds, 1),
            "waiting_for_data": round(waited - self.waited, 4),
            "saving": round(self.saving, 4),
        }
        self.step, self.start, self.saving, self.waited = step, now, 0.0, waited
        return times


class Begun(NamedTuple):
    """A step of which the devices may still be computing the numbers."""

    step: int
    metrics: dict[str, Any]
    validate: Callable[[], dict[str, float]] | None


class Loop:
    """Runs the steps of a training and writes down what they come to."""

    def __init__(
        self,
        trainer: training.Trainer,
        train: config.Train,
        saved: Checkpoints,
        observer: Observer,
        stops: Stops,
        tokens: int,  # in a step
    ):
        self.trainer, self.train, self.saved, self.observer = trainer, train, saved, observer
        self.stops, self.tokens = stops, tokens
        recent = saved.rows()[-SMOOTH:]
        self.recent = deque(recent, maxlen=SMOOTH)
        # the steps before may have had other batches
        self.more = recent[-1]["tokens"] - recent[-1]["step"] * tokens if recent else 0
        # in a row; the first process alone has the rows, and where it ends all must
        self.bad = processes.of_first(len(list(takewhile(lambda row: row.get("skipped"), reversed(recent)))))

    def run(self, state: training.State, start: int, feed: Feed, held_out: HeldOut) -> training.State:
        """Runs the steps after `start` and returns the state after the last one, all of it saved.

        Raises Interrupted where it was to stop before, all of it saved; UserError where a step went wrong.
        """
        train, begun = self.train, None
        self.last_saved, self.saved_at, self.line = start, time.monotonic(), Line(start, 0.0)
        for step in range(start + 1, train.steps + 1):
            windows_BT = feed(step - 1)
            self.observer.before(step, state, windows_BT)
            state, metrics = self.trainer.step(state, windows_BT, step - 1)
            last, validate = step == train.steps, None
            if last or step % train.validate_every == 0:
                validate = held_out.begin(self.trainer, state)
                if "best" in state:
                    state, validate = self.choose(step, state, validate)
            # the step before is read only now, while the devices work on this one
            if begun:
                self.read(begun)
            # the first step compiles, which is no step's time; what is done is always one step behind
            if step == start + 2:
                self.line = Line(step, feed.waited)
            begun = Begun(step, metrics, validate)
            if step % train.log_every == 0 and step > start + 2:
                self.log(step, feed.waited)
            self.observer.advance()
            why, due = self.stops.ask(self.long_ago())
            if due or last or step % train.checkpoint_every == 0:
                self.save(step, state, self.read(begun))
                begun = None
            if why and not last:
                self.saved.close()
                raise Interrupted(f"{why}; step {step} is saved, the same command goes on from there")
        return state

    def choose(
        self, step: int, state: training.State, validate: Callable[[], dict[str, float]]
    ) -> tuple[training.State, Callable[[], dict[str, float]]]:
        """Returns the state with the best weights so far, and what reads the losses, which is waited for."""
        found = validate()
        return self.trainer.keep_best(state, found["validation_loss"], step), lambda: found

    def read(self, begun: Begun) -> float | None:
        """Reads a step's numbers, which waits for the devices, and writes them down. Returns its validation loss."""
        row = {"step": begun.step, "tokens": self.more + begun.step * self.tokens}
        row |= {name: float(value) for name, value in begun.metrics.items()}
        self.check(row)
        if not row.get("skipped"):
            row.pop("skipped", None)
        if begun.validate:
            row |= begun.validate()
        row = {name: value if math.isfinite(value) else None for name, value in row.items()}
        self.recent.append(row)
        if "gradient_power" in row:
            row["gradient_noise_scale"] = noise_scale(self.recent)
        self.saved.record(row)
        self.observer.row(row)
        return row.get("validation_loss")

    def check(self, row: dict[str, float]) -> None:
        """Raises UserError where a step is bad: its loss or gradient is no number, or the gradient is too large."""
        limit = self.train.max_gradient_norm or math.inf
        finite = math.isfinite(row["loss"]) and math.isfinite(row["grad_norm"])
        self.bad = self.bad + 1 if row.get("skipped", not finite or row["grad_norm"] > limit) else 0
        if not self.bad or (self.train.bad_steps == "skip" and self.bad < BAD_IN_A_ROW):
            return
        good = f"step {self.last_saved} is the last one saved" if self.last_saved else "no step was saved"
        raise UserError(
            f"the loss is {row['loss']:.6g} at step {row['step']} and the gradient's norm {row['grad_norm']:.6g}"
            f"{f', the {self.bad}th bad step in a row' if self.bad > 1 else ''}; {good}."
            " Lower train.optimizer.learning_rates or set clip_norm"
        )

    def log(self, step: int, waited: float) -> None:
        """Writes down what the steps since the last line took."""
        times = self.line.end(step, waited, self.tokens)
        losses = [row["loss"] for row in self.recent if row["loss"] is not None]
        self.observer.times(times, float(np.mean(losses)) if losses else math.nan)

    def long_ago(self) -> bool:
        """Returns whether the last checkpoint is checkpoint_minutes old."""
        return time.monotonic() - self.saved_at > 60 * (self.train.checkpoint_minutes or math.inf)

    def save(self, step: int, state: training.State, validation: float | None) -> None:
        """Begins a checkpoint; the seconds until training can go on count as saving."""
        started = time.monotonic()
        self.saved.save(step, state, validation)
        self.last_saved, self.saved_at = step, time.monotonic()
        self.line.saving += self.saved_at - started


def noise_scale(rows: Iterable[dict[str, Any]]) -> float | None:
    """Returns the gradient noise scale in tokens: with about so many in a batch, noise is as large as the gradient.

    Of steps that are too few for their noise there is none.
    """
    sums = [sum(row.get(name) or 0.0 for row in rows) for name in ("gradient_variance", "gradient_power")]
    return sums[0] / sums[1] if min(sums) > 0 else None
