"""Stage plan_run: a run's model, mesh and batch -> plan.json: what it will take.

Parameters, FLOPs per token, bytes per device, what devices exchange, steps and tokens, without allocating a weight,
for the devices of this machine or those that hardware: states. Fails where the run cannot fit. How long it may take
goes to timings.jsonl, since it is measured.
"""

import json
import time
from argparse import ArgumentParser
from pathlib import Path

import jax
import jax.numpy as jnp

from makelm import cli, device_peaks, devices, planning, sharding, tokenizer, training, unused_gpus
from makelm.progress import clock, size

UTILIZATION = 0.4  # of a large matmul's rate or a device's peak, what training reaches, about


def add_arguments(parser: ArgumentParser) -> None:
    vocabulary = parser.add_mutually_exclusive_group(required=True)
    vocabulary.add_argument("--tokenizer", type=Path, help="folder of the run's tokenizer")
    vocabulary.add_argument("--vocab-size", type=int, help="number of tokens, where there is no tokenizer yet")


def plan_run(job: cli.Job) -> None:
    """Writes the plan of a run."""
    vocab_size, settings = vocabulary(job), job.config
    target = devices.find(settings.hardware, job.say)
    if target.how == "here" and (advice := unused_gpus.advice(target.devices[0].platform)):
        job.say(advice)
    mesh = sharding.make_mesh(settings.mesh, target.devices)
    compute = settings.compute
    if target.how == "simulated":  # CPUs, simulated ones too, have no such kernel
        compute = compute.model_copy(update={"attention": "xla"})
    # which token ends a text does not matter to a plan
    trainer = training.make_trainer(settings.model, settings.train, compute, vocab_size, 0, mesh)
    shapes = trainer.state_shapes["parameters"]
    state = sum(planning.state_bytes(trainer, settings.train).values())
    job.say(
        f"{training.parameter_count(shapes):,} parameters with a vocabulary of {vocab_size:,} tokens,"
        f" {size(state)} of state on each of {mesh.size} x {target.name}"
        + (", which this machine has" if settings.hardware.devices == "local" else "")
    )
    planning.check_fit(state, target)  # before the step is compiled, which takes long where a model is large
    started = time.monotonic()
    plan = planning.plan(trainer, target, mesh, settings.model, settings.train, compute)
    timings = {"compile_seconds": round(time.monotonic() - started, 1)}
    needed = sum(plan["bytes_per_device"].values())
    planning.check_fit(needed, target)
    rate = matmul_flops() if target.how == "here" else device_peaks.peak(target.name)
    seconds = rate and plan["flops"] / mesh.size / (UTILIZATION * rate)
    timings["estimated_seconds"] = seconds and round(seconds, 1)
    (job.staging / "plan.json").write_text(json.dumps(plan, indent=1) + "\n")
    (job.staging / "timings.jsonl").write_text(json.dumps(timings) + "\n")
    job.say(summary(plan, needed, target.memory, seconds))
    job.publish({"vocab_size": vocab_size}, measured=("timings.jsonl",), device=jax.devices()[0].device_kind)


def summary(plan: dict, needed: int, memory: int | None, seconds: float | None) -> str:
    """Returns a plan in one line."""
    parts = [f"{plan['flops_per_token'] / 1e6:.1f} MFLOP per token", f"{size(needed)} on each of {plan['devices']}"]
    if memory is None:
        parts.append("which may not fit: hardware.memory_gb is not stated")
    if exchanged := sum(plan["collective_bytes"].values()):
        parts.append(f"{size(exchanged)} exchanged per step and device")
    parts.append(f"{plan['tokens']:,} tokens")
    return ", ".join(parts if seconds is None else [*parts, f"roughly {clock(seconds)}"])


def vocabulary(job: cli.Job) -> int:
    """Returns the number of tokens."""
    if job.args.tokenizer is None:
        return job.args.vocab_size
    job.read_input("tokenizer", job.args.tokenizer / "manifest.json")
    return tokenizer.load(job.args.tokenizer).vocab_size


def matmul_flops() -> float:
    """Returns the floating-point operations per second of one device in a large matmul, the best of a few."""
    size = 1024
    square = jnp.eye(size)
    multiply = jax.jit(lambda x: x @ x)
    best = float("inf")
    for _ in range(6):  # the first one compiles
        started = time.perf_counter()
        multiply(square).block_until_ready()
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


if __name__ == "__main__":
    cli.run("plan_run", __doc__, plan_run, add_arguments)
