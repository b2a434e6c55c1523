"""Snakemake, imported once and run in a copy of that process each time: to import it takes longer than to plan."""

import json
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path


def snakemake(words: Sequence[str], folder: Path, environment: Mapping[str, str]) -> tuple[int, str]:
    """Runs `snakemake` with some words in a folder; returns its exit code and what it wrote."""
    server = start(tuple(environment.items()))
    server.stdin.write(json.dumps([list(words), str(folder)]) + "\n")
    server.stdin.flush()
    code, said = json.loads(server.stdout.readline())
    return code, said


@cache
def start(environment: tuple[tuple[str, str], ...]) -> subprocess.Popen:
    """Starts the process that is copied. It ends when its input does, so with this process."""
    return subprocess.Popen(
        [sys.executable, __file__], env=dict(environment), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def serve() -> None:
    """Answers a line that has words and a folder with one that has an exit code and what was written."""
    import pydantic  # noqa: F401
    import smart_open  # noqa: F401
    from snakemake import cli

    cli.get_argument_parser()  # which imports the plugins
    for line in sys.stdin:
        words, folder = json.loads(line)
        with tempfile.TemporaryFile() as said:
            child = os.fork()
            if child == 0:
                run(cli.main, words, folder, said.fileno())
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            said.seek(0)
            print(json.dumps([code, said.read().decode()]), flush=True)


def run(main: Callable[[], None], words: list[str], folder: str, said: int) -> None:
    """Is the copy: runs Snakemake as its command does, then ends."""
    code = 1
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(said, 1)
        os.dup2(said, 2)
        os.chdir(folder)
        sys.argv, sys.path[0] = ["snakemake", *words], folder
        main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve()
