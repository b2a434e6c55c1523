"""What a person sees while a stage works: a bar in a terminal, plain lines in a log."""

import io
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

from tqdm import tqdm

LOG_SECONDS = 10.0  # between two plain lines of one bar
LARGE = 1e6  # scores from which on digits after the point say nothing


class Progress:
    """Speaks to the terminal and the log; they may be one and the same stream."""

    def __init__(self, label: str, terminal: TextIO, log: TextIO | None, complaints: TextIO | None = None):
        """`label` opens every line; `log` is None where there is no log beside the terminal.

        `complaints` is where a line goes that says what is wrong; None: to the terminal.
        """
        self.label, self.terminal, self.log = label, terminal, log
        self.complaints = complaints or terminal
        forgive(self.terminal, self.complaints)
        self.bar: tqdm | None = None

    def say(self, text: str) -> None:
        """Writes one line to both."""
        self.to_log(text)
        line = f"[{self.label}] {text}"
        with suppress(OSError):  # the terminal is gone, the work goes on
            if self.bar is not None:
                self.bar.write(line, file=self.terminal)
            else:
                print(line, file=self.terminal, flush=True)

    def complain(self, text: str) -> None:
        """Writes one line that says what is wrong. Raises OSError where that cannot be written."""
        print(f"[{self.label}] {text}", file=self.complaints, flush=True)
        self.to_log(text)

    def to_log(self, text: str) -> None:
        """Writes one line to the log alone."""
        if self.log is not None:
            print(text, file=self.log, flush=True)

    @contextmanager
    def track(self, total: int, unit: str, done: int = 0) -> Iterator["Bar"]:
        """Shows how far something of `total` units (0: nobody knows) is: yields a Bar to be advanced."""
        bar = Bar(self, total, unit, done)
        try:
            yield bar
        finally:
            bar.close()


class Bar:
    """Progress of one loop."""

    def __init__(self, progress: Progress, total: int, unit: str, done: int):
        self.progress, self.total, self.unit, self.done = progress, total, unit, done
        self.start, self.first, self.next_line = time.monotonic(), done, time.monotonic() + LOG_SECONDS
        self.interactive = progress.terminal.isatty()
        if self.interactive:
            progress.bar = tqdm(
                total=total or None,
                initial=done,
                unit=unit,
                unit_scale=total >= 10_000 or not total,
                desc=f"[{progress.label}]",
                file=progress.terminal,
                dynamic_ncols=True,
                mininterval=0.2,
                leave=False,
            )

    def advance(self, amount: int, note: str = "") -> None:
        """Adds to what is done; `note` stands beside it (loss, tokens per second)."""
        self.done += amount
        bar = self.progress.bar
        if bar is not None:
            bar.set_postfix_str(note, refresh=False)
            with suppress(OSError):  # the terminal is gone, the work goes on
                bar.update(amount)
        if time.monotonic() >= self.next_line:
            self.next_line = time.monotonic() + LOG_SECONDS
            self.line(note)

    def line(self, note: str) -> None:
        """Writes how far it is as one plain line, to the terminal only where it shows no bar."""
        share = (self.done - self.first) / max(self.total - self.first, 1)
        spent = time.monotonic() - self.start
        left = f", {clock(spent / share - spent)} left" if 0 < share <= 1 else ""
        if self.unit == "B":
            rate = size((self.done - self.first) / max(spent, 1e-9))
            text = f"{size(self.done)}{f' of {size(self.total)}' if self.total else ''}, {rate}/s"
        else:
            text = f"{self.done:,}{f'/{self.total:,}' if self.total else ''} {self.unit}"
        text += f"{'  ' + note if note else ''}{left}"
        if self.interactive:
            self.progress.to_log(text)
        else:
            self.progress.say(text)

    def close(self) -> None:
        """Takes the bar away."""
        if self.progress.bar is not None:
            self.progress.bar.close()
            self.progress.bar = None


def forgive(*streams: TextIO) -> None:
    """Lets streams show a question mark for what their encoding lacks: no work ends for a sign in a line about it."""
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def clock(seconds: float) -> str:
    """Returns seconds as 0:07, 12:34 or 1:02:03."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def size(count: float) -> str:
    """Returns bytes as 812 B, 1.2 kB or 3.4 MB (powers of ten)."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError


def score(value: float | None, digits: int = 3) -> str:
    """Returns a score as 2.481, a large one, of a training that diverged, as 1.2e+99; none where it is no number."""
    if value is None:
        return "none"
    return f"{value:.{digits}f}" if value < LARGE else f"{value:.3g}"
