"""How a program of makelm ends: its exit codes, and the two errors that are not a bug."""

DONE = 0
FAILED = 1  # a bug, or what nobody foresaw
USER = 2  # the user must change something
INTERRUPTED = 75  # EX_TEMPFAIL: run again, it goes on


class UserError(ValueError):
    """Something the user must change: one line that names the key or file and says what to do.

    The stage ends with USER and without a traceback.
    """


class Interrupted(Exception):
    """The stage was told to stop; what it had done is saved. It ends with INTERRUPTED."""


def first_line(error: BaseException) -> str:
    """Returns the first line of what an exception says, or its kind where it says nothing."""
    return str(error).strip().split("\n")[0] or type(error).__name__
