"""What is looked at while a run trains, and where it is written. Nothing here changes what comes out."""

from collections.abc import Callable
from typing import Any

import jax

from makelm import config, device_peaks, processes
from makelm.checkpoints import Checkpoints
from makelm.progress import Bar
from makelm.tracking import Tracker
from makelm.training import Trainer


class Observer:
    """Takes each step's numbers and times and puts them where people look."""

    def __init__(
        self,
        train: config.Train,
        trainer: Trainer,
        saved: Checkpoints,
        flops_per_token: int,
        bar: Bar,
        say: Callable[[str], None],
    ):
        self.train, self.trainer, self.saved, self.flops_per_token = train, trainer, saved, flops_per_token
        self.bar, self.say, self.note, self.tracing = bar, say, "", False
        self.tracker: Tracker | None = None

    def track(self, tracking: config.Tracking, run: str, keys: dict) -> None:
        """Begins TensorBoard's files, and what else `tracking` wants, with the steps done so far."""
        if processes.leads():
            self.tracker = Tracker(self.saved.folder, tracking, run, keys, self.train.log_every, self.say)

    def before(self, step: int, state: dict, windows_BT: jax.Array) -> None:
        """Is called before a step is begun, with what it begins with."""
        first, last = self.train.profile_steps or (0, 0)
        if step == first or (self.tracing and step > last):
            self.trace(step == first)
        every = self.train.statistics_every
        if every and step % every == 0:
            found = self.trainer.statistics(state, windows_BT, step - 1)
            values = {name: float(value) for name, value in found.items()}
            self.saved.note_statistics({"step": step} | values)
            self.show(step, values)

    def trace(self, begin: bool) -> None:
        """Begins or ends the profiler's trace, which TensorBoard and Perfetto read."""
        if begin:
            jax.profiler.start_trace(self.saved.folder / "tensorboard")
        else:
            jax.profiler.stop_trace()
        self.tracing = begin

    def row(self, row: dict[str, Any]) -> None:
        """Takes the metrics of a step."""
        if row.get("skipped"):
            self.say(f"step {row['step']} was left out: loss {row['loss']}, norm of the gradient {row['grad_norm']}")
        self.show(row["step"], row)

    def times(self, times: dict[str, float], loss: float) -> None:
        """Takes the times since the line before, and the mean loss of the last steps."""
        device = jax.local_devices()[0]
        speed = times["tokens_per_second"]
        used = device_peaks.utilization(speed / jax.device_count(), self.flops_per_token, device.device_kind)
        times |= {
            "mfu": None if used is None else round(used, 4),
            "peak_bytes_per_device": (device.memory_stats() or {}).get("peak_bytes_in_use"),
        }
        self.note = f"loss {loss:.3f}, {speed:,.0f} tokens/s{f', MFU {used:.1%}' if used else ''}"
        self.saved.time(times)
        self.show(times["step"], times)

    def show(self, step: int, values: dict[str, Any]) -> None:
        """Hands numbers of a step to the tracker."""
        if self.tracker:
            self.tracker.scalars(step, values)

    def advance(self) -> None:
        """Shows that one more step was begun."""
        self.bar.advance(1, self.note)

    def close(self) -> None:
        """Ends what is written."""
        if self.tracing:
            self.trace(False)
        if self.tracker:
            self.tracker.close()
