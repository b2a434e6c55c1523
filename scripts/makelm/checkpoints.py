"""Checkpoints of one training identity: written while training goes on, complete or not there.

A folder checkpoints/<identity>/ holds Orbax steps and metrics.jsonl, one line per step. Another identity
(other data, keys, code) is another folder, so that no run goes on from what it is not.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy as policy

from makelm import identities, manifest, processes
from makelm.errors import Interrupted, UserError
from makelm.seals import Seals


class Checkpoints:
    """Saves and restores the state of one identity, with the metrics and the measured times up to it."""

    def __init__(
        self,
        folder: Path,
        keep: int,
        keep_every: int | None = None,
        keep_best: bool = False,
        check: Callable[[], None] = lambda: None,
    ):
        """The latest `keep` stay, those of every keep_every-th step, and the one with the least validation loss.

        `check` is called before each save and may raise: who has lost the folder to another process must not write.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.metrics_path = folder / "metrics.jsonl"  # line n is step n
        self.timings_path, self.statistics_path = folder / "timings.jsonl", folder / "statistics.jsonl"
        self.metrics: TextIO | None = None
        self.seals, self.check = Seals(folder), check
        policies = [policy.LatestN(keep)]
        if keep_every:
            policies.append(policy.EveryNSteps(keep_every))
        if keep_best:
            # the least comes last in this order, and the last is kept
            policies.append(
                policy.BestN(get_metric_fn=loss_of, reverse=True, n=1, keep_checkpoints_without_metrics=False)
            )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policy.AnyPreservationPolicy(policies), enable_async_checkpointing=True
        )
        self.manager = ocp.CheckpointManager(folder.resolve(), options=options)

    def restore(self, shapes: Any, warn: Callable[[str], None]) -> tuple[int, Any]:
        """Returns (steps done, state) of the latest complete checkpoint, or (0, None).

        `shapes` gives the leaves' shapes, dtypes and shardings; one that cannot be read, or of which a byte is not
        as it was, is removed with a line to `warn`.
        """
        for step in sorted(self.manager.all_steps(), reverse=True):
            # the first process reads all files once; what one of them finds wrong, none of them takes
            problem = self.seals.broken(step) if processes.leads() else None
            if not processes.anywhere(problem is not None):
                try:
                    found = self.manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(shapes)))
                except (ValueError, OSError, KeyError) as error:
                    problem = f"cannot be read ({str(error).splitlines()[0][:100]})"
                if not processes.anywhere(problem is not None):
                    self.cut(step)
                    return step, found["state"]
            if problem:
                warn(f"the checkpoint of step {step} {problem}; trying the one before")
            self.manager.delete(step)
            if processes.leads():
                self.seals.remove(step)
        self.cut(0)
        return 0, None

    def record(self, row: dict) -> None:
        """Adds the metrics of one step."""
        if not processes.leads():
            return
        if self.metrics is None:
            self.metrics = self.metrics_path.open("a", encoding="utf-8")
        self.metrics.write(json.dumps(row) + "\n")

    def time(self, row: dict) -> None:
        """Adds measured times; who follows the training sees the metrics up to here as well."""
        if self.metrics is not None:
            self.metrics.flush()
        append(self.timings_path, row)

    def note_statistics(self, row: dict) -> None:
        """Adds statistics of tensors."""
        append(self.statistics_path, row)

    def rows(self) -> list[dict]:
        """Returns the metrics of all steps so far, in the first process."""
        if not processes.leads():
            return []
        if self.metrics is not None:
            self.metrics.flush()
        return [json.loads(line) for line in self.metrics_path.read_text(encoding="utf-8").splitlines()]

    def save(self, step: int, state: Any, validation_loss: float | None = None) -> None:
        """Starts to save the state after `step` steps; the metrics up to there are on disk first."""
        self.check()
        with self.disk_may_be_full():
            if self.metrics is not None:
                self.metrics.flush()
                manifest.sync(self.metrics_path)
            if step not in self.manager.all_steps():
                measured = None if validation_loss is None else {"validation_loss": validation_loss}
                wanted = ocp.args.Composite(state=ocp.args.StandardSave(state))
                if processes.leads():
                    self.seals.remove(step)  # of one that was removed by hand
                self.manager.save(step, args=wanted, metrics=measured, force=True)  # waits for the one before
            if processes.leads():
                self.seals.write()

    @contextmanager
    def disk_may_be_full(self) -> Iterator[None]:
        """Raises Interrupted where the disk is full: Orbax hands on the error of an earlier save, as a ValueError."""
        try:
            yield
        except (ValueError, OSError) as error:
            if "No space left on device" not in str(error):
                raise
            raise Interrupted(
                f"{self.folder}: no space left for a checkpoint; the ones before are whole: free some and run it again"
            ) from error

    def cut(self, steps: int) -> None:
        """Drops metrics and times of steps after the checkpoint: they will come again."""
        if not processes.leads():
            return
        for path in filter(Path.exists, (self.timings_path, self.statistics_path)):
            rows = path.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [row for row in rows if whole(row) and json.loads(row)["step"] <= steps]
            if kept != rows:
                manifest.replace_text(path, "".join(kept))
        if not self.metrics_path.exists():
            self.metrics_path.touch()
        rows = self.metrics_path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = rows[:steps]
        if len(kept) != steps or not all(map(whole, kept)):
            raise UserError(f"{self.metrics_path} does not reach step {steps}; remove its folder to start again")
        if kept != rows:  # without its metrics no checkpoint is of use
            manifest.replace_text(self.metrics_path, "".join(kept))

    def wait(self) -> None:
        """Returns when what was started is on disk, and sealed."""
        with self.disk_may_be_full():
            self.manager.wait_until_finished()
        if processes.leads():
            self.seals.write()
            self.seals.wait()

    def close(self) -> None:
        """Waits and lets go."""
        self.wait()
        self.manager.close()
        if self.metrics is not None:
            self.metrics.close()


