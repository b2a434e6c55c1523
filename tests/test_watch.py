"""Watching a training: what is shown of a folder that another process writes to, and that nothing is changed in it."""

import fcntl
import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import watch_run

from makelm import locks, watching

ROOT = Path(__file__).resolve().parent.parent
COMMAND = [sys.executable, str(ROOT / "scripts/watch_run.py"), "small"]


class Training:
    """Stands for one that is going on in results/train_model/small."""

    def __init__(self, results: Path, steps: int | None = 200):
        self.run, self.steps, self.lock = results / "train_model/small", steps, None

    def begin(self, identity: str = "aaaa", start: int = 0) -> "Training":
        """Takes the lock and goes on from a step, as the trainer does."""
        self.folder = self.run / "checkpoints" / identity
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.steps:
            keys = {"config": {"train": {"steps": self.steps}}, "inputs": {}, "code": ""}
            (self.folder / "identity.json").write_text(json.dumps(keys))
        for name in ("metrics.jsonl", "timings.jsonl"):
            rows = (self.folder / name).read_text().splitlines(True) if (self.folder / name).exists() else []
            (self.folder / name).write_text("".join(row for row in rows if json.loads(row)["step"] <= start))
        self.lock = (self.run / ".manifest.lock").open("w")
        fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return self

    def make(self, first: int, last: int) -> None:
        """Makes steps of 100 tokens, ten of them in two seconds; the loss of a step is 1000 less its number."""
        for step in range(first, last + 1):
            row = {"step": step, "tokens": 100 * step, "loss": 1000 - step}
            row |= {"validation_loss": step / 10} if step % 50 == 0 else {}
            with (self.folder / "metrics.jsonl").open("a") as file:
                file.write(json.dumps(row) + "\n")
            if step % 10 == 0:
                time_row = {"step": step, "seconds": 2.0, "tokens_per_second": 500.0}
                with (self.folder / "timings.jsonl").open("a") as file:
                    file.write(json.dumps(time_row) + "\n")

    def save(self, step: int) -> None:
        (self.folder / str(step)).mkdir()

    def end(self) -> None:
        """Lets go of the lock, as any death does."""
        self.lock.close()

    def publish(self) -> None:
        summary = {"steps": 200, "tokens": 20000, "loss": 1.25, "validation_loss": 1.5, "identity": "aaaa"}
        (self.run / "summary.json").write_text(json.dumps(summary))
        (self.run / "manifest.json").write_text(json.dumps({"made": {"seconds": 63}}))
        self.end()


@pytest.fixture
def training(tmp_path):
    return Training(tmp_path / "results")


@pytest.fixture
def once(tmp_path, monkeypatch, capsys):
    """Runs watch_run.py --once: (exit code, what it prints)."""
    monkeypatch.chdir(tmp_path)

    def run(name="small", *more: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["watch_run.py", name, "--once", *more])
        return watch_run.main(), capsys.readouterr().out

    return run


def snapshot(folder: Path) -> dict[str, tuple]:
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob("*")}


def test_it_says_how_far_training_is(training):
    training.begin().make(1, 120)
    training.save(50)
    training.save(100)
    state = watching.look(training.run)
    assert (state.kind, state.step, state.steps, state.saved) == (watching.RUNNING, 120, 200, 100)
    assert state.loss == pytest.approx(1000 - 95.5), "mean of the last 50"
    assert (state.validation_loss, state.speed) == (10.0, 500.0)
    assert state.left == pytest.approx(80 * 100 / 500)
    assert state.line() == (
        "120/200 steps (60%), loss 904.500, validation 10.000, 500 tokens/s, 0:16 left, saved at 100, 0:00 ago"
    )


def test_the_time_left_is_that_of_batches_like_the_last(training):
    training.begin().make(1, 20)
    with (training.folder / "metrics.jsonl").open("a") as file:  # goes on with batches of half the size
        file.write('{"step": 21, "tokens": 2050, "loss": 1.0}\n')
    assert watching.look(training.run).left == pytest.approx(179 * 50 / 500)


def test_of_a_training_that_does_not_say_how_many_steps_it_shows_those_made(tmp_path):
    training = Training(tmp_path, steps=None).begin()
    training.make(1, 20)
    assert watching.look(training.run).line() == "20 steps, loss 989.500, 500 tokens/s"


