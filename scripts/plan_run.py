"""Stage plan_run: a run's model, mesh and batch -> plan.json: what it will take.

Parameters, FLOPs per token, bytes per device, steps and tokens, without allocating a weight. Fails where the
run cannot fit on the devices at hand. How long it may take goes to timings.jsonl, since it is measured.
"""

import json
import time
from argparse import ArgumentParser
from pathlib import Path

import jax
import jax.numpy as jnp
import psutil

from makelm import cli, planning, sharding, tokenizer, training
from makelm.progress import clock, size

UTILIZATION = 0.4  # of a large matmul's rate, what training of a small model reaches here


def add_arguments(parser: ArgumentParser) -> None:
    vocabulary = parser.add_mutually_exclusive_group(required=True)
    vocabulary.add_argument("--tokenizer", type=Path, help="folder of the run's tokenizer")
    vocabulary.add_argument("--vocab-size", type=int, help="number of tokens, where there is no tokenizer yet")


def plan_run(job: cli.Job) -> None:
    """Writes the plan of a run."""
    settings, mesh = job.config, sharding.make_mesh(job.config.mesh, jax.devices())
    vocab_size = vocabulary(job)
    # which token ends a text does not matter to a plan
    trainer = training.make_trainer(settings.model, settings.train, settings.compute, vocab_size, 0, mesh)
    shapes = trainer.state_shapes["parameters"]
    job.say(f"{training.parameter_count(shapes):,} parameters with a vocabulary of {vocab_size:,} tokens")
    device = jax.devices()[0]
    have = memory(device, mesh.size)
    # before the step is compiled, which takes long where a model is large
    planning.check_fit(sum(planning.state_bytes(trainer).values()), have, device.device_kind)
    plan = planning.plan(settings.model, mesh, trainer, settings.train.batch_size, settings.train.steps)
    needed = sum(plan["bytes_per_device"].values())
    planning.check_fit(needed, have, device.device_kind)
    seconds = plan["flops"] / mesh.size / (UTILIZATION * matmul_flops())
    (job.staging / "plan.json").write_text(json.dumps(plan, indent=1) + "\n")
    (job.staging / "timings.jsonl").write_text(json.dumps({"estimated_seconds": round(seconds, 1)}) + "\n")
    job.say(
        f"{plan['flops_per_token'] / 1e6:.1f} MFLOP per token, {size(needed)} on each of {mesh.size},"
        f" {plan['tokens']:,} tokens, roughly {clock(seconds)}"
    )
    job.publish({"vocab_size": vocab_size}, measured=("timings.jsonl",), device=device.device_kind)


def vocabulary(job: cli.Job) -> int:
    """Returns the number of tokens."""
    if job.args.tokenizer is None:
        return job.args.vocab_size
    job.read_input("tokenizer", job.args.tokenizer / "manifest.json")
    return tokenizer.load(job.args.tokenizer).vocab_size


def memory(device: jax.Device, devices: int) -> int | None:
    """Returns the bytes a device has; the devices of a CPU share the machine's."""
    if device.platform == "cpu":
        return psutil.virtual_memory().total // devices
    return (device.memory_stats() or {}).get("bytes_limit")


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
    cli.run("plan_run", __doc__, add_arguments, plan_run)
