"""Stage train_model: token shards -> trained weights.

Reads train-*.bin and valid-*.bin with their manifests; writes weights/model.safetensors, metrics.jsonl (a line
per step), summary.json and timings.jsonl, all together at the end. Checkpoints stand in checkpoints/<identity>/
meanwhile: the same command goes on from the latest one, another model, corpus or code begins at step 0, with
random weights or those of --start.
"""

from makelm import early

early.listen()

import json
import os
import shutil
from argparse import Action, ArgumentParser, Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import numpy as np

from makelm import (
    checkpoints,
    cli,
    config,
    going_on,
    hugging_face,
    identities,
    loop,
    manifest,
    processes,
    progress,
    shard_checks,
    sharding,
    shards,
    sources,
    training,
    unused_gpus,
    validation,
    warm_start,
    weights,
)
from makelm.batches import Batches
from makelm.errors import UserError
from makelm.flops import flops_per_token
from makelm.identities import Identity
from makelm.observer import Observer
from makelm.sources import Sources

Begin = Callable[[checkpoints.Checkpoints], tuple[int, dict]]


def add_arguments(parser: ArgumentParser) -> None:
    shards_help = f"folder of token shards (results/encode_shard/...); {sources.HELP}"
    parser.add_argument("--shards", nargs="+", metavar="FOLDER", required=True, help=shards_help)
    parser.add_argument("--start", type=Path, help="folder of the run or the downloaded weights that start: names")
    parser.add_argument("--resume-from", metavar="IDENTITY", help="the same as --set train.resume_from=IDENTITY")
    several = parser.add_argument_group("several processes, each started with the same arguments but --process")
    several.add_argument("--coordinator", metavar="HOST:PORT", help="where process 0 is to be found")
    several.add_argument("--processes", type=int, default=1, help="how many")
    several.add_argument("--process", type=int, default=0, help="which of them this is, from 0")
    several.add_argument("--local-devices", help="those of this host that are this process's, such as 0,1 (all)")
    several.add_argument(
        "--launcher",
        action=Launcher,
        choices=("slurm-node", "slurm-device"),
        help="in place of these: srun started one process for each node, or for each device",
    )


class Launcher(Action):
    """Fills in what the other arguments of several processes say."""

    def __call__(self, parser: ArgumentParser, args: Namespace, name: str, option: str | None = None) -> None:
        try:
            found = processes.slurm_place(os.environ, per_device=name == "slurm-device")
        except UserError as error:
            parser.error(str(error))
        args.coordinator, args.processes, args.process = found.coordinator, found.count, found.index
        args.local_devices = found.devices and ",".join(map(str, found.devices))


def train_model(job: cli.Job) -> None:
    """Trains until the last step, from the latest checkpoint of this identity if there is one."""
    job.stops_itself = True
    if job.args.processes > 1:
        processes.join(place(job.args))
    try:
        train(job)
        processes.wait_for_all("done")
    finally:
        processes.leave()


def place(args: Namespace) -> processes.Place:
    """Returns where this process stands among several."""
    if args.coordinator is None:
        raise UserError("--processes needs --coordinator, host:port of process 0")
    devices = args.local_devices and tuple(int(number) for number in args.local_devices.split(","))
    return processes.Place(args.coordinator, args.processes, args.process, devices)


def train(job: cli.Job) -> None:
    """Trains, in this process and those that it joined."""
    settings, shape = job.config.train, job.config.model
    data = sources.open_sources(job.args.shards, job.config.corpora, job.read_input)
    for folder in data.folders.values():
        shards.check_ids(folder)
    batches = make_batches(data, settings, shape)
    held_out = validation.HeldOut.of_run(data, shape, settings, job.config.compute)
    sharding.check_devices(job.config.hardware, jax.devices())
    mesh = sharding.make_mesh(job.config.mesh, jax.devices())
    trainer = training.make_trainer(shape, settings, job.config.compute, data.vocab_size, data.end_of_text, mesh)
    if advice := unused_gpus.advice(jax.default_backend()):
        job.say(advice)
    begin = beginning(job, trainer, data)
    if processes.leads():
        shard_checks.check(job, data.folders.values(), ("train", "valid"))
    processes.wait_for_all("token shards are as they were made")
    identity, saved = open_checkpoints(job)
    start, state = saved.restore(trainer.state_shapes, job.say)
    if state is None:
        start, state = go_on(job, identity, saved, trainer) or begin(saved)
    count = training.parameter_count(trainer.state_shapes["parameters"])
    tokens = settings.batch_size * shape.context_length  # in a step
    job.say(
        f"{count:,} parameters, {settings.steps} steps of {tokens:,} tokens,"
        f" {describe_epochs(batches, settings.steps * tokens)}, on {describe_devices()},"
        f" attention by {trainer.attention}; from step {start}, identity {identity.name}"
    )
    stops = loop.Stops(job.stopping.is_set, settings.time_limit, job.started, mesh)
    feed = loop.Feed(
        lambda step: trainer.place_rows(partial(batches.rows, step), settings.batch_size), start, settings.steps
    )
    flops = flops_per_token(shape, trainer.state_shapes["parameters"])
    with job.progress.track(settings.steps, "steps", start) as bar:
        observer = Observer(settings, trainer, saved, flops, bar, job.say)
        steps = loop.Loop(trainer, settings, saved, observer, stops, tokens)
        try:
            observer.track(job.config.tracking, job.out.name, job.keys)
            state = steps.run(state, start, feed, held_out)
            measured = None if settings.steps else held_out.begin(trainer, state)()
        finally:
            observer.close()
    saved.wait()
    publish(job, saved, data, trainer, state, identity, batches, measured)


