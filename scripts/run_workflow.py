"""Runs Snakemake for `make`: one at a time, easy to stop, and with a short word at the end.

No stage: it makes no artifact, and all its arguments are Snakemake's. What Snakemake itself says goes to
logs/snakemake.log, so that a person sees the stages' own lines. It ends with 0 (done), 2 (the user must
change something: one line says what), 75 (interrupted; run it again to go on) or 1.
"""

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

import psutil

from makelm import configfile, lossy, whole
from makelm.errors import DONE, FAILED, INTERRUPTED, LEFT, USER, UserError, error_file, left
from makelm.pages import visible
from makelm.progress import clock, forgive, score

LOCK = Path(".makelm.lock")
LOG = Path("logs/snakemake.log")
RESULTS = Path("results")
PROFILE = Path(__file__).parent.parent / "workflow/profiles/local"
SNAKEFILE = Path(__file__).parent.parent / "Snakefile"
SAMPLE_LINES = 16  # of the sample that closes a run
TAIL_LINES = 15  # of Snakemake's own words, where nothing shorter says what went wrong
# what builds nothing: a plan of Snakemake's own, and the targets that only look
PLANNING = {"-n", "--dry-run", "--dryrun"}
LOOKING = PLANNING | {"--unlock", "--lint", "--summary", "--report", "verify", "gc"}
FAILED_LOG = r"^Error in rule \w+:\n(?:    .*\n)*?    log: (\S+)"  # in Snakemake's words, as the next
KILLED = r"died with <Signals\.(\w+)"
HINTS = {  # of what probably killed a stage
    "SIGKILL": "; was there enough memory?",
    "SIGBUS": "; was a token file written to while it was read? Make a new file and give it the old one's name instead",
}
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

stops: list[int] = []  # the signals that asked this program to stop


def main() -> None:
    """Runs Snakemake with the arguments of this program and ends with its own exit code."""
    for signum in STOP_SIGNALS:
        signal.signal(signum, lambda number, frame: stops.append(number))
    forgive(sys.stdout)
    check_files(sys.argv[1:])
    try:
        LOG.parent.mkdir(exist_ok=True)
        lock = LOCK.open("a+")
    except OSError as error:
        sys.exit(complain(f"{error.filename}: {error.strerror}; make this folder writable"))
    take(lock)
    keep_cache()
    if LOOKING.isdisjoint(sys.argv[1:]):
        check_results()
    end_orphans()
    clear_stale_lock(sys.argv[1:], lock)
    if (LOOKING - PLANNING).isdisjoint(sys.argv[1:]):
        os.environ[whole.UNTRUE] = "forget" if PLANNING.isdisjoint(sys.argv[1:]) else "say"
    started, before = time.monotonic(), records()
    code = snakemake(sys.argv[1:], lock)
    # where something is named, the report on all runs may be of another day
    named = any(word.startswith("results/") or word in {*LOOKING, "download", "tokenizer"} for word in sys.argv[1:])
    sys.exit(closing_words(code, time.monotonic() - started, before, with_summary=not named))


def say(text: str, stream: TextIO | None = None) -> None:
    """Prints to stdout, or to another stream; where its terminal or pipe is gone nobody hears, and the work goes on."""
    stream = stream or sys.stdout
    try:
        print(text, file=stream, flush=True)
    except OSError:  # what could not be written would be tried again at the end
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def complain(line: str, code: int = USER) -> int:
    """Writes one line to stderr and returns the exit code."""
    say(line, sys.stderr)
    return code


# ---- configuration


def check_files(arguments: list[str]) -> None:
    """Ends the program where a file of the configuration cannot be read; Snakemake would not say which, and where."""
    for path in configuration_files(arguments):
        if path.is_relative_to(RESULTS):
            hint = "what is to be built stands before --configfile"
            sys.exit(complain(f"--configfile: {path} is a result and no configuration; {hint}"))
        try:
            configfile.read(path)
        except UserError as error:
            sys.exit(complain(str(error)))
        except FileNotFoundError:
            hint = "what is to be built stands before --configfile"
            sys.exit(complain(f"--configfile: no such file: {path}; {hint}"))
        except OSError as error:
            sys.exit(complain(f"--configfile: cannot read {path}: {error.strerror}"))


