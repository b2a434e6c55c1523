"""Stage train_model as a program: resume to the last bit, identities, one line for what a user can cause."""

import json
import signal
import subprocess
import time

import numpy as np
import pytest
from training_stage import STEPS, command, environment, made, train

from makelm import weights


def start_and_stop(data, out, number):
    """Starts the stage, sends a signal once a checkpoint is whole, and returns (exit code, stderr)."""
    pipes = {"stderr": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen(command(data, out), env=environment(), text=True, **pipes)
    while process.poll() is None and not any(path.name.isdigit() for path in out.glob("checkpoints/*/*")):
        time.sleep(0.01)  # until one has its final name
    process.send_signal(number)
    return process.wait(60), process.communicate()[1]


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    done = train(data, out)
    assert done.returncode == 0, done.stderr
    return out


def test_metrics_have_every_step_once_and_the_loss_falls(undisturbed):
    rows = [json.loads(line) for line in (undisturbed / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert [row["step"] for row in rows if "validation_loss" in row] == [120, 240]
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert not list(undisturbed.glob(".partial*"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_run_ends_as_if_nothing_had_happened(data, undisturbed, tmp_path, number):
    code, stderr = start_and_stop(data, tmp_path, number)
    if number == signal.SIGTERM:
        assert code == 75
        assert "is saved, the same command goes on from there" in stderr
    else:
        assert code == -signal.SIGKILL
    assert not (tmp_path / "manifest.json").exists()
    again = train(data, tmp_path)
    assert again.returncode == 0, again.stderr
    assert "from step 0," not in again.stdout
    assert made(tmp_path) == made(undisturbed)
    timed = [json.loads(line)["step"] for line in (tmp_path / "timings.jsonl").read_text().splitlines()]
    assert timed == sorted(set(timed)) and len(timed) == STEPS - 2  # all but the first of each start, which compiles


def test_a_time_limit_saves_ends_and_goes_on(data, undisturbed, tmp_path):
    minutes = 4 / 60  # about as long as it takes to begin
    for _ in range(40):
        done = train(data, tmp_path, {"time_limit": minutes})
        if done.returncode != 75:
            break
        assert "train.time_limit of 0.0666667 minutes reached; step" in done.stderr
        minutes *= 1.2
    assert done.returncode == 0, done.stderr
    assert made(tmp_path) == made(undisturbed)


def test_another_learning_rate_is_another_identity_and_the_old_one_is_kept(data, undisturbed, tmp_path):
    start_and_stop(data, tmp_path, signal.SIGKILL)
    other = train(data, tmp_path, {"seed": 1})
    assert other.returncode == 0, other.stderr
    assert "this is a new identity" in other.stdout and "from step 0," in other.stdout
    back = train(data, tmp_path)
    assert "from step 0," not in back.stdout
    assert made(tmp_path) == made(undisturbed)


def test_execution_keys_are_no_part_of_the_identity_nor_of_the_result(data, undisturbed, tmp_path):
    changed = train(
        data, tmp_path, {"log_every": 7, "checkpoint_every": 100, "checkpoint_minutes": 1e-3, "keep_best": True}
    )
    assert changed.returncode == 0, changed.stderr
    assert made(tmp_path) == made(undisturbed)


CONSTANT = {"schedule": {"kind": "constant"}, "steps": 60, "validate_every": 30, "checkpoint_every": 30}
KEPT = {"weights": None, "run": "half", "optimizer": "kept", "schedule": "kept"}
FRESH = KEPT | {"optimizer": "fresh", "schedule": "fresh"}


@pytest.fixture(scope="module")
def half(data, tmp_path_factory):
    """A run of the first 30 of 60 steps."""
    out = tmp_path_factory.mktemp("half")
    done = train(data, out, CONSTANT | {"steps": 30})
    assert done.returncode == 0, done.stderr
    return out


def test_a_run_that_keeps_optimizer_and_schedule_is_the_longer_run(data, half, tmp_path):
    whole = train(data, tmp_path / "whole", CONSTANT)
    assert whole.returncode == 0, whole.stderr
    done = train(data, tmp_path / "rest", CONSTANT, "--start", half, start=KEPT)
    assert done.returncode == 0, done.stderr
    assert "from step 30," in done.stdout
    (weights, metrics, _), content = made(tmp_path / "rest")
    assert [weights, metrics] == made(tmp_path / "whole")[0][:2]
    assert content["inputs"]["start"] == json.loads((half / "manifest.json").read_text())["digest"]


def test_a_fresh_start_has_the_weights_only(data, half, tmp_path):
    still = {"learning_rates": dict.fromkeys(("matrices", "embedding", "head", "vectors"), 1e-12)}
    settled = CONSTANT | {"steps": 1, "seed": 3, "schedule": {"warmup_steps": 0}, "optimizer": still}
    done = train(data, tmp_path, settled, "--start", half, start=FRESH)
    assert done.returncode == 0, done.stderr
    own, other = (weights.load(folder / weights.FILE).parameters for folder in (tmp_path, half))
    assert set(own) == set(other)
    for name in own:
        np.testing.assert_allclose(own[name], other[name], atol=1e-9, err_msg=name)
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["step"] == 1


@pytest.mark.parametrize(
    ("changes", "start", "model", "line"),
    [
        ({"steps": 30}, KEPT, {}, "train.steps: 30 include the 30 of the run this one starts from"),
        ({}, FRESH, {"n_layers": 3, "d_ff": 64}, "model.n_layers is 3, there 1; model.d_ff is 64, there 32"),
        ({"optimizer": {"kind": "lion"}}, KEPT, {}, "was trained with adamw, so lion cannot keep its statistics"),
        (
            {"optimizer": {"kind": "adamw", "rate_multipliers": {"mlp": 2.0}}},
            KEPT,
            {},
            "no checkpoint of step 30 with such an optimizer",
        ),
    ],
)
def test_a_start_that_cannot_be_is_one_line(data, half, tmp_path, changes, start, model, line):
    done = train(data, tmp_path, CONSTANT | changes, "--start", half, start=start, model=model)
    assert done.returncode == 2
    assert line in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"batch_size": 0}, "train.batch_size: input should be greater than or equal to 1, got 0"),
        ({"stepz": 3}, "unknown key 'stepz'; did you mean 'steps'?"),
        (
            {"optimizer": {"learning_rates": {"matrices": 1e9, "embedding": 1e9, "head": 1e9, "vectors": 1e9}}},
            "and the gradient's norm nan; no step was saved.",
        ),
        ({"max_gradient_norm": 1e-6}, "no step was saved. Lower train.optimizer.learning_rates or set clip_norm"),
    ],
)
def test_what_a_user_can_cause_is_one_line_and_exit_2(data, tmp_path, changes, line):
    done = train(data, tmp_path, changes)
    assert done.returncode == 2
    assert line in done.stderr and "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "manifest.json").exists()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MB; only root can make one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("mounting a small file system is not permitted here")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_ends_in_one_line_and_keeps_the_checkpoints(data, small_disk, tmp_path):
    log = tmp_path / "log"
    done = train(data, small_disk / "run", {"checkpoint_every": 1, "keep_checkpoints": 600}, "--log", log)
    assert done.returncode == 75, done.stderr
    assert "no space left" in done.stderr and done.stderr.count("\n") == 1
    whole = [path.parent.name for path in small_disk.glob("run/checkpoints/*/*/_CHECKPOINT_METADATA")]
    assert whole and not (small_disk / "run" / "manifest.json").exists()


def test_a_truncated_shard_is_named(data, tmp_path):
    copy = tmp_path / "shards"
    copy.mkdir()
    for path in data.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    (copy / "train-00001.bin").write_bytes((data / "train-00001.bin").read_bytes()[:-2])
    done = train(copy, tmp_path / "out")
    assert done.returncode == 2
    assert "train-00001.bin is damaged" in done.stderr
