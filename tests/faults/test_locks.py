"""The writer's lock: one at a time, and whoever is dead, on this machine or another, does not keep it."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from makelm import closure, locks
from makelm.errors import Interrupted

if "MAKELM_FAULTS" not in os.environ:
    pytest.skip("takes a while: make test-faults", allow_module_level=True)

BEAT, DEAD = 0.1, 1.0

# takes a lock as a process of the machine argv[2], says so, and holds it until a line comes
HOLDER = f"""
import os, sys
from pathlib import Path
sys.path.insert(0, {str(closure.SCRIPTS)!r})
from makelm import locks
locks.BEAT, locks.DEAD, locks.MACHINE = {BEAT}, {DEAD}, {{"host": sys.argv[2], "boot": ""}}
if sys.argv[3] == "unshared":
    locks.fcntl.flock = lambda *_: None
def end(line):
    print(line, flush=True)
    os._exit(75)
lock = locks.Lock(Path(sys.argv[1]), lambda line: print(line, flush=True), end)
try:
    lock.acquire(float(sys.argv[4]))
except locks.Interrupted as error:
    end(str(error))
os.close(os.open(sys.argv[1] + ".inside", os.O_CREAT | os.O_EXCL))  # fails where two are in at once
print("held", flush=True)
sys.stdin.readline()
os.unlink(sys.argv[1] + ".inside")
lock.release()
"""


@pytest.fixture
def path(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(locks, "BEAT", BEAT)
    monkeypatch.setattr(locks, "DEAD", DEAD)
    return tmp_path / "out" / ".manifest.lock"


@pytest.fixture
def start(path) -> Iterator[Callable[..., subprocess.Popen]]:
    """Starts processes that take the lock; kills what is left of them."""
    started = []

    def start(host: str = "here", flock: str = "shared", patience: float = 30) -> subprocess.Popen:
        command = [sys.executable, "-c", HOLDER, str(path), host, flock, str(patience)]
        started.append(subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def held_by(process: subprocess.Popen) -> list[str]:
    """Returns what a process says until it holds the lock."""
    return list(iter(lambda: process.stdout.readline().strip(), "held"))


def new_lock(path: Path) -> locks.Lock:
    """Returns a lock of this process; what it says is in its list `said`, what it lost in `losses`."""
    said, losses = [], []
    lock = locks.Lock(path, said.append, losses.append)
    lock.said, lock.losses = said, losses
    return lock


def elsewhere(beat: int = 1) -> bytes:
    """Returns what the lock file of another machine holds."""
    holder = {"host": "elsewhere", "boot": "b", "pid": 17, "since": "2026-01-02 03:04:05 UTC", "token": "t"}
    return json.dumps(holder | {"beat": beat}).encode()


@contextmanager
def beating(path: Path) -> Iterator[None]:
    """Beats as another machine does."""
    path.parent.mkdir()
    path.write_bytes(elsewhere())
    ended = threading.Event()

    def beat() -> None:
        count = 1
        while not ended.wait(BEAT):
            count += 1
            with path.open("r+b") as file:  # never empty between two beats
                file.write(elsewhere(count))

    thread = threading.Thread(target=beat)
    thread.start()
    yield
    ended.set()
    thread.join()


def test_a_released_lock_is_gone_and_the_next_one_gets_it(path):
    for _ in range(2):
        lock = new_lock(path)
        lock.acquire(0)
        holder = json.loads(path.read_text())
        assert holder["token"] == lock.token and path.stat().st_size == locks.LENGTH
        lock.release()
        assert list(path.parent.iterdir()) == []


def test_the_lock_of_a_killed_process_is_taken_over_at_once_without_a_word(path, start):
    process = start(locks.MACHINE["host"], patience=0)
    held_by(process)
    with pytest.raises(Interrupted, match=f"process {process.pid} on"):
        new_lock(path).acquire(0.3)
    process.kill()
    process.wait()
    # as if this machine had written it
    path.write_text(path.read_text().replace('"boot": ""', f'"boot": "{locks.MACHINE["boot"]}"'))
    lock = new_lock(path)
    lock.acquire(0)
    assert lock.said == []
    lock.release()


def test_a_stopped_process_of_this_machine_is_alive(path, start):
    first = start()
    held_by(first)
    first.send_signal(signal.SIGSTOP)
    second = start(patience=1.5 * DEAD)
    assert f"is being written by process {first.pid} on here" in second.communicate()[0]
    assert second.returncode == 75


def test_a_beat_that_moves_is_waited_for_whatever_flock_says(path):
    with beating(path), pytest.raises(Interrupted) as error:
        new_lock(path).acquire(1.5 * DEAD)
    assert str(error.value) == (
        f"{path.parent} is being written by process 17 on elsewhere, since 2026-01-02 03:04:05 UTC;"
        " run this again when it has ended"
    )


@pytest.mark.parametrize(
    ("flock", "content"), [("given", elsewhere()), ("refused", elsewhere()), ("given", b"\xff{"), ("given", b"[]")]
)
def test_a_beat_that_stands_still_is_taken_over_but_no_sooner(path, flock, content):
    path.parent.mkdir()
    path.write_bytes(content)
    lock, begun = new_lock(path), time.monotonic()
    with path.open() as file:
        if flock == "refused":  # as by a server that knows nothing of the death
            fcntl.flock(file, fcntl.LOCK_EX)
        lock.acquire(10)
    assert time.monotonic() - begun > DEAD
    assert "process 17 on elsewhere" in lock.said[-1] or content != elsewhere()
    assert lock.said[-1].startswith("took over the lock of ")
    with pytest.raises(Interrupted):
        new_lock(path).acquire(0)
    assert lock.losses == []
    lock.release()
    assert list(path.parent.iterdir()) == []


def test_a_file_that_is_empty_for_a_moment_is_looked_at_again(path):
    path.parent.mkdir()
    path.write_bytes(elsewhere())
    lock = new_lock(path)
    assert not lock.take()
    path.write_bytes(b"")
    assert not lock.take()
    assert lock.take()
    lock.release()


def test_a_holder_who_was_paused_ends_and_leaves_the_lock_to_the_new_one(path, start):
    old = start("elsewhere")
    held_by(old)
    old.send_signal(signal.SIGSTOP)
    Path(f"{path}.inside").unlink()
    lock = new_lock(path)
    lock.acquire(10)
    old.send_signal(signal.SIGCONT)
    assert old.wait(10) == 75  # its end is no doing of ours: it waits for a line
    output = old.stdout.read()
    assert f"the lock was lost, now process {os.getpid()} on {locks.MACHINE['host']}" in output
    time.sleep(2 * BEAT)
    assert lock.lost() is None and lock.losses == []
    lock.release()


@pytest.mark.parametrize("flock", ["shared", "unshared"])
def test_of_several_who_wait_for_a_dead_one_exactly_one_gets_it(path, start, flock):
    path.parent.mkdir()
    path.write_bytes(elsewhere())
    waiting = [start(f"host{number}", flock, patience=3 * DEAD) for number in range(3)]
    while not Path(f"{path}.inside").exists():
        time.sleep(0.01)
    time.sleep(1.2 * DEAD)
    winner = json.loads(path.read_text())["pid"]
    for process in waiting:
        if process.pid == winner:
            assert process.poll() is None
        else:
            output = process.communicate(timeout=10)[0]
            assert process.returncode == 75 and f"is being written by process {winner} on host" in output


def test_of_two_who_replace_a_dead_one_s_file_at_the_same_moment_one_succeeds(path, monkeypatch):
    path.parent.mkdir()
    path.write_bytes(elsewhere())
    read, both = locks.Lock.content, threading.Barrier(2)

    def read_together(lock: locks.Lock) -> bytes:
        content = read(lock)
        if content == elsewhere():
            both.wait(10)
        return content

    monkeypatch.setattr(locks.Lock, "content", read_together)
    candidates = [new_lock(path), new_lock(path)]
    with ThreadPoolExecutor(2) as threads:
        got = list(threads.map(lambda lock: lock.replace(elsewhere()), candidates))
    assert sorted(got) == [False, True]
    winner = candidates[got.index(True)]
    assert winner.lost() is None
    winner.release()
    assert list(path.parent.iterdir()) == []


def test_those_who_wait_get_it_one_after_the_other(path, start):
    processes = [start() for _ in range(4)]
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        assert process.wait(30) == 0


def test_who_removes_the_file_ends_the_holder(path):
    lock = new_lock(path)
    lock.acquire(0)
    assert lock.lost() is None
    path.unlink()
    assert lock.lost() == f"{path.parent}: the lock was lost, its file is gone; stopped without writing more"
    time.sleep(3 * BEAT)
    assert lock.losses == [lock.lost()]
    lock.release()


def test_who_holds_it_can_be_asked_without_taking_it(path, start):
    assert new_lock(path).holder() is None
    assert not path.parent.exists()
    process = start()
    held_by(process)
    assert new_lock(path).holder().startswith(f"process {process.pid} on here")
    process.kill()
    process.wait()
    before = path.read_bytes()
    assert new_lock(path).holder() is None
    assert path.read_bytes() == before


def test_another_machine_s_lock_is_watched_for_as_long_as_it_takes(path):
    with beating(path):
        assert new_lock(path).holder() == "process 17 on elsewhere, since 2026-01-02 03:04:05 UTC"
    lock = new_lock(path)
    assert lock.holder() is None
    assert path.read_bytes().strip() != b""
    assert lock.take(), "it was watched long enough"
    lock.release()