def configuration_files(arguments: list[str]) -> list[Path]:
    """Returns config.yaml and the files that Snakemake's arguments name."""
    files, named = [Path(os.path.relpath(SNAKEFILE.with_name("config.yaml")))], False
    for word in arguments:
        if word.startswith("-"):
            option, _, word = word.partition("=")
            named = option in ("--configfile", "--configfiles")
        if named and word:
            files.append(Path(word))
    return files


def check_results() -> None:
    """Ends the program where nothing can be written to the folder of the results."""
    try:
        if RESULTS.is_symlink() and not RESULTS.exists():
            sys.exit(complain(f"{RESULTS} is a link to {RESULTS.readlink()}, which is not there; make that folder"))
        RESULTS.mkdir(exist_ok=True)
        with tempfile.TemporaryFile(dir=RESULTS):
            pass
    except OSError as error:
        sys.exit(complain(f"{RESULTS}: {error.strerror}; make it a folder that can be written to"))


def keep_cache() -> None:
    """Gives Snakemake a folder of its own where it cannot write to the user's cache, as in many containers."""
    home = Path(os.environ.get("HOME") or os.devnull)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    try:
        (cache / "snakemake").mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache / "snakemake"):
            return
    except OSError:
        os.environ["XDG_CACHE_HOME"] = str(Path(".snakemake/cache").resolve())
    if os.access(cache / "huggingface", os.R_OK | os.X_OK):  # what was fetched before can be read nevertheless
        os.environ.setdefault("HF_HOME", str(cache / "huggingface"))


# ---- one at a time


def take(lock: TextIO) -> None:
    """Takes the lock, however long another one holds it. Snakemake inherits it, so it outlives this program."""
    said = False
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            pass
        if stops:
            sys.exit(INTERRUPTED)
        if not said:
            say(f"waiting for {LOCK.read_text().strip() or 'another make'}, which works in this folder")
            said = True
        time.sleep(0.2)


def processes_here() -> Iterator[tuple[psutil.Process, list[str]]]:
    """Yields the other processes that work in this folder, with their command lines."""
    here = os.path.realpath(".")
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.cwd() == here:
                yield process, process.cmdline()
        except psutil.Error:
            continue  # it ended meanwhile, or is somebody else's


def is_snakemake(words: list[str]) -> bool:
    """Returns whether a command line is Snakemake's: the program itself, or python -m snakemake."""
    return any(Path(word).name == "snakemake" for word in words[:3])


def end_orphans() -> None:
    """Ends stages whose Snakemake was killed; they notice by themselves, but for one that was just starting."""
    orphans = []
    for process, words in processes_here():
        try:
            if "--stop-with-parent" in words and not any(is_snakemake(p.cmdline()) for p in process.parents()):
                process.terminate()
                orphans.append(process)
        except psutil.Error:
            continue
    if orphans:
        say(f"waiting for {len(orphans)} stage(s) of a killed run to save and end")
        psutil.wait_procs(orphans)


def clear_stale_lock(arguments: list[str], lock: TextIO) -> None:
    """Removes the lock of a killed Snakemake. A live one that was started by hand keeps its own."""
    if not any(Path(".snakemake/locks").glob("*")):
        return
    alive = [process.pid for process, words in processes_here() if is_snakemake(words)]
    if alive:
        sys.exit(complain(f"Snakemake (process {alive[0]}) is at work in this folder; run make again after it"))
    # it has this program's lock too: where only this one is killed meanwhile, the next make waits for it
    unlock = [*command(arguments), "--unlock"]
    subprocess.run(unlock, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, pass_fds=[lock.fileno()])


# ---- running


