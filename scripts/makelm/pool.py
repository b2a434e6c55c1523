"""One function on many things in several processes, with the results in the order of the things."""

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from multiprocessing import connection, get_context, parent_process
from typing import TypeVar

from makelm.errors import UserError

Thing = TypeVar("Thing")
Result = TypeVar("Result")

# spawned: a copy of a process that has threads may wait for their locks for ever
CONTEXT = get_context("spawn")


def in_order(function: Callable[[Thing], Result], things: Iterable[Thing], cores: int) -> Iterator[Result]:
    """Yields function(thing) of each thing; each process has one of them at a time, and no more are read ahead.

    The function must be one of a module. With one core it is called here.
    """
    if cores == 1:
        yield from map(function, things)
        return
    workers: list[connection.Connection] = []
    number = done = 0
    try:
        for thing in things:
            if number < cores:
                workers.append(start(function))
                workers[-1].send(thing)
            else:
                result = receive(workers[done % cores])
                workers[done % cores].send(thing)  # first, so that it works while the result is looked at
                done += 1
                yield result
            number += 1
        for each in range(done, number):
            yield receive(workers[each % cores])
    finally:
        for worker in workers:
            worker.close()  # which ends it


def start(function: Callable[[Thing], Result]) -> connection.Connection:
    """Starts a process that answers each thing it is sent."""
    here, there = CONTEXT.Pipe()
    CONTEXT.Process(target=answer, args=(function, there), daemon=True).start()
    there.close()
    return here


def receive(worker: connection.Connection) -> Result:
    """Returns a worker's answer. Raises what it raised."""
    try:
        good, answer = worker.recv()
    except EOFError:
        raise UserError("a process of this stage was killed, perhaps for want of memory; take fewer cores") from None
    if not good:
        raise answer
    return answer


def answer(function: Callable[[Thing], Result], parent: connection.Connection) -> None:
    """Is what a worker does, until its parent wants no more or has ended, however that came about."""
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):  # these are for the parent
        signal.signal(signum, signal.SIG_IGN)
    threading.Thread(target=end_with_parent, daemon=True).start()
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            thing = parent.recv()
            try:
                parent.send((True, function(thing)))
            except Exception as error:
                parent.send((False, error))


def end_with_parent() -> None:
    connection.wait([parent_process().sentinel])
    os._exit(1)
