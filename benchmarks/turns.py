"""Programs timed by turns: each is a process of its own, one at work while the others wait.

So whatever else a shared machine does, it does to all of them alike, and the ratio of two in the same round says more
than any of their times.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

WORKERS = Path(__file__).resolve().parent / "workers"
sys.path.insert(0, str(WORKERS.parent.parent / "scripts"))
from makelm import malloc  # noqa: E402

OWN = {malloc.VARIABLE: malloc.TUNABLES}  # as the workflow starts its stages


class Worker:
    """A program of workers/ that does a piece of work whenever it is asked to."""

    def __init__(self, program: str, python: Path, task: dict, environment: Mapping[str, str] | None = None):
        """Starts it; `task` is what it is told once, as JSON."""
        inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        inherited["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # they share an accelerator's memory
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            [python, WORKERS / f"{program}.py", json.dumps(task)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=inherited | dict(environment or {}),
        )
        self.facts = self.read()  # what it says of itself once it is ready
        self.seconds_to_start = time.monotonic() - self.started

    def read(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.process.args[1].name} ended: exit status {self.process.wait()}")
        return json.loads(line)

    def __call__(self, amount: int) -> float:
        """Returns the seconds that so much work took."""
        self.process.stdin.write(f"{amount}\n")
        self.process.stdin.flush()
        return self.read()["seconds"]

    def stop(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def by_turns(workers: Mapping[str, Worker], amount: int, rounds: int) -> dict[str, list[float]]:
    """Returns the seconds of each worker in each round; a round before the first is thrown away."""
    found = {name: [] for name in workers}
    for number in range(rounds + 1):
        for name, worker in workers.items():
            seconds = worker(amount)
            if number:
                found[name].append(seconds)
    return found


def ratio(slower: Sequence[float], faster: Sequence[float]) -> float:
    """Returns the median, over rounds, of how many times as long the first took as the second."""
    return statistics.median(a / b for a, b in zip(slower, faster, strict=True))


def forget_programs(folder: Path) -> None:
    """Empties the cache of compiled programs of a folder that the workflow runs in, and has none other used."""
    os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)
    shutil.rmtree(folder / ".snakemake/compiled", ignore_errors=True)


def python_of_peers(path: Path) -> Path:
    """Returns the Python that peers run on. Ends the program where there is none."""
    if not path.exists():
        print(f"{path} is not there; `make bench` installs it", file=sys.stderr)
        raise SystemExit(2)
    return path