def command(arguments: list[str]) -> list[str]:
    """Returns the command line of Snakemake."""
    base = [sys.executable, "-m", "snakemake", "--snakefile", os.path.relpath(SNAKEFILE)]
    return [*base, "--workflow-profile", os.path.relpath(PROFILE), *arguments]


def snakemake(arguments: list[str], lock: TextIO) -> int:
    """Runs Snakemake, hands on what asks it to stop, and returns its exit code."""
    with LOG.open("wb") as log:
        # a session of its own: Ctrl-C comes here only, and each stage gets exactly one signal from here
        process = subprocess.Popen(
            command(arguments), stderr=log, stdin=subprocess.DEVNULL, pass_fds=[lock.fileno()], start_new_session=True
        )
    lock.truncate(0)
    lock.write(f"Snakemake (process {process.pid}, since {datetime.now():%Y-%m-%d %H:%M:%S})\n")
    lock.flush()
    told: set[int] = set()
    heard = 0
    while process.poll() is None:
        if len(stops) > heard:
            say("stopping; stages save what they have")
            heard = len(stops)
            told.clear()  # asked again, they end at once
        if stops:
            stop(process.pid, told)
        time.sleep(0.1)
    return process.returncode


def stop(pid: int, told: set[int]) -> None:
    """Asks Snakemake, then each of its stages, to end; only those that were not told before."""
    try:
        parent = psutil.Process(pid)
        for process in [*([parent] if pid not in told else []), *parent.children()]:
            if process.pid not in told:
                told.add(process.pid)
                process.terminate()
    except psutil.NoSuchProcess:
        pass  # it ended meanwhile


# ---- closing words


def closing_words(code: int, seconds: float, before: dict[Path, int], with_summary: bool) -> int:
    """Says how it went and returns the exit code."""
    words = LOG.read_text(errors="replace")
    if code == 0:
        if "Nothing to be done" in words:
            say("nothing to do: what was asked for is there and up to date")
            if with_summary:
                print_summary(with_sample=False)
        elif re.search(r"^(local)?rule all:", words, re.MULTILINE):
            say(f"done in {clock(seconds)}")
            print_summary(with_sample=True)
        return DONE
    failures = sorted(failed_stages(words, before), key=lambda failure: failure["exit_code"] == INTERRUPTED)
    # killed where nothing listened yet: while the stage's Python starts
    early = not failures and set(re.findall(KILLED, words)) & {"SIGINT", "SIGTERM"}
    if stops or early or (failures and all(failure["exit_code"] == INTERRUPTED for failure in failures)):
        if not stops:
            print_failures(failures)
        return complain("interrupted; run make again to go on", INTERRUPTED)
    if failures:
        print_failures(failures)
        return USER if any(failure["exit_code"] == USER for failure in failures) else FAILED
    if code == USER:
        return complain(words.strip().splitlines()[-1])
    unknown = re.search(r"^No rule to produce (\S+)", words, re.MULTILINE)
    if unknown:
        return complain(f"nothing makes {unknown[1]}; is its name one of the configuration's?")
    if obstacle := in_the_way(words):
        return complain(obstacle)
    return complain(own_words(words), FAILED)


def in_the_way(words: str) -> str:
    """Returns what to do about a file that stands where Snakemake expected a folder, or the other way round."""
    found = re.findall(r"\[Errno (?:17|20|21)\] [\w ]+: '(results/[^']+)'", words)  # EEXIST, ENOTDIR, EISDIR
    if not found:
        return ""
    path = Path(found[-1])
    path = next((above for above in path.parents if above.is_file()), path)
    return f"{path} is in the way: a {'folder' if path.is_file() else 'file'} of that name is expected; remove it"


def records() -> dict[Path, int]:
    """Returns when what failed stages left beside their logs was written, by the clock of its file system."""
    return {path: path.stat().st_mtime_ns for path in LOG.parent.rglob(f"*{LEFT}")}


