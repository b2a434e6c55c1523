"""The frame of a stage, by a toy stage in its own process: exit codes, lock, signals, log and what is left behind."""

import argparse
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import conftest
import psutil
import pytest

from makelm import attempts, cli, closure, manifest
from makelm.errors import UserError

TOY = '''
"""Stage toy: nothing -> a file of as many letters as `letters` says."""

import errno
import os
import time
from pathlib import Path

from makelm import cli, stages
from makelm.config_types import Count, Section
from makelm.errors import Interrupted, UserError


class Letters(Section):
    letters: Count


class Toy(stages.StageConfig):
    toy: Letters


stages.STAGES["toy"] = Toy


def add_arguments(parser):
    parser.add_argument("--act", default="")
    parser.add_argument("--flag", type=Path, help="made when the stage has begun; it goes on when this is gone")


def work(job):
    (job.staging / "letters.txt").write_text("a" * job.config.toy.letters)
    if job.args.act == "save":
        job.stops_itself = True
    if job.args.flag:
        job.args.flag.touch()
        read_data(job)
    if job.stopping.is_set():
        (job.out / "saved").touch()
        raise Interrupted("saved; run it again to go on")
    if job.args.act == "sign":
        job.say("0.5 ± 0.1")
        raise UserError("toy.letters: ± is none")
    act(job.args.act)
    print("a library prints")
    os.write(1, b"native code prints\\n")
    job.publish({"letters": job.config.toy.letters})


def read_data(job):
    try:
        while job.args.flag.exists() and not job.stopping.is_set():
            time.sleep(0.01)
    except Exception as error:  # as libraries do
        raise UserError(f"the data cannot be read: {error}") from error


def act(name):
    if name == "user":
        raise UserError("toy.letters: choose other letters")
    if name == "bug":
        raise KeyError("oops")
    if name in ("ENOSPC", "ENOTDIR", "EMFILE", "EACCES"):
        raise OSError(getattr(errno, name), "no", "results/x")
    if name == "memory":
        raise OSError(errno.EIO, "the disk is broken")


if __name__ == "__main__":
    cli.run("toy", __doc__, work, add_arguments)
'''


class Stage:
    """The toy stage and the folder it works in."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.out, self.log, self.flag = folder / "out", folder / "logs" / "toy.log", folder / "begun"
        scripts = folder / "scripts"
        shutil.copytree(closure.SCRIPTS / "makelm", scripts / "makelm", ignore=shutil.ignore_patterns("__pycache__"))
        self.script = scripts / "toy.py"
        self.script.write_text(TOY.strip() + "\n")
        self.started: list[subprocess.Popen] = []
        self.environment = dict(os.environ)

    def command(self, *more: str) -> list[str]:
        config = json.dumps({"locked": {}, "toy": {"letters": 5}})
        base = [sys.executable, str(self.script), "--config", config, "--out", str(self.out), "--cores", "1"]
        return [*base, *more]

    def start(self, *more: str) -> subprocess.Popen:
        process = subprocess.Popen(
            self.command(*more),
            cwd=self.folder,
            env=self.environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.started.append(process)
        return process

    def start_and_hold(self, *more: str) -> subprocess.Popen:
        """Starts the stage and returns when it is in the middle of its work."""
        process = self.start("--flag", str(self.flag), *more)
        wait(self.flag.exists)
        return process

    def run(self, *more: str) -> subprocess.CompletedProcess:
        options = {"cwd": self.folder, "env": self.environment, "text": True, "capture_output": True}
        return subprocess.run(self.command(*more), timeout=60, **options)

    def left(self) -> list[str]:
        """Returns what stands in the artifact's folder, but for the lock and the list of files."""
        hidden = (".manifest.lock", ".manifest.files")
        return sorted(path.name for path in self.out.iterdir() if path.name not in hidden)


