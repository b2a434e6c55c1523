"""Fixtures for tests of the whole: a copy of this checkout, and one in which the tiny preset is built."""

import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import planner
import psutil
import pytest
from filelock import FileLock

ROOT = Path(__file__).resolve().parent.parent
TINY = "workflow/presets/tiny.yaml"
# the first slows each start of Python; the others are for the tests' own process
NOT_INHERITED = ("PYTHONDONTWRITEBYTECODE", "XLA_FLAGS", "JAX_NUMPY_RANK_PROMOTION")
ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in NOT_INHERITED}


class Checkout:
    """A copy of this checkout, to be edited, run and damaged."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.results = folder / "results"

    def python(self, *words: str, **options) -> subprocess.CompletedProcess:
        """Runs a Python program in the copy."""
        command = [sys.executable, *words]
        return subprocess.run(command, cwd=self.folder, env=ENVIRONMENT, text=True, capture_output=True, **options)

    def make_command(self, *arguments: str) -> list[str]:
        """Returns the command that `make ARGS=...` runs."""
        return [sys.executable, "scripts/run_workflow.py", "--cores", "2", *arguments, "--configfile", TINY]

    def make(self, *arguments: str) -> subprocess.CompletedProcess:
        """Does what `make ARGS=...` does."""
        return self.python(*self.make_command(*arguments)[1:], timeout=600)

    def start_make(self, *arguments: str) -> subprocess.Popen:
        """Starts what `make ARGS=...` does, in a process group of its own, as a shell does."""
        return subprocess.Popen(
            self.make_command(*arguments),
            cwd=self.folder,
            env=ENVIRONMENT,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            process_group=0,
        )

    def working(self, word: str) -> list[psutil.Process]:
        """Returns the processes with a word in their command line that work in the copy."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.cwd() == str(self.folder) and any(word in part for part in process.cmdline()):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def planned(self, *arguments: str, more: tuple[str, ...] = ()) -> list[str]:
        """Returns what a dry run plans: 'rule wildcard=value, ...' for each job but `all`.

        `more` are configuration files to be laid over the tiny preset.
        """
        words = ["-n", "--cores", "2", *arguments, "--configfile", TINY, *more]
        code, text = planner.snakemake(words, self.folder, ENVIRONMENT)
        assert code == 0, text
        jobs = []
        for rule, block in re.findall(r"^(?:local)?rule (\w+):\n((?:    .*\n)*)", text, re.MULTILINE):
            wildcards = re.search(r"^    wildcards: (.*)$", block, re.MULTILINE)
            jobs.append(f"{rule} {wildcards[1]}" if wildcards else rule)
        assert jobs or "Nothing to be done" in text, text
        return [job for job in jobs if job != "all"]

    def planned_rules(self, *arguments: str) -> set[str]:
        """Returns the rules of which a dry run plans jobs."""
        return {job.split()[0] for job in self.planned(*arguments)}

    @contextlib.contextmanager
    def edited(self, name: str, pattern: str, replacement: str) -> Iterator[None]:
        """Changes a file for a while; the pattern must be in it."""
        path = self.folder / name
        before, status = path.read_bytes(), path.stat()
        text, count = re.subn(pattern, replacement, before.decode(), count=1)
        assert count, f"{name} has no {pattern}"
        path.write_text(text)
        try:
            yield
        finally:
            path.write_bytes(before)
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def copy_checkout(folder: Path) -> Checkout:
    """Copies what is, or could be, under version control."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():  # one that was removed is listed still
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return Checkout(folder)


@pytest.fixture
def checkout(tmp_path) -> Checkout:
    """A copy of this checkout with nothing built."""
    return copy_checkout(tmp_path)


@pytest.fixture
def scratch(built, tmp_path) -> Checkout:
    """A copy of the built checkout, to be done with as one likes."""
    shutil.copytree(built.folder, tmp_path / "scratch", symlinks=True)
    return Checkout(tmp_path / "scratch")


@pytest.fixture(scope="session")
def built(tmp_path_factory, worker_id) -> Checkout:
    """A copy of this checkout with the tiny preset built. Who changes it puts it back."""
    # the processes of the tests have one parent folder: the first builds there, each takes a copy
    parent = tmp_path_factory.getbasetemp() if worker_id == "master" else tmp_path_factory.getbasetemp().parent
    first, said = parent / "first", parent / "first.txt"
    with FileLock(parent / "first.lock"):
        if not said.exists():
            made = copy_checkout(first).make()
            assert made.returncode == 0, made.stdout + made.stderr
            said.write_text(made.stdout)
    copy = Checkout(tmp_path_factory.mktemp("built") / "tree")
    shutil.copytree(first, copy.folder, symlinks=True)
    copy.said = said.read_text()
    return copy
