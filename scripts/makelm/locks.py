"""One writer at a time: a lock file that neither a dead process nor a dead machine keeps.

The kernel's flock decides among the processes of one machine, and says nothing on a file system that keeps locks
to each machine, or whose server still holds those of a machine that is gone. So the file also says who holds it,
and the holder changes it every few seconds: it beats. Whoever waits watches the file by a clock of its own; clocks
of two machines are never compared.

| the file names | flock | the lock |
|---|---|---|
| nobody, or a process of this machine | given | is taken: whoever wrote that is dead |
| nobody, or a process of this machine | refused | is held |
| a process of another machine | either | is taken over once it has not beaten for DEAD seconds |
"""

import fcntl
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from makelm.errors import Interrupted

BEAT = 5.0  # seconds between two beats
DEAD = 30.0  # seconds without one after which a holder counts as dead
POLL = 0.1  # seconds between two looks
LENGTH = 512  # bytes of the file: always as many, so that nobody reads half of a beat


def this_machine() -> dict[str, str]:
    """Returns what tells this machine from all others and, where it can be known, from itself before it booted."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        boot = ""
    return {"host": socket.gethostname(), "boot": boot}


MACHINE = this_machine()


class Lock:
    """The lock of whoever writes what stands beside its file."""

    def __init__(self, path: Path, say: Callable[[str], None], on_loss: Callable[[str], None]):
        """`say` gets a line for people; `on_loss`, in a thread, one that says who took the lock over while held."""
        self.path, self.say, self.on_loss = path, say, on_loss
        self.token = secrets.token_hex(4)
        self.descriptor: int | None = None  # while the lock is held
        self.beats = 0
        self.ended = threading.Event()
        self.seen, self.seen_at = b"", 0.0  # what the file held, and since when

    def acquire(self, patience: float) -> None:
        """Takes the lock. Raises Interrupted where another one keeps it for `patience` seconds."""
        deadline, said = time.monotonic() + patience, False
        while not self.take():
            holder, place = describe(self.content()), self.path.parent
            if time.monotonic() > deadline:
                raise Interrupted(f"{place} is being written by {holder}; run this again when it has ended")
            if not said:
                self.say(f"waiting for {holder}, which is writing {place}")
                said = True
            time.sleep(POLL)

    def take(self) -> bool:
        """Takes the lock if it is free by now."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor, given, content = look(self.path, os.O_CREAT)
        except FileNotFoundError:  # somebody removed the folder again
            return False
        emptied = not content.strip() and not is_local(self.seen)  # perhaps in the middle of a beat: look again
        # the file may have been removed or replaced between open and flock
        if given and is_local(content) and not emptied and stands_at(descriptor, self.path):
            self.hold(descriptor)
            return True
        os.close(descriptor)
        return self.unchanged(content) > DEAD and not is_local(content) and self.replace(content)

    def holder(self) -> str | None:
        """Returns who holds the lock, or None; takes nothing over, but for another machine up to DEAD seconds."""
        while True:
            try:
                descriptor, given, content = look(self.path, 0)
            except FileNotFoundError:
                return None
            os.close(descriptor)
            if self.seen and content != self.seen:
                return describe(content if content.strip() else self.seen)
            if is_local(content):
                return None if given else describe(content)
            if self.unchanged(content) > DEAD:
                return None
            time.sleep(POLL)

    def lost(self) -> str | None:
        """Returns a line that says who took the lock over, or None while it is held; it looks at the file anew."""
        if self.descriptor is None:
            return None
        try:
            content = self.content()
        except OSError:  # the network is gone: not known
            return None
        if self.token.encode() in content:
            return None
        whom = f"now {describe(content)} has it" if content else "its file is gone"
        return f"{self.path.parent}: the lock was lost, {whom}; stopped without writing more"

    def release(self) -> None:
        """Lets go and removes the file, unless it is another one's by now."""
        self.ended.set()
        self.beating.join()
        if self.lost() is None:
            self.path.unlink(missing_ok=True)
        os.close(self.descriptor)
        self.descriptor = None

    # ---- inside

    def unchanged(self, content: bytes) -> float:
        """Returns for how many seconds the file has held this."""
        if content != self.seen:
            self.seen, self.seen_at = content, time.monotonic()
        return time.monotonic() - self.seen_at

    def replace(self, dead: bytes) -> bool:
        """Takes over the lock of a dead holder, whose file held this; among several who try, one succeeds.

        This is Fischer's algorithm: write, wait for longer than from reading to writing, and see who wrote last.
        """
        new = self.path.with_name(f"{self.path.name}.{self.token}")
        descriptor, _, _ = look(new, os.O_CREAT)
        self.write(descriptor)
        if self.content() != dead:
            new.unlink()
            os.close(descriptor)
            return False
        new.replace(self.path)
        time.sleep(BEAT)
        if self.token.encode() not in self.content():
            os.close(descriptor)
            return False
        self.say(f"took over the lock of {describe(dead)}, not heard of for {DEAD:g} s")
        self.hold(descriptor)
        return True

    def hold(self, descriptor: int) -> None:
        """Writes who holds the lock, and begins to beat."""
        self.write(descriptor)
        self.descriptor = descriptor
        self.beating = threading.Thread(target=self.beat, daemon=True)
        self.beating.start()

    def beat(self) -> None:
        """Changes the file every few seconds, until it is another one's."""
        while not self.ended.wait(BEAT):
            line = self.lost()
            if line:
                self.on_loss(line)
                return
            with suppress(OSError):  # the disk is full or the network gone: perhaps not for long
                self.write(self.descriptor)

    def write(self, descriptor: int) -> None:
        """Writes who holds the lock, and to the disk at once, or other machines would not see it."""
        if not self.beats:
            self.since = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
        self.beats += 1
        text = json.dumps({**MACHINE, "pid": os.getpid(), "since": self.since, "token": self.token, "beat": self.beats})
        os.pwrite(descriptor, text.encode().ljust(LENGTH - 1) + b"\n", 0)
        os.ftruncate(descriptor, LENGTH)
        os.fsync(descriptor)

    def content(self) -> bytes:
        """Returns what the file holds; nothing where there is none."""
        try:
            return self.path.read_bytes()
        except FileNotFoundError:
            return b""


def beside(manifest: Path) -> Path:
    """Returns where the lock of whoever writes an artifact with this manifest stands."""
    return manifest.with_name(f".{manifest.stem}.lock")


def look(path: Path, flags: int) -> tuple[int, bool, bytes]:
    """Opens a lock file: (descriptor, whether flock gave it, what it holds)."""
    descriptor = os.open(path, os.O_RDWR | flags, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        given = True
    except BlockingIOError:
        given = False
    return descriptor, given, os.pread(descriptor, 2 * LENGTH, 0)


def is_local(content: bytes) -> bool:
    """Returns whether flock alone decides: the file names nobody or a process of this machine."""
    return not content.strip() or parse(content).items() >= MACHINE.items()


def parse(content: bytes) -> dict:
    """Returns what a lock file says, nothing where that is damaged."""
    try:
        found = json.loads(content)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def describe(content: bytes) -> str:
    """Returns for people who holds a lock whose file holds this."""
    found = parse(content)
    if not found.keys() >= {"pid", "host", "since"}:
        return "another process"
    return f"process {found['pid']} on {found['host']}, since {found['since']}"


def stands_at(descriptor: int, path: Path) -> bool:
    """Returns whether an open file is the one that has this name."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
