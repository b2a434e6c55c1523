"""Checkpoints of one training identity: written while training goes on, complete or not there.

A folder checkpoints/<identity>/ holds Orbax steps and metrics.jsonl, one line per step. Another identity
(other data, keys, code) is another folder, so that no run goes on from what it is not.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import jax
import orbax.checkpoint as ocp

from makelm import manifest
from makelm.errors import Interrupted, UserError


class Checkpoints:
    """Saves and restores the state of one identity, with the metrics up to it."""

    def __init__(self, folder: Path, keep: int):
        """`keep` checkpoints stay, the latest ones."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.metrics_path = folder / "metrics.jsonl"  # line n is step n
        self.metrics: TextIO | None = None
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=True)
        self.manager = ocp.CheckpointManager(folder.resolve(), options=options)

    def restore(self, shapes: Any, warn: Any) -> tuple[int, Any]:
        """Returns (steps done, state) of the latest complete checkpoint, or (0, None).

        `shapes` gives the leaves' shapes, dtypes and shardings; one that cannot be read is skipped with a
        line to `warn`.
        """
        for step in sorted(self.manager.all_steps(), reverse=True):
            try:
                found = self.manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(shapes)))
            except (ValueError, OSError, KeyError) as error:
                first = str(error).splitlines()[0][:100]
                warn(f"the checkpoint of step {step} cannot be read ({first}); trying the one before")
                self.manager.delete(step)
                continue
            self.cut_metrics(step)
            return step, found["state"]
        self.cut_metrics(0)
        return 0, None

    def record(self, row: dict) -> None:
        """Adds the metrics of one step."""
        if self.metrics is None:
            self.metrics = self.metrics_path.open("a", encoding="utf-8")
        self.metrics.write(json.dumps(row) + "\n")

    def save(self, step: int, state: Any) -> None:
        """Starts to save the state after `step` steps; the metrics up to there are on disk first."""
        with self.disk_may_be_full():
            if self.metrics is not None:
                self.metrics.flush()
                manifest.sync(self.metrics_path)
            if step not in self.manager.all_steps():
                self.manager.save(step, args=ocp.args.Composite(state=ocp.args.StandardSave(state)), force=True)

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

    def cut_metrics(self, steps: int) -> None:
        """Drops the metrics of steps after the checkpoint: they will come again."""
        if not self.metrics_path.exists():
            self.metrics_path.touch()
        kept = self.metrics_path.read_text(encoding="utf-8").splitlines(keepends=True)[:steps]
        if len(kept) != steps or any(not line.endswith("\n") for line in kept):
            raise UserError(f"{self.metrics_path} does not reach step {steps}; remove its folder to start again")
        self.metrics_path.write_text("".join(kept), encoding="utf-8")

    def wait(self) -> None:
        """Returns when what was started is on disk."""
        with self.disk_may_be_full():
            self.manager.wait_until_finished()

    def close(self) -> None:
        """Waits and lets go."""
        with self.disk_may_be_full():
            self.manager.close()
        if self.metrics is not None:
            self.metrics.close()


def read_step(folder: Path, step: int, shapes: Any) -> Any:
    """Returns those parts of a checkpoint that `shapes` has, or None where it is not there or has other shapes."""
    restore_args = ocp.checkpoint_utils.construct_restore_args(shapes)
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        try:
            wanted = ocp.args.PyTreeRestore(shapes, restore_args=restore_args, partial_restore=True)
            found = reader.restore(folder.resolve() / str(step) / "state", args=wanted)
        except (ValueError, KeyError, TypeError, OSError):
            return None
    # what is not in the checkpoint Orbax leaves as it was asked for; what has another size it fills up or cuts off
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(shapes), strict=True)
    same = all(isinstance(leaf, jax.Array) and leaf.shape == like.shape for leaf, like in pairs)
    return found if same else None


def others(folder: Path, identity: str) -> list[str]:
    """Returns the identities that stand beside this one."""
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name != identity) if folder.exists() else []
