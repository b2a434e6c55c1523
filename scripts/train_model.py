"""Stage train_model: token shards -> trained weights.

Reads train-*.bin and valid-*.bin with their manifests; writes weights/model.safetensors, metrics.jsonl (a line
per step), summary.json and timings.jsonl, all together at the end. Checkpoints stand in checkpoints/<identity>/
meanwhile: the same command goes on from the latest one, another model, corpus or code begins at step 0.
"""

import json
import shutil
import time
from argparse import ArgumentParser
from collections import deque
from pathlib import Path

import jax
import numpy as np

from makelm import checkpoints, cli, manifest, sharding, shards, training, weights
from makelm.batches import Batches
from makelm.errors import Interrupted, UserError


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--shards", type=Path, required=True, help="folder of token shards (results/encode_shard/...)")


def train_model(job: cli.Job) -> None:
    """Trains until the last step, from the latest checkpoint of this identity if there is one."""
    job.stops_itself = True
    data = shards.open_folder(job.args.shards, job.read_input)
    settings, shape = job.config.train, job.config.model
    batches = Batches(data.train, shape.context_length, settings.batch_size, settings.seed)
    held_out = validation_windows(data.valid, shape.context_length, settings.batch_size, settings.validate_windows)
    mesh = sharding.make_mesh(job.config.mesh, jax.devices())
    trainer = training.make_trainer(shape, settings, data.vocab_size, mesh)
    saved, identity = open_checkpoints(job)
    start, state = saved.restore(trainer.state_shapes, job.say)
    if state is None:
        state = trainer.initial_state()
    count = training.parameter_count(trainer.state_shapes)
    job.say(
        f"{count:,} parameters, {settings.steps} steps of {settings.batch_size * shape.context_length:,} tokens"
        f" from {batches.windows:,} windows, on {describe_devices()}; from step {start}, identity {identity}"
    )
    state = loop(job, trainer, saved, batches, held_out, start, state)
    saved.wait()
    publish(job, saved, data, state, count, identity)


def loop(job, trainer, saved, batches, held_out, start, state) -> dict:
    """Runs the steps that are left and returns the state after the last one."""
    settings = job.config.train
    tokens = settings.batch_size * job.config.model.context_length
    timings = (job.staging / "timings.jsonl").open("w", encoding="utf-8")
    losses, waiting, note, clock, first_step = deque(maxlen=50), None, "", time.monotonic(), start

    def finish(step: int, metrics: dict, validation: float | None) -> None:
        """Reads a step's numbers, which waits for the device, and writes them down."""
        row = {"step": step, "tokens": step * tokens} | {name: float(value) for name, value in metrics.items()}
        if not np.isfinite(row["loss"]):
            raise UserError(
                f"the loss is {row['loss']} at step {step} (gradient norm {row['grad_norm']}); lower"
                " train.optimizer.learning_rates or set clip_norm"
            )
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
                json.dump({"step": step, "seconds": round(seconds, 4), "tokens_per_second": round(speed, 1)}, timings)
                timings.write("\n")
                clock, first_step = time.monotonic(), step
                note = f"loss {np.mean(losses):.3f}, {speed:,.0f} tokens/s"
            bar.advance(1, note)
            stopping = job.stopping.is_set()
            if stopping or step % settings.checkpoint_every == 0 or step == settings.steps:
                finish(*waiting)
                waiting = None
                saved.save(step, state)
            if stopping and step < settings.steps:
                saved.close()
                raise Interrupted(f"interrupted; step {step} is saved, the same command goes on from there")
    timings.close()
    return state


def validation_windows(tokens: list[np.ndarray], length: int, batch_size: int, wanted: int) -> np.ndarray:
    """Returns the first windows of the validation shards, windows_WT of length + 1 tokens, W a whole number of batches.

    Raises UserError where there is less than one window. A short validation part is repeated to fill a batch.
    """
    joined = np.concatenate([np.asarray(shard) for shard in tokens]).astype(np.int32)
    have = (len(joined) - 1) // length
    if have < 1:
        raise UserError(
            f"model.context_length: {length} is longer than the validation data ({len(joined)} tokens);"
            " use a longer corpus, a larger valid_fraction or a shorter context"
        )
    count = -(-min(wanted, have) // batch_size) * batch_size
    starts = (np.arange(count) % have) * length
    return joined[starts[:, None] + np.arange(length + 1)[None, :]]


def open_checkpoints(job: cli.Job) -> tuple[checkpoints.Checkpoints, str]:
    """Returns the checkpoints of this identity: what the keys, the data and the code together come to."""
    identity = manifest.digest({"config": job.keys, "inputs": job.inputs, "code": job.code})[:16]
    folder = job.out / "checkpoints"
    others = checkpoints.others(folder, identity)
    if others and not (folder / identity).exists():
        job.say(f"model, data or code changed: this is a new identity, {identity}; kept beside it: {', '.join(others)}")
    return checkpoints.Checkpoints(folder / identity, job.config.train.keep_checkpoints), identity


def publish(job: cli.Job, saved: checkpoints.Checkpoints, data: shards.Folder, state: dict, count: int, identity: str):
    """Writes weights, metrics and summary under their final names."""
    settings, shape = job.config.train, job.config.model
    (job.staging / weights.FILE).parent.mkdir()
    parameters = {name: np.asarray(value) for name, value in state["parameters"].items()}
    made = weights.Weights(shape, data.vocab_size, data.end_of_text, data.tokenizer, parameters)
    weights.save(made, job.staging / weights.FILE)
    saved.close()
    shutil.copyfile(saved.metrics_path, job.staging / "metrics.jsonl")
    rows = [json.loads(line) for line in (job.staging / "metrics.jsonl").read_text().splitlines()]
    last = rows[-max(1, len(rows) // 20) :]
    summary = {
        "identity": identity,
        "parameters": count,
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
