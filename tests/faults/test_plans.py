"""Whole plans for 256 devices that are not here, by the stage: `make test-faults` runs these."""

import json
import os
import re
import subprocess
import sys
from importlib import util
from pathlib import Path

import pytest
from plans import plan

from makelm import gpus

if "MAKELM_FAULTS" not in os.environ:
    pytest.skip("takes a while: make test-faults", allow_module_level=True)


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


@pytest.mark.skipif(util.find_spec("libtpu") is None, reason="libtpu is not installed")
def test_the_step_is_compiled_for_a_tpu_topology(tmp_path):
    code, said, found = plan(tmp_path, devices=256, topology="v3:16x8", memory_gb=16)
    assert code == 0, said
    assert found["device"] == "TPU v3" and "libtpu" in found["method"]["collectives"]
    assert found["collective_bytes"]["all-gather"] > 0


@pytest.mark.skipif(util.find_spec("libtpu") is None, reason="libtpu is not installed")
def test_the_step_for_tpus_has_splash_attention(tmp_path):
    model = {"compute_dtype": "bfloat16", "context_length": 256}
    code, said, found = plan(tmp_path, model=model, attention="auto", devices=32, topology="v5e:4x8", memory_gb=16)
    assert code == 0, said
    assert found["attention"] == "splash" and found["collective_bytes"]["all-gather"] > 0


@pytest.mark.skipif(util.find_spec("libtpu") is not None, reason="libtpu is installed")
def test_a_topology_without_libtpu_says_how_to_do_better(tmp_path):
    code, said, found = plan(tmp_path, devices=256, topology="v3:16x8")
    assert code == 0 and "uv sync --locked --inexact --extra tpu" in said
    assert "an estimate" in found["method"]["temporary"]


BFLOAT16 = {"model": {"compute_dtype": "bfloat16", "d_head": 64}, "attention": "auto"}


@pytest.mark.skipif(gpus.plugin() is None, reason="JAX's plugin for NVIDIA GPUs is not installed")
@pytest.mark.parametrize(("topology", "devices", "name"), [("a100:2x8", 16, "A100"), ("h100:4x8", 32, "H100")])
def test_the_step_is_compiled_for_gpus(tmp_path, topology, devices, name):
    code, said, found = plan(tmp_path, **BFLOAT16, devices=devices, topology=topology)
    assert code == 0, said
    assert name in found["device"] and "jax-cuda" in found["method"]["temporary"] and found["attention"] == "cudnn"
    assert found["collective_bytes"]["all-gather"] > 0 and found["collective_bytes"]["reduce-scatter"] > 0
    assert json.loads((tmp_path / "timings.jsonl").read_text())["estimated_seconds"] is not None


@pytest.mark.skipif(gpus.plugin() is None, reason="JAX's plugin for NVIDIA GPUs is not installed")
def test_a_step_for_gpus_sorts_tokens_and_no_elements():
    """XLA's own way to a scatter in one order sorts every element of the embedding's gradient."""
    words = [sys.executable, Path(__file__).parent.parent / "gpu_step.py", "h100:1"]
    done = subprocess.run(words, capture_output=True, text=True, env=os.environ | {"JAX_PLATFORMS": "cpu"})
    assert done.returncode == 0, done.stderr
    assert {int(size) for size in re.findall(r"sort\S* = \(s32\[(?:1,)?(\d+)\]", done.stdout)} == {8 * 64}
    assert "__cudnn$fmhaSoftmaxBackward" in done.stdout


@pytest.mark.skipif(gpus.plugin() is not None, reason="JAX's plugin for NVIDIA GPUs is installed")
def test_gpus_without_the_plugin_are_an_estimate_and_keep_their_memory(tmp_path):
    code, said, found = plan(tmp_path, **BFLOAT16, devices=8, topology="h100:8")
    assert code == 0 and "uv sync --locked --inexact --extra cuda" in said and "may not fit" not in said
    assert "an estimate" in found["method"]["temporary"] and found["attention"] == "xla"