def make_batches(data: Sources, settings: config.Train, shape: config.Model) -> Batches:
    """Returns the batches of a run."""
    tokens = {name: folder.train for name, folder in data.folders.items()}
    vocabulary, dims = (data.vocab_size, data.end_of_text), (shape.context_length, settings.batch_size)
    return Batches(tokens, data.weights, *vocabulary, *dims, settings.order, settings.seed)


def describe_epochs(batches: Batches, tokens: int) -> str:
    """Returns for example '0.98 epochs of stdlib, 3.20 epochs of mine, 1.2 % empty'."""
    parts = [f"{count:.2f} epochs of {name}" for name, count in batches.epochs(tokens).items()]
    filling = batches.filling()
    return ", ".join([*parts, f"{filling:.1%} empty"] if filling >= 5e-4 else parts)


def beginning(job: cli.Job, trainer: training.Trainer, data: Sources) -> Begin:
    """Returns what makes the first state where there is no checkpoint: (steps that count as done, state)."""
    if job.config.start is None:
        return lambda saved: (0, trainer.initial_state())
    if job.args.start is None:
        raise UserError("start names weights, so --start needs their folder")
    return begin_from_run(job, trainer, data) if job.config.start.run else begin_from_others(job, trainer, data)


def begin_from_others(job: cli.Job, trainer: training.Trainer, data: Sources) -> Begin:
    """Returns the beginning with weights in the layout of Hugging Face."""
    folder, shapes = job.args.start, trainer.state_shapes["parameters"]
    content = job.read_input("start", folder / "manifest.json")
    source = hugging_face.Folder(folder)
    source.check(job.config.model, data.vocab_size)

    def begin(saved: checkpoints.Checkpoints) -> tuple[int, dict]:
        for name in content["files"]:  # only here: to read 24 GB takes a while, and a checkpoint needs none of it
            manifest.check_file(folder, content, name)
        return 0, trainer.begin(warm_start.place(source.parameter, shapes))

    return begin


def begin_from_run(job: cli.Job, trainer: training.Trainer, data: Sources) -> Begin:
    """Returns the beginning with the weights of another run, and what is kept of its optimizer and schedule."""
    folder, wanted, shapes = job.args.start, job.config.start, trainer.state_shapes
    content = job.read_input("start", folder / "manifest.json")
    other = weights.open_run(folder, lambda *_: content, weights.open_file)
    weights.check_tokenizer(other, data.tokenizer, str(data.first.path))
    warm_start.check_same(job.config.model, other.model, str(folder))
    summary = json.loads((folder / "summary.json").read_text())
    done = summary["steps"]
    if summary["published_step"] != done and "kept" in (wanted.optimizer, wanted.schedule):
        raise UserError(
            f"start: {folder} has the weights of step {summary['published_step']} (train.publish: best), and nothing"
            f" else is kept of that but of step {done}; set optimizer and schedule to fresh"
        )
    first = warm_start.first_step(wanted, done, job.config.train.steps)

    def begin(saved: checkpoints.Checkpoints) -> tuple[int, dict]:
        state = trainer.begin(warm_start.place(warm_start.reader(other.parameters), shapes["parameters"]))
        if wanted.optimizer == "kept" and job.config.train.steps:
            state["optimizer"] = warm_start.kept_optimizer(folder, content, done, job.config.train, shapes["optimizer"])
        state = trainer.at_step(state, first)
        if first and processes.leads():  # its steps count as this run's own, so they stand in its metrics
            shutil.copyfile(folder / "metrics.jsonl", saved.metrics_path)
        return first, state

    return begin


def open_checkpoints(job: cli.Job) -> tuple[Identity, checkpoints.Checkpoints]:
    """Returns what the keys, the data and the code together come to, and the checkpoints of it."""
    identity = Identity(job.keys, job.inputs, job.code)
    folder, settings = job.out / "checkpoints", job.config.train
    others = checkpoints.others(folder, identity.name)
    if others and not (folder / identity.name).exists():
        job.say(f"this is a new identity, {identity.name}; kept beside it: {', '.join(others)}")
        known = [other for name in others if (other := identities.read(folder / name))]
        if known:
            nearest = min((identities.differences(identity, other) for other in known), key=len)
            job.say(f"the nearest differs by: {'; '.join(nearest)}")
    saved = checkpoints.Checkpoints(
        folder / identity.name, settings.keep_checkpoints, settings.keep_every, settings.keep_best, job.check_lock
    )
    if processes.leads():
        identities.write(saved.folder, identity)
    return identity, saved