def append(path: Path, row: dict) -> None:
    """Adds a line to a file, in the first process."""
    if processes.leads():
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def loss_of(metrics: dict) -> float:
    """Returns what checkpoints are compared by."""
    return metrics["validation_loss"]


def whole(line: str) -> bool:
    """Returns whether a line was written to its end."""
    return line.endswith("\n")


def read_step(folder: Path, step: int, shapes: Any) -> Any:
    """Returns those parts of a checkpoint that `shapes` has, or None where it is not there or has other shapes."""
    path = folder.resolve() / str(step) / "state"
    try:
        if not fits(path, shapes):
            return None
        restore_args = ocp.checkpoint_utils.construct_restore_args(shapes)
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
            wanted = ocp.args.PyTreeRestore(shapes, restore_args=restore_args, partial_restore=True)
            return reader.restore(path, args=wanted)
    except (ValueError, KeyError, TypeError, OSError):
        return None


def fits(path: Path, shapes: Any) -> bool:
    """Returns whether a saved tree has all leaves of `shapes`, of these shapes.

    Asked before anything is read: Orbax fills up or cuts off an array that has another shape, and what it has begun
    to read elsewhere complains on standard error where it is given up.
    """
    saved = ocp.tree.to_flat_dict(ocp.PyTreeCheckpointHandler().metadata(path).tree)
    wanted = ocp.tree.to_flat_dict(shapes)
    return all(name in saved and tuple(saved[name].shape) == leaf.shape for name, leaf in wanted.items())


def others(folder: Path, identity: str) -> list[str]:
    """Returns the identities beside this one that have a checkpoint; of a start that failed, a folder may be left."""
    if not folder.exists():
        return []
    return sorted(
        path.name for path in folder.iterdir() if path.is_dir() and path.name != identity and identities.steps(path)
    )
