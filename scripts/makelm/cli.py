"""The frame of every stage: arguments, log, lock, signals, exit codes and publishing what it made.

A stage ends with 0 (done), 2 (the user must change something: one line says what), 75 (interrupted, what
was done is saved; running it again goes on) or 1 (a bug: the traceback is in the log).
"""

import argparse
import errno
import json
import os
import platform
import resource
import shlex
import shutil
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from makelm import attempts, closure, configfile, locks, manifest, programs, stages
from makelm.errors import DONE, FAILED, INTERRUPTED, USER, Interrupted, UserError, error_file, leave
from makelm.progress import Progress, size

LOCK_WAIT = 60.0  # seconds, where the configuration has no say
ENVIRONMENT_ERRORS = {
    errno.ENOSPC: "no space left on the device; free some and run it again",
    errno.EDQUOT: "the disk quota is used up; free some and run it again",
    errno.EACCES: "permission denied; make it readable, or its folder writable",
    errno.EPERM: "not permitted; make the folder writable",
    errno.EROFS: "the file system is read-only; choose a folder that can be written",
    errno.ENOTDIR: "a folder is expected, but a file of that name is in the way",
    errno.EEXIST: "a folder is expected, but a file of that name is in the way",
    errno.EMFILE: "more files would be open than this machine allows (ulimit -Hn); raise that or lower corpus.shards",
    errno.EFBIG: "the file may not grow that large here (see ulimit -f)",
}


class Job:
    """One run of one stage: its configuration, where it reads and writes, and how it speaks."""

    def __init__(self, stage: str, args: argparse.Namespace, progress: Progress, manifest_name: str):
        self.stage, self.args, self.progress = stage, args, progress
        self.keys, self.config = read_config(stage, args)
        self.code = closure.closure(stage).digest()  # now: who edits it while this works changes the next run
        self.out: Path = args.out
        self.manifest_name = manifest_name
        # its loss ends the process from the lock's own thread: no other one writes on
        end = partial(finish, progress, args.log, code=INTERRUPTED)
        self.lock = locks.Lock(locks.beside(self.out / manifest_name), progress.say, end)
        # not by the process's number: another machine may have the same
        self.staging = self.out / f"{partial_prefix(manifest_name)}{self.lock.token}"
        self.inputs: dict[str, str] = {}
        self.stopping = threading.Event()
        self.stops_itself = False  # a stage that saves its progress sets this and watches `stopping`
        self.started = time.time()
        self.say = progress.say

    def read_input(self, name: str, path: Path) -> dict:
        """Reads the manifest of an input, records its digest under `name` and returns its content."""
        try:
            found = manifest.read(path)
        except FileNotFoundError:
            raise UserError(f"{path} is missing; run the stage that makes it") from None
        except ValueError:
            raise UserError(f"{path} is damaged; remove it and run the stage that makes it") from None
        self.inputs[name] = found["digest"]
        content = found["content"]
        return content | {"facts": manifest.Facts(content["facts"], path, content["stage"])}

    def check_lock(self) -> None:
        """Raises Interrupted where the lock was lost; to be asked before what another writer could write too."""
        if line := self.lock.lost():
            raise Interrupted(line)

    def publish(self, facts: dict, measured: tuple[str, ...] = (), device: str = "cpu") -> None:
        """Gives what stands in staging its final names, the manifest last.

        `facts` are the stage's own findings for the next stages (counts, digests); `measured` names the
        files that hold times and so carry no digest.
        """
        files = manifest.describe_files(self.staging, frozenset(measured))
        packages = closure.closure(self.stage).packages
        content = {
            "stage": self.stage,
            "config": self.keys,
            "inputs": self.inputs,
            "code": self.code,
            "packages": closure.installed_versions(tuple(filter(self.config.needs, packages))),
            "files": files,
            "facts": facts,
        }
        made = {
            "host": socket.gethostname(),
            "system": f"{platform.system()} {platform.machine()}",
            "python": platform.python_version(),
            "device": device,
            "cores": self.args.cores,
            "started": datetime.fromtimestamp(self.started, UTC).isoformat(timespec="seconds"),
            "seconds": round(time.time() - self.started, 2),
            "peak_memory_bytes": peak_memory(),
            "command": command(relative=True),
        }
        text = json.dumps(manifest.build(content, made), indent=1, ensure_ascii=False)
        (self.staging / self.manifest_name).write_text(text + "\n", encoding="utf-8")
        self.check_lock()
        manifest.publish(self.staging, self.out, self.manifest_name)
        total = sum(entry["bytes"] for entry in files.values() if entry)
        where = self.out if self.manifest_name == "manifest.json" else self.out / self.manifest_name
        self.say(f"wrote {where}  {len(files)} files, {size(total)}  in {time.time() - self.started:.1f} s")


