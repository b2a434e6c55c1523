"""Signals that come while a stage imports its libraries, which takes seconds: they end it with 75 as later ones do.

Asked for before all else, so this imports little.
"""

import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from makelm.errors import INTERRUPTED, leave


def listen() -> None:
    """Lets signals end this process in order until the stage's frame, cli.run, does."""
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(signum, end)


def end(signum: int, frame: Any) -> None:
    """Ends this process, and leaves beside its log what cli.finish would: of its arguments none is parsed yet."""
    line = f"stopped by {signal.Signals(signum).name}; run it again to go on"
    with suppress(OSError, ValueError, IndexError):  # no log
        log = Path(sys.argv[sys.argv.index("--log") + 1])
        leave(log, Path(sys.argv[0]).stem, line, INTERRUPTED, None)
    with suppress(OSError):
        os.write(sys.stderr.fileno(), f"{line}\n".encode())
    os._exit(INTERRUPTED)
