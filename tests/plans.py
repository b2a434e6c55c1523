"""plan_run on a small run for 256 devices, as a user runs it: for the tests of plans."""

import json
import os
import subprocess
import sys
from pathlib import Path

from conftest import COMPUTE, HARDWARE, SHAPE, TRAIN

from makelm import configfile

SCRIPT = Path(__file__).resolve().parent.parent / "scripts/plan_run.py"
# what is shared divides by 32 x 8
MODEL = {
    "d_model": 256,
    "n_heads": 8,
    "n_kv_heads": 8,
    "d_ff": 256,
    "n_layers": 1,
    "vocab_multiple": 8,
    "qk_norm": None,
}
FLAGS = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"


def plan(out: Path, model: dict | None = None, attention: str = "xla", **hardware) -> tuple[int, str, dict]:
    """Returns the exit code, what was said, and the plan of a small run, made on one device."""
    keys = {
        "locked": {},
        "model": configfile.merge(SHAPE, MODEL | (model or {})),
        "hardware": HARDWARE | hardware,
        "mesh": {"data": 1, "fsdp": -1, "tensor": 8},
        "compute": COMPUTE | {"scan_layers": True, "attention": attention},
        "train": configfile.merge(TRAIN, {"batch_size": 32, "optimizer": {"kind": "adamw"}}),
    }
    command = [sys.executable, SCRIPT, "--config", json.dumps(keys), "--vocab-size", "64", "--out", out]
    environment = os.environ | {"XLA_FLAGS": FLAGS, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    file = out / "plan.json"
    return done.returncode, done.stdout + done.stderr, json.loads(file.read_text()) if file.exists() else {}
