"""The two ways a stage can end that are not a bug."""


class UserError(ValueError):
    """Something the user must change: one line that names the key or file and says what to do.

    The stage ends with exit code 2 and without a traceback.
    """


class Interrupted(Exception):
    """The stage was told to stop; what it had done is saved. It ends with exit code 75 (EX_TEMPFAIL)."""


def first_line(error: BaseException) -> str:
    """Returns the first line of what an exception says, or its kind where it says nothing."""
    return str(error).strip().split("\n")[0] or type(error).__name__