def wait(condition: Callable[[], bool], seconds: float = 30) -> None:
    """Returns when a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


@pytest.fixture
def stage(tmp_path):
    toy = Stage(tmp_path)
    yield toy
    for process in toy.started:
        process.kill()
        process.communicate()


def test_a_stage_that_is_done_leaves_its_artifact_and_a_manifest(stage):
    done = stage.run()
    assert (done.returncode, done.stderr) == (0, "")
    assert "[toy out] wrote" in done.stdout
    assert stage.left() == ["letters.txt", "manifest.json"]
    content = manifest.read(stage.out / "manifest.json")["content"]
    assert content["config"] == {"locked": {}, "toy": {"letters": 5}}
    assert content["files"]["letters.txt"]["bytes"] == 5
    assert content["facts"] == {"letters": 5}
    assert str(stage.folder) not in (stage.out / "manifest.json").read_text(), "no absolute path in a manifest"


def test_two_equal_runs_have_equal_contents(stage):
    stage.run()
    first = manifest.read(stage.out / "manifest.json")["digest"]
    stage.run()
    assert manifest.read(stage.out / "manifest.json")["digest"] == first


def test_a_key_that_stands_twice_on_the_command_line_is_named():
    with pytest.raises(UserError, match=r"^--config:1: the key 'a' stands in line 1 already"):
        cli.read_keys('{"a": 1, "a": 2}', "--config")


@pytest.mark.parametrize("text", ["a\x7fb", "x\x9fy", "a\x85b", "a \u2028 b", "a\tb", "\ufeff", "1e5", "k" * 2000])
def test_keys_are_read_as_the_json_they_are(text):
    keys = {text: [text]}
    assert cli.read_keys(manifest.canonical(keys), "--config") == keys


def test_keys_may_be_yaml():
    assert cli.read_keys("{a: {b: 0.5, c: [x, null]}}", "--config") == {"a": {"b": 0.5, "c": ["x", None]}}
    for text in ("{a: ", "[1, 2]", "a\x7fb: 1"):
        with pytest.raises(UserError, match=r"^--config:(1:)? "):
            cli.read_keys(text, "--config")


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (("--act", "user"), 2, "[toy out] toy.letters: choose other letters"),
        (("--act", "ENOSPC"), 2, "[toy out] results/x: no space left on the device; free some and run it again"),
        (("--act", "ENOTDIR"), 2, "[toy out] results/x: a folder is expected, but a file of that name is in the way"),
        (("--act", "EACCES"), 2, "[toy out] results/x: permission denied; make it readable, or its folder writable"),
        (("--act", "EMFILE"), 2, "[toy out] results/x: more files would be open than this machine allows (ulimit"),
        (("--set", "toy.letters=0"), 2, "[toy out] toy: toy.letters: input should be greater than or equal to 1"),
        (("--set", "toy.leters=1"), 2, "[toy out] toy: toy: unknown key 'leters'; did you mean 'letters'?"),
        (("--cores", "0"), 2, "[toy out] --cores must be 1 or more, got 0"),
        (("--act", "bug"), 1, "[toy out] failed: KeyError: 'oops'"),
        (("--act", "memory"), 1, "[toy out] failed: OSError"),
    ],
)
def test_a_stage_that_fails_says_why_in_one_line_and_leaves_no_artifact(stage, arguments, code, line):
    failed = stage.run("--log", str(stage.log), *arguments)
    assert failed.returncode == code
    assert failed.stderr.startswith(line) and failed.stderr.count("\n") == 1, failed.stderr
    assert not stage.out.exists() or stage.left() == []
    left = json.loads(stage.log.with_suffix(".error.json").read_text())
    assert left["exit_code"] == code and left["stage"] == "toy out" and left["line"] in failed.stderr
    assert ("Traceback" in stage.log.read_text()) == (code == 1), "a traceback is for bugs, and in the log"


def test_a_terminal_that_lacks_a_sign_shows_another(stage):
    stage.environment |= {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
    failed = stage.run("--log", str(stage.log), "--act", "sign")
    assert failed.stdout == "[toy out] 0.5 ? 0.1\n"
    assert (failed.returncode, failed.stderr) == (2, "[toy out] toy.letters: ? is none\n")


def test_a_later_attempt_does_not_try_in_vain(stage):
    """The first attempt finds the fault at its end; a later one on the same inputs knows it, on others it tries."""
    log = ("--log", str(stage.log))
    assert stage.run(*log, "--act", "user").returncode == 2
    again = stage.run(*log, "--attempt", "2")  # would succeed
    assert again.returncode == 2 and again.stderr == "[toy out] toy.letters: choose other letters\n"
    assert stage.run(*log, "--attempt", "3").returncode == 2, "the line stays for the attempts after"
    assert stage.run(*log, "--attempt", "2", "--set", "toy.letters=6").returncode == 0

    assert stage.run(*log, "--act", "user").returncode == 2
    assert stage.run(*log).returncode == 0, "a first attempt always tries"
    assert stage.run(*log, "--act", "bug").returncode == 1
    assert stage.run(*log, "--attempt", "2").returncode == 0, "another end than 2 is no reason"


@pytest.mark.parametrize("damage", ["", '{"stage": "toy", "li'])
def test_what_a_full_disk_left_of_the_line_is_no_verdict_on_a_later_attempt(stage, damage):
    log = ("--log", str(stage.log))
    assert stage.run(*log, "--act", "user").returncode == 2
    stage.log.with_suffix(".error.json").write_text(damage)
    assert stage.run(*log, "--attempt", "2").returncode == 0


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("tokens", "tokens"),
        ("mine=tokens", "tokens"),
        ("mine=clean=tokens", "tokens"),
        ("rate=0.5=tokens", "rate=0.5=tokens"),
    ],
)
def test_what_is_read_of_several_folders_decides_about_a_later_attempt_too(tmp_path, monkeypatch, word, name):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / name
    folder.mkdir()
    (folder / "00000.json").write_text("{}")
    args = Namespace(config="{}", execution="{}", set=["a.b=c"], shards=[word], out=tmp_path, attempt=2)
    before = attempts.inputs("train_model", args)
    (tmp_path / "more.json").write_text("{}")  # what is beside them is not read
    assert attempts.inputs("train_model", args) == before
    (folder / "00000.json").write_text('{"other": 1}')
    changed = attempts.inputs("train_model", args)
    assert changed != before
    (folder / "gone.json").symlink_to("nowhere")  # what cannot be read keeps nobody from saying so
    assert attempts.inputs("train_model", args) == changed


def test_a_file_where_the_folder_should_be_is_one_line(stage):
    stage.out.write_text("")
    failed = stage.run()
    assert failed.returncode == 2
    assert failed.stderr.count("\n") == 1 and "Traceback" not in failed.stderr


def test_a_log_that_cannot_be_written_is_one_line(stage):
    (stage.folder / "logs").write_text("")
    failed = stage.run("--log", str(stage.log))
    assert failed.returncode == 2
    assert failed.stderr.count("\n") == 1 and "Traceback" not in failed.stderr


def test_the_log_begins_with_a_command_to_paste_and_has_what_libraries_print(stage):
    done = stage.run("--log", "logs/toy.log")
    assert "prints" not in done.stdout
    log = stage.log.read_text()
    assert "a library prints" in log and "native code prints" in log and "wrote" in log
    shutil.rmtree(stage.out)
    pasted = subprocess.run(["sh", "-c", log.splitlines()[0]], cwd="/", capture_output=True, text=True)
    assert pasted.returncode == 0, pasted.stderr
    assert stage.left() == ["letters.txt", "manifest.json"]


def test_what_an_earlier_failure_left_is_gone_after_a_success(stage):
    stage.run("--log", str(stage.log), "--act", "user")
    stage.run("--log", str(stage.log))
    assert not stage.log.with_suffix(".error.json").exists()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_ends_a_stage_with_75_and_without_an_artifact(stage, signum):
    process = stage.start_and_hold()
    process.send_signal(signum)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 75
    assert errors == f"[toy out] stopped by {signal.Signals(signum).name}; run it again to go on\n"
    assert stage.left() == []


def test_a_stage_that_saves_what_it_has_does_so_before_it_ends(stage):
    process = stage.start_and_hold("--act", "save")
    process.terminate()
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 75 and "saved" in errors
    assert stage.left() == ["saved"]


def test_a_killed_stage_leaves_no_artifact_and_the_next_one_clears_up(stage):
    process = stage.start_and_hold()
    process.kill()
    process.communicate()
    assert [name for name in stage.left() if not name.startswith(".partial-")] == []
    stage.flag.unlink()
    assert stage.run().returncode == 0
    assert stage.left() == ["letters.txt", "manifest.json"]


def test_a_second_writer_waits_for_the_first_and_gets_its_turn(stage):
    first = stage.start_and_hold()
    second = stage.start()
    line = second.stdout.readline()
    assert f"waiting for process {first.pid}" in line
    stage.flag.unlink()
    assert first.wait(30) == 0
    assert second.wait(30) == 0


def test_a_second_writer_gives_up_after_its_patience(stage):
    first = stage.start_and_hold()
    second = stage.run("--lock-wait", "0.2")
    assert second.returncode == 75
    assert f"is being written by process {first.pid}" in second.stderr
    stage.flag.unlink()
    assert first.wait(30) == 0


def test_the_lock_goes_with_a_killed_process(stage):
    first = stage.start_and_hold()
    second = stage.start()
    second.stdout.readline()  # it waits
    first.kill()
    assert second.wait(30) == 0


def lock_file(folder: Path, **holder) -> Path:
    """Writes a lock file as a process of another machine would."""
    folder.mkdir()
    path = folder / ".manifest.lock"
    path.write_text(json.dumps({"host": "elsewhere", "pid": 17, "since": "noon", "token": "t", "beat": 1} | holder))
    return path


def test_a_lock_of_another_machine_is_waited_for_and_named(stage):
    lock_file(stage.out)
    done = stage.run("--lock-wait", "0.2")
    assert done.returncode == 75
    assert f"{stage.out} is being written by process 17 on elsewhere, since noon; run this again" in done.stderr


@pytest.mark.parametrize("act", ["", "save"])
def test_a_stage_that_was_paused_and_lost_its_lock_ends_with_75_and_writes_nothing(stage, act):
    with (stage.script.parent / "makelm/locks.py").open("a") as file:
        file.write('BEAT, DEAD, MACHINE = 0.1, 0.5, {"host": os.environ.get("TOY_HOST", "here")}\n')
    old = stage.start_and_hold("--act", act)
    old.send_signal(signal.SIGSTOP)
    stage.flag.unlink()  # it would go on and publish now
    stage.environment["TOY_HOST"] = "there"
    second = stage.run("--set", "toy.letters=7")
    assert second.returncode == 0
    assert f"took over the lock of process {old.pid} on here" in second.stdout
    old.send_signal(signal.SIGCONT)
    _, errors = old.communicate(timeout=30)
    assert old.returncode == 75 and errors.count("\n") == 1
    assert "the lock was lost, its file is gone; stopped without writing more" in errors
    assert stage.left() == ["letters.txt", "manifest.json"]
    assert (stage.out / "letters.txt").read_text() == "a" * 7


def test_training_waits_as_long_as_its_configuration_says(tmp_path):
    lock_file(tmp_path / "out")
    keys = {"model": conftest.SHAPE, "compute": conftest.COMPUTE, "train": conftest.TRAIN | {"lock_wait": 0.1}}
    keys |= {"mesh": {"data": 1, "fsdp": -1, "tensor": 1}, "hardware": conftest.HARDWARE, "start": None}
    config = json.dumps(keys | {"locked": {}, "tracking": conftest.TRACKING, "corpus": "mine"})
    words = ["--config", config, "--shards", str(tmp_path), "--out", str(tmp_path / "out")]
    command = [sys.executable, str(closure.SCRIPTS / "train_model.py"), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 75 and "is being written by process 17 on elsewhere" in done.stderr


def test_a_stage_ends_when_the_process_that_started_it_is_gone(stage):
    shell = f"{shlex.join(stage.command('--flag', str(stage.flag), '--stop-with-parent'))} & wait"
    parent = subprocess.Popen(["sh", "-c", shell], cwd=stage.folder, stderr=subprocess.PIPE, text=True)
    wait(stage.flag.exists)
    (child,) = psutil.Process(parent.pid).children()
    parent.kill()
    assert "stopped by SIGTERM" in parent.communicate(timeout=30)[1]
    wait(lambda: not child.is_running())
    assert stage.left() == []


def test_lines_about_a_shard_name_its_corpus_and_its_tokenizer():
    folders = {"corpus": "download_corpus/wiki", "tokenizer": "train_tokenizer/bpe", "out": "encode_shard/wiki/bpe"}
    args = argparse.Namespace(shard=3, **{name: Path("results", folder) for name, folder in folders.items()})
    assert cli.label("encode_shard", args) == "encode_shard wiki/bpe 00003"


def test_help_explains_the_stage(stage):
    done = subprocess.run([sys.executable, stage.script, "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "nothing -> a file" in done.stdout and "--config" in done.stdout
