"""What happens to a training, and that it ends as if nothing had. `make test-faults` runs these."""

import os
import signal
import subprocess
import time

import pytest
from training_stage import command, environment, made, start_and_stop, train

if "MAKELM_FAULTS" not in os.environ:
    pytest.skip("takes a while: make test-faults", allow_module_level=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR1])
def test_a_signal_saves_and_ends_and_the_same_command_goes_on(data, undisturbed, tmp_path, number, tell):
    code, stderr = start_and_stop(data, tmp_path, number)
    assert code == 75 and "is saved, the same command goes on from there" in stderr
    again = train(data, tmp_path)
    assert again.returncode == 0 and "from step 0," not in again.stdout
    assert made(tmp_path) == made(undisturbed)
    tell("faults", f"{number.name} to the trainer", "finishes the step, saves, 75; goes on; the same bytes")


def test_a_time_limit_saves_ends_and_goes_on(data, undisturbed, tmp_path, tell):
    minutes = 4 / 60  # about as long as it takes to begin
    for _ in range(40):
        done = train(data, tmp_path, {"time_limit": minutes})
        if done.returncode != 75:
            break
        assert f"train.time_limit of {minutes:g} minutes reached; step" in done.stderr
        minutes *= 1.2
    assert done.returncode == 0, done.stderr
    assert made(tmp_path) == made(undisturbed)
    tell("faults", "`time_limit` over and over", "saved, 75; goes on; the same bytes in the end")


def test_another_learning_rate_is_another_identity_and_the_old_one_is_kept(data, undisturbed, tmp_path, tell):
    start_and_stop(data, tmp_path, signal.SIGKILL)
    other = train(data, tmp_path, {"seed": 1})
    assert other.returncode == 0, other.stderr
    assert "this is a new identity" in other.stdout and "from step 0," in other.stdout
    back = train(data, tmp_path)
    assert "from step 0," not in back.stdout
    assert made(tmp_path) == made(undisturbed)
    tell("faults", "kill -9, another seed trained, the old one again", "its own checkpoint goes on; the same bytes")


@pytest.mark.parametrize("damage", ["a byte", "half a file", "a file"])
def test_a_damaged_checkpoint_is_left_for_the_one_before_aloud(data, undisturbed, tmp_path, damage, tell):
    start_and_stop(data, tmp_path, signal.SIGTERM)
    steps = sorted((int(path.name), path) for path in tmp_path.glob("checkpoints/*/*") if path.name.isdigit())
    largest = max((path for path in steps[-1][1].rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    content = largest.read_bytes()
    if damage == "a byte":
        largest.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    elif damage == "half a file":
        largest.write_bytes(content[: len(content) // 2])
    else:
        largest.unlink()
    again = train(data, tmp_path)
    assert again.returncode == 0, again.stderr
    assert f"the checkpoint of step {steps[-1][0]} is damaged" in again.stdout
    assert f"from step {steps[-2][0] if len(steps) > 1 else 0}, identity" in again.stdout
    assert made(tmp_path) == made(undisturbed)
    what = f"{damage} of the latest checkpoint {'changed' if damage == 'a byte' else 'lost'}"
    tell("faults", what, "a line, the one before is taken; the same bytes")


def test_a_second_trainer_of_a_run_waits_and_then_says_who_is_at_work(data, tmp_path, tell):
    first = subprocess.Popen(
        command(data, tmp_path, {"steps": 1_000_000}), env=environment(), stdout=subprocess.DEVNULL
    )
    try:
        while not list(tmp_path.glob("checkpoints/*/identity.json")):
            assert first.poll() is None
            time.sleep(0.02)
        second = train(data, tmp_path, {"lock_wait": 1})
    finally:
        first.kill()
        first.wait()
    assert second.returncode == 75 and second.stderr.count("\n") == 1
    assert f"is being written by process {first.pid} on" in second.stderr
    again = train(data, tmp_path, {"steps": 5, "lock_wait": 0})
    assert again.returncode == 0, again.stderr
    tell(
        "faults",
        "a second trainer of the same run",
        "waits `lock_wait`, 75, names the first; free at once when that dies",
    )


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MB; only root can make one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("mounting a small file system is not permitted here")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_ends_in_one_line_and_keeps_the_checkpoints(data, small_disk, tmp_path, tell):
    log = tmp_path / "log"
    done = train(data, small_disk / "run", {"checkpoint_every": 1, "keep_checkpoints": 600}, "--log", log)
    assert done.returncode == 75, done.stderr
    assert "no space left" in done.stderr and done.stderr.count("\n") == 1
    whole = [path.parent.name for path in small_disk.glob("run/checkpoints/*/*/_CHECKPOINT_METADATA")]
    assert whole and not (small_disk / "run" / "manifest.json").exists()
    tell("faults", "a disk that is full when a checkpoint is written", f"one line, 75, {len(whole)} checkpoints whole")
