"""What a training is doing, read from the files that it writes; nothing is changed, and JAX is not needed.

The state is found anew at each look, since a training may be killed, cut back or replaced by another in between.
"""

import fcntl
import json
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from makelm import identities, locks
from makelm.progress import clock, score

WAITING, STARTING, RUNNING, STOPPED, FINISHED = "waiting", "starting", "running", "stopped", "finished"
TAIL = 1 << 22  # bytes at the end of a file that are looked at: some 25,000 steps
LOSSES, TIMES = 50, 5  # rows that a mean is of
QUIET = 60.0  # seconds without a word after which that is said, and after which another machine counts as dead


@dataclass(frozen=True)
class State:
    """What is known at one moment."""

    kind: str
    identity: str = ""
    step: int = 0
    steps: int | None = None  # in all
    loss: float | None = None  # mean of the last steps
    validation_loss: float | None = None  # the last one
    speed: float | None = None  # tokens per second
    left: float | None = None  # seconds
    saved: int | None = None  # step of the last checkpoint
    saved_ago: float = 0.0  # seconds
    quiet: float = 0.0  # seconds since a number was written
    result: str = ""  # of a training that is finished

    def line(self) -> str:
        """Returns how far it is, for people."""
        if self.kind == FINISHED:
            return self.result
        if self.kind == WAITING:
            return "waiting for training to begin"
        if not self.step:
            return "starting, no step yet" if self.kind == STARTING else "no step was made"
        parts = [
            f"{self.step:,}" + (f"/{self.steps:,} steps ({self.step / self.steps:.0%})" if self.steps else " steps")
        ]
        if self.loss is not None:
            parts.append(f"loss {score(self.loss)}")
        if self.validation_loss is not None:
            parts.append(f"validation {score(self.validation_loss)}")
        if self.kind == RUNNING and self.speed is not None:
            parts.append(f"{self.speed:,.0f} tokens/s")
        if self.kind == RUNNING and self.left is not None:
            parts.append(f"{clock(self.left)} left")
        if self.saved is not None:
            parts.append(f"saved at {self.saved:,}, {clock(self.saved_ago)} ago")
        if self.kind == RUNNING and self.quiet > QUIET:
            parts.append(f"nothing new for {clock(self.quiet)}")
        return ", ".join(parts)


def look(run: Path) -> State:
    """Returns what the training of results/train_model/<run> is doing; of several identities, the newest."""
    while True:
        with suppress(FileNotFoundError):  # what was there a moment ago is gone: look again
            return look_once(run)


def look_once(run: Path) -> State:
    """Returns what `look` does. Raises FileNotFoundError where a file is taken away meanwhile."""
    folder, manifest, summary = newest(run / "checkpoints"), run / "manifest.json", run / "summary.json"
    lock = locks.beside(manifest)
    # where one of the two is gone, make trains the run again
    published = manifest.exists() and summary.exists()
    if published and (folder is None or written(folder) <= manifest.stat().st_mtime):
        return State(FINISHED, folder.name if folder else "", result=result(run))
    if folder is None:
        return State(STARTING if held(lock) else WAITING)
    now, last = time.time(), written(folder)
    alive = held(lock) or (is_elsewhere(lock) and now - max(last, lock.stat().st_mtime) < QUIET)
    found = numbers(folder)
    kind = STOPPED if not alive else RUNNING if found.get("step") else STARTING
    if saved := identities.steps(folder)[-1:]:
        found |= {"saved": saved[0], "saved_ago": now - (folder / str(saved[0])).stat().st_mtime}
    return State(kind, folder.name, quiet=now - last, **found)


def result(run: Path) -> str:
    """Returns what came out of a training that is published."""
    manifest, summary = (json.loads((run / name).read_text()) for name in ("manifest.json", "summary.json"))
    return (
        f"trained: {summary['steps']:,} steps, {summary['tokens']:,} tokens, the last start took"
        f" {clock(manifest['made']['seconds'])}; loss {score(summary['loss'])}, validation loss"
        f" {score(summary['validation_loss'])} nats per token, identity {summary['identity']}"
    )


def numbers(folder: Path) -> dict:
    """Returns what metrics.jsonl and timings.jsonl of an identity say, as far as they say anything."""
    found = {"steps": total_steps(folder)}
    metrics = last_lines(folder / "metrics.jsonl")
    if not metrics:
        return found
    latest = [json.loads(line) for line in metrics[-LOSSES:]]
    losses = [row["loss"] for row in latest if row["loss"] is not None]  # null: no number, a step that was left out
    found |= {"step": latest[-1]["step"], "loss": sum(losses) / len(losses) if losses else None}
    validated = next((line for line in reversed(metrics) if b'"validation_loss"' in line), None)
    if validated:
        found["validation_loss"] = json.loads(validated)["validation_loss"]
    times = [json.loads(line) for line in last_lines(folder / "timings.jsonl")[-TIMES:]]
    if times:
        found["step"] = max(found["step"], times[-1]["step"])
        found["speed"] = times[-1]["tokens_per_second"]
        seconds = sum(row["seconds"] for row in times)
        tokens = sum(row["seconds"] * row["tokens_per_second"] for row in times)
        if found["steps"] and tokens:
            # as the last step, since those before may have had other batches
            in_step = latest[-1]["tokens"] - (latest[-2]["tokens"] if len(latest) > 1 else 0)
            found["left"] = (found["steps"] - found["step"]) * in_step * seconds / tokens
    return found


def total_steps(folder: Path) -> int | None:
    """Returns how many steps an identity is to make, or None where it does not say."""
    identity = identities.read(folder)
    return identity and identity.config["train"]["steps"]


def last_lines(path: Path) -> list[bytes]:
    """Returns the whole lines at the end of a file, none where it is not there."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - TAIL))
            data = file.read()
    except FileNotFoundError:
        return []
    lines = data.split(b"\n")[:-1]  # what follows the last line's end is being written
    return lines[1:] if size > TAIL else lines


def newest(checkpoints: Path) -> Path | None:
    """Returns the identity that was written to last."""
    folders = [path for path in checkpoints.iterdir() if path.is_dir()] if checkpoints.exists() else []
    return max(folders, key=written, default=None)


def written(folder: Path) -> float:
    """Returns when an identity was written to, in seconds as of time.time()."""
    files = [path for path in (folder / "metrics.jsonl", folder / "timings.jsonl") if path.exists()]
    return max(path.stat().st_mtime for path in files or [folder])


def held(lock: Path) -> bool:
    """Returns whether a process of this machine holds a lock."""
    try:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # given back with the file, at once
    except BlockingIOError:
        return True
    except OSError:  # there is none, or the file system knows no locks
        return False
    return False


def is_elsewhere(lock: Path) -> bool:
    """Returns whether a lock names a process of another machine, of which flock may know nothing."""
    try:
        return not locks.is_local(lock.read_bytes())
    except FileNotFoundError:
        return False