def failed_stages(words: str, before: dict[Path, int]) -> list[dict[str, Any]]:
    """Returns what the stages that failed in this run left behind: stage, line, exit code and log.

    One that died before it had its log left nothing; what lies there then was there `before`.
    """
    failures = []
    for log in dict.fromkeys(re.findall(FAILED_LOG, words, re.MULTILINE)):
        found, place = left(Path(log)), error_file(Path(log))
        if found and before.get(place) != place.stat().st_mtime_ns:
            failures.append({**found, "log": log})
    return failures


def print_failures(failures: list[dict[str, Any]]) -> None:
    """Prints one line, and where its log is, for each stage that failed."""
    for failure in failures:
        where = "" if failure["log"] in failure["line"] else f"\n  log: {failure['log']}"
        complain(f"{failure['stage']}: {failure['line']}{where}")


def own_words(words: str) -> str:
    """Returns why Snakemake failed where no stage could say it: a killed stage, one that cannot start, or itself."""
    killed = re.search(KILLED, words)
    rule = re.search(r"^Error in rule (\w+):", words, re.MULTILINE)
    if rule and killed:
        log = re.search(FAILED_LOG, words, re.MULTILINE)  # which may have a library's last words
        where = f"\n  log: {log[1]}" if log else ""
        return f"{rule[1]} was killed by {killed[1]}{HINTS.get(killed[1], '')}{where}"
    # what a stage said before it had its log
    early = re.findall(r"^    resources: .*\n((?:.+\n)+?)RuleException:", words, re.MULTILINE)
    if rule and early:
        return f"{rule[1]} did not start:\n{early[-1].rstrip()}"
    return "\n".join([*words.strip().splitlines()[-TAIL_LINES:], f"Snakemake's own log: {LOG}"])


def print_summary(with_sample: bool) -> None:
    """Prints the scores of each run, on tasks too, one sample of the best one and where the report is."""
    report = Path("results/write_report/manifest.json")
    if not report.exists():
        return
    keys = json.loads(report.read_text())["content"]["config"]
    scores = {}
    for run in keys["runs"]:
        scores[run] = json.loads(Path(f"results/evaluate_model/{run}/scores.json").read_text())
    ranking = sorted(scores, key=lambda run: lossy.order(scores[run]))
    width = max(len(run) for run in ranking)
    for run in ranking:
        own = scores[run]
        xz, after_train = own["xz_bits_per_byte"], own["xz_after_train_bits_per_byte"]
        beside = "" if xz is None else f"  (xz {xz:.3f}, xz after the training text {after_train:.3f})"
        lost = lossy.warning(lossy.lost_share(own))
        say(
            f"  {run:{width}}  {score(own['bits_per_byte'])} bits per byte{f' {lost}' if lost else ''}, "
            f"loss {score(own['validation_loss'])} nats per token{beside}"
        )
        for task in keys.get("tasks", {}).get(run, ()):  # a report of an older makelm has none
            print_task(run, task)
    if with_sample:
        print_sample(ranking[0])
    say(f"  report  {report.with_name('report.html')}")


def print_task(run: str, task: str) -> None:
    """Prints a run's scores on a task, with their standard errors."""
    scores = json.loads(Path(f"results/evaluate_task/{run}/{task}/scores.json").read_text())
    found = []
    for name, metric in scores["metrics"].items():
        stderr = "" if metric["stderr"] is None else f" ± {metric['stderr']:.3f}"
        found.append(f"{name} none" if metric["value"] is None else f"{name} {metric['value']:.3f}{stderr}")
    common = scores["contamination"]
    seen = f", {common['share']:.1%} of its 13-grams seen in train" if common and common["ngrams"] else ""
    say(f"    {task}  {', '.join(found)}  ({scores['documents']:,} documents{seen})")


def print_sample(run: str) -> None:
    """Prints the beginning of a run's first sample, indented."""
    with Path(f"results/sample_model/{run}/samples.jsonl").open(encoding="utf-8") as file:
        sample = json.loads(file.readline())
    say(f"  a sample of {run}:")
    for line in visible(sample["prompt"] + sample["text"]).splitlines()[:SAMPLE_LINES]:
        say(f"    | {line}")


if __name__ == "__main__":
    main()