def test_a_line_that_is_half_written_does_not_count(training):
    training.begin().make(1, 20)
    with (training.folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 21, "lo')
    assert watching.look(training.run).step == 20


def test_steps_that_were_left_out_have_no_loss(training):
    training.begin()
    for step, loss in enumerate(("null", "2.0", "null"), start=1):
        with (training.folder / "metrics.jsonl").open("a") as file:
            file.write(f'{{"step": {step}, "tokens": {step}, "loss": {loss}, "skipped": {loss == "null"}}}\n'.lower())
    assert watching.look(training.run).loss == 2.0


def test_a_long_file_is_read_from_its_end(training, monkeypatch):
    training.begin().make(1, 120)
    monkeypatch.setattr(watching, "TAIL", 1000)
    assert watching.look(training.run).step == 120


def test_the_kinds_of_state_follow_each_other(training):
    def kind():
        return watching.look(training.run).kind

    assert kind() == watching.WAITING
    training.begin()
    assert kind() == watching.STARTING
    training.make(1, 20)
    assert kind() == watching.RUNNING
    training.end()
    assert kind() == watching.STOPPED
    training.begin(start=10).make(11, 12)
    assert kind() == watching.RUNNING
    training.publish()
    assert kind() == watching.FINISHED
    os.utime(training.run / "manifest.json", (1, 1))  # of long ago
    training.begin("bbbb")
    assert (kind(), watching.look(training.run).identity) == (watching.STARTING, "bbbb")


def test_a_training_whose_summary_is_gone_is_to_be_made_again(training):
    training.begin().make(1, 200)
    training.publish()
    (training.run / "summary.json").unlink()
    assert watching.look(training.run).kind == watching.STOPPED


def test_another_machine_counts_as_working_while_it_writes(training):
    training.begin().make(1, 20)
    other = {**locks.MACHINE, "host": f"{locks.MACHINE['host']}0", "pid": 1}  # node1 watches, node10 trains
    training.lock.write(json.dumps(other))
    training.end()
    assert watching.look(training.run).kind == watching.RUNNING
    for path in (*training.folder.glob("*.jsonl"), training.run / ".manifest.lock"):
        os.utime(path, (1, 1))
    assert watching.look(training.run).kind == watching.STOPPED


def test_once_says_how_things_are_and_changes_nothing(training, once, tmp_path, monkeypatch):
    assert once() == (2, "[small] waiting for training to begin\n")
    training.begin().make(1, 120)
    before = snapshot(tmp_path)
    code, text = once()
    assert code == 0 and text.startswith("[small] 120/200 steps (60%), loss 904.500")
    assert snapshot(tmp_path) == before
    training.end()
    code, text = once()
    assert code == 0 and text.startswith("[small] stopped: it was killed")
    (tmp_path / "logs/train_model").mkdir(parents=True)
    error_file = tmp_path / "logs/train_model/small.error.json"
    error_file.touch()  # by a full disk
    assert once()[1].startswith("[small] stopped: it was killed")
    error_file.write_text('{"line": "the loss is nan at step 7"}')
    assert "stopped: the loss is nan at step 7; 120/200 steps" in once()[1]
    monkeypatch.chdir("/")
    assert "stopped: the loss is nan" in once("small", "--results", str(tmp_path / "results"))[1]
    monkeypatch.chdir(tmp_path / "results")
    assert "stopped: the loss is nan" in once("small", "--results", ".")[1]
    monkeypatch.chdir(tmp_path)
    training.publish()
    assert once()[1].startswith("[small] trained: 200 steps, 20,000 tokens, the last start took 1:03; loss 1.25")


def test_a_name_that_is_no_run_is_told_which_there_are(training, once):
    training.begin()
    assert once("smal") == (2, "[smal] waiting for training to begin (there are: small)\n")


def test_it_follows_to_the_end_in_a_terminal_on_one_line(training, tmp_path):
    child, descriptor = pty.fork()
    if not child:
        os.chdir(tmp_path)
        os.environ["COLUMNS"] = "60"
        os.execv(sys.executable, COMMAND)
    shown = b""

    def until(word: str) -> None:
        """Reads on until this was shown."""
        nonlocal shown
        while word.encode() not in shown:
            shown += os.read(descriptor, 4096)

    until("waiting for training to begin")
    training.begin().make(1, 60)
    until("60/200 steps")
    training.end()
    until("stopped: it was killed")
    training.begin(start=50).make(51, 150)
    until("150/200 steps")
    training.publish()
    until("identity aaaa\r\n")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    pieces = shown.decode().split("\r\x1b[K")
    changing = [piece for piece in pieces if piece and not piece.endswith("\n")]
    assert all(len(piece) < 60 for piece in changing), "or it would go over to a second line"
    assert not any("steps (" in piece for piece in pieces if piece.endswith("\n") and "stopped" not in piece)


def until(process: subprocess.Popen, word: str) -> None:
    """Reads lines up to one with this word."""
    assert any(word in line for line in process.stdout), word


def test_what_was_trained_before_may_be_trained_anew_while_make_is_at_work(training, tmp_path):
    training.begin().publish()
    with (tmp_path / ".makelm.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = subprocess.Popen(COMMAND, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
        until(process, "make is at work, and may train it anew")
        (training.run / "manifest.json").unlink()
        training.begin("bbbb").make(1, 60)
        until(process, "a new identity, bbbb")
        until(process, "60/200 steps")
        training.publish()
        until(process, "trained: 200 steps")
        assert process.wait() == 0


def test_elsewhere_it_writes_plain_lines_and_ctrl_c_ends_it_quietly(training, tmp_path):
    training.begin().make(1, 60)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    # tests that were started in the background would hand on that Ctrl-C is not for them
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(COMMAND, cwd=tmp_path, text=True, **pipes)
    signal.signal(signal.SIGINT, before)
    assert process.stdout.readline().startswith("[small] 60/200 steps")
    process.send_signal(signal.SIGINT)
    text, errors = process.communicate(timeout=60)
    assert (process.returncode, text.strip(), errors) == (0, "", "")


def test_it_needs_no_jax():
    code = "import sys, watch_run; print([m for m in ('jax', 'numpy', 'pydantic') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT / "scripts", capture_output=True, text=True)
    assert done.stdout == "[]\n"
