"""Stage train_model: token shards -> trained weights.

Reads train-*.bin and valid-*.bin with their manifests; writes weights/model.safetensors, metrics.jsonl (a line
per step), summary.json and timings.jsonl, all together at the end. Checkpoints stand in checkpoints/<identity>/
meanwhile: the same command goes on from the latest one, another model, corpus or code begins at step 0, with
random weights or those of --start.
"""

import json
import math
import shutil
import time
from argparse import ArgumentParser
from collections import deque
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from makelm import checkpoints, cli, hugging_face, loss, manifest, sharding, shards, training, warm_start, weights
from makelm.batches import Batches
from makelm.errors import Interrupted, UserError

Begin = Callable[[checkpoints.Checkpoints], tuple[int, dict]]


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--shards", type=Path, required=True, help="folder of token shards (results/encode_shard/...)")
    parser.add_argument("--start", type=Path, help="folder of the run or the downloaded weights that start: names")


def train_model(job: cli.Job) -> None:
    """Trains until the last step, from the latest checkpoint of this identity if there is one."""
    job.stops_itself = True
    data = shards.open_folder(job.args.shards, job.read_input)
    settings, shape = job.config.train, job.config.model
    batches = Batches(data.train, shape.context_length, settings.batch_size, settings.seed)
    held_out = validation_windows(data.valid, shape.context_length, settings.batch_size, settings.validate_windows)
    mesh = sharding.make_mesh(job.config.mesh, jax.devices())
    trainer = training.make_trainer(shape, settings, job.config.compute, data.vocab_size, data.end_of_text, mesh)
    begin = beginning(job, trainer, data)
    saved, identity = open_checkpoints(job)
    start, state = saved.restore(trainer.state_shapes, job.say)
    if state is None:
        start, state = begin(saved)
    count = training.parameter_count(trainer.state_shapes["parameters"])
    job.say(
        f"{count:,} parameters, {settings.steps} steps of {settings.batch_size * shape.context_length:,} tokens"
        f" from {batches.windows:,} windows, on {describe_devices()}; from step {start}, identity {identity}"
    )
    state = loop(job, trainer, saved, batches, held_out, start, state)
    saved.wait()
    publish(job, saved, data, trainer, state, identity)


def beginning(job: cli.Job, trainer: training.Trainer, data: shards.Folder) -> Begin:
    """Returns what makes the first state where there is no checkpoint: (steps that count as done, state)."""
    if job.config.start is None:
        return lambda saved: (0, trainer.initial_state())
    if job.args.start is None:
        raise UserError("start names weights, so --start needs their folder")
    return begin_from_run(job, trainer, data) if job.config.start.run else begin_from_others(job, trainer, data)


def begin_from_others(job: cli.Job, trainer: training.Trainer, data: shards.Folder) -> Begin:
    """Returns the beginning with weights in the layout of Hugging Face."""
    folder, shapes = job.args.start, trainer.state_shapes["parameters"]
    content = job.read_input("start", folder / "manifest.json")
    source = hugging_face.open_folder(folder)
    source.check(job.config.model, data.vocab_size)

    def begin(saved: checkpoints.Checkpoints) -> tuple[int, dict]:
        for name in content["files"]:  # only here: to read 24 GB takes a while, and a checkpoint needs none of it
            manifest.check_file(folder, content, name)
        return 0, trainer.begin(warm_start.place(source.parameter, shapes))

    return begin


def begin_from_run(job: cli.Job, trainer: training.Trainer, data: shards.Folder) -> Begin:
    """Returns the beginning with the weights of another run, and what is kept of its optimizer and schedule."""
    folder, wanted, shapes = job.args.start, job.config.start, trainer.state_shapes
    content = job.read_input("start", folder / "manifest.json")
    other = weights.open_run(folder, lambda *_: content, weights.open_file)
    weights.check_tokenizer(other, data.tokenizer, str(job.args.shards))
    warm_start.check_same(job.config.model, other.model, str(folder))
    done = json.loads((folder / "summary.json").read_text())["steps"]
    first = warm_start.first_step(wanted, done, job.config.train.steps)

    def begin(saved: checkpoints.Checkpoints) -> tuple[int, dict]:
        state = trainer.begin(warm_start.place(warm_start.reader(other.parameters), shapes["parameters"]))
        if wanted.optimizer == "kept":
            state["optimizer"] = warm_start.kept_optimizer(folder, content, done, job.config.train, shapes["optimizer"])
        state = trainer.at_step(state, first)
        if first:  # its steps count as this run's own, so they stand in its metrics
            shutil.copyfile(folder / "metrics.jsonl", saved.metrics_path)
        return first, state

    return begin


