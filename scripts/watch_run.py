"""Follows the training of a run, as it goes on elsewhere: python scripts/watch_run.py stdlib, or make watch RUN=stdlib.

Reads results/train_model/<run>/ and writes nothing. It waits where training has not begun, follows one that begins
anew, and ends with 0 when the run is trained or at Ctrl-C. With --once it says how things are and ends: with 0, or
with 2 where there is no training.
"""

import argparse
import os
import shutil
import sys
import time
from pathlib import Path

from makelm import watching
from makelm.errors import DONE, USER, left
from makelm.progress import LOG_SECONDS
from makelm.watching import FINISHED, RUNNING, STARTING, STOPPED, WAITING, State

POLL = 0.5  # seconds between two looks


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="its name, as under run: in the configuration")
    parser.add_argument("--results", type=Path, default=Path("results"), help="the folder of results (results)")
    parser.add_argument("--once", action="store_true", help="say how things are, and end")
    args = parser.parse_args()
    folder = args.results.absolute() / "train_model" / args.run  # links stay as they are: logs stand beside them
    return say_once(folder) if args.once else Watch(folder).follow()


def say_once(folder: Path) -> int:
    """Prints the present state."""
    state = watching.look(folder)
    line = "" if state.kind == FINISHED else event(folder, State(""), state)
    print(f"[{folder.name}] {line or state.line()}")
    return USER if state.kind == WAITING else DONE


class Watch:
    """Shows one line that changes in a terminal, and lines one after the other elsewhere."""

    def __init__(self, folder: Path):
        self.folder, self.terminal = folder, sys.stdout.isatty()
        self.next_line, self.shown = 0.0, State("")

    def follow(self) -> int:
        """Looks until the run is trained."""
        before = State("")
        while True:
            state = watching.look(self.folder)
            if state.kind == FINISHED and not (before.kind in ("", FINISHED) and self.may_begin_anew()):
                self.say(state.line())
                return DONE
            line = event(self.folder, before, state)
            if line:
                self.say(line)
            if state.kind in (RUNNING, STARTING):
                self.show(state)
            before = state
            time.sleep(POLL)

    def may_begin_anew(self) -> bool:
        """Returns whether make is at work: what was trained before may be out of date."""
        return watching.held(beside_results(self.folder) / ".makelm.lock")

    def say(self, text: str) -> None:
        """Writes a line that stays."""
        print(f"{self.clean()}[{self.folder.name}] {text}", flush=True)

    def show(self, state: State) -> None:
        """Writes the line that changes; elsewhere than in a terminal now and then, where it went on."""
        if self.terminal:
            width = shutil.get_terminal_size().columns - 1
            print(f"{self.clean()}{f'[{self.folder.name}] {state.line()}'[:width]}", end="", flush=True)
        elif time.monotonic() >= self.next_line and (state.kind, state.step) != (self.shown.kind, self.shown.step):
            self.say(state.line())
            self.shown, self.next_line = state, time.monotonic() + LOG_SECONDS

    def clean(self) -> str:
        """Returns what takes the line that changes away."""
        return "\r\x1b[K" if self.terminal else ""


def event(folder: Path, before: State, now: State) -> str:
    """Returns what there is to say, if anything, where `now` comes after `before`."""
    anew = now.identity != before.identity
    if now.kind == WAITING and before.kind != WAITING:
        others = sorted(path.name for path in folder.parent.glob("*/"))
        return now.line() + (f" (there are: {', '.join(others)})" if others else "")
    if now.kind == FINISHED and before.kind != FINISHED:
        return f"{now.line()}; make is at work, and may train it anew"
    if now.kind == STOPPED and (anew or before.kind != STOPPED):
        return f"stopped: {reason(folder)}; {now.line()}"
    if anew and before.identity:
        return f"a new identity, {now.identity}: model, data or code changed"
    if now.kind == RUNNING and before.kind == STOPPED:
        return "training goes on"
    return ""


def beside_results(folder: Path) -> Path:
    """Returns the folder in which results/ and logs/ of a run stand."""
    return folder.parent.parent.parent


def reason(folder: Path) -> str:
    """Returns why the last training of this run ended, as far as it could say so."""
    found = left(beside_results(folder) / "logs/train_model" / f"{folder.name}.log")
    return found["line"] if found else "it was killed; the same command goes on from the last checkpoint"


if __name__ == "__main__":
    try:
        code = main()
    except KeyboardInterrupt:
        print()
        code = DONE
    except BrokenPipeError:  # nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = DONE
    sys.exit(code)