def go_on(
    job: cli.Job, identity: Identity, saved: checkpoints.Checkpoints, trainer: training.Trainer
) -> tuple[int, training.State] | None:
    """Returns (steps done, state) of another identity that this one goes on from, or None."""
    settings, shapes, folder = job.config.train, trainer.state_shapes, saved.folder.parent
    named = job.args.resume_from or settings.resume_from
    if named:
        origin = going_on.chosen(folder / named, identity, settings.steps, shapes, job.say)
    elif settings.steps:
        origin = going_on.shorter(folder, identity, settings, shapes, job.say)
    else:
        origin = None
    if processes.leads():
        # what only continues is the same training as one never interrupted, and has nothing to tell
        going_on.write_origin(saved.folder, origin if named else None)
        if origin:
            going_on.take_over(origin, saved, None if named else settings.validate_every)
    if origin is None:
        return None
    state = origin.state
    if state.keys() != shapes.keys():
        state = trainer.at_step(trainer.begin(state["parameters"]), origin.step)
    return origin.step, state


def publish(
    job: cli.Job,
    saved: checkpoints.Checkpoints,
    data: Sources,
    trainer: training.Trainer,
    state: training.State,
    identity: Identity,
    batches: Batches,
    measured: dict[str, float] | None,
) -> None:
    """Writes weights, metrics and summary under their final names; of no step `measured` has the validation loss."""
    published = int(state["best"]["step"]) if "best" in state else job.config.train.steps
    made = weights.Weights(job.config.model, data.vocab_size, data.end_of_text, data.tokenizer, trainer.result(state))
    if processes.leads():
        (job.staging / weights.FILE).parent.mkdir()
        weights.save(made, job.staging / weights.FILE)
    else:  # has its part in each tensor, as they are written
        weights.hand_over(made)
    saved.close()
    if not processes.leads():
        return
    for path in (saved.metrics_path, saved.timings_path, saved.statistics_path):
        if path.exists():
            shutil.copyfile(path, job.staging / path.name)
    (job.staging / "timings.jsonl").touch()  # training shorter than log_every has measured nothing
    rows = [json.loads(line) for line in (job.staging / "metrics.jsonl").read_text().splitlines()]
    summary = summarize(job, trainer, identity, batches, rows, published, measured)
    (job.staging / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    loss, validation_loss = progress.score(summary["loss"]), progress.score(summary["validation_loss"])
    of = f" of step {published}" if "best" in state else ""
    job.say(f"loss {loss}, validation loss{of} {validation_loss} nats per token")
    if rows and "best" not in state and (line := validation.past_the_best(rows)):
        job.say(line)
    facts = {
        "identity": identity.name,
        "resumed_from": going_on.origin_facts(saved.folder),
        "vocab_size": data.vocab_size,
        "tokenizer": data.tokenizer,
        "end_of_text": data.end_of_text,
    }
    job.publish(facts, measured=("timings.jsonl", "statistics.jsonl"), device=jax.devices()[0].device_kind)


def summarize(
    job: cli.Job,
    trainer: training.Trainer,
    identity: Identity,
    batches: Batches,
    rows: list[dict],
    published: int,
    measured: dict[str, float] | None,
) -> dict:
    """Returns what summary.json has of a training with these metrics."""
    settings = job.config.train
    validated = measured or rows[published - 1]
    tokens = rows[-1]["tokens"] if rows else 0
    last = [row["loss"] for row in rows[-max(1, len(rows) // 20) :] if row["loss"] is not None]
    return {
        "identity": identity.name,
        "parameters": training.parameter_count(trainer.state_shapes["parameters"]),
        "steps": settings.steps,
        "tokens": tokens,
        "epochs": {name: round(count, 4) for name, count in epochs(job, batches, tokens).items()},
        "loss": float(np.mean(last)) if last else None,  # over the last twentieth of the steps
        "published_step": published,
        "validation_loss": validated["validation_loss"],
        "validation_loss_sem": validated["validation_loss_sem"],
    }


def epochs(job: cli.Job, batches: Batches, tokens: int) -> dict[str, float]:
    """Returns how often each corpus was gone through, in the steps of a run that this one goes on with too."""
    own = batches.epochs(tokens)
    if job.config.start is None or job.config.start.schedule == "fresh":
        return own
    other = json.loads((job.args.start / "summary.json").read_text())
    before = batches.epochs(other["tokens"])
    return other["epochs"] | {name: other["epochs"].get(name, 0.0) + own[name] - before[name] for name in own}


def describe_devices() -> str:
    """Returns for example '8 x NVIDIA H100'."""
    return f"{jax.device_count()} x {jax.devices()[0].device_kind}"


if __name__ == "__main__":
    cli.run("train_model", __doc__, train_model, add_arguments)