def peak_memory() -> int:
    """Returns the most memory this process held, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in kB


def command(relative: bool) -> str:
    """Returns the command of this process; relative: without absolute paths, as a manifest wants it."""
    words = [sys.executable, *sys.argv]
    if relative:
        words = ["python", *(os.path.relpath(word) if Path(word).is_absolute() else word for word in sys.argv)]
    return shlex.join(words)


def parser(stage: str, text: str) -> argparse.ArgumentParser:
    """Returns the argument parser with what all stages share; `text` is the script's docstring."""
    new = argparse.ArgumentParser(
        f"{stage}.py", description=text, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    new.add_argument("--config", required=True, help="the stage's result keys: JSON, or a .json or .yaml file")
    new.add_argument("--execution", default="{}", help="the stage's execution keys, likewise")
    new.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change one key, e.g. train.steps=50"
    )
    new.add_argument("--out", type=Path, required=True, help="the folder to write to")
    new.add_argument("--log", type=Path, help="also write to this file; what libraries print goes there only")
    new.add_argument("--cores", type=int, default=os.cpu_count(), help="CPU cores to use (default: all)")
    new.add_argument(
        "--lock-wait",
        type=float,
        help=f"seconds to wait for another writer of the same artifact (default: train.lock_wait, else {LOCK_WAIT:g})",
    )
    new.add_argument(
        "--attempt",
        type=int,
        default=1,
        help="from 2 on: where the one before ended with 2 on the same inputs, do so too",
    )
    new.add_argument("--stop-with-parent", action="store_true", help="end when the process that started this ends")
    return new


def read_config(stage: str, args: argparse.Namespace) -> tuple[dict, Any]:
    """Returns (result keys as a dictionary, all keys as the stage's StageConfig)."""
    raw = configfile.merge(read_keys(args.config, "--config"), read_keys(args.execution, "--execution"))
    configfile.override(raw, shlex.join(args.set))
    config = configfile.parse(stages.STAGES[stage], raw, stage)
    return config.result_keys(), config


def read_keys(text: str, flag: str) -> dict:
    """Returns the map that a flag gives as JSON or as the name of a file."""
    try:
        if text.endswith((".json", ".yaml", ".yml")):
            return configfile.read(Path(text))
        keys = configfile.read_text(text, flag)
    except OSError as error:
        raise UserError(f"{flag}: cannot read {text}: {error.strerror}") from None
    if not isinstance(keys, dict):
        raise UserError(f"{flag}: expected a map of keys, got {text[:80]}")
    return keys


def run(
    stage: str,
    text: str,
    work: Callable[[Job], None],
    add_arguments: Callable[[argparse.ArgumentParser], None] = lambda parser: None,
    manifest_name: Callable[[argparse.Namespace], str] = lambda args: "manifest.json",
) -> None:
    """Runs a stage from its command line and ends the process with its exit code.

    `text` is the script's docstring; `add_arguments` adds what the stage has beside the arguments of all.
    """
    arguments = parser(stage, text)
    add_arguments(arguments)
    args = arguments.parse_args()

    def make(progress: Progress) -> str:
        if before:
            raise UserError(before)
        limit_cores(args.cores)
        programs.keep(args.cores)
        job = Job(stage, args, progress, manifest_name(args))
        listen(job)
        with writing(job) if number == 0 else nullcontext():
            work(job)
        return ""

    number = getattr(args, "process", 0)  # of several that do one stage together, the first writes
    log = numbered(args.log, number)
    before = attempts.verdict(log, stage, args) if log else None
    frame(label(stage, args), log, make, number > 0, lambda: attempts.inputs(stage, args))


def numbered(log: Path | None, number: int) -> Path | None:
    """Returns the log of one of several processes: that of the first has the log's own name."""
    return log.with_suffix(f".{number}{log.suffix}") if log and number else log


def frame(
    label: str,
    log: Path | None,
    work: Callable[[Progress], str],
    quiet: bool = False,
    inputs: Callable[[], str | None] = lambda: None,
) -> None:
    """Runs work with its log and ends the process; work returns nothing, or a line that says what is wrong.

    A quiet one shows no progress but in its log. `inputs` gives the digest that later attempts compare.
    """
    terminal, complaints = (os.fdopen(os.dup(number), "w", buffering=1) for number in (1, 2))
    if quiet:
        terminal = Path(os.devnull).open("w")
    progress = Progress(label, terminal, None, complaints)
    try:
        if log:
            open_log(log)
            progress.log = sys.stderr  # which is the log from here on
        line = work(progress)
        code = USER if line else DONE
    except UserError as error:
        line, code = str(error), USER
    except Interrupted as error:
        line, code = str(error), INTERRUPTED
    except OSError as error:
        line, code = explain(error), USER
        if not line:
            line, code = failure(error, log), FAILED
    except Exception as error:
        line, code = failure(error, log), FAILED
    finish(progress, log, line, code, inputs() if code == USER else None)


