"""Plans for devices that are not here, by the stage as a user runs it."""

import json
import os
import subprocess
import sys
from importlib import util
from pathlib import Path

import jax
import pytest
from conftest import COMPUTE, HARDWARE, SHAPE, TRAIN

from makelm import config, configfile, devices
from makelm.errors import UserError

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


def plan(out: Path, **hardware) -> tuple[int, str, dict]:
    """Returns the exit code, what was said, and the plan of a small run for 256 devices, made on one."""
    keys = {
        "locked": {},
        "model": configfile.merge(SHAPE, MODEL),
        "hardware": HARDWARE | hardware,
        "mesh": {"data": 1, "fsdp": -1, "tensor": 8},
        "compute": COMPUTE | {"scan_layers": True},
        "train": configfile.merge(TRAIN, {"batch_size": 32, "optimizer": {"kind": "adamw"}}),
    }
    command = [sys.executable, SCRIPT, "--config", json.dumps(keys), "--vocab-size", "64", "--out", out]
    environment = os.environ | {"XLA_FLAGS": FLAGS, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    file = out / "plan.json"
    return done.returncode, done.stdout + done.stderr, json.loads(file.read_text()) if file.exists() else {}


def of_state(found: dict) -> dict:
    """Returns a plan's bytes without the temporary ones."""
    return {part: count for part, count in found["bytes_per_device"].items() if part != "temporary"}


# 4 attention matrices, 3 of the gated layer, embedding and head lie in 256 parts; 3 norms are whole
PARAMETERS = 4 * ((4 * 256 * 64 + 3 * 256 * 256 + 2 * 64 * 256) // 256 + 3 * 256)
STATE = {"parameters": PARAMETERS, "optimizer": 2 * PARAMETERS, "gradients": PARAMETERS}


def test_one_device_plans_for_256(tmp_path):
    code, said, found = plan(tmp_path, devices=256)
    assert code == 0, said
    assert "256 devices are stated, here is 1 x cpu: an estimate" in said and "may not fit" in said
    assert found["devices"] == 256 and found["mesh"] == {"data": 1, "fsdp": 32, "tensor": 8}
    counters = of_state(found)["optimizer"] - STATE["optimizer"]
    assert 0 <= counters <= 64 and of_state(found) == STATE | {"optimizer": STATE["optimizer"] + counters}
    assert "an estimate" in found["method"]["temporary"] and found["collective_bytes"]["all-gather"] > 0
    assert json.loads((tmp_path / "timings.jsonl").read_text())["estimated_seconds"] is None


def test_stated_memory_that_is_too_small_is_refused(tmp_path):
    code, said, found = plan(tmp_path, devices=256, memory_gb=1e-5)
    assert code == 2 and not found
    assert "GB on each device, stated device has 0.00 GB; raise compute.accumulate" in said


@pytest.mark.skipif(util.find_spec("libtpu") is None, reason="libtpu is not installed")
def test_the_step_is_compiled_for_a_tpu_topology(tmp_path):
    code, said, found = plan(tmp_path, devices=256, topology="v3:16x8", memory_gb=16)
    assert code == 0, said
    assert found["device"] == "TPU v3" and "libtpu" in found["method"]["collectives"]
    assert found["collective_bytes"]["all-gather"] > 0


@pytest.mark.skipif(util.find_spec("libtpu") is not None, reason="libtpu is installed")
def test_a_topology_without_libtpu_says_how_to_do_better(tmp_path):
    code, said, found = plan(tmp_path, devices=256, topology="v3:16x8")
    assert code == 0 and "pip install libtpu" in said
    assert "an estimate" in found["method"]["temporary"]


def test_the_devices_of_this_machine_are_those_of_a_local_plan():
    local = devices.find(config.Hardware(devices="local", topology=None, memory_gb=None), print)
    assert (local.devices, local.how) == (jax.devices(), "here") and local.memory > 0
    stated = devices.find(config.Hardware(devices=8, topology=None, memory_gb=2.5), print)
    assert (stated.how, stated.memory) == ("here", 2_500_000_000)


@pytest.mark.skipif(util.find_spec("libtpu") is None, reason="libtpu is not installed")
def test_a_topology_that_is_none_is_named():
    with pytest.raises(UserError, match=r"hardware.topology: libtpu knows none called 'v3:16y8'"):
        devices.topology("v3:16y8", 256)
    with pytest.raises(UserError, match=r"hardware.topology: v3:16x8 has 256 devices, hardware.devices states 8"):
        devices.topology("v3:16x8", 8)