def loop(job, trainer, saved, batches, held_out, start, state) -> dict:
    """Runs the steps that are left and returns the state after the last one."""
    settings = job.config.train
    tokens = settings.batch_size * job.config.model.context_length
    losses, waiting, note, clock, first_step = deque(maxlen=50), None, "", time.monotonic(), start
    last_saved, saved_at, deadline = start, time.monotonic(), job.started + 60 * (settings.time_limit or math.inf)

    def finish(step: int, metrics: dict, validation: float | None) -> None:
        """Reads a step's numbers, which waits for the device, and writes them down."""
        row = {"step": step, "tokens": step * tokens} | {name: float(value) for name, value in metrics.items()}
        check_step(row, settings, last_saved)
        saved.record(row if validation is None else row | {"validation_loss": validation})
        losses.append(row["loss"])

    with job.progress.track(settings.steps, "steps", start) as bar:
        for step in range(start + 1, settings.steps + 1):
            windows_BT = trainer.place(batches(step - 1))
            state, metrics = trainer.step(state, windows_BT, step - 1)
            validation = None
            if step % settings.validate_every == 0 or step == settings.steps:
                validation = training.validation_loss(trainer, state, held_out, settings.batch_size)
            # the step before is read only now, while the device works on this one
            if waiting:
                finish(*waiting)
            waiting = (step, metrics, validation)
            if step % settings.log_every == 0 and losses:
                seconds = time.monotonic() - clock
                speed = (step - first_step) * tokens / seconds
                saved.time({"step": step, "seconds": round(seconds, 4), "tokens_per_second": round(speed, 1)})
                clock, first_step = time.monotonic(), step
                note = f"loss {np.mean(losses):.3f}, {speed:,.0f} tokens/s"
            bar.advance(1, note)
            late = time.time() > deadline
            stopping = late or job.stopping.is_set()
            minutes = (time.monotonic() - saved_at) / 60
            due = step % settings.checkpoint_every == 0 or minutes > (settings.checkpoint_minutes or math.inf)
            if stopping or due or step == settings.steps:
                finish(*waiting)
                waiting = None
                saved.save(step, state, validation)
                last_saved, saved_at = step, time.monotonic()
            if stopping and step < settings.steps:
                saved.close()
                why = f"train.time_limit of {settings.time_limit:g} minutes reached" if late else "interrupted"
                raise Interrupted(f"{why}; step {step} is saved, the same command goes on from there")
    return state


def check_step(row: dict, settings, last_saved: int) -> None:
    """Raises UserError where a step went wrong: its loss or gradient is no number, or the gradient is too large."""
    limit = settings.max_gradient_norm or math.inf
    if np.isfinite(row["loss"]) and np.isfinite(row["grad_norm"]) and row["grad_norm"] <= limit:
        return
    good = f"step {last_saved} is the last one saved" if last_saved else "no step was saved"
    raise UserError(
        f"the loss is {row['loss']:.6g} at step {row['step']} and the gradient's norm {row['grad_norm']:.6g}; {good}."
        " Lower train.optimizer.learning_rates or set clip_norm"
    )


def validation_windows(tokens: list[np.ndarray], length: int, batch_size: int, wanted: int) -> np.ndarray:
    """Returns the first windows of the validation shards, windows_WT of length + 1 tokens, W a whole number of batches.

    Raises UserError where there is less than one window. A last batch is filled up with rows that predict nothing.
    """
    joined = np.concatenate([np.asarray(shard) for shard in tokens]).astype(np.int32)
    have = (len(joined) - 1) // length
    if have < 1:
        raise UserError(
            f"model.context_length: {length} is longer than the validation data ({len(joined)} tokens);"
            " use a longer corpus, a larger valid_fraction or a shorter context"
        )
    starts = np.arange(min(wanted, have)) * length
    windows_WT = joined[starts[:, None] + np.arange(length + 1)[None, :]]
    missing = -len(windows_WT) % batch_size
    return np.concatenate([windows_WT, np.full((missing, length + 1), loss.NONE, np.int32)])


def open_checkpoints(job: cli.Job) -> tuple[checkpoints.Checkpoints, str]:
    """Returns the checkpoints of this identity: what the keys, the data and the code together come to."""
    identity = manifest.digest({"config": job.keys, "inputs": job.inputs, "code": job.code})[:16]
    folder = job.out / "checkpoints"
    others = checkpoints.others(folder, identity)
    if others and not (folder / identity).exists():
        job.say(f"model, data or code changed: this is a new identity, {identity}; kept beside it: {', '.join(others)}")
    settings = job.config.train
    keep = (settings.keep_checkpoints, settings.keep_every, settings.keep_best)
    return checkpoints.Checkpoints(folder / identity, *keep), identity


def publish(job: cli.Job, saved, data: shards.Folder, trainer: training.Trainer, state: dict, identity: str) -> None:
    """Writes weights, metrics and summary under their final names."""
    settings, shape = job.config.train, job.config.model
    (job.staging / weights.FILE).parent.mkdir()
    parameters = trainer.result(state)
    made = weights.Weights(shape, data.vocab_size, data.end_of_text, data.tokenizer, parameters)
    weights.save(made, job.staging / weights.FILE)
    saved.close()
    for path in (saved.metrics_path, saved.timings_path):
        if path.exists():
            shutil.copyfile(path, job.staging / path.name)
    rows = [json.loads(line) for line in (job.staging / "metrics.jsonl").read_text().splitlines()]
    last = rows[-max(1, len(rows) // 20) :]
    summary = {
        "identity": identity,
        "parameters": training.parameter_count(trainer.state_shapes["parameters"]),
        "steps": settings.steps,
        "tokens": settings.steps * settings.batch_size * shape.context_length,
        "loss": float(np.mean([row["loss"] for row in last])),  # over the last twentieth of the steps
        "validation_loss": rows[-1]["validation_loss"],
    }
    (job.staging / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    job.say(f"loss {summary['loss']:.3f}, validation loss {summary['validation_loss']:.3f} nats per token")
    facts = {
        "identity": identity,
        "vocab_size": data.vocab_size,
        "tokenizer": data.tokenizer,
        "end_of_text": data.end_of_text,
    }
    job.publish(facts, measured=("timings.jsonl",), device=jax.devices()[0].device_kind)


def describe_devices() -> str:
    """Returns for example '8 x NVIDIA H100'."""
    return f"{jax.device_count()} x {jax.devices()[0].device_kind}"


if __name__ == "__main__":
    cli.run("train_model", __doc__, add_arguments, train_model)
