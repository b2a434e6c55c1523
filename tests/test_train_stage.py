"""Stage train_model as a program: resume to the last bit, identities, one line for what a user can cause."""

import json
import shutil
import signal
import subprocess
import time

import pytest
from training_stage import STEPS, command, environment, made, rows, start_and_stop, train, write_shards

from makelm import watching


def test_metrics_have_every_step_once_and_the_loss_falls(undisturbed):
    rows = [json.loads(line) for line in (undisturbed / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert [row["step"] for row in rows if "validation_loss" in row] == [80, 160]
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
    assert timed == sorted(set(timed)) and len(timed) == STEPS - 4  # all but the first two of each start


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_while_libraries_are_imported_ends_it_with_75_too(data, tmp_path, number):
    (tmp_path / "jax.py").write_text(
        f"import pathlib, time\npathlib.Path({str(tmp_path)!r}, 'begun').touch()\ntime.sleep(60)"
    )
    words = command(data, tmp_path / "out", {}, "--log", tmp_path / "log.txt")
    process = subprocess.Popen(
        words, env=environment() | {"PYTHONPATH": str(tmp_path)}, text=True, stderr=subprocess.PIPE
    )
    while process.poll() is None and not (tmp_path / "begun").exists():
        time.sleep(0.01)
    process.send_signal(number)
    assert process.wait(20) == 75
    assert process.communicate()[1] == f"stopped by {number.name}; run it again to go on\n"
    left = json.loads((tmp_path / "log.error.json").read_text())
    assert (left["stage"], left["exit_code"]) == ("train_model", 75)


def test_execution_keys_are_no_part_of_the_identity_nor_of_the_result(data, undisturbed, tmp_path):
    changed = train(
        data, tmp_path, {"log_every": 7, "checkpoint_every": 100, "checkpoint_minutes": 1e-2, "keep_best": True}
    )
    assert changed.returncode == 0, changed.stderr
    assert made(tmp_path) == made(undisturbed)


def test_a_training_that_ends_before_its_first_line_of_times_has_the_file_nevertheless(data, tmp_path):
    done = train(data, tmp_path, {"steps": 3, "log_every": 50})
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "timings.jsonl").read_text() == ""
    assert "timings.jsonl" in json.loads((tmp_path / "manifest.json").read_text())["content"]["files"]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"batch_size": 0}, "train.batch_size: input should be greater than or equal to 1, got 0"),
        ({"stepz": 3}, "unknown key 'stepz'; did you mean 'steps'?"),
        (
            {"optimizer": {"learning_rates": {"matrices": 1e25, "embedding": 1e25, "head": 1e25, "vectors": 1e25}}},
            "and the gradient's norm inf; no step was saved.",
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


def test_a_training_that_diverged_and_left_steps_out_ends_without_a_loss(data, tmp_path):
    rates = dict.fromkeys(("matrices", "embedding", "head", "vectors"), 1e38)
    changes = {"steps": 12, "bad_steps": "skip", "optimizer": {"learning_rates": rates}}
    done = train(data, tmp_path, changes)
    assert done.returncode == 0, done.stderr
    assert "loss none, validation loss none nats per token" in done.stdout
    summary = json.loads((tmp_path / "summary.json").read_text(), parse_constant=pytest.fail)
    assert (summary["loss"], summary["validation_loss"], summary["validation_loss_sem"]) == (None, None, None)
    assert "loss none, validation loss none" in watching.look(tmp_path).line()


def test_the_weights_of_the_least_validation_loss_are_published(data, tmp_path):
    settings = {"validate_every": 10, "schedule": {"kind": "constant", "warmup_steps": 0}}
    done = train(data, tmp_path / "best", settings | {"steps": 64, "publish": "best"})
    assert done.returncode == 0, done.stderr
    losses = {row["step"]: row["validation_loss"] for row in rows(tmp_path / "best") if "validation_loss" in row}
    step = min(losses, key=losses.get)
    assert step < 64  # random tokens have nothing to learn
    summary = json.loads((tmp_path / "best/summary.json").read_text())
    assert (summary["published_step"], summary["validation_loss"]) == (step, losses[step])
    assert f"validation loss of step {step} {losses[step]:.3f}" in done.stdout
    assert train(data, tmp_path / "short", settings | {"steps": step}).returncode == 0
    weights = [(tmp_path / run / "weights/model.safetensors").read_bytes() for run in ("best", "short")]
    assert weights[0] == weights[1]
    kept = {"weights": None, "run": "best", "optimizer": "kept", "schedule": "fresh"}
    refused = train(data, tmp_path / "more", settings, "--start", tmp_path / "best", start=kept)
    assert refused.returncode == 2 and f"has the weights of step {step} (train.publish: best)" in refused.stderr


def test_of_no_step_the_weights_are_those_of_the_start_and_validated(data, undisturbed, tmp_path):
    start = {"weights": None, "run": "before", "optimizer": "kept", "schedule": "fresh"}
    done = train(data, tmp_path, {"steps": 0, "ema": 0.9}, "--start", undisturbed, start=start)
    assert done.returncode == 0, done.stderr
    assert "loss none, validation loss" in done.stdout
    weights = "weights/model.safetensors"
    assert (tmp_path / weights).read_bytes() == (undisturbed / weights).read_bytes()
    assert rows(tmp_path) == [] and not any(path.name.isdigit() for path in tmp_path.glob("checkpoints/*/*"))
    before, after = (json.loads((run / "summary.json").read_text()) for run in (undisturbed, tmp_path))
    assert (after["steps"], after["tokens"], after["loss"]) == (0, 0, None)
    assert after["validation_loss"] == pytest.approx(before["validation_loss"], rel=1e-6)


def test_a_truncated_shard_is_named(data, tmp_path):
    copy = tmp_path / "shards"
    copy.mkdir()
    for path in data.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    (copy / "train-00001.bin").write_bytes((data / "train-00001.bin").read_bytes()[:-2])
    done = train(copy, tmp_path / "out")
    assert done.returncode == 2
    assert "train-00001.bin is damaged" in done.stderr


def test_nothing_is_trained_on_a_shard_that_was_altered(data, tmp_path):
    copy = shutil.copytree(data, tmp_path / "shards")
    raw = (data / "train-00001.bin").read_bytes()
    (copy / "train-00001.bin").write_bytes(raw[:2000] + b"\7\0" * 500 + raw[3000:])
    done = train(copy, tmp_path / "out", {"steps": 3})
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "train-00001.bin is altered: its sha256 is not the one in its manifest; remove it" in done.stderr


# ---- several corpora

HALF = {"steps": 20, "validate_every": 10, "checkpoint_every": 10}


def test_a_mixture_has_a_loss_for_each_source_and_their_mean(data, tmp_path):
    (tmp_path / "other").mkdir()
    folders = [f"other={write_shards(tmp_path / 'other', seed=5)}", f"mine={data}"]
    done = train(folders, tmp_path / "out", HALF, corpus={"mine": 3, "other": 1})
    assert done.returncode == 0, done.stderr
    last = rows(tmp_path / "out")[-1]
    assert last["validation_loss/mine"] != last["validation_loss/other"]
    mean = 0.75 * last["validation_loss/mine"] + 0.25 * last["validation_loss/other"]
    assert last["validation_loss"] == pytest.approx(mean, rel=1e-12)
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    windows = -(-6000 // 16)
    assert summary["epochs"] == {"mine": round(120 / windows, 4), "other": round(40 / windows, 4)}
    content = json.loads((tmp_path / "out/manifest.json").read_text())["content"]
    assert sorted(content["inputs"]) == [f"shards/{name}/0000{n}" for name in ("mine", "other") for n in range(2)]
    assert content["config"]["corpus"] == {"mine": 0.75, "other": 0.25}


def test_folders_that_are_not_those_of_the_corpora_are_one_line(data, tmp_path):
    (tmp_path / "other").mkdir()
    other, weights = write_shards(tmp_path / "other", tokenizer="xyz"), {"mine": 0.5, "other": 0.5}
    for folders in ([data], [f"mine={data}", f"mine={data}"], [f"mine={data}", f"yours={other}"]):
        done = train(folders, tmp_path / "out", HALF, corpus=weights)
        assert done.returncode == 2 and done.stderr.count("\n") == 1
        assert "--shards needs one other=FOLDER, and one for each" in done.stderr or "one mine=FOLDER" in done.stderr
    done = train([f"mine={data}", f"other={other}"], tmp_path / "out", HALF, corpus=weights)
    assert done.returncode == 2 and "was made with tokenizer xyz" in done.stderr
