"""A training as a run of Weights & Biases. All of it happens in a thread: no network holds up a step.

One identity is one run there. Online it is resumed, and steps that the server has are not sent again: the same
identity computes the same numbers. Offline there is nothing to resume, so the one folder for `wandb sync` is
written anew from the first step on.
"""

import hashlib
import importlib.util
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from threading import Thread

from makelm import config
from makelm.errors import UserError

START_SECONDS, END_SECONDS = 60, 60  # to reach the server, and to send what is left

Rows = Callable[[int], Iterator[tuple[int, dict[str, float]]]]


class WandbRun:
    """Takes numbers by step; says one line where W&B fails, and takes no more then."""

    def __init__(
        self, folder: Path, tracking: config.Tracking, run: str, keys: dict, rows: Rows, say: Callable[[str], None]
    ):
        """`rows` gives what was done before this start, after a step. Raises UserError without the package."""
        if importlib.util.find_spec("wandb") is None:
            raise UserError(
                "tracking.wandb: the package wandb is not installed;"
                f" run {sys.executable} -m pip install wandb, or set it to null"
            )
        self.folder, self.tracking, self.name, self.keys = folder, tracking, run, keys
        self.rows, self.say = rows, say
        self.queue: SimpleQueue = SimpleQueue()
        self.thread = Thread(target=self.work, daemon=True)
        self.thread.start()

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Takes numbers of a step."""
        if self.thread.is_alive():
            self.queue.put((step, values))

    def close(self) -> None:
        """Waits until all is sent, or written, but not for ever."""
        self.queue.put(None)
        self.thread.join(END_SECONDS)
        if self.thread.is_alive():
            self.say(f"W&B has not taken everything within {END_SECONDS} s; wandb sync {self.folder}/wandb/* may help")

    def work(self) -> None:
        """Does all that has to do with W&B, in the thread."""
        try:
            import wandb

            run = self.begin(wandb)
            for step, values in self.rows(run.starting_step - 1 if run.starting_step else 0):
                run.log(values, step=step)
            while (item := self.queue.get()) is not None:
                step, values = item
                if step >= run.starting_step:
                    run.log(values, step=step)
            run.finish()
            wandb.teardown()  # waits for W&B's own process, which writes the last of it
        except Exception as error:  # whatever it is, it must not end the training
            problem = str(error).strip() or type(error).__name__
            self.say(f"W&B: {problem.splitlines()[0]}; training goes on without it")

    def begin(self, wandb):
        """Returns the run, begun or resumed."""
        settings = wandb.Settings(
            silent=True,
            console="off",
            init_timeout=START_SECONDS,
            finish_timeout=END_SECONDS / 2,  # so that what it says then is heard
            finish_timeout_raises=True,
        )
        if self.tracking.wandb == "offline":
            for old in (self.folder / "wandb").glob("offline-run-*"):
                shutil.rmtree(old)
        elif not wandb.login(prompt=False):
            raise UserError("not logged in (run wandb login, or set WANDB_API_KEY)")
        return wandb.init(
            dir=self.folder,
            project=self.tracking.project,
            entity=self.tracking.entity,
            name=self.name,
            # the folder's name is the identity; two runs with equal keys are two all the same
            id=hashlib.sha256(f"{self.name} {self.folder.name}".encode()).hexdigest()[:16],
            config=self.keys,
            mode=self.tracking.wandb,
            resume="allow" if self.tracking.wandb == "online" else None,
            settings=settings,
        )
