"""Stage train_model as a program, for tests: token shards, its command line, and what it made."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import COMPUTE, HARDWARE, SHAPE, TRACKING, TRAIN

from makelm import configfile, manifest, shards

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "train_model.py"
FAST = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
STEPS = 160


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """A folder of two token shards with a vocabulary of 64 and end-of-text 63."""
    return write_shards(tmp_path_factory.mktemp("shards"))


def write_shards(folder, seed=0, tokenizer="abc"):
    """Writes two token shards and returns their folder."""
    for number in range(2):
        facts = {"shard": number, "num_shards": 2, "vocab_size": 64, "tokenizer": tokenizer}
        facts |= {"begin_of_text": None, "end_of_text": 63}
        for part, count in (("train", 3000), ("valid", 300)):
            ids = np.random.default_rng(number + seed).integers(0, 64, count)
            with shards.Writer(folder / f"{part}-{number:05d}.bin", 64) as writer:
                writer.write(ids)
            facts[part] = {"documents": 1, "bytes": 2 * count, "tokens": count}
        files = manifest.describe_files(folder, frozenset())
        files = {name: files[name] for name in (f"train-{number:05d}.bin", f"valid-{number:05d}.bin")}
        content = {"stage": "encode_shard", "facts": facts, "files": files}
        (folder / f"{number:05d}.json").write_text(json.dumps(manifest.build(content, {})))
    return folder


def command(data, out, changes=None, *more, start=None, model=None, mesh=None, corpus="mine"):
    """Returns the command line; `changes` are laid over the keys of training, `more` are words of their own.

    With several corpora `data` is a list of their words.
    """
    keys = configfile.merge(
        TRAIN,
        {"optimizer": {"kind": "adamw"}, "steps": STEPS, "checkpoint_every": 40, "validate_every": 80}
        | (changes or {}),
    )
    raw = {
        "locked": {},
        "corpus": corpus,
        "model": SHAPE | {"n_layers": 1} | (model or {}),
        "hardware": HARDWARE,
        "mesh": mesh or {"data": 1, "fsdp": -1, "tensor": 1},
        "compute": COMPUTE,
        "train": keys,
        "tracking": TRACKING,
        "start": start,
    }
    folders = data if isinstance(data, list) else [data]
    words = ["--config", json.dumps(raw), "--shards", *folders, "--out", out, "--cores", "2", *more]
    return [sys.executable, SCRIPT, *map(str, words)]


def environment(devices=1):
    """Returns the environment of a stage with so many simulated devices."""
    return os.environ | {"XLA_FLAGS": f"{FAST} --xla_force_host_platform_device_count={devices}"}


def train(data, out, changes=None, *more, devices=1, **others):
    """Runs the stage to its end."""
    words = command(data, out, changes, *more, **others)
    return subprocess.run(words, env=environment(devices), text=True, capture_output=True)


def start_and_stop(data, out, number):
    """Starts the stage, sends a signal once a checkpoint is whole, and returns (exit code, stderr)."""
    pipes = {"stderr": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen(command(data, out), env=environment(), text=True, **pipes)
    while process.poll() is None and not any(path.name.isdigit() for path in out.glob("checkpoints/*/*")):
        time.sleep(0.01)  # until one has its final name
    process.send_signal(number)
    return process.wait(60), process.communicate()[1]


def made(out):
    """Returns the bytes of all that a trained run is, without its measured times."""
    names = ("weights/model.safetensors", "metrics.jsonl", "summary.json")
    content = json.loads((out / "manifest.json").read_text())["content"]
    return [(out / name).read_bytes() for name in names], content


def rows(out):
    """Returns the metrics of each step."""
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="session")
def undisturbed(data, tmp_path_factory):
    """A run that nothing happened to."""
    out = tmp_path_factory.mktemp("run")
    done = train(data, out)
    assert done.returncode == 0, done.stderr
    return out