def label(stage: str, args: argparse.Namespace) -> str:
    """Returns what opens each line: the stage and what it works on."""
    name, shard, process = args.out.resolve().name, getattr(args, "shard", None), getattr(args, "process", 0)
    if shard is not None:  # its folder is called after the tokenizer alone
        name = f"{args.corpus.resolve().name}/{args.tokenizer.resolve().name}"
    run = [args.model.resolve().name] if hasattr(args, "task") else []  # of a task that several are asked
    words = [stage, *run, *([name] if name != stage else []), *([f"{shard:05d}"] if shard is not None else [])]
    return " ".join([*words, *([f"process {process}"] if process else [])])


def explain(error: OSError) -> str:
    """Returns what to do about an error of the machine, or nothing where it must be a bug."""
    advice = ENVIRONMENT_ERRORS.get(error.errno)
    return f"{error.filename or 'output'}: {advice}" if advice else ""


def failure(error: Exception, log: Path | None) -> str:
    """Writes the traceback and returns the line that points to it."""
    traceback.print_exc()
    first = str(error).strip().split("\n")[0]
    return f"failed: {type(error).__name__}: {first}" + (f"  (traceback in {log})" if log else "")


def finish(progress: Progress, log: Path | None, line: str, code: int, inputs: str | None = None) -> None:
    """Says how it ended, leaves the line beside the log for whoever looks there, and exits."""
    if code != DONE:
        with suppress(OSError):  # a full disk or a closed terminal changes nothing of the exit code
            progress.complain(line)
            if log:
                leave(log, progress.label, line, code, inputs)
    sys.stdout.flush()
    sys.stderr.flush()
    # not sys.exit: threads of libraries must not keep a finished stage alive
    os._exit(code)


def open_log(log: Path) -> None:
    """Sends everything this process prints to its log from here on, natively too.

    What a person should see goes where stdout and stderr went before: progress to stdout, so that it stays
    in sight where `make` puts Snakemake's stderr into a file; why a stage failed to stderr.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    error_file(log).unlink(missing_ok=True)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
    os.write(descriptor, f"cd {shlex.quote(str(Path.cwd()))} && {command(relative=False)}\n".encode())
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


def limit_cores(cores: int) -> None:
    """Holds XLA and the tokenizers to so many threads; their number decides the last bits of a sum."""
    if cores < 1:
        raise UserError(f"--cores must be 1 or more, got {cores}")
    os.environ["NPROC"] = str(cores)  # what XLA sizes its thread pools by
    os.environ["RAYON_NUM_THREADS"] = str(cores)


def listen(job: Job) -> None:
    """Lets SIGTERM, SIGINT, SIGUSR1 and, on request, the death of the parent end the stage in order."""

    def stop(signum: int, frame: Any) -> None:
        again = job.stopping.is_set()
        job.stopping.set()
        if again or not job.stops_itself:
            raise Interrupted(f"stopped by {signal.Signals(signum).name}; run it again to go on")

    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(signum, stop)
    if job.args.stop_with_parent:
        threading.Thread(target=watch_parent, args=(os.getppid(),), daemon=True).start()


def watch_parent(parent: int) -> None:
    """Ends this process in order when its parent is gone: nobody would look at what it goes on to write."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os.kill(os.getpid(), signal.SIGTERM)


def partial_prefix(manifest_name: str) -> str:
    """Returns what the name of an artifact's staging folder begins with."""
    return f".partial-{Path(manifest_name).stem}-"


@contextmanager
def writing(job: Job) -> Iterator[None]:
    """Makes this process the one writer of its artifact: with the lock, and a fresh staging folder."""
    patience = job.config.train.lock_wait if job.stage == "train_model" else LOCK_WAIT
    job.lock.acquire(patience if job.args.lock_wait is None else job.args.lock_wait)
    # the lock is held, so whoever left these is dead, or will notice that it no longer has it
    for left in job.out.glob(f"{partial_prefix(job.manifest_name)}*"):
        shutil.rmtree(left)
    job.staging.mkdir()
    try:
        yield
    finally:
        line = job.lock.lost()
        shutil.rmtree(job.staging, ignore_errors=True)
        job.lock.release()
        if line:  # in place of what went wrong because of it
            raise Interrupted(line)
