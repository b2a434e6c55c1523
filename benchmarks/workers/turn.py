"""A worker's side of turns.py: says that it is ready, then works as often as it is asked to."""

import json
import os
import sys
import time
from collections.abc import Callable

# what a library prints goes elsewhere: standard output is for the answers
ANSWERS = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)


def task() -> dict:
    """Returns what the worker was told at its start."""
    return json.loads(sys.argv[1])


def answer(content: dict) -> None:
    ANSWERS.write(json.dumps(content) + "\n")
    ANSWERS.flush()


def serve(facts: dict, work: Callable[[int], None]) -> None:
    """Says that it is ready, then times `work` for each number that it is given, until there are no more."""
    answer(facts)
    for line in sys.stdin:
        started = time.perf_counter()
        work(int(line))
        answer({"seconds": time.perf_counter() - started})
