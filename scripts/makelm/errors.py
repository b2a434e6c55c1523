"""How a program of makelm ends: its exit codes, and the two errors that are not a bug."""

import json
from pathlib import Path
from typing import Any

DONE = 0
FAILED = 1  # a bug, or what nobody foresaw
USER = 2  # the user must change something
INTERRUPTED = 75  # EX_TEMPFAIL: run again, it goes on

LEFT = ".error.json"  # how the name ends of what a failed stage leaves beside its log


class UserError(ValueError):
    """Something the user must change: one line that names the key or file and says what to do.

    The stage ends with USER and without a traceback.
    """


class Interrupted(BaseException):
    """The stage was told to stop; what it had done is saved. It ends with INTERRUPTED.

    As a KeyboardInterrupt it is no Exception: no library takes it for something that went wrong in its own work.
    """


def error_file(log: Path) -> Path:
    """Returns where a failed stage leaves its line."""
    return log.with_suffix(LEFT)


def leave(log: Path, stage: str, line: str, code: int, inputs: str | None) -> None:
    """Leaves beside a stage's log how it ended, for whoever looks there; `inputs` is what attempts.inputs says."""
    text = json.dumps({"stage": stage, "line": line, "exit_code": code, "inputs": inputs})
    error_file(log).write_text(text + "\n")


def left(log: Path) -> dict[str, Any] | None:
    """Returns what a stage left beside its log; None: it left nothing, or only a part of it, as on a full disk."""
    try:
        return json.loads(error_file(log).read_text())
    except (OSError, ValueError):
        return None


def first_line(error: BaseException) -> str:
    """Returns the first line of what an exception says, or its kind where it says nothing."""
    return str(error).strip().split("\n")[0] or type(error).__name__
