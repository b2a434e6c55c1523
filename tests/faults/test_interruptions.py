"""Interruptions: after Ctrl-C, kill -9 or another learning rate, make ends as if nothing had happened.

`make test-faults` runs these.
"""

import os
import signal
import time
from collections.abc import Callable

import pytest

if "MAKELM_FAULTS" not in os.environ:
    pytest.skip("takes a while: make test-faults", allow_module_level=True)


def wait(condition: Callable[[], object], seconds: float = 60) -> None:
    """Returns when a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


TRAINING = "results/train_model/tiny/manifest.json"


@pytest.fixture
def training(scratch):
    """`make` on a long training, once a checkpoint of it is there; ends what is left of it."""
    folder = scratch.results / "train_model/tiny/checkpoints"
    known = set(folder.glob("*/*/_CHECKPOINT_METADATA"))
    process = scratch.start_make(TRAINING, "--config", "set=run.tiny.train.steps=1000000")
    wait(lambda: set(folder.glob("*/*/_CHECKPOINT_METADATA")) - known, 120)
    yield process
    for left in scratch.working("scripts/"):
        left.kill()
    process.communicate()


def test_ctrl_c_saves_and_leaves_no_process(scratch, training, tell):
    os.killpg(training.pid, signal.SIGINT)
    output, errors = training.communicate(timeout=60)
    assert training.returncode == 75, output + errors
    assert "stopping; stages save what they have" in output
    assert errors == "interrupted; run make again to go on\n"
    assert scratch.working("scripts/") == []
    assert not any((scratch.folder / ".snakemake").glob("locks/*"))
    tell("faults", "Ctrl-C in `make`", "saves, 75; no process and no lock is left")


VICTIMS = {"snakemake": "Snakemake", "train_model.py": "the trainer", "scripts/": "all programs of a build"}


@pytest.mark.parametrize("victim", VICTIMS)
def test_after_a_kill_9_the_next_make_simply_works(scratch, training, victim, tell):
    victims = scratch.working(victim)
    assert victims
    for process in victims:
        process.kill()
    done = scratch.make(TRAINING)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "wrote results/train_model/tiny" in done.stdout
    assert scratch.working("scripts/") == []
    tell("faults", f"kill -9 of {VICTIMS[victim]}", "the next `make` goes on; no process is left")


def test_when_make_is_killed_the_next_one_waits_for_its_snakemake(scratch, training, tell):
    training.kill()
    second = scratch.start_make(TRAINING)
    try:
        assert "waiting for Snakemake (process " in second.stdout.readline()
        for process in scratch.working("train_model.py"):
            process.terminate()  # it would go on for hours
        output, errors = second.communicate(timeout=120)
    finally:
        second.kill()
    assert second.returncode == 0, output + errors
    tell("faults", "kill -9 of `make`, then `make`", "waits for the first one's Snakemake, then goes on")


def test_when_make_is_killed_while_it_unlocks_the_next_one_waits_for_that(scratch, tell):
    stale = scratch.folder / ".snakemake/locks/0.output.lock"
    stale.parent.mkdir(parents=True, exist_ok=True)
    stale.write_text(f"{scratch.folder / TRAINING}\n")
    first = scratch.start_make(TRAINING)
    wait(lambda: scratch.working("--unlock"))
    first.kill()
    first.wait()  # else the end of its process group's leader would wake, and end, what is suspended
    for process in scratch.working("--unlock"):
        process.suspend()  # for as long as the next one needs to come
    second = scratch.start_make(TRAINING)
    try:
        assert "waiting for " in second.stdout.readline()
        for process in scratch.working("--unlock"):
            process.resume()
        output, errors = second.communicate(timeout=120)
    finally:
        second.kill()
        first.communicate()
    assert second.returncode == 0, output + errors
    tell("faults", "kill -9 of `make` while it removes a killed Snakemake's lock", "the next `make` waits, then works")


def test_a_learning_rate_that_changes_and_changes_back_resumes_its_own_training(scratch, training):
    os.killpg(training.pid, signal.SIGINT)
    training.communicate(timeout=60)
    changed = "set=run.tiny.train.optimizer.learning_rates.matrices=3e-2"
    other = scratch.make(TRAINING, "--config", changed)
    assert other.returncode == 0 and "from step 0, identity" in other.stdout
    folders = {path.name for path in (scratch.results / "train_model/tiny/checkpoints").iterdir()}
    assert len(folders) == 3, "of the built run, of the interrupted one and of this one"
    back = scratch.make(TRAINING)
    assert back.returncode == 0 and "from step 30, identity" in back.stdout
